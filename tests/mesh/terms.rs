//! Timeouts and retries of a rule: what the client is told, and what the backend has seen, over both wires.

use std::time::Instant;

use crate::rig::{Stage, stage};

/// Both wires, as `curl` is told, and a word for paths.
const WIRES: [(&str, &str); 2] = [("--http1.1", "h1"), ("--http2-prior-knowledge", "h2")];
/// What `curl` prints of an answer.
const PRINT: &str = "%{http_code} %header{gammarus-reason}";

/// What comes of a request under the rule that `terms` names.
#[track_caller]
fn ask(stage: &Stage, terms: &str, wire: &str, arguments: &[&str]) -> String {
    let field = format!("terms: {terms}");
    let fixed = ["curl", "-s", wire, "--max-time", "20", "-o", "/dev/null", "-w", PRINT, "-H", &field];
    stage.world.exec("client", &[&fixed, arguments].concat()).unwrap().stdout
}

/// How many requests with this path `go-1` has seen.
fn seen(stage: &Stage, path: &str) -> usize {
    stage.app_log("go-1").lines().filter(|line| line.starts_with(&format!("FAIL {path} "))).count()
}

//= gateway-api HTTPRouteTimeouts.request
//# If the gateway has not been able to respond before this deadline is met, the gateway MUST return a timeout error.
#[test]
fn a_request_that_takes_longer_than_its_rule_allows_is_ended_with_the_reason() {
    let stage = stage();
    for (wire, word) in WIRES {
        for (terms, reason) in [("request", "request_timeout"), ("each", "backend_timeout")] {
            let path = format!("/fail/hang/9/{terms}-{word}");
            let begun = Instant::now();
            let answer = ask(&stage, terms, wire, &[&format!("http://termed{path}")]);
            assert_eq!(answer, format!("504 {reason}"), "{wire} {terms}");
            assert!(begun.elapsed().as_millis() >= 300, "{wire} {terms}: {:?}", begun.elapsed());
            assert_eq!(seen(&stage, &path), 1, "{wire} {terms}");
            stage.wait_lines(
                "node-a",
                &[&format!("path={path}"), "status=504", &format!("reason={reason}")],
                1,
            );
        }
    }
}

#[test]
fn an_answer_that_has_begun_is_broken_off_by_its_timeout() {
    let stage = stage();
    for (wire, word) in WIRES {
        let path = format!("/fail/stop/9/begun-{word}");
        let url = format!("http://termed{path}");
        let field = ["-s", "--max-time", "20", "-H", "terms: request"];
        let done = stage.world.exec("client", &[&["curl", wire][..], &field, &[&url]].concat()).unwrap();
        assert_eq!(done.stdout, "the first words\n", "{wire}");
        assert!(!done.success(), "{wire}: it must not look like the whole");
        stage.wait_lines("node-a", &[&format!("path={path}"), "status=200", "reason=request_timeout"], 1);
    }
}

#[test]
fn without_terms_there_is_no_limit_and_no_other_try() {
    let stage = stage();
    for (wire, word) in WIRES {
        // A GET would be sent again if it met a connection that is closed just then; a POST is not.
        for (how, answer) in [("503", "503 "), ("vanish", "502 upstream_reset")] {
            let path = format!("/fail/{how}/1/none-{word}");
            let url = format!("http://go-1{path}");
            assert_eq!(ask(&stage, "none", wire, &["-X", "POST", &url]), answer, "{wire} {how}");
            assert_eq!(seen(&stage, &path), 1, "{wire} {how}");
        }
    }
}

