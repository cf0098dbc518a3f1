//! Retries and timeouts of a rule at a Gateway: what the client is told, and how often the backend was asked, whatever HTTP
//! is spoken on either side.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::rig::{PATIENCE, Stage};
use crate::served::{SERVED, WIRES, app_log, served};

/// What comes of a request under the rule that `terms` names.
#[track_caller]
fn ask(stage: &Stage, (host, terms): (&str, &str), wire: &str, arguments: &[&str]) -> String {
    let (to, field) = (format!("::{}:", stage.address(SERVED)), format!("terms: {terms}"));
    let print = "%{http_code} %header{gammarus-reason}\\n";
    let fixed = ["curl", "-s", wire, "--max-time", "40", "-o", "/dev/null", "-w", print, "--connect-to", &to];
    let url = format!("http://{host}{}", arguments[0]);
    stage.run("client", &[&fixed[..], &["-H", &field, &url], &arguments[1..]].concat())
}

/// How many requests with this path the backend has had.
fn seen(stage: &Stage, path: &str) -> usize {
    let log = app_log(&stage.world(), "go-1");
    log.lines().filter(|line| line.starts_with(&format!("FAIL {path} "))).count()
}

/// Does this with each HTTP of the client's side and of the backend's, all at once.
fn on_all_wires(check: impl Fn(&str, &str, &str) + Sync) {
    thread::scope(|scope| {
        for (wire, word) in WIRES {
            for host in ["one", "two"] {
                let (check, key) = (&check, format!("{host}-{word}"));
                scope.spawn(move || check(wire, &format!("{host}.terms.example.com"), &key));
            }
        }
    });
}

//= gateway-api HTTPRouteRetry
//# Implementations SHOULD retry on connection errors (disconnect, reset, timeout, TCP failure) if a retry stanza is configured.
#[test]
fn a_try_that_fails_is_followed_by_others() {
    let stage = served();
    on_all_wires(|wire, host, key| {
        // How it fails, how often, the client's answer, and how many requests there were.
        for (how, fails, answer, requests) in [
            ("503", 2, "200 \n", 3),
            ("503", 9, "503 \n", 3),
            // Not among the codes.
            ("500", 1, "500 \n", 1),
            // After `backendRequest`.
            ("hang", 1, "200 \n", 2),
            ("hang", 9, "504 backend_timeout\n", 3),
        ] {
            let path = format!("/fail/{how}/{fails}/{key}");
            assert_eq!(ask(&stage, (host, "retry"), wire, &[&path]), answer, "{wire} {path}");
            assert_eq!(seen(&stage, &path), requests, "{wire} {path}");
        }
        for (fails, answer) in [(2, "200 \n"), (9, "502 upstream_reset\n")] {
            let path = format!("/fail/vanish/{fails}/{key}");
            assert_eq!(ask(&stage, (host, "retry"), wire, &[&path]), answer, "{wire} {path}");
            // One more than there are tries when the first met a connection that was kept and is closed just then.
            assert!((3..=4).contains(&seen(&stage, &path)), "{wire} {path}: {}", seen(&stage, &path));
        }
        let path = format!("/fail/503/1/post-{key}");
        assert_eq!(ask(&stage, (host, "retry"), wire, &[&path, "-d", "a body"]), "503 \n", "{wire} {path}");
        assert_eq!(seen(&stage, &path), 1, "what is not safe to repeat is sent once");
    });
}

//= gateway-api HTTPRouteTimeouts.request
//# If the gateway has not been able to respond before this deadline is met, the gateway MUST return a timeout error.
#[test]
fn the_requests_timeout_ends_the_tries() {
    let stage = served();
    on_all_wires(|wire, host, key| {
        let path = format!("/fail/hang/99/whole-{key}");
        let begun = Instant::now();
        // Of 8 s the first try has 4 s, and the second, after the pause, what is left.
        assert_eq!(ask(&stage, (host, "whole"), wire, &[&path]), "504 request_timeout\n", "{wire} {path}");
        let took = begun.elapsed().as_secs_f64();
        assert!((8.0..16.0).contains(&took), "{wire} {path}: {took} s");
        assert_eq!(seen(&stage, &path), 2, "{wire} {path}");
        let line = stage.wait_line_of(SERVED, &[&format!("path={path} "), "direction=ingress"]);
        assert!(line.contains("status=504") && line.contains("reason=request_timeout"), "{line}");
    });
}

#[test]
fn what_was_not_sent_is_tried_elsewhere_whatever_it_is() {
    let stage = served();
    for (wire, _) in WIRES {
        // Of the two pods one refuses; a POST was sent to nobody then.
        for at in 0..20 {
            let path = format!("/{at}");
            let answer = ask(&stage, ("refused.example.com", "none"), wire, &[&path, "-d", "a body"]);
            assert_eq!(answer, "200 \n", "{wire} {at}");
        }
    }
}

#[test]
fn a_backend_that_refuses_is_tried_again_until_it_does_not() {
    let stage = served();
    let origin = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/origin.py");
    for (wire, _) in WIRES {
        // It was not sent: a POST may be tried as often.
        let post = |path| ask(&stage, ("refused.example.com", "none"), wire, &[path, "-d", "a body"]);
        assert_eq!(post("/late"), "503 connect_failed\n", "{wire}: without a retry");
        thread::scope(|scope| {
            let answer = scope.spawn(|| post("/late/again"));
            thread::sleep(Duration::from_secs(1));
            let server = ["/usr/bin/python3", origin, "http", "8083"];
            let mut server = stage.world().spawn("go-1", "late", &server).unwrap();
            assert_eq!(answer.join().unwrap(), "200 \n", "{wire}");
            server.stop(Signal::SIGKILL, PATIENCE).unwrap();
        });
    }
}
