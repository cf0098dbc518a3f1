//! Whose word about clients counts, and what is told instead of everybody else's.

use super::*;

/// A request with these fields.
struct Head<'a>(&'a [(&'a str, &'a str)]);

impl RequestHead for Head<'_> {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn path(&self) -> &'static str {
        "/"
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values: Vec<&str> =
            self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(", ").into_bytes()))
    }
}

/// The load balancer that has opened the connection.
const PEER: &str = "192.0.2.9";

#[track_caller]
fn tell(hops: usize, lines: &[(&str, &str)]) -> Told {
    Forwarded::new(PEER.parse().expect("an address"), "http", hops).tell(&Head(lines))
}

/// What goes on of a request's fields.
fn pass_on(told: &Told, lines: &[(&str, &str)]) -> Vec<String> {
    let edit = &told.filters.request;
    let kept = lines.iter().copied().filter(|(name, _)| !edit.removes(name.as_bytes()));
    kept.chain(edit.added()).map(|(name, value)| format!("{name}: {value}")).collect()
}

#[track_caller]
fn check_client(hops: usize, values: &[&str], expected: Option<&str>) {
    let lines: Vec<(&str, &str)> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
    let client = tell(hops, &lines).client.map(|client| match client.port {
        Some(port) => SocketAddr::new(client.ip, port).to_string(),
        None => client.ip.to_string(),
    });
    assert_eq!(client.as_deref(), expected, "{hops} of {values:?}");
}

#[test]
fn the_client_is_whom_the_outermost_proxy_that_is_believed_has_seen() {
    check_client(0, &["198.51.100.1"], None);
    check_client(1, &["198.51.100.1"], Some("198.51.100.1"));
    check_client(1, &["203.0.113.7, 198.51.100.1"], Some("198.51.100.1"));
    check_client(2, &["203.0.113.7, 198.51.100.1, 198.51.100.2"], Some("198.51.100.1"));
    check_client(3, &["203.0.113.7, 198.51.100.1, 198.51.100.2"], Some("203.0.113.7"));
    check_client(1, &["203.0.113.7", "198.51.100.1"], Some("198.51.100.1"));
    check_client(2, &["203.0.113.7,203.0.113.8", "198.51.100.1 ,\t198.51.100.2"], Some("198.51.100.1"));
    check_client(2, &["203.0.113.7", "198.51.100.1", "unknown"], Some("198.51.100.1"));
}

#[test]
fn a_request_that_has_not_come_by_all_of_them_is_its_connections() {
    check_client(1, &[], None);
    check_client(1, &[""], None);
    check_client(1, &[" , ,"], None);
    check_client(2, &["198.51.100.1"], None);
    check_client(4, &["198.51.100.1, 198.51.100.2", "198.51.100.3"], None);
}

#[test]
fn values_are_read_as_proxies_write_them() {
    for (value, expected) in [
        ("198.51.100.1:4711", Some("198.51.100.1:4711")),
        ("2001:db8::1", Some("2001:db8::1")),
        ("2001:DB8:0::1", Some("2001:db8::1")),
        ("[2001:db8::1]", Some("2001:db8::1")),
        ("[2001:db8::1]:4711", Some("[2001:db8::1]:4711")),
        ("::ffff:198.51.100.1", Some("198.51.100.1")),
        ("[::ffff:198.51.100.1]:80", Some("198.51.100.1:80")),
        ("198.51.100.1,,", Some("198.51.100.1")),
        ("unknown", None),
        ("_hidden", None),
        ("client.example.com", None),
        ("198.51.100", None),
        ("198.51.100.1:", None),
        ("198.51.100.1:70000", None),
        ("[198.51.100.1]", None),
        ("[2001:db8::1", None),
        ("2001:db8::1]", None),
        ("\"198.51.100.1\"", None),
        ("for=198.51.100.1", None),
        ("198.51.100.1 198.51.100.2", None),
        ("198.51.100.01", None),
        ("\u{661}98.51.100.1", None),
    ] {
        check_client(1, &["203.0.113.7", value], expected);
    }
}

#[test]
fn by_default_what_a_client_says_of_itself_goes_nowhere() {
    let lines = [
        ("x-forwarded-for", "203.0.113.7"),
        ("X_Forwarded_For", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded_proto", "https"),
        ("x-forwarded-scheme", "https"),
        ("x-forwarded-ssl", "on"),
        ("x-forwarded-host", "evil.example.com"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=203.0.113.7"),
        ("x-real-ip", "203.0.113.7"),
        ("X_REAL_IP", "203.0.113.7"),
        ("x-other", "kept"),
    ];
    let expected = ["x-other: kept", "x-forwarded-for: 192.0.2.9", "x-forwarded-proto: http"];
    assert_eq!(pass_on(&tell(0, &lines), &lines), expected);
    // Where proxies are believed, too, unless it has come by them.
    assert_eq!(pass_on(&tell(2, &lines), &lines), expected);
}

#[test]
fn behind_proxies_that_are_believed_our_word_is_added_to_theirs() {
    let lines = [
        ("x-forwarded-for", "203.0.113.7, 198.51.100.1"),
        ("x-forwarded-for", "198.51.100.2"),
        ("x-forwarded-proto", "HTTPS"),
        ("x-forwarded-host", "www.example.com"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=203.0.113.7"),
        ("x-real-ip", "203.0.113.7"),
        ("x_forwarded_for", "203.0.113.7"),
    ];
    let told = tell(2, &lines);
    assert_eq!(
        pass_on(&told, &lines),
        [
            "x-forwarded-host: www.example.com",
            "x-forwarded-port: 443",
            "x-forwarded-for: 203.0.113.7, 198.51.100.1, 198.51.100.2, 192.0.2.9",
            "x-forwarded-proto: https",
        ]
    );
}

#[test]
fn a_scheme_that_is_none_is_replaced() {
    for (came, expected) in [
        (&["https"][..], "https"),
        (&["Http "], "http"),
        (&["gopher"], "http"),
        (&["https, http"], "http"),
        (&["https", "https"], "http"),
        (&[""], "http"),
        (&[], "http"),
    ] {
        let schemes = came.iter().map(|scheme| ("x-forwarded-proto", *scheme));
        let lines: Vec<_> = schemes.chain([("x-forwarded-for", "198.51.100.1")]).collect();
        let told = tell(1, &lines);
        let said = told.filters.request.added().find(|(name, _)| *name == "x-forwarded-proto");
        assert_eq!(said, Some(("x-forwarded-proto", expected)), "{came:?}");
    }
}

#[test]
fn routes_match_what_backends_are_told() {
    let lines = [
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "203.0.113.7"),
        ("x-forwarded-host", "www.example.com"),
        ("version", "new"),
    ];
    let head = Head(&lines);
    let see = |told: &Told, name: &str| {
        let value = AsTold(&head, &told.filters.request).header(name)?.into_owned();
        String::from_utf8(value).ok()
    };
    let told = tell(0, &lines);
    assert_eq!(see(&told, "x-forwarded-for").as_deref(), Some(PEER));
    assert_eq!(see(&told, "x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(see(&told, "x-real-ip"), None);
    assert_eq!(see(&told, "x-forwarded-host"), None);
    assert_eq!(see(&told, "version").as_deref(), Some("new"));
    let told = tell(1, &lines);
    assert_eq!(see(&told, "x-forwarded-for").as_deref(), Some("198.51.100.1, 192.0.2.9"));
    assert_eq!(see(&told, "x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(see(&told, "x-real-ip"), None);
    assert_eq!(see(&told, "x-forwarded-host").as_deref(), Some("www.example.com"));
}
