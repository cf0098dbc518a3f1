//! Changes while traffic flows: a saved file takes effect at once, a broken one changes nothing, and connections that
//! were open before follow.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use node_proxy::demo::command::{Process, until};

use super::stage::{ALL_TO_V1, ALL_TO_V2, PATIENCE, Stage, WEB, http_route, to};

/// One connection that asks `url` twenty times a second; each line has the status, who answered or why nobody did,
/// and how many connections it took.
fn keep_asking(stage: &Stage, name: &str, url: &str) -> Process {
    let print = "%{http_code} %header{x-app}%header{gammarus-reason} %{num_connects}\\n";
    let url = format!("{url}?n=[1-100000]");
    let curl = ["stdbuf", "-oL", "curl", "-sS", "--rate", "20/s", "-o", "/dev/null", "-w", print, &url];
    stage.world.spawn("client", name, &curl).unwrap()
}

/// Waits until the last answers are these, and returns all lines.
#[track_caller]
fn wait_for_last(process: &Process, answer: &str) -> Vec<String> {
    let last = || process.log().lines().last().is_some_and(|line| line.starts_with(answer));
    assert!(until(PATIENCE, last), "{answer:?} did not come to be: {}", process.last_words());
    process.log().lines().map(str::to_owned).collect()
}

#[test]
fn a_saved_file_takes_effect_at_once() {
    let mut stage = Stage::set();
    stage.apply(&http_route("shop/web", WEB, ALL_TO_V1));
    let mut delays = Vec::new();
    for round in 0..10 {
        let (rules, answer) = if round % 2 == 0 { (ALL_TO_V2, "200 v2") } else { (ALL_TO_V1, "200 v1") };
        let saved = Instant::now();
        stage.world.apply_in("shop", "an edit", &http_route("shop/web", WEB, rules)).unwrap();
        assert!(until(PATIENCE, || stage.ask("client", &["http://web/"]) == answer), "{answer} did not come");
        delays.push(saved.elapsed());
    }
    println!("from saving a route to the answer of `curl` that follows it: {delays:?}");
    assert!(delays.iter().all(|delay| *delay < Duration::from_secs(2)), "{delays:?}");
}

#[test]
fn edits_under_traffic_fail_no_request() {
    let mut stage = Stage::set();
    stage.apply(&http_route("shop/web", WEB, ALL_TO_V1));
    let old = stage.world.spawn(
        "client",
        "old",
        &[
            "stdbuf",
            "-oL",
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %header{x-app}\\n",
            "http://web/?n=[1-1000000]",
        ],
    );
    let mut old = old.unwrap();
    let fresh = "while :; do curl -sS -o /dev/null -w '%{http_code} %header{x-app}\\n' http://web/; done";
    let mut fresh = stage.world.spawn("client", "fresh", &["sh", "-c", fresh]).unwrap();
    // On a busy machine a client may see every other edit only: each goes on until it has seen both kinds.
    let has_seen_both = |process: &Process| {
        let log = process.log();
        ["200 v1", "200 v2"].iter().all(|answer| log.contains(answer))
    };
    for edit in 0..200 {
        if edit >= 20 && has_seen_both(&old) && has_seen_both(&fresh) {
            break;
        }
        let rules = if edit % 2 == 0 { ALL_TO_V2 } else { ALL_TO_V1 };
        stage.world.apply_in("shop", "an edit", &http_route("shop/web", WEB, rules)).unwrap();
        sleep(Duration::from_millis(80 + edit % 5 * 10));
    }
    for process in [&mut old, &mut fresh] {
        process.stop(Signal::SIGTERM, PATIENCE).unwrap();
        let log = process.log();
        // Whoever is told to stop may leave half a line.
        let (lines, _) = log.rsplit_once('\n').unwrap_or_default();
        let count = |answer: &str| lines.lines().filter(|line| *line == answer).count();
        let (v1, v2) = (count("200 v1"), count("200 v2"));
        assert!(v1 > 0 && v2 > 0, "{v1} and {v2} answers: {}", process.last_words());
        let other: Vec<&str> = lines.lines().filter(|line| !matches!(*line, "200 v1" | "200 v2")).collect();
        assert!(other.is_empty(), "{other:?}");
    }
}

#[test]
fn connections_that_were_open_before_follow_every_change() {
    let mut stage = Stage::set();
    let route = stage.apply(&http_route("shop/web", WEB, ALL_TO_V1));
    let client = keep_asking(&stage, "keep-alive", "http://web/");
    wait_for_last(&client, "200 v1");
    stage.apply(&http_route("shop/web", WEB, ALL_TO_V2));
    wait_for_last(&client, "200 v2");
    stage.apply(&http_route(
        "shop/web",
        WEB,
        &format!("{{matches: [{{path: {{type: Exact, value: /no}}}}], {}}}", to("v1")),
    ));
    wait_for_last(&client, "404 no_matching_rule");
    stage.apply(&http_route("shop/web", WEB, "{backendRefs: [{name: empty, port: 80}]}"));
    wait_for_last(&client, "503 no_endpoint");
    stage.delete(&route);
    wait_for_last(&client, "200 v1");
    wait_for_last(&client, "200 v2");
    // The Service itself goes, and the connection is told so, not cut.
    let service = stage.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}");
    stage.delete(&service);
    let lines = wait_for_last(&client, "503 no_endpoint");
    let connects: u32 =
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum();
    assert_eq!(connects, 1, "all of it is one connection: {lines:?}");
}

#[test]
fn a_broken_file_keeps_the_last_good_version_and_is_reported_until_it_is_mended() {
    let mut stage = Stage::set();
    let rule = "{matches: [{path: {type: Exact, value: /}}], backendRefs: [{name: v2, port: 80}]}";
    stage.apply(&http_route("shop/web", WEB, rule));
    let file = stage.world.objects_dir().join("httproute.shop.web.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let route = "HTTPRoute shop/web";
    for (broken, expected) in [
        (text.replace("port: 80", "port: 80000"), &[route, "spec.rules[0].backendRefs[0].port"][..]),
        (text.replace("kind: Service", "kind: [Service"), &[]),
        (text.replace("type: Exact", "type: Prefix"), &[route, "spec.rules[0].matches[0].path.type"]),
    ] {
        assert_ne!(broken, text);
        fs::write(&file, &broken).unwrap();
        stage.settle();
        let problems = stage.status()["problems"].to_string();
        assert!(problems.contains("httproute.shop.web.yaml"), "{problems}");
        assert!(expected.iter().all(|part| problems.contains(part)), "{expected:?}: {problems}\n{broken}");
        stage.check("client", &["http://web/"], "200 v2");
        stage.check_conditions("HTTPRoute shop/web", &["Accepted=True"]);
        stage.check_log(&["httproute.shop.web.yaml"]);
    }
    fs::write(&file, text.replace("name: v2", "name: v1")).unwrap();
    stage.settle();
    stage.check("client", &["http://web/"], "200 v1");
    assert_eq!(stage.status()["problems"], serde_json::json!([]));
}
