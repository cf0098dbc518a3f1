//! What two readers could see different messages in is refused before anything of it reaches a server.

use crate::rig::{Stage, hex, stage};

/// Bytes as hexadecimal digits; unlike [`hex`] each character is one byte.
fn bytes(text: &str) -> String {
    text.chars().map(|one| format!("{:02x}", u32::from(one))).collect()
}

/// Sends `text` to a declared HTTP port and looks for a refusal with this status and reason.
#[track_caller]
fn check(stage: &Stage, text: &str, status: &str, reason: &str) {
    let seen = stage.speak("raw", 80, &[&bytes(text), "rest"]);
    let start: String = text.chars().take(120).collect();
    assert!(seen.text.starts_with(&format!("HTTP/1.1 {status} ")), "{start:?}: {seen:?}");
    assert!(seen.text.contains(&format!("\r\ngammarus-reason: {reason}\r\n")), "{start:?}: {seen:?}");
    assert_eq!(seen.text.matches("HTTP/1.1 ").count(), 1, "{start:?}: {seen:?}");
    assert_eq!(seen.end, "closed", "{start:?}: {seen:?}");
}

#[test]
fn ambiguous_requests_are_refused_and_never_reach_a_server() {
    let stage = stage();
    let failures = ["direction=\"outbound\"", "reason=\"malformed_request\""];
    let before = stage.metric("gammarus_failures_total", &failures);
    let post = |fields: &str| {
        format!(
            "POST /smuggle HTTP/1.1\r\nHost: raw\r\n{fields}\r\n0\r\n\r\nGET /smuggle/2 HTTP/1.1\r\nHost: raw\r\n\r\n"
        )
    };
    let cases = [
        post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        post("Content-Length: 4\r\nContent-Length: 4\r\n"),
        post("Content-Length: 4\r\nContent-Length: 5\r\n"),
        post("Content-Length: 4, 4\r\n"),
        post("Content-Length: +4\r\n"),
        post("Content-Length: 0x4\r\n"),
        post("Content-Length: 4 4\r\n"),
        post("Content-Length: 99999999999999999999\r\n"),
        post("Content-Length: \r\n"),
        post("Content-Length : 4\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        post("Transfer-Encoding: chunked, identity\r\n"),
        post("Transfer-Encoding: xchunked\r\n"),
        post("Transfer-Encoding: \x0bchunked\r\n"),
        post("Transfer-Encoding : chunked\r\n"),
        post("Transfer-Encoding:\r\n chunked\r\n"),
        post("X-Folded: a\r\n b\r\n"),
        post("X-Nul: a\0b\r\n"),
        post("X-Bare: a\rContent-Length: 4\r\n"),
        post("X Space: a\r\n"),
        post("X-\u{e4}: a\r\n"),
        post(": a\r\n"),
        post("no colon\r\n"),
        post("Host: another\r\n"),
        "GET /smuggle HTTP/1.1\r\n\r\n".to_owned(),
        "GET /smuggle HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(),
        "GET /smuggle#fragment HTTP/1.1\r\nHost: raw\r\n\r\n".to_owned(),
        "GET smuggle HTTP/1.1\r\nHost: raw\r\n\r\n".to_owned(),
        "GET /smu\u{e4}ggle HTTP/1.1\r\nHost: raw\r\n\r\n".to_owned(),
        "GET /smu\0ggle HTTP/1.1\r\nHost: raw\r\n\r\n".to_owned(),
        "GET  /smuggle HTTP/1.1\r\nHost: raw\r\n\r\n".to_owned(),
        "GET /smuggle HTTP/1.2\r\nHost: raw\r\n\r\n".to_owned(),
        "GET /smuggle HTTP/2.0\r\nHost: raw\r\n\r\n".to_owned(),
        "GET /smuggle\r\n\r\n".to_owned(),
        "G(T /smuggle HTTP/1.1\r\nHost: raw\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03 not for this port\r\n\r\n".to_owned(),
        "POST /smuggle HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
    ];
    for case in &cases {
        check(&stage, case, "400", "malformed_request");
    }
    let after = stage.metric("gammarus_failures_total", &failures);
    assert_eq!(after - before, cases.len() as f64, "failures are counted once each");
    assert_eq!(stage.requests("raw", "smuggle"), Vec::<serde_json::Value>::new());
    // A request that is fine gets there: the log is not just empty.
    stage.curl(&["http://raw/no-smuggling"]);
    assert_eq!(stage.requests("raw", "/no-smuggling").len(), 1);
}

#[test]
fn chunks_that_break_the_grammar_end_the_request() {
    let stage = stage();
    for (number, chunk) in [
        "5\nabcde\r\n0\r\n\r\n",
        "+5\r\nabcde\r\n0\r\n\r\n",
        "5 \r\nabcde\r\n0\r\n\r\n",
        "5\r\nabcdeXX0\r\n\r\n",
        "10000000000000000\r\na",
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/bad-chunk/{number}");
        let text = format!("POST {path} HTTP/1.1\r\nHost: raw\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        check(&stage, &text, "400", "malformed_request");
        stage.wait_lines("node-a", &[&format!("path={path} "), "reason=malformed_request"], 1);
        assert!(!stage.app_log("raw").contains(&format!("BODY {path} 5 whole")), "{chunk:?}");
    }
}

#[test]
fn an_empty_line_before_a_request_is_not_one() {
    // RFC 9112 section 2.2: "a server that is expecting to receive and parse a request-line SHOULD ignore at least
    // one empty line (CRLF) received prior to the request-line."
    let seen = stage().speak(
        "raw",
        80,
        &[&hex("\r\nGET /after-an-empty-line HTTP/1.1\r\nHost: raw\r\n\r\n"), "read:Host: raw"],
    );
    assert!(seen.text.starts_with("HTTP/1.1 200 "), "{seen:?}");
}

#[test]
fn a_head_that_is_too_large_is_431() {
    let stage = stage();
    let many = "X-A: b\r\n".repeat(101);
    check(&stage, &format!("GET /many HTTP/1.1\r\nHost: raw\r\n{many}\r\n"), "431", "head_too_large");
    let long = "a".repeat(20_000);
    check(
        &stage,
        &format!(
            "GET /long HTTP/1.1\r\nHost: raw\r\nX-A: {long}\r\nX-B: {long}\r\nX-C: {long}\r\nX-D: {long}\r\n\r\n"
        ),
        "431",
        "head_too_large",
    );
    check(
        &stage,
        &format!("GET /{long}{long}{long}{long} HTTP/1.1\r\nHost: raw\r\n\r\n"),
        "431",
        "head_too_large",
    );
    for marker in ["GET /many", "GET /long", "GET /aaaa"] {
        assert!(stage.requests("raw", marker).is_empty(), "{marker}");
    }
}

#[test]
fn a_transparent_proxy_is_no_forward_proxy() {
    let stage = stage();
    check(&stage, "CONNECT raw:80 HTTP/1.1\r\nHost: raw\r\n\r\n", "405", "connect_method_refused");
    check(&stage, "GET http://raw/absolute HTTP/1.1\r\nHost: raw\r\n\r\n", "405", "connect_method_refused");
    assert!(stage.requests("raw", "absolute").is_empty());
}

#[test]
fn a_request_after_a_refused_one_is_not_read() {
    let stage = stage();
    let text = "GET /first-of-two HTTP/1.1\r\nHost: raw\r\n\r\nGET /second#of-two HTTP/1.1\r\nHost: raw\r\n\r\nGET /third HTTP/1.1\r\nHost: raw\r\n\r\n";
    let seen = stage.speak("raw", 80, &[&hex(text), "rest"]);
    let statuses: Vec<_> = seen
        .text
        .split("\r\n")
        .filter(|line| line.contains("HTTP/1.1 ") && !line.starts_with("GET"))
        .collect();
    assert!(seen.text.contains("/first-of-two") && seen.end == "closed", "{seen:?}");
    assert!(statuses.iter().any(|line| line.ends_with("HTTP/1.1 400 Bad Request")), "{statuses:?}");
    assert!(stage.requests("raw", "GET /third").is_empty());
}
