//! TCPRoutes and TLSRoutes: which backend a connection goes to, what is refused, and that its bytes stay its own. The
//! clients are Python's and OpenSSL's, the servers speak first.

use std::collections::BTreeMap;
use std::path::Path;

use node_proxy::demo::command::{Finished, Process, until};

use super::stage::{NEAR, PATIENCE, Stage, http_route, route, to};

/// Debian's Python.
const PYTHON: &str = "/usr/bin/python3";
/// What the two pods serve, as Services: of both, and of each.
const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: talk}, spec: {selector: {app: web}, ports: [
  {name: db, port: 5432, targetPort: 9000}, {name: secure, port: 443, targetPort: 9443}, {name: plain, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: one}, spec: {selector: {version: v1}, ports: [
  {name: db, port: 5432, targetPort: 9000}, {name: secure, port: 443, targetPort: 9443}, {name: plain, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: two}, spec: {selector: {version: v2}, ports: [
  {name: db, port: 5432, targetPort: 9000}, {name: secure, port: 443, targetPort: 9443}, {name: plain, port: 80, targetPort: 8080}]}}
";

/// A stage whose pods `v1` and `v2` also talk, in plain text and in TLS.
struct Talk {
    stage: Stage,
    certificate: String,
    _servers: Vec<Process>,
}

fn talk_py() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/gamma/talk.py").display().to_string()
}

fn on(port: u16) -> String {
    format!("{{group: '', kind: Service, name: talk, namespace: shop, port: {port}}}")
}

fn backends(list: &[(&str, u16, u32)]) -> String {
    let list = list.iter().map(|(name, port, weight)| {
        format!("{{name: {name}, namespace: shop, port: {port}, weight: {weight}}}")
    });
    format!("{{name: main, backendRefs: [{}]}}", list.collect::<Vec<_>>().join(", "))
}

fn tcp_route(key: &str, port: u16, list: &[(&str, u16, u32)]) -> String {
    route("TCPRoute", key, &on(port), &backends(list))
}

fn tls_route(key: &str, hostnames: &str, port: u16, list: &[(&str, u16, u32)]) -> String {
    route("TLSRoute", key, &on(port), &backends(list))
        .replace("spec:\n", &format!("spec:\n  hostnames: [{hostnames}]\n"))
}

impl Talk {
    #[track_caller]
    fn set() -> Self {
        let mut stage = Stage::set();
        let [key, certificate] =
            ["talk.key", "talk.pem"].map(|name| stage.world.dir().join(name).display().to_string());
        let names = "subjectAltName=DNS:*.shop.test,DNS:a.deep.shop.test,DNS:shop.test,DNS:other.test";
        let make =
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let rest = [
            "-days",
            "1",
            "-subj",
            "/CN=the-application",
            "-addext",
            names,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ];
        stage.world.exec("v1", &[&make[..], &rest].concat()).unwrap().checked().unwrap();
        stage.apply(SERVICES);
        let script = talk_py();
        let mut servers = Vec::new();
        for pod in ["v1", "v2"] {
            let plain = [PYTHON, &script, "serve", pod, "9000"];
            servers.push(stage.world.spawn(pod, "talk", &plain).unwrap());
            let secured = [PYTHON, &script, "serve", pod, "9443", &certificate, &key];
            servers.push(stage.world.spawn(pod, "talk-tls", &secured).unwrap());
            let listens = || {
                let sockets = stage.world.exec(pod, &["ss", "-Hltn"]).unwrap().stdout;
                [":9000 ", ":9443 "].iter().all(|port| sockets.contains(port))
            };
            assert!(until(PATIENCE, listens), "{pod} does not listen");
        }
        Self { stage, certificate, _servers: servers }
    }

    fn run(&self, pod: &str, arguments: &[&str]) -> Finished {
        self.stage.world.exec(pod, &[&[PYTHON, &talk_py()], arguments].concat()).unwrap()
    }

    /// How often each answer came to connections of `talk.py ask`.
    #[track_caller]
    fn ask(&self, pod: &str, count: u32, target: &[&str]) -> BTreeMap<String, u32> {
        let done = self.run(pod, &[&["ask", &count.to_string()], target].concat()).checked().unwrap();
        let mut counts = BTreeMap::new();
        for line in done.stdout.lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<u32>(), count, "{counts:?}");
        counts
    }

    /// Who answers at `talk:PORT`, which is always the same.
    #[track_caller]
    fn check(&self, pod: &str, port: &str, expected: &str) {
        let counts = self.ask(pod, 12, &["talk.shop", port]);
        assert!(counts.keys().eq([expected]), "{pod} to {port}: {counts:?}; {}", self.last_line());
    }

    /// Who answers at `talk:443` for a server name.
    #[track_caller]
    fn check_name(&self, pod: &str, name: &str, expected: &str) {
        let counts = self.ask(pod, 6, &["talk.shop", "443", name, &self.certificate]);
        assert!(counts.keys().eq([expected]), "{pod} for {name}: {counts:?}; {}", self.last_line());
    }

    fn last_line(&self) -> String {
        self.stage.world.access_log(NEAR).unwrap().lines().last().unwrap_or_default().to_owned()
    }

    /// The near proxy has written an access line with all of these texts.
    #[track_caller]
    fn check_line(&self, expected: &[&str]) {
        let written = || {
            let log = self.stage.world.access_log(NEAR).unwrap();
            log.lines().any(|line| expected.iter().all(|text| line.contains(text)))
        };
        assert!(until(PATIENCE, written), "no line with {expected:?}; the last: {}", self.last_line());
    }

    /// The sum of the samples of a metric with all of these labels.
    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.stage.world.admin(NEAR, "/metrics").unwrap();
        let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let samples = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

#[test]
fn a_tcp_route_deals_connections_by_weight_and_lets_the_server_speak_first() {
    let mut talk = Talk::set();
    let counts = talk.ask("client", 40, &["talk", "5432"]);
    assert!(counts.keys().eq(["v1", "v2"]), "without a route: {counts:?}");
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 3), ("two", 5432, 1)]));
    talk.stage
        .check_conditions("TCPRoute shop/db", &["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    let counts = talk.ask("client", 200, &["talk", "5432"]);
    println!("weights 3 and 1: {counts:?}");
    // 50 are expected with a deviation of 6.1; beyond five of those it is not chance.
    assert!(counts.keys().eq(["v1", "v2"]) && (20..=80).contains(&counts["v2"]), "{counts:?}");
    talk.check_line(&[
        "dst.service=shop/talk dst.port=5432",
        "mtls=yes",
        "protocol=opaque route=TCPRoute/shop/db/main backend=shop/two:5432",
        "dst.workload=v2",
    ]);
    let labels = |backend: &str| {
        [
            "reporter=\"source\"".to_owned(),
            "route_kind=\"TCPRoute\"".to_owned(),
            "route_name=\"db\"".to_owned(),
            "route_rule=\"main\"".to_owned(),
            format!("backend=\"{backend}\""),
        ]
    };
    for (backend, pod) in [("one", "v1"), ("two", "v2")] {
        let labels = labels(backend);
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let expected = f64::from(counts[pod]);
        let all_closed = || talk.metric("gammarus_tcp_connections_closed_total", &labels) == expected;
        assert!(until(PATIENCE, all_closed), "{backend}");
        assert_eq!(talk.metric("gammarus_tcp_connections_opened_total", &labels), expected);
    }
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 0), ("two", 5432, 1)]));
    talk.check("client", "5432", "v2");
}

