//! Heads that are taken, heads that are refused, and what is written on.

use super::*;
use crate::http1::framing::BodyLength;
use crate::route::RequestHead;

fn request(text: &[u8]) -> Result<RequestHead1, HeadError> {
    let mut head = RequestHead1::default();
    match head.parse(text)? {
        Parsed::Complete(length) => assert_eq!(length, text.len()),
        Parsed::Partial => return Err(HeadError::Malformed("partial")),
    }
    Ok(head)
}

#[track_caller]
fn check_request(text: &str, expected: Result<(&str, &str, Option<&str>, BodyLength), HeadError>) {
    let head = request(text.as_bytes());
    let found = head.as_ref().map(|head| (head.method(), head.path(), head.query(), head.body_length()));
    assert_eq!(found.map_err(|error| *error), expected, "{text:?}");
}

#[test]
fn a_request_is_taken_apart() {
    check_request("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(("GET", "/", None, BodyLength::None)));
    check_request(
        "GET /a/b?c=d?e HTTP/1.1\r\nHost: a:80\r\n\r\n",
        Ok(("GET", "/a/b", Some("c=d?e"), BodyLength::None)),
    );
    check_request("GET /a? HTTP/1.0\r\n\r\n", Ok(("GET", "/a", Some(""), BodyLength::None)));
    check_request("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", Ok(("OPTIONS", "*", None, BodyLength::None)));
    check_request(
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n",
        Ok(("POST", "/a", None, BodyLength::Fixed(12))),
    );
    check_request(
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        Ok(("POST", "/a", None, BodyLength::Chunked)),
    );
}

#[test]
fn ambiguous_framing_is_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 2\r\n",
        "X: a\r\n b\r\n",
        "X: a\0b\r\n",
        "Host: b\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert!(matches!(request(text.as_bytes()), Err(HeadError::Malformed(_))), "{text:?}");
    }
}

#[test]
fn a_request_that_is_not_for_an_origin_is_refused() {
    for (line, expected) in [
        ("CONNECT a:80 HTTP/1.1", HeadError::NotProxied),
        ("GET http://a/ HTTP/1.1", HeadError::NotProxied),
        ("GET a HTTP/1.1", HeadError::Malformed("target is not in origin form")),
        ("GET /a#b HTTP/1.1", HeadError::Malformed("target has a character that no target may have")),
    ] {
        check_request(&format!("{line}\r\nHost: a\r\n\r\n"), Err(expected));
    }
    check_request("GET / HTTP/1.1\r\n\r\n", Err(HeadError::Malformed("no host")));
    check_request(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(HeadError::Malformed("transfer-encoding in an HTTP/1.0 message")),
    );
}

#[test]
fn a_head_beyond_the_limits_is_too_large() {
    let many = "a: b\r\n".repeat(FIELD_LIMIT);
    check_request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), Err(HeadError::TooLarge));
    let long = "a".repeat(HEAD_LIMIT);
    check_request(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), Err(HeadError::TooLarge));
}

#[track_caller]
fn check_forwarded(text: &str, expected: &str) {
    let mut head = request(text.as_bytes()).expect("a good request");
    let mut out = Vec::new();
    head.write(None, &mut out);
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn case_and_order_of_fields_are_kept() {
    check_forwarded(
        "GET /a?b HTTP/1.1\r\nhOsT: a\r\nX-B: 2\r\nx-a: 1\r\nX-B:3\r\n\r\n",
        "GET /a?b HTTP/1.1\r\nhOsT: a\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\n\r\n",
    );
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    check_forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AA\r\nProxy-Connection: x\r\nTE: gzip\r\nX-Kept: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\n\r\n",
    );
    check_forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nte: trailers\r\nconnection: te\r\n\r\n",
    );
}

#[test]
fn connection_cannot_name_away_what_gives_the_message_its_meaning() {
    check_forwarded(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: host, content-length, authorization\r\nAuthorization: x\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nContent-Length: 1\r\n\r\n",
    );
}

#[test]
fn several_lines_of_a_field_are_one_value() {
    let head = request(b"GET / HTTP/1.1\r\nHost: a\r\nVersion: one\r\nVERSION: two\r\n\r\n")
        .expect("a good request");
    assert_eq!(head.header("version").as_deref(), Some(b"one, two".as_slice()));
    assert_eq!(head.header("absent"), None);
}

#[track_caller]
fn check_response(text: &str, method: &str, expected: Result<(u16, BodyLength), HeadError>) {
    let mut head = ResponseHead1::default();
    let parsed = head.parse(text.as_bytes());
    assert_eq!(parsed.map(|_| (head.status(), head.body_length(method))), expected, "{text:?}");
}

#[test]
fn the_length_of_an_answer_follows_rfc_9112_section_6_3() {
    check_response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", Ok((200, BodyLength::Fixed(3))));
    check_response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", Ok((200, BodyLength::None)));
    check_response("HTTP/1.1 204 No Content\r\n\r\n", "GET", Ok((204, BodyLength::None)));
    check_response(
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
        "GET",
        Ok((304, BodyLength::None)),
    );
    check_response("HTTP/1.1 100 Continue\r\n\r\n", "POST", Ok((100, BodyLength::None)));
    check_response("HTTP/1.1 200 OK\r\n\r\n", "GET", Ok((200, BodyLength::UntilClose)));
    check_response(
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET",
        Ok((200, BodyLength::Chunked)),
    );
    check_response(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET",
        Err(HeadError::Malformed("both transfer-encoding and content-length")),
    );
}

#[test]
fn an_answer_is_written_for_the_client_it_goes_to() {
    let mut head = ResponseHead1::default();
    let text = "HTTP/1.1 200 Fine\r\nConnection: close\r\nX-A: 1\r\nContent-Length: 0\r\nKeep-Alive: timeout=7, max=9\r\n\r\n";
    head.parse(text.as_bytes()).expect("a good answer");
    assert_eq!((head.persistence(), head.keep_alive_seconds()), (Persistence::Close, Some(7)));
    let mut out = Vec::new();
    head.write((Version::Http11, Persistence::KeepAlive), None, &mut out);
    assert_eq!(String::from_utf8_lossy(&out), "HTTP/1.1 200 Fine\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n");
}
