//! What is known of the API server's objects, and what follows from each word about them.
//!
//! Pure. The writer is told of differences alone: a list that is read anew says nothing of what is as it was, and what
//! it does not name any more has gone.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::super::objects::{Change, Kind, Object, ObjectId, ObjectKey};
use super::super::report::Report;
use super::decode::{Item, Part};

/// Every object that was told of, as it last was good.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: BTreeMap<ObjectId, Object>,
    /// What there is to say, by object.
    reports: BTreeMap<ObjectId, Vec<Report>>,
    /// The lists that are being read, with what they have named so far.
    listings: BTreeMap<Kind, BTreeSet<ObjectKey>>,
}

impl Known {
    /// A list of a kind begins, in place of one that may have broken off.
    pub(super) fn begin_list(&mut self, kind: Kind) {
        self.listings.insert(kind, BTreeSet::new());
    }

    /// The list of a kind is complete: what it has not named has gone. Gives whether there is something else to say.
    pub(super) fn end_list(&mut self, kind: Kind, changes: &mut Vec<Change>) -> bool {
        let Some(named) = self.listings.remove(&kind) else { return false };
        let known = parts(kind).iter().flat_map(|part| self.of_kind(*part).map(|(id, _)| &id.key));
        let reported = self.reports.keys().filter(|id| id.kind == kind).map(|id| &id.key);
        let gone: BTreeSet<ObjectKey> =
            known.chain(reported).filter(|key| !named.contains(key)).cloned().collect();
        let mut is_news = false;
        for key in gone {
            is_news |= self.remove(kind, key, changes);
        }
        is_news
    }

    /// An object is there. Gives whether there is something else to say about it.
    pub(super) fn take(&mut self, kind: Kind, item: Item, changes: &mut Vec<Change>) -> bool {
        let Item { key, parts, reports, .. } = item;
        if let Some(named) = self.listings.get_mut(&kind) {
            named.insert(key.clone());
        }
        for (kind, part) in parts {
            let id = ObjectId { kind, key: key.clone() };
            match part {
                Part::Broken => {}
                Part::Good(object) if self.objects.get(&id) == Some(&object) => {}
                Part::Good(object) => {
                    self.objects.insert(id, object.clone());
                    changes.push(Change::Applied(key.clone(), object));
                }
                Part::None => self.forget(id, changes),
            }
        }
        let id = ObjectId { kind, key };
        let is_news = self.reports.get(&id).map_or(&[][..], Vec::as_slice) != reports;
        if reports.is_empty() {
            self.reports.remove(&id);
        } else {
            self.reports.insert(id, reports);
        }
        is_news
    }

    /// An object is not there any more. Gives whether there was something to say about it.
    pub(super) fn remove(&mut self, kind: Kind, key: ObjectKey, changes: &mut Vec<Change>) -> bool {
        if let Some(named) = self.listings.get_mut(&kind) {
            named.remove(&key);
        }
        for part in parts(kind) {
            self.forget(ObjectId { kind: *part, key: key.clone() }, changes);
        }
        self.reports.remove(&ObjectId { kind, key }).is_some()
    }

    fn forget(&mut self, id: ObjectId, changes: &mut Vec<Change>) {
        if self.objects.remove(&id).is_some() {
            changes.push(Change::Deleted(id));
        }
    }

    /// Takes what was known at another time for what is not known yet, of the kinds that `is_wanted`.
    pub(super) fn take_old(
        &mut self,
        old: Vec<(ObjectId, Object)>,
        is_wanted: impl Fn(Kind) -> bool,
        changes: &mut Vec<Change>,
    ) {
        for (id, object) in old.into_iter().filter(|(id, _)| is_wanted(watched(id.kind))) {
            if let Entry::Vacant(unknown) = self.objects.entry(id) {
                changes.push(Change::Applied(unknown.key().key.clone(), object.clone()));
                unknown.insert(object);
            }
        }
    }

    /// Whether anything of a kind is known.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.of_kind(kind).next().is_some()
    }

    /// Everything there is, in order.
    pub(super) fn objects(&self) -> Vec<(ObjectId, Object)> {
        self.objects.iter().map(|(id, object)| (id.clone(), object.clone())).collect()
    }

    /// What there is to say about objects.
    pub(super) fn reports(&self) -> impl Iterator<Item = &Report> {
        self.reports.values().flatten()
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectId, &Object)> {
        let first = ObjectId { kind, key: ObjectKey::default() };
        self.objects.range(first..).take_while(move |(id, _)| id.kind == kind)
    }
}

/// What an object of a watched kind is told as.
fn parts(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::BackendTlsPolicy => &[Kind::BackendTlsPolicy],
        Kind::ConfigMap => &[Kind::ConfigMap],
        Kind::EndpointSlice => &[Kind::EndpointSlice],
        Kind::Gateway => &[Kind::Gateway],
        Kind::GatewayClass => &[Kind::GatewayClass],
        Kind::GrpcRoute => &[Kind::GrpcRoute],
        Kind::HttpRoute => &[Kind::HttpRoute],
        Kind::ListenerSet => &[Kind::ListenerSet],
        Kind::Mark => &[],
        Kind::Namespace => &[Kind::Namespace],
        Kind::Node => &[Kind::Node],
        Kind::Pod => &[Kind::Pod, Kind::Mark],
        Kind::ReferenceGrant => &[Kind::ReferenceGrant],
        Kind::Secret => &[Kind::Secret],
        Kind::Service => &[Kind::Service],
        Kind::TcpRoute => &[Kind::TcpRoute],
        Kind::TlsRoute => &[Kind::TlsRoute],
        Kind::UdpRoute => &[Kind::UdpRoute],
    }
}