//= gateway-api TCPRouteRule.backendRefs
//# Connection rejections must respect weight; if an invalid backend is requested to have 80% of connections, then 80% of connections must be rejected instead.
#[test]
fn the_share_of_a_backend_that_takes_nothing_is_refused_with_its_reason() {
    let mut talk = Talk::set();
    for (backend, condition, reason) in [
        (("gone", 5432, 1), "ResolvedRefs=False BackendNotFound", "invalid_backend"),
        (("two", 1, 1), "ResolvedRefs=False BackendNotFound", "invalid_backend"),
        (("empty", 80, 1), "ResolvedRefs=True", "no_endpoint"),
    ] {
        talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 1), backend]));
        talk.stage.check_conditions("TCPRoute shop/db", &["Accepted=True", condition]);
        let counts = talk.ask("client", 120, &["talk", "5432"]);
        println!("half to {backend:?}: {counts:?}");
        // 60 are expected with a deviation of 5.5.
        assert!(
            counts.keys().eq(["reset", "v1"]) && (32..=88).contains(&counts["reset"]),
            "{backend:?}: {counts:?}"
        );
        talk.check_line(&["route=TCPRoute/shop/db/main", &format!("reason={reason}")]);
    }
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 0), ("two", 5432, 0)]));
    talk.stage.check_conditions("TCPRoute shop/db", &["Accepted=True", "spec.rules[0] sends to no backend"]);
    talk.check("client", "5432", "reset");
    assert!(
        talk.metric("gammarus_failures_total", &["reason=\"invalid_backend\"", "direction=\"outbound\""])
            > 12.0
    );
    // The backend comes into being.
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("later", 5432, 1)]));
    talk.check("client", "5432", "reset");
    talk.stage.apply("{apiVersion: v1, kind: Service, metadata: {name: later}, spec: {selector: {version: v2}, ports: [{port: 5432, targetPort: 9000}]}}");
    talk.check("client", "5432", "v2");
}

