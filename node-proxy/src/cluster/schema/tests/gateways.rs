//! What the CRDs of the kinds of an ingress have that those of routes do not: maps and alternatives.

use std::collections::BTreeSet;

use super::super::{Schema, child};
use super::*;

/// The places that a schema has below its spec; items of a list and entries of a map are one place each.
fn places(schema: &Schema, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    for (name, property) in &schema.properties {
        places(property, &child(path, name), found);
    }
    for below in [&schema.additional_properties, &schema.items].into_iter().flatten() {
        places(below, path, found);
    }
}

fn places_of(schema: &Schema, value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match (value, &schema.additional_properties, &schema.items) {
        (Value::Object(fields), Some(schema), _) => {
            fields.values().for_each(|value| places_of(schema, value, path, found));
        }
        (Value::Object(fields), None, _) => {
            for (name, value) in fields {
                places_of(&schema.properties[name], value, &child(path, name), found);
            }
        }
        (Value::Array(items), _, Some(schema)) => {
            items.iter().for_each(|item| places_of(schema, item, path, found));
        }
        _ => {}
    }
}

/// What is said of `whole.yaml` elsewhere holds for every field there is.
#[test]
fn the_whole_objects_are_taken_and_leave_no_field_out() {
    let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../tests/whole.yaml")).unwrap();
    for kind in ["BackendTLSPolicy", "Gateway", "GatewayClass", "ListenerSet", "UDPRoute"] {
        let schema = &SCHEMAS.find(kind).unwrap().as_ref().unwrap().versions[&format!("{GROUP}/v1")]
            .properties["spec"];
        let (mut there, mut used) = (BTreeSet::new(), BTreeSet::new());
        places(schema, "spec", &mut there);
        for document in documents.iter().filter(|document| document["kind"] == kind) {
            places_of(schema, &document["spec"], "spec", &mut used);
            let mut object = document.clone();
            assert_eq!(SCHEMAS.admit(kind, &format!("{GROUP}/v1"), &mut object), Verdict::default());
            assert_eq!(object, *document, "no default is needed");
        }
        assert_eq!(used, there, "{kind}");
    }
}

fn gateway(fields: &str) -> String {
    format!("{{gatewayClassName: c, listeners: [{{name: a, port: 80, protocol: HTTP}}], {fields}}}")
}

#[test]
fn an_address_has_one_of_its_forms() {
    let addresses = |list: &str| gateway(&format!("addresses: [{list}]"));
    for good in [
        "{value: 192.0.2.1}",
        "{value: '2001:db8::1'}",
        "{value: '::ffff:192.0.2.1'}",
        "{type: IPAddress}",
        "{type: Hostname, value: 192.0.2.1}",
        "{type: Hostname}",
        "{type: a.test/b, value: anything}",
    ] {
        check("Gateway", &addresses(good), &[]);
    }
    for bad in ["192.0.2", "192.0.2.01", "192.0.2.1:80", "'fe80::1%eth0'", "'[::1]'", "a.test"] {
        let said = [("spec.addresses[0]", "must be one of (type IPAddress and value an IPv4 address or")];
        check("Gateway", &addresses(&format!("{{value: {bad}}}")), &said);
    }
}

#[test]
fn keys_of_a_map_are_the_users_own_and_its_values_are_checked() {
    let labels = |entries: &str| gateway(&format!("infrastructure: {{labels: {{{entries}}}}}"));
    for good in ["a: b", "a.test/b-c_d.e: ''", "namespace: a", "in: a", "__a: b, A: b"] {
        let is_fine = !good.starts_with('_');
        let said = [("spec.infrastructure.labels", "Label keys must be in the form")];
        check("Gateway", &labels(good), if is_fine { &[] } else { &said });
    }
    check(
        "Gateway",
        &labels("a.test/b: ' c'"),
        &[("spec.infrastructure.labels[a.test/b]", "must match ^((")],
    );
    check(
        "Gateway",
        &labels("a: {}"),
        &[("spec.infrastructure.labels[a]", "must be a string, is an object")],
    );
    let prefix = |length: usize| labels(&format!("{}/b: c", "a".repeat(length)));
    check("Gateway", &prefix(252), &[]);
    let long =
        [("spec.infrastructure.labels", "the label key's prefix must be a DNS subdomain not longer than")];
    check("Gateway", &prefix(253), &long);
    let many = |count: usize| (0..count).map(|key| format!("k{key}: v")).collect::<Vec<_>>().join(", ");
    check("Gateway", &labels(&many(8)), &[]);
    check("Gateway", &labels(&many(9)), &[("spec.infrastructure.labels", "at most 8 entries, has 9")]);
}

#[test]
fn what_is_judged_of_an_object_is_taken_out_and_not_made_up() {
    let mut object = json!({
        "metadata": {"name": "a"},
        "spec": {"controllerName": "a.test/b"},
        "status": {"conditions": "none"},
    });
    let verdict = SCHEMAS.admit("GatewayClass", &format!("{GROUP}/v1"), &mut object);
    assert_eq!((verdict, object.get("status")), (Verdict::default(), None));
}
