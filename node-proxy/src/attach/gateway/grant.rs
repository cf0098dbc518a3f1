//! References from one object to another, and whether one of another namespace is granted (ReferenceGrant).

use crate::cluster::objects::{ObjectKey, Objects};

/// A reference, with the defaults of its field filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::attach) struct Reference {
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
    /// The referrer's own when absent.
    pub(in crate::attach) namespace: Option<String>,
    pub(in crate::attach) name: String,
}

impl Reference {
    /// The object that is named, for a referrer of this namespace.
    pub(in crate::attach) fn target(&self, own_namespace: &str) -> ObjectKey {
        let namespace = self.namespace.as_deref().filter(|text| !text.is_empty());
        ObjectKey::new(namespace.unwrap_or(own_namespace), &self.name)
    }
}

/// Who refers to something.
#[derive(Clone, Copy, Debug)]
pub(in crate::attach) struct Referrer<'a> {
    pub(in crate::attach) kind: &'a str,
    pub(in crate::attach) namespace: &'a str,
}

/// Whether an object of the Gateway API's group may refer to another one, of its own namespace or by a grant of the
/// other's.
pub(in crate::attach) fn is_permitted(
    objects: &Objects,
    referrer: Referrer<'_>,
    (group, kind, target): (&str, &str, &ObjectKey),
) -> bool {
    if *target.namespace == *referrer.namespace {
        return true;
    }
    let first = ObjectKey { namespace: target.namespace.clone(), ..ObjectKey::default() };
    let there =
        objects.reference_grants.range(first..).take_while(|(key, _)| key.namespace == target.namespace);
    there.map(|(_, grant)| &grant.spec).any(|grant| {
        let from = grant.from.iter().any(|from| {
            from.group == super::GROUP && from.kind == referrer.kind && from.namespace == referrer.namespace
        });
        from && grant.to.iter().any(|to| {
            to.group == group
                && to.kind == kind
                && to.name.as_deref().is_none_or(|name| *name == *target.name)
        })
    })
}
