//! What leads a pod's connections to its listeners: rules, policy routing and settings of its namespace.
//!
//! Outbound: the first SYN of a connection to anywhere but the pod itself goes to the outbound listener,
//! unless the proxy's own mark is on it. Inbound: a first SYN from outside, to an address of the pod and a port
//! that something listens on, goes to the inbound listener; other first SYNs from outside are reset, as
//! they would be without a mesh. One that meets a socket in TIME_WAIT counts as one that somebody listens for: it may
//! be of a connection from before the rules, whose ports the client uses again. The local leg (proxy to application, from the client's address) is kept
//! out of conntrack, because its addresses clash with those of the client's real connections; its replies
//! find the way back by the mark, which the application's socket inherits.
//!
//! A live connection is never touched: rules match first SYNs only, and [`retire`] keeps what holds the
//! redirected ones. A first SYN that could not be redirected is reset, and never passes. Everything here is idempotent. An IPv6 link-local destination is no address of a
//! Service or pod and cannot be redirected to `::1`: it passes.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::netlink::Refused;
use super::netns::NetnsFd;
use super::nft::{self, Batch, Chain, Comparison, Expression, Family, Hook, Meta, Rule};
use super::routing;
use super::sysctl;

/// The mark of connections that the proxy opens from a pod's namespace to elsewhere.
pub const DIAL_MARK: u32 = 0x6761_0001;
/// The mark of local legs: proxy to application inside the pod. Routed to `lo`, never tracked.
pub const LOCAL_MARK: u32 = 0x6761_0002;
/// Where the outbound listeners are, on loopback.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the inbound listeners are.
pub const INBOUND_PORT: u16 = 15006;

/// How long a packet may be on its way from the first of a namespace's chains to the last.
const ON_ITS_WAY: Duration = Duration::from_millis(10);

/// The name of the table in a pod's namespace.
pub const TABLE: &str = "gammarus";

const OUTBOUND: Chain = Chain { name: "outbound", kind: "nat", hook: Hook::Output, priority: -100 };
const INBOUND: Chain = Chain { name: "inbound", kind: "nat", hook: Hook::Prerouting, priority: -100 };
const CLOSED: Chain = Chain { name: "closed", kind: "filter", hook: Hook::Input, priority: 0 };
const LEG_OUT: Chain = Chain { name: "leg_out", kind: "filter", hook: Hook::Output, priority: -300 };
const LEG_IN: Chain = Chain { name: "leg_in", kind: "filter", hook: Hook::Prerouting, priority: -300 };
const STRAY: Chain = Chain { name: "stray", kind: "filter", hook: Hook::Output, priority: 0 };
const CHAINS: [Chain; 6] = [LEG_OUT, LEG_IN, OUTBOUND, INBOUND, CLOSED, STRAY];

/// A namespace that could not be made to lead connections to the listeners, or to let them go.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The namespace cannot be worked in.
    #[error("cannot work in the network namespace")]
    Namespace(#[source] io::Error),
    /// The kernel refused rules or routes.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A setting below `/proc/sys` cannot be read or written.
    #[error("cannot set {}; is /proc/sys writable?", path.display())]
    Setting {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the rules of a namespace are for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// New connections are redirected, and none is refused: what has passed the first chains before they had rules is
    /// on its way to the last one.
    Opening,
    /// New connections are redirected.
    Redirecting,
    /// None is; those that were live on.
    Retired,
}

/// One way in which a namespace is not as [`install`] left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// A rule is missing, changed or not in its place; the chain's name and the rule's comment.
    Rule(&'static str, String),
    /// The table has a rule that is not ours; the chain's name.
    ForeignRule(String),
    /// A routing rule or route of local legs is missing.
    Routing(&'static str),
    /// A setting below `/proc/sys` has another value than this.
    Setting(PathBuf, &'static str),
}

impl Deviation {
    /// The label of `gammarus_repairs_total`.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Rule(..) | Self::ForeignRule(_) => "rules",
            Self::Routing(_) => "routing",
            Self::Setting(..) => "settings",
        }
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(chain, comment) => write!(f, "chain {chain} lacks the rule \"{comment}\""),
            Self::ForeignRule(chain) => write!(f, "chain {chain} has a rule that is not ours"),
            Self::Routing(family) => write!(f, "the {family} routing of local legs is missing"),
            Self::Setting(path, value) => write!(f, "{} is not {value}", path.display()),
        }
    }
}

