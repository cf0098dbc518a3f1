//! Which nodes have the bundle of now: what they have said to this process, against the nodes that there are.
//!
//! Of several replicas each hears some of the questions, and none tells the others: whoever has heard all nodes first
//! promotes the root, and the others see it in the state. A report counts when every replica is sure to give out
//! the same bundle, so that no later answer takes it back.
//!
//! Only nodes report. Pods that ask for themselves, the controller's and those of Gateways' proxies, follow the bundle as
//! nodes do, and nobody waits for them: otherwise whoever may run a pod could hold a root up by not asking. One that is
//! behind when the new root begins to sign refuses peers with leaves under it, until it has the bundle: that comes with
//! its own next leaf, and is to be asked for within the `max-age` of the last answer (five minutes at most). It never
//! trusts too much meanwhile, and is trusted: the root of its own leaf stays in the bundle of all until the last leaf
//! under it has ended.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What was heard of one bundle.
#[derive(Debug)]
pub(crate) struct Reports {
    /// Reports count from here on.
    from: Instant,
    /// The tag of the bundle that each node has reported last.
    heard: HashMap<String, String>,
    /// The nodes that there were, and when.
    nodes: Option<(Instant, Vec<String>)>,
}

impl Reports {
    /// Of a bundle that others may give out only `lag` later.
    pub(crate) fn new(lag: Duration) -> Self {
        Self { from: Instant::now() + lag, heard: HashMap::new(), nodes: None }
    }

    /// A node has said that it has the bundle with this tag.
    pub(crate) fn note(&mut self, node: &str, tag: &str) {
        if Instant::now() >= self.from {
            self.heard.insert(node.to_owned(), tag.to_owned());
        }
    }

    /// Whether one of the nodes that were there within `age` has not said that it has `tag`: nobody need be asked.
    pub(crate) fn lacks(&self, tag: &str, age: Duration) -> bool {
        self.nodes.as_ref().is_some_and(|(at, nodes)| at.elapsed() < age && !self.have(tag, nodes))
    }

    /// Whether all these nodes, which are there now, have said that they have `tag`.
    pub(crate) fn complete(&mut self, tag: &str, nodes: Vec<String>) -> bool {
        self.heard.retain(|node, _| nodes.contains(node));
        let have = self.have(tag, &nodes);
        self.nodes = Some((Instant::now(), nodes));
        have
    }

    fn have(&self, tag: &str, nodes: &[String]) -> bool {
        let has_it = |node: &String| self.heard.get(node).is_some_and(|held| held == tag);
        !nodes.is_empty() && nodes.iter().all(has_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn all_nodes_have_to_report_the_very_bundle() {
        let mut reports = Reports::new(Duration::ZERO);
        assert!(!reports.lacks("new", HOUR), "it is not known which nodes there are");
        assert!(!reports.complete("new", nodes(&[])), "without nodes nobody has it");
        reports.note("a", "new");
        reports.note("b", "old");
        assert!(!reports.complete("new", nodes(&["a", "b"])));
        assert!(reports.lacks("new", HOUR) && !reports.lacks("new", Duration::ZERO));
        reports.note("b", "new");
        assert!(!reports.lacks("new", HOUR), "now the nodes are worth asking for");
        assert!(reports.complete("new", nodes(&["a", "b"])));
        assert!(!reports.complete("new", nodes(&["a", "b", "c"])), "one has come");
        assert!(reports.complete("new", nodes(&["b"])), "and others have left");
        assert!(!reports.complete("new", nodes(&["a", "b"])), "who comes back reports again");
    }

    #[test]
    fn what_is_heard_while_another_replica_may_be_behind_does_not_count() {
        let mut reports = Reports::new(HOUR);
        reports.note("a", "new");
        assert!(!reports.complete("new", nodes(&["a"])));
    }
}