#[test]
fn http_under_a_tcp_route_is_bytes() {
    let mut talk = Talk::set();
    let requests = talk.stage.count("client", "http://talk/", 40);
    assert!(requests.keys().eq(["200 v1", "200 v2"]), "without a route requests are dealt: {requests:?}");
    talk.stage.apply(&tcp_route("shop/plain", 80, &[("one", 80, 1), ("two", 80, 1)]));
    let answers: Vec<String> = (0..24).map(|_| talk.stage.ask("client", &["http://talk/"])).collect();
    for expected in ["200 v1", "200 v2"] {
        assert!(answers.iter().any(|answer| answer == expected), "{answers:?}");
    }
    let connection = talk.stage.count("client", "http://talk/", 20);
    assert_eq!(connection.len(), 1, "one connection was split: {connection:?}");
    talk.check_line(&["protocol=opaque route=TCPRoute/shop/plain/main"]);
}

#[test]
fn of_tcp_routes_the_oldest_has_every_connection_and_the_other_says_so() {
    let mut talk = Talk::set();
    let aged = |key: &str, year: u32, backend: &str| {
        let text = tcp_route(key, 5432, &[(backend, 5432, 1)]);
        text.replace(
            "namespace: shop}\nspec",
            &format!("namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec"),
        )
    };
    talk.stage.apply(&aged("shop/a", 2022, "one"));
    talk.check("client", "5432", "v1");
    let old = talk.stage.apply(&aged("shop/b", 2021, "two"));
    talk.check("client", "5432", "v2");
    let told = "Accepted=True Accepted TCPRoute shop/b comes first and has every connection to port 5432";
    talk.stage.check_conditions("TCPRoute shop/a", &[told]);
    talk.stage.check_log(&["TCPRoute shop/a", "TCPRoute shop/b comes first"]);
    talk.stage.delete(&old);
    talk.check("client", "5432", "v1");
    talk.stage.check_conditions("TCPRoute shop/a", &["Accepted=True Accepted \n"]);
}

#[test]
fn a_consumer_route_replaces_the_producers_of_any_kind_for_its_namespace_only() {
    let mut talk = Talk::set();
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 1)]));
    let consumer = talk.stage.apply(&tcp_route("checkout/db", 5432, &[("two", 5432, 1)]));
    for (pod, expected) in [("client", "v1"), ("guest", "v1"), ("buyer", "v2")] {
        talk.check(pod, "5432", expected);
    }
    talk.stage.delete(&consumer);
    talk.check("buyer", "5432", "v1");
    // Of another kind: for its clients alone the port speaks something else.
    let key = |key: &str, rule: &str| http_route(key, &on(80), rule);
    talk.stage.apply(&tcp_route("shop/plain", 80, &[("one", 80, 1)]));
    talk.stage.apply(&key(
        "checkout/plain",
        "{matches: [{path: {value: /buy}}], backendRefs: [{name: two, namespace: shop, port: 80}]}",
    ));
    talk.stage.check("client", &["http://talk/"], "200 v1");
    talk.stage.check("buyer", &["http://talk.shop/buy"], "200 v2");
    talk.stage.check("buyer", &["http://talk.shop/"], "404 no_matching_rule");
}