/// Leads the namespace's new connections to the listeners. Also repairs what is missing or changed.
///
/// # Errors
/// When the kernel refuses. Call [`remove`] then: parts may be in place, the rules never in part.
pub fn install(netns: &NetnsFd) -> Result<(), RedirectError> {
    inside(netns, || {
        routing::bring_up_loopback()?;
        sysctl::apply_before_rules()?;
        routing::install()?;
        install_rules(&[&[Family::Inet], &[Family::Ipv4, Family::Ipv6]])?;
        // Conntrack has its settings only once something in the namespace uses it.
        sysctl::apply_after_rules()
    })
}

/// Stops redirecting new connections, and keeps alive those that were redirected.
///
/// Table and chains stay, and with them the address translation of live connections. To be followed by
/// [`remove`] when the last of them has ended.
///
/// # Errors
/// When the kernel refuses; a namespace without our table is left as it is.
pub fn retire(netns: &NetnsFd) -> Result<(), RedirectError> {
    inside(netns, || {
        for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
            if has_table(family)? {
                refill(family, Phase::Retired).commit()?;
            }
        }
        Ok(())
    })
}

/// Takes everything away again. Connections that are still redirected end.
///
/// # Errors
/// When the kernel refuses anything but what is gone already.
pub fn remove(netns: &NetnsFd) -> Result<(), RedirectError> {
    inside(netns, || {
        for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
            if has_table(family)? {
                Batch::new(family, TABLE).delete_table().commit()?;
            }
        }
        Ok(routing::remove()?)
    })
}

