//! What the proxy could not do: the status, and the same reason in the answer, the access line and the metrics.

use crate::rig::{Stage, hex, stage};

#[track_caller]
fn check(stage: &Stage, url: &str, status: &str, reason: &str) {
    let path = format!("/{}", url.split('/').skip(3).collect::<Vec<_>>().join("/"));
    let service = url.split('/').nth(2).unwrap();
    let labels = [
        &format!("service=\"{service}\"")[..],
        &format!("reason=\"{reason}\""),
        &format!("status=\"{status}\""),
    ];
    let failure = ["direction=\"outbound\"", labels[1]];
    let before = stage.metric("gammarus_http_requests_total", &labels);
    let failed_before = stage.metric("gammarus_failures_total", &failure);
    let answer = stage.curl(&["-i", url]);
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(&format!("\r\ngammarus-reason: {reason}\r\n")), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\ngammarus: {reason}\n")), "{answer}");
    let line = &stage.wait_lines("node-a", &[&format!("path={path} ")], 1)[0];
    line.check(&[("level", "WARN"), ("status", status), ("reason", reason), ("src.workload", "client")]);
    assert_eq!(stage.metric("gammarus_http_requests_total", &labels) - before, 1.0, "{url}");
    assert!(stage.metric("gammarus_failures_total", &failure) - failed_before >= 1.0, "{url}");
}

#[test]
fn every_failure_says_why_in_the_answer_the_line_and_the_metrics() {
    let stage = stage();
    check(&stage, "http://routed/no-rule-for-this", "404", "no_matching_rule");
    check(&stage, "http://routed/invalid/1", "500", "invalid_backend");
    check(&stage, "http://routed/nobody/1", "503", "no_endpoint");
    check(&stage, "http://nobody/nobody/2", "503", "no_endpoint");
    check(&stage, "http://routed/deaf/1", "503", "connect_failed");
    check(&stage, "http://deaf/deaf/2", "503", "connect_failed");
    check(&stage, "http://raw/vanish", "502", "upstream_reset");
    check(&stage, "http://raw/two-lengths", "502", "malformed_response");
}

#[test]
fn a_failure_does_not_end_the_clients_connection() {
    let stage = stage();
    let request = |path: &str| hex(&format!("GET {path} HTTP/1.1\r\nHost: routed\r\n\r\n"));
    let steps = [
        request("/no-rule/kept"),
        "read:no_matching_rule\n".to_owned(),
        request("/ok/after-a-failure"),
        "read:go-1 ".to_owned(),
    ];
    let seen = stage.speak("routed", 80, &steps.each_ref().map(String::as_str));
    assert!(
        seen.text.contains("\r\nHTTP/1.1 200 OK\r\n") || seen.text.contains("\nHTTP/1.1 200 OK\r\n"),
        "{seen:?}"
    );
}

#[test]
fn a_failure_of_head_has_no_body() {
    let seen = stage().speak(
        "routed",
        80,
        &[&hex("HEAD /no-rule/head HTTP/1.1\r\nHost: routed\r\nConnection: close\r\n\r\n"), "rest"],
    );
    assert!(seen.text.starts_with("HTTP/1.1 404 ") && seen.text.ends_with("\r\n\r\n"), "{seen:?}");
}

#[test]
fn a_body_that_nobody_reads_is_not_the_next_request() {
    let stage = stage();
    let body = "GET /ok/smuggled-in-a-body HTTP/1.1\r\nHost: routed\r\n\r\n";
    let head = format!(
        "POST /no-rule/body HTTP/1.1\r\nHost: routed\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let seen = stage.speak("routed", 80, &[&hex(&head), "rest"]);
    assert_eq!((seen.text.matches("HTTP/1.1 ").count(), seen.end.as_str()), (1, "closed"), "{seen:?}");
    assert!(stage.lines("node-a", &["smuggled-in-a-body"]).is_empty());
}

#[test]
fn an_answer_that_breaks_off_is_a_reset_and_not_a_whole_one() {
    let stage = stage();
    let seen = stage.speak("raw", 80, &[&hex("GET /broken HTTP/1.1\r\nHost: raw\r\n\r\n"), "rest"]);
    assert!(seen.text.contains("Content-Length: 100\r\n") && seen.end == "reset", "{seen:?}");
    stage.wait_lines("node-a", &["path=/broken "], 1)[0]
        .check(&[("reason", "upstream_reset"), ("level", "WARN")]);
}

#[test]
fn a_client_that_leaves_in_the_middle_has_a_line_that_says_so() {
    let stage = stage();
    let head = "POST /hash/left HTTP/1.1\r\nHost: raw\r\nContent-Length: 100\r\n\r\na part";
    stage.speak("raw", 80, &[&hex(head), "pause:0.2", "reset"]);
    stage.wait_lines("node-a", &["path=/hash/left "], 1)[0]
        .check(&[("reason", "client_closed"), ("status", "")]);
    let seen = || {
        stage.app_log("raw").contains("BODY /hash/left 6 broken")
            || stage.app_log("raw").contains("ERROR [Errno 104]")
    };
    assert!(
        node_proxy::demo::command::until(crate::rig::PATIENCE, seen),
        "the server still waits for the body"
    );
}