/// By watching which kind one learns of another.
const fn watched(kind: Kind) -> Kind {
    match kind {
        Kind::Mark => Kind::Pod,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decode::read_item;
    use super::*;

    fn pod(name: &str, node: &str, mark: &str) -> Item {
        let value = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "annotations": {"gammarus.io/enrolled": mark}},
            "spec": {"nodeName": node, "containers": []},
        });
        read_item(Kind::Pod, value).unwrap()
    }

    const MARK: &str = r#"{"uid":"a","addresses":[]}"#;

    /// What is said of changes, in short.
    fn told<T>(play: impl FnOnce(&mut Vec<Change>) -> T) -> Vec<String> {
        let mut changes = Vec::new();
        play(&mut changes);
        changes
            .into_iter()
            .map(|change| match change {
                Change::Applied(key, Object::Mark(_)) => format!("+ Mark {key}"),
                Change::Applied(key, _) => format!("+ {key}"),
                Change::Deleted(id) => format!("- {id}"),
            })
            .collect()
    }

    #[test]
    fn a_list_that_is_read_again_tells_of_differences_alone() {
        let mut known = Known::default();
        known.begin_list(Kind::Pod);
        let first = told(|changes| {
            for name in ["a", "b", "c"] {
                known.take(Kind::Pod, pod(name, "n1", MARK), changes);
            }
            known.end_list(Kind::Pod, changes);
        });
        assert_eq!(
            first,
            ["+ shop/a", "+ Mark shop/a", "+ shop/b", "+ Mark shop/b", "+ shop/c", "+ Mark shop/c"]
        );
        known.begin_list(Kind::Pod);
        let again = told(|changes| {
            known.take(Kind::Pod, pod("a", "n1", MARK), changes);
            known.take(Kind::Pod, pod("c", "n2", MARK), changes);
            known.take(Kind::Pod, pod("d", "n1", MARK), changes);
            known.remove(Kind::Pod, ObjectKey::new("shop", "d"), changes);
            known.end_list(Kind::Pod, changes);
        });
        let wanted = [
            "+ shop/c",
            "+ shop/d",
            "+ Mark shop/d",
            "- Pod shop/d",
            "- Mark shop/d",
            "- Pod shop/b",
            "- Mark shop/b",
        ];
        assert_eq!(again, wanted);
    }

    #[test]
    fn a_list_that_broke_off_takes_nothing_away() {
        let mut known = Known::default();
        known.begin_list(Kind::Pod);
        told(|changes| {
            known.take(Kind::Pod, pod("a", "n1", MARK), changes);
            known.take(Kind::Pod, pod("b", "n1", MARK), changes);
            known.end_list(Kind::Pod, changes);
        });
        known.begin_list(Kind::Pod);
        told(|changes| known.take(Kind::Pod, pod("a", "n1", MARK), changes));
        known.begin_list(Kind::Pod);
        let after = told(|changes| {
            known.take(Kind::Pod, pod("b", "n1", MARK), changes);
            known.end_list(Kind::Pod, changes);
        });
        assert_eq!(after, ["- Pod shop/a", "- Mark shop/a"], "and b, which only the second one named, stays");
        assert!(told(|changes| known.end_list(Kind::Pod, changes)).is_empty(), "no list is being read");
    }

    #[test]
    fn what_is_broken_stays_as_it_was_for_as_long_as_it_is_there() {
        let mut known = Known::default();
        told(|changes| known.take(Kind::Pod, pod("a", "n1", MARK), changes));
        assert!(told(|changes| known.take(Kind::Pod, pod("a", "n1", "{"), changes)).is_empty());
        assert_eq!(known.reports().count(), 1);
        known.begin_list(Kind::Pod);
        let relisted = told(|changes| {
            known.take(Kind::Pod, pod("a", "n1", "{"), changes);
            known.end_list(Kind::Pod, changes);
        });
        assert!(relisted.is_empty(), "{relisted:?}");
        let gone = told(|changes| known.remove(Kind::Pod, ObjectKey::new("shop", "a"), changes));
        assert_eq!((gone.len(), known.reports().count()), (2, 0));
        // One that never was good goes with its report.
        let route = json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": {"rules": 1}});
        let item = read_item(Kind::TcpRoute, route).unwrap();
        assert!(told(|changes| known.take(Kind::TcpRoute, item, changes)).is_empty());
        assert_eq!(known.reports().count(), 1);
        known.begin_list(Kind::TcpRoute);
        told(|changes| known.end_list(Kind::TcpRoute, changes));
        assert_eq!(known.reports().count(), 0);
    }

    #[test]
    fn of_an_old_state_only_what_is_not_known_better_is_taken() {
        let mut known = Known::default();
        let mut old = Known::default();
        told(|changes| {
            known.take(Kind::Pod, pod("a", "new", MARK), changes);
            old.take(Kind::Pod, pod("a", "old", MARK), changes);
            old.take(Kind::Pod, pod("b", "old", MARK), changes);
        });
        let taken = told(|changes| known.take_old(old.objects(), |_| true, changes));
        assert_eq!(taken, ["+ Mark shop/b", "+ shop/b"]);
        let none =
            told(|changes| Known::default().take_old(old.objects(), |kind| kind != Kind::Pod, changes));
        assert!(none.is_empty(), "{none:?}");
        assert!(known.has(Kind::Mark) && !known.has(Kind::Node));
    }
}
