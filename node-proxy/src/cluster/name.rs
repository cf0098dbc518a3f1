//! What Kubernetes takes for the name of an object or a namespace (RFC 1123, in lower case).

/// Whether a text is one DNS label, such as a namespace's name.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// Whether a text is a DNS subdomain, such as the name of a Node or a route.
///
/// Kubernetes limits its length as a whole, and not that of the labels it is made of.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, label: bool, subdomain: bool) {
        assert_eq!((is_label(text), is_subdomain(text)), (label, subdomain), "{text:?}");
    }

    #[test]
    fn names_are_what_the_api_server_takes_them_for() {
        check("a", true, true);
        check("0-9", true, true);
        check("a.b", false, true);
        check("a..b", false, false);
        check(".a", false, false);
        check("a.", false, false);
        check("a.-b", false, false);
        check("a-.b", false, false);
        check("-a", false, false);
        check("a-", false, false);
        check("", false, false);
        check("A", false, false);
        check("a_b", false, false);
        check("\u{e4}", false, false);
        check(&"a".repeat(63), true, true);
        check(&"a".repeat(64), false, true);
        check(&"a".repeat(253), false, true);
        check(&"a".repeat(254), false, false);
    }
}