/// Whether the namespace has a table of ours, whatever is in it.
///
/// # Errors
/// When the kernel does not answer.
pub fn is_installed(netns: &NetnsFd) -> Result<bool, RedirectError> {
    inside(netns, || {
        for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
            if has_table(family)? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Compares the namespace with what [`install`] makes; empty when nothing differs.
///
/// # Errors
/// When the kernel does not answer.
pub fn inspect(netns: &NetnsFd) -> Result<Vec<Deviation>, RedirectError> {
    inside(netns, || {
        let mut deviations = inspect_rules()?;
        deviations.extend(routing::missing()?.into_iter().map(Deviation::Routing));
        let settings = sysctl::different()?.into_iter();
        deviations.extend(settings.map(|(path, value)| Deviation::Setting(path, value)));
        Ok(deviations)
    })
}

/// Runs `work` in the namespace; its own error is kept apart from that of entering.
fn inside<T>(netns: &NetnsFd, work: impl FnOnce() -> Result<T, RedirectError>) -> Result<T, RedirectError> {
    netns.run(|| Ok(work())).map_err(RedirectError::Namespace)?
}

/// Puts the rules into the first set of tables that the kernel takes: one for both families, or where
/// one family is missing from the kernel, one for each that is there.
fn install_rules(choices: &[&[Family]]) -> Result<(), RedirectError> {
    let mut refused = None;
    for families in choices {
        let mut installed = 0;
        for &family in *families {
            match fill(family) {
                Ok(()) => installed += 1,
                Err(error) => {
                    tracing::debug!(family = family.name(), %error, "a table is refused");
                    refused.get_or_insert(error);
                }
            }
        }
        // A namespace that can open sockets of a family but not redirect them would leak plain text.
        let needed = if *families == [Family::Inet] { 1 } else { 1 + usize::from(routing::has_ipv6()) };
        if installed >= needed {
            return Ok(());
        }
    }
    refused.map_or(Ok(()), |refused| Err(refused.into()))
}

/// Leaves the table with all rules; where there was none, in two steps.
fn fill(family: Family) -> Result<(), Refused> {
    if !nft::has_table(family, TABLE)? {
        refill(family, Phase::Opening).commit()?;
        std::thread::sleep(ON_ITS_WAY);
    }
    refill(family, Phase::Redirecting).commit()
}

/// One transaction that leaves the table with the rules of this phase and no others.
fn refill(family: Family, phase: Phase) -> Batch {
    let mut batch = Batch::new(family, TABLE).table();
    for chain in &CHAINS {
        batch = batch.chain(chain);
    }
    batch = batch.flush();
    for rule in rules(phase) {
        batch = batch.rule(&rule);
    }
    batch
}

fn has_table(family: Family) -> Result<bool, RedirectError> {
    Ok(nft::has_table(family, TABLE)?)
}

/// The rules of a phase, in their order.
fn rules(phase: Phase) -> Vec<Rule> {
    let mut rules = leg_rules();
    match phase {
        Phase::Opening => rules.extend(redirect_rules()),
        Phase::Redirecting => rules.extend(redirect_rules().into_iter().chain(refusal_rules())),
        Phase::Retired => rules.push(Rule {
            chain: CLOSED.name,
            comment: "gammarus 1: redirected connections live on".to_owned(),
            expressions: nft::established().into_iter().chain([nft::accept()]).collect(),
        }),
    }
    rules
}

/// Local legs stay out of conntrack, both ways.
fn leg_rules() -> Vec<Rule> {
    let marked = nft::mark(Comparison::Equal, LOCAL_MARK);
    vec![
        rule(&LEG_OUT, "gammarus 1: local legs leave untracked", [&marked[..], &[nft::notrack()]].concat()),
        rule(
            &LEG_IN,
            "gammarus 1: local legs arrive untracked",
            [&nft::loopback(Meta::InputInterface, Comparison::Equal)[..], &marked, &[nft::notrack()]]
                .concat(),
        ),
    ]
}

fn redirect_rules() -> Vec<Rule> {
    let first_syn = [&nft::tcp()[..], &nft::first_syn()].concat();
    vec![
        link_local_passes(&OUTBOUND),
        rule(
            &OUTBOUND,
            "gammarus 1: connections of the pod",
            [&to_elsewhere()[..], &first_syn, &nft::redirect_to(OUTBOUND_PORT)].concat(),
        ),
        rule(
            &INBOUND,
            "gammarus 1: connections to the pod",
            [
                &from_outside()[..],
                &nft::destination_is_local(Comparison::Equal),
                &first_syn,
                &nft::not_to_port(INBOUND_PORT),
                &nft::has_socket(),
                &nft::redirect_to(INBOUND_PORT),
            ]
            .concat(),
        ),
    ]
}

/// What is not redirected is refused. Chains of address translation are not asked about a SYN that conntrack takes for
/// part of a connection that it knows, or for none at all.
fn refusal_rules() -> Vec<Rule> {
    let first_syn = [&nft::tcp()[..], &nft::first_syn()].concat();
    let refused = |chain, comment, which: &[Expression], why: &[Expression]| {
        rule(chain, comment, [which, &first_syn, why, &[nft::reset()]].concat())
    };
    vec![
        refused(&CLOSED, "gammarus 1: nothing else from outside", &from_outside(), &nft::not_redirected()),
        refused(&CLOSED, "gammarus 1: nothing invalid from outside", &from_outside(), &nft::invalid()),
        link_local_passes(&STRAY),
        refused(&STRAY, "gammarus 1: nothing else to elsewhere", &to_elsewhere(), &nft::not_redirected()),
        refused(&STRAY, "gammarus 1: nothing invalid to elsewhere", &to_elsewhere(), &nft::invalid()),
    ]
}

fn link_local_passes(chain: &Chain) -> Rule {
    rule(chain, "gammarus 1: link-local passes", [&nft::to_ipv6_link_local()[..], &[nft::accept()]].concat())
}

fn from_outside() -> [Expression; 2] {
    nft::loopback(Meta::InputInterface, Comparison::Differs)
}

/// To anywhere but the pod itself, and not of the proxy.
fn to_elsewhere() -> Vec<Expression> {
    [
        &nft::loopback(Meta::OutputInterface, Comparison::Differs)[..],
        &nft::mark(Comparison::Differs, DIAL_MARK),
        &nft::mark(Comparison::Differs, LOCAL_MARK),
        &nft::destination_is_local(Comparison::Differs),
    ]
    .concat()
}

fn rule(chain: &Chain, comment: &str, expressions: Vec<Expression>) -> Rule {
    Rule { chain: chain.name, comment: comment.to_owned(), expressions }
}

/// Compares chain, order, comment and expressions, in the tables that are there.
fn inspect_rules() -> Result<Vec<Deviation>, RedirectError> {
    let mut families = Vec::new();
    for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
        if has_table(family)? {
            families.push(family);
        }
    }
    let wanted = rules(Phase::Redirecting);
    if families.is_empty() {
        return Ok(wanted.into_iter().map(|rule| Deviation::Rule(rule.chain, rule.comment)).collect());
    }
    let mut deviations = Vec::new();
    for family in families {
        let existing = nft::rules_of(family, TABLE)?;
        for chain in CHAINS {
            let mut there = existing.iter().filter(|rule| rule.chain == chain.name);
            for rule in wanted.iter().filter(|rule| rule.chain == chain.name) {
                let same = there.next().is_some_and(|there| is_same(rule, there));
                if !same {
                    deviations.push(Deviation::Rule(rule.chain, rule.comment.clone()));
                }
            }
            deviations.extend(there.map(|rule| Deviation::ForeignRule(rule.chain.clone())));
        }
    }
    Ok(deviations)
}

fn is_same(wanted: &Rule, there: &nft::ExistingRule) -> bool {
    there.comment.as_deref() == Some(wanted.comment.as_str())
        && there.expressions.len() == wanted.expressions.len()
        && wanted.expressions.iter().zip(&there.expressions).all(|(wanted, there)| wanted.is_same_as(there))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// A namespace of its own, deleted also when the test panics.
    struct Namespace(String);

    impl Namespace {
        fn new(role: &str) -> Self {
            let name = format!("gpod{}-{role}", std::process::id());
            let made = Command::new("ip").args(["netns", "add", &name]).status().expect("the program ip");
            assert!(made.success(), "root is needed to make a network namespace");
            Self(name)
        }

        fn open(&self) -> NetnsFd {
            NetnsFd::open(&Path::new("/run/netns").join(&self.0)).expect("the new namespace")
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    #[test]
    fn a_kernel_without_tables_of_both_families_gets_one_of_each() {
        let namespace = Namespace::new("families");
        let netns = namespace.open();
        install(&netns).expect("rules");
        remove(&netns).expect("no rules");
        inside(&netns, || {
            routing::install()?;
            install_rules(&[&[Family::Ipv4, Family::Ipv6]])
        })
        .expect("two tables");
        assert_eq!(inspect(&netns).expect("an inspection"), []);
        retire(&netns).expect("retired");
        assert_ne!(inspect(&netns).expect("an inspection"), []);
        remove(&netns).expect("no rules");
        for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
            assert!(!inside(&netns, || has_table(family)).expect("an answer"), "{}", family.name());
        }
    }

    #[test]
    fn a_rule_that_leads_elsewhere_is_found_although_it_is_called_the_same() {
        let namespace = Namespace::new("edited");
        let netns = namespace.open();
        install(&netns).expect("rules");
        assert_eq!(inspect(&netns).expect("an inspection"), []);
        let mut edited = rules(Phase::Redirecting);
        let to_pod = edited.iter_mut().find(|rule| rule.chain == INBOUND.name).expect("the inbound rule");
        to_pod.expressions.truncate(to_pod.expressions.len() - 2);
        to_pod.expressions.extend(nft::redirect_to(INBOUND_PORT + 1));
        let comment = to_pod.comment.clone();
        inside(&netns, || {
            let batch = Batch::new(Family::Inet, TABLE).flush();
            Ok(edited.iter().fold(batch, Batch::rule).commit()?)
        })
        .expect("edited rules");
        assert_eq!(inspect(&netns).expect("an inspection"), [Deviation::Rule(INBOUND.name, comment)]);
        install(&netns).expect("a repair");
        assert_eq!(inspect(&netns).expect("an inspection"), []);
    }

    #[test]
    fn a_transaction_with_one_bad_rule_changes_nothing_and_names_it() {
        let namespace = Namespace::new("batch");
        let bad = Rule { chain: "nowhere", comment: "bad".to_owned(), expressions: vec![nft::accept()] };
        let refused = inside(&namespace.open(), || {
            let refused = refill(Family::Inet, Phase::Redirecting).rule(&bad).commit();
            assert!(!has_table(Family::Inet)?, "the batch holds completely or not at all");
            Ok(refused)
        });
        let text = refused.expect("work in the namespace").expect_err("there is no such chain").to_string();
        assert!(text.contains("\"bad\" to nowhere"), "{text}");
    }
}