#[test]
fn kinds_beat_each_other_in_the_order_of_the_api_and_give_way_when_they_go() {
    let mut talk = Talk::set();
    let secured = ["talk", "443", "a.shop.test", &talk.certificate.clone()].map(str::to_owned);
    let who = |talk: &Talk| {
        let target: Vec<&str> = secured.iter().map(String::as_str).collect();
        talk.ask("client", 8, &target).into_keys().collect::<Vec<_>>().join(" and ")
    };
    talk.stage.apply(&tcp_route("shop/tcp", 443, &[("one", 443, 1)]));
    assert_eq!(who(&talk), "v1");
    let tls = talk.stage.apply(&tls_route("shop/tls", "a.shop.test", 443, &[("two", 443, 1)]));
    assert_eq!(who(&talk), "v2");
    talk.stage.check_conditions("TLSRoute shop/tls", &["Accepted=True Accepted", "ResolvedRefs=True"]);
    let conflicted = "Accepted=False Conflicted a TLSRoute holds on port 443 and takes precedence";
    talk.stage.check_conditions("TCPRoute shop/tcp", &[conflicted]);
    let http = talk.stage.apply(&http_route("shop/http", &on(443), &format!("{{{}}}", to("v1"))));
    let conflicted = "Accepted=False Conflicted an HTTPRoute holds on port 443 and takes precedence";
    for loser in ["TCPRoute shop/tcp", "TLSRoute shop/tls"] {
        talk.stage.check_conditions(loser, &[conflicted]);
    }
    talk.stage.check("client", &["http://talk:443/"], "200 v1");
    let grpc = talk.stage.apply(&route("GRPCRoute", "shop/grpc", &on(443), &format!("{{{}}}", to("v2"))));
    for loser in ["TCPRoute shop/tcp", "TLSRoute shop/tls", "HTTPRoute shop/http"] {
        talk.stage.check_conditions(loser, &["Accepted=False Conflicted a GRPCRoute holds on port 443"]);
    }
    talk.stage.delete(&grpc);
    talk.stage.check("client", &["http://talk:443/"], "200 v1");
    talk.stage.delete(&http);
    assert_eq!(who(&talk), "v2");
    talk.stage.delete(&tls);
    assert_eq!(who(&talk), "v1");
    talk.stage.check_conditions("TCPRoute shop/tcp", &["Accepted=True Accepted"]);
}

#[test]
fn a_port_declared_as_http_beats_a_tcp_route_and_one_declared_as_tcp_a_tls_route() {
    let mut talk = Talk::set();
    talk.stage.apply("{apiVersion: v1, kind: Service, metadata: {name: said}, spec: {selector: {version: v1}, ports: [
        {name: http, port: 80, targetPort: 8080}, {name: tcp-db, port: 81, targetPort: 9000}, {name: https, port: 82, targetPort: 9443}]}}");
    let parent = "{group: '', kind: Service, name: said}";
    talk.stage.apply(&route("TCPRoute", "shop/tcp", parent, &backends(&[("two", 5432, 1)])));
    talk.stage.check_conditions("TCPRoute shop/tcp", &["Accepted=True", "port 80 is declared as http"]);
    talk.stage.check("client", &["http://said/"], "200 v1");
    assert!(talk.ask("client", 8, &["said", "81"]).keys().eq(["v2"]));
    let names = "spec:\n  hostnames: [a.shop.test]\n";
    talk.stage.apply(
        &route("TLSRoute", "shop/tls", parent, &backends(&[("two", 443, 1)])).replace("spec:\n", names),
    );
    talk.stage.check_conditions(
        "TLSRoute shop/tls",
        &["Accepted=True", "port 80 is declared as http", "port 81 is declared as tcp"],
    );
    talk.stage.check_conditions("TCPRoute shop/tcp", &["Accepted=True", "a TLSRoute holds on port 82"]);
    assert!(talk.ask("client", 8, &["said", "81"]).keys().eq(["v2"]));
    let certificate = talk.certificate.clone();
    assert!(talk.ask("client", 8, &["said", "82", "a.shop.test", &certificate]).keys().eq(["v2"]));
}

#[test]
fn a_tls_route_selects_by_server_name_and_nothing_falls_through() {
    let mut talk = Talk::set();
    talk.stage.apply(
        &(tls_route("shop/exact", "a.shop.test", 443, &[("one", 443, 1)])
            + &tls_route("shop/deep", "'*.deep.shop.test'", 443, &[("one", 443, 1)])
            + &tls_route("shop/wide", "'*.shop.test'", 443, &[("two", 443, 1)])),
    );
    for (name, expected) in [
        ("a.shop.test", "v1"),
        ("A.Shop.Test", "v1"),
        ("b.shop.test", "v2"),
        ("a.deep.shop.test", "v1"),
        ("shop.test", "reset"),
        ("other.test", "reset"),
        ("-", "reset"),
    ] {
        talk.check_name("client", name, expected);
    }
    talk.check_line(&["protocol=tls", "reason=no_matching_rule", "for other.test at shop/talk"]);
    talk.check_line(&["mtls=yes", "protocol=tls route=TLSRoute/shop/wide/main backend=shop/two:443"]);
    // Neither TLS nor silence is taken for a server name.
    let curl = talk.stage.ask("client", &["http://talk:443/"]);
    assert!(curl.contains("reset by peer"), "{curl}");
    talk.check_line(&["protocol=opaque", "reason=not_tls"]);
    // A ClientHello in many segments, and one of OpenSSL's, see the application's own certificate.
    let trickled =
        talk.run("client", &["trickle", "talk", "443", "b.shop.test", &talk.certificate]).checked().unwrap();
    assert_eq!(trickled.stdout, "v2\n");
    for (name, expected) in [("a.shop.test", "v1"), ("b.shop.test", "v2")] {
        let pipe = talk.stage.world.dir().join(format!("{name}.pipe"));
        let script = format!(
            "mkfifo {pipe} && openssl s_client -connect talk:443 -servername {name} -verify_hostname {name} -CAfile {roots} \
             -verify_return_error -quiet -no_ign_eof <{pipe} 2>/dev/null | \
             {{ exec 3>{pipe}; read -r first; echo heard >&3; read -r second; exec 3>&-; echo \"$first $second\"; }}",
            pipe = pipe.display(),
            roots = talk.certificate,
        );
        let said = talk.stage.world.exec("client", &["sh", "-c", &script]).unwrap().stdout;
        assert_eq!(said, format!("{expected} heard\n"), "{name}");
    }
}

