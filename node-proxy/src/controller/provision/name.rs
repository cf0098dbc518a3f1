//! The names of what is made for a Gateway, and its labels: found again by everybody who knows the Gateway, and nobody else's. Pure.

use gammarus_ca::bundle::fingerprint;

use crate::cluster::objects::ObjectKey;

/// The longest name of a Service, and the longest value of a label.
const LONGEST: usize = 63;
/// Of a hash, in hexadecimal digits.
const DIGITS: usize = 12;

/// The name of all objects that are made for a Gateway of a class, its ServiceAccount's among them: `NAME-CLASS` (GEP-1762).
///
/// A Service's name is one DNS label that begins with a letter, and those of Gateways and classes are subdomains of up to 253
/// characters. What would be no such label is made one, and ends in a hash of namespace, name and class, so that no two Gateways
/// meet in it. Two that meet in `NAME-CLASS` itself (`a-b` of class `c`, `a` of class `b-c`) are told apart by the owner
/// of what is there.
#[must_use]
pub fn name_of(gateway: &ObjectKey, class_name: &str) -> String {
    let name = format!("{}-{class_name}", gateway.name);
    if is_service_name(&name) {
        return name;
    }
    // No name has a '/' in it: no two triples are one text.
    let end = hash(&format!("{}/{}/{class_name}", gateway.namespace, gateway.name));
    let begins_with_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
    let start = if begins_with_letter { name } else { format!("gateway-{name}") };
    join(&start.replace('.', "-"), &end)
}

/// The key of all objects that are made for a Gateway of a class.
#[must_use]
pub fn key_of(gateway: &ObjectKey, class_name: &str) -> ObjectKey {
    ObjectKey::new(&gateway.namespace, &name_of(gateway, class_name))
}

/// The value of a label for a name of up to 253 characters: that name, or its beginning and a hash of it.
#[must_use]
pub fn label_of(name: &str) -> String {
    if name.len() <= LONGEST { name.to_owned() } else { join(name, &hash(name)) }
}

/// RFC 1035: what a Service may be called.
fn is_service_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= LONGEST
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(inner)
        && !name.ends_with('-')
}

/// As much of the one as there is room for, and the other.
fn join(start: &str, end: &str) -> String {
    let room = start.floor_char_boundary(LONGEST - DIGITS - 1);
    let start = start[..room].trim_end_matches(['-', '.', '_']);
    format!("{start}-{end}")
}

/// The first digits of the SHA-256 of a text, in hexadecimal.
fn hash(text: &str) -> String {
    fingerprint(text.as_bytes()).chars().take(DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[track_caller]
    fn check(name: &str, class: &str, wanted: &str) {
        let made = name_of(&ObjectKey::new("shop", name), class);
        assert!(is_service_name(&made), "{made}");
        assert_eq!(made, wanted);
    }

    #[test]
    fn a_name_is_the_gateways_and_its_classs() {
        check("front", "gammarus", "front-gammarus");
        let longest = "a".repeat(54);
        check(&longest, "gammarus", &format!("{longest}-gammarus"));
    }

    #[test]
    fn what_a_service_may_not_be_called_is_made_a_name_that_it_may() {
        check("1st", "gammarus", "gateway-1st-gammarus-56391da019fc");
        check("a.b", "gammarus", "a-b-gammarus-f2e8f8ae5acc");
        check(&"a".repeat(55), "gammarus", &format!("{}-5027fb6a12d3", "a".repeat(50)));
    }

    #[test]
    fn names_that_are_cut_to_the_same_stay_apart() {
        let long = "a".repeat(252);
        let mut names = BTreeSet::new();
        for namespace in ["shop", "checkout"] {
            for end in ["b", "c"] {
                for class in ["gammarus", "other"] {
                    let name = name_of(&ObjectKey::new(namespace, &format!("{long}{end}")), class);
                    assert!(is_service_name(&name) && name.len() == LONGEST, "{name}");
                    names.insert(name);
                }
            }
        }
        // A dot is not a dash, and a number not what is put before it.
        for name in ["a.b", "a-b", "1", "gateway-1"] {
            names.insert(name_of(&ObjectKey::new("shop", name), "gammarus"));
        }
        assert_eq!(names.len(), 12, "{names:?}");
    }

    #[test]
    fn a_cut_never_leaves_two_separators() {
        let name = format!("{}.-{}", "a".repeat(49), "b".repeat(100));
        let made = name_of(&ObjectKey::new("shop", &name), "gammarus");
        assert!(is_service_name(&made) && made.starts_with(&format!("{}-", "a".repeat(49))), "{made}");
        let label = label_of(&name);
        assert!(label.len() <= LONGEST && label.starts_with(&format!("{}-", "a".repeat(49))), "{label}");
    }

    #[test]
    fn a_label_has_the_name_as_long_as_it_fits() {
        let (fits, long) = ("a".repeat(63), "a".repeat(64));
        assert_eq!(label_of(&fits), fits);
        assert_eq!(label_of("1.b"), "1.b");
        assert_eq!(label_of(&long).len(), 63);
        assert_ne!(label_of(&long), label_of(&"a".repeat(65)));
    }
}