//= gateway-api HTTPRouteRetry
//# Implementations SHOULD retry on connection errors (disconnect, reset, timeout, TCP failure) if a retry stanza is configured.
#[test]
fn a_try_that_fails_is_followed_by_others_and_the_backend_counts_them() {
    let stage = stage();
    for (wire, word) in WIRES {
        // How it fails, how often, the client's answer, and how many requests there were.
        for (how, fails, answer, requests) in [
            ("503", 1, "200 ", 2),
            ("503", 2, "200 ", 3),
            ("503", 3, "503 ", 3),
            ("429", 2, "200 ", 3),
            // Not among the codes.
            ("500", 1, "500 ", 1),
            ("hang", 1, "200 ", 2),
            ("hang", 3, "504 backend_timeout", 3),
        ] {
            let path = format!("/fail/{how}/{fails}/retry-{word}");
            let begun = Instant::now();
            assert_eq!(
                ask(&stage, "retry", wire, &[&format!("http://termed{path}")]),
                answer,
                "{wire} {how} {fails}"
            );
            assert_eq!(seen(&stage, &path), requests, "{wire} {how} {fails}");
            // The pause before each further try is 100 ms at least.
            assert!(begun.elapsed().as_millis() >= (requests as u128 - 1) * 100, "{wire} {how} {fails}");
            stage.wait_lines("node-a", &[&format!("path={path} ")], 1);
        }
        for (fails, answer) in [(2, "200 "), (9, "502 upstream_reset")] {
            let path = format!("/fail/vanish/{fails}/retry-{word}");
            let found = ask(&stage, "retry", wire, &[&format!("http://termed{path}")]);
            assert_eq!(found, answer, "{wire} {fails}");
            // One more than there are tries when the first met a connection that was kept and is closed just then.
            assert!((3..=4).contains(&seen(&stage, &path)), "{wire} {fails}");
        }
    }
}

#[test]
fn the_requests_timeout_ends_the_tries() {
    let stage = stage();
    for (wire, word) in WIRES {
        let path = format!("/fail/hang/99/whole-{word}");
        let begun = Instant::now();
        // Of 8 s the first try has 4 s, and the second, after the pause, what is left.
        let answer = ask(&stage, "whole", wire, &[&format!("http://termed{path}")]);
        assert_eq!(answer, "504 request_timeout", "{wire}");
        let took = begun.elapsed().as_secs_f64();
        assert!((8.0..16.0).contains(&took), "{wire}: {took} s");
        assert_eq!(seen(&stage, &path), 2, "{wire}");
        stage.wait_lines("node-a", &[&format!("path={path} "), "status=504", "reason=request_timeout"], 1);
    }
}

//= RFC 9110 section 9.2.2
//# A proxy MUST NOT automatically retry non-idempotent requests.
#[test]
fn what_is_not_safe_to_repeat_is_sent_once() {
    let stage = stage();
    for (wire, word) in WIRES {
        for (name, arguments) in [("post", &["-X", "POST", "-d", "a body"][..]), ("patch", &["-X", "PATCH"])]
        {
            for (how, answer) in
                [("503", "503 "), ("vanish", "502 upstream_reset"), ("hang", "504 backend_timeout")]
            {
                let path = format!("/fail/{how}/1/{name}-{word}");
                let url = format!("http://termed{path}");
                let found = ask(&stage, "retry", wire, &[arguments, &[&url]].concat());
                assert_eq!(found, answer, "{wire} {name} {how}");
                assert_eq!(seen(&stage, &path), 1, "{wire} {name} {how}");
            }
        }
    }
}

#[test]
fn what_was_not_sent_is_tried_elsewhere_whatever_it_is() {
    let stage = stage();
    // Of the two pods one refuses; a POST was sent to nobody then.
    for at in 0..20 {
        let url = format!("http://termed/refused/{at}");
        assert_eq!(ask(&stage, "refused", "--http1.1", &["-d", "a body", &url]), "200 ", "{at}");
    }
}

#[test]
fn retries_are_a_share_of_the_requests_so_that_a_backend_that_is_down_is_not_buried() {
    let stage = stage();
    let path = "/fail/503/99999/many";
    let url = format!("http://termed{path}?[1-200]");
    let begun = Instant::now();
    let answers = stage.curl(&["-o", "/dev/null", "-w", "%{http_code}\n", "-H", "terms: many", &url]);
    assert_eq!(answers.lines().filter(|line| *line == "503").count(), 200);
    let retries = seen(&stage, path) - 200;
    // A fifth of the requests, and ten for each thread and second; without a budget it would be a thousand.
    let threads = std::thread::available_parallelism().unwrap().get();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    assert!((20..=40 + 10 * threads * seconds).contains(&retries), "{retries} in {seconds} s");
}