#[test]
fn a_client_hello_may_be_late_but_not_longer_than_any_is() {
    let mut talk = Talk::set();
    talk.stage.apply(&tls_route("shop/tls", "a.shop.test", 443, &[("two", 443, 1)]));
    let roots = talk.certificate.clone();
    // Longer than anything is waited for between two proxies.
    let late = talk.run("client", &["late", "4", "talk", "443", "a.shop.test", &roots]).checked().unwrap();
    assert_eq!(late.stdout, "v2\n");
    let endless = talk.run("client", &["endless", "talk", "443"]).checked().unwrap();
    assert_eq!(endless.stdout, "reset\n");
    talk.check_line(&["dst.service=shop/talk dst.port=443", "reason=not_tls"]);
    talk.check_name("client", "a.shop.test", "v2");
}

#[test]
fn a_tls_route_has_weights_and_consumers() {
    let mut talk = Talk::set();
    talk.stage.apply(&tls_route(
        "shop/tls",
        "a.shop.test",
        443,
        &[("one", 443, 1), ("two", 443, 1), ("gone", 443, 2)],
    ));
    talk.stage
        .check_conditions("TLSRoute shop/tls", &["Accepted=True", "ResolvedRefs=False BackendNotFound"]);
    let certificate = talk.certificate.clone();
    let counts = talk.ask("client", 160, &["talk", "443", "a.shop.test", &certificate]);
    println!("weights 1, 1 and 2 to nobody: {counts:?}");
    // 40, 40 and 80 are expected with deviations of 5.5 and 6.3.
    assert!(counts.keys().eq(["reset", "v1", "v2"]), "{counts:?}");
    assert!((48..=112).contains(&counts["reset"]) && (12..=68).contains(&counts["v1"]), "{counts:?}");
    talk.stage.apply(&tls_route("checkout/tls", "b.shop.test", 443, &[("two", 443, 1)]));
    talk.check_name("buyer", "b.shop.test", "v2");
    talk.check_name("buyer", "a.shop.test", "reset");
    talk.check_name("guest", "b.shop.test", "reset");
}

#[test]
fn edits_take_effect_at_once_and_leave_open_connections_alone() {
    let mut talk = Talk::set();
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 1)]));
    let script = talk_py();
    let mut held =
        talk.stage.world.spawn("client", "held", &[PYTHON, &script, "hold", "talk", "5432"]).unwrap();
    let lines = |held: &Process| held.log().lines().count();
    assert!(until(PATIENCE, || lines(&held) > 2), "{}", held.last_words());
    let mut edits = 0;
    let mut goes_on = |talk: &Talk, expected: &str| {
        talk.check("client", "5432", expected);
        let before = lines(&held);
        assert!(until(PATIENCE, || lines(&held) > before + 2), "after {edits} edits: {}", held.last_words());
        edits += 1;
    };
    for _ in 0..3 {
        talk.stage.apply(&tcp_route("shop/db", 5432, &[("two", 5432, 1)]));
        goes_on(&talk, "v2");
        talk.stage.apply(&tcp_route("shop/db", 5432, &[("one", 5432, 1)]));
        goes_on(&talk, "v1");
    }
    talk.stage.apply(&tcp_route("shop/db", 5432, &[("gone", 5432, 1)]));
    goes_on(&talk, "reset");
    talk.stage.apply(&http_route("shop/web", &on(5432), &format!("{{{}}}", to("v1"))));
    let before = lines(&held);
    assert!(until(PATIENCE, || lines(&held) > before + 2), "beside an HTTPRoute: {}", held.last_words());
    assert!(held.is_running(), "{}", held.last_words());
    let log = held.log();
    assert!(log.starts_with("v1\n") && log.lines().skip(1).all(|line| line == "still here"), "{log}");
}
