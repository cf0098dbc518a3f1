//! Datagrams through a Gateway of their own: whose they are, how many there may be, and what becomes of those for nobody.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use nix::sys::signal::Signal;
use node_proxy::demo::command::{until, within};

use crate::rig::{PATIENCE, Stage, stage};

const POD: &str = "datagrams";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ingress/datagrams.py");

/// The stage with two servers of UDP and a Gateway that leads there.
struct Datagrams {
    stage: Arc<Stage>,
}

#[track_caller]
fn datagrams() -> Datagrams {
    let stage = stage();
    stage.add_once(POD, |world| {
        for (side, node) in [("left", "node-a"), ("right", "node-b")] {
            let pod = world.pod(side).namespace("plain").service_account(side).on(node);
            let pod = pod.labels(&[("app", "datagrams"), ("side", side)]);
            pod.program(&["/usr/bin/python3", PROGRAM, "serve", side, "5300"]).start().unwrap();
        }
        let listens = |pod| world.exec(pod, &["ss", "-Hlun"]).unwrap().stdout.contains(":5300 ");
        assert!(until(PATIENCE, || ["left", "right"].into_iter().all(listens)), "nobody listens");
        world.apply_in("edge", "datagrams", include_str!("datagrams.yaml")).unwrap();
        // Half of them may be sessions.
        let few = ["--max-connections-per-pod=400"];
        world.gateway_pod_with(POD, ("edge", "datagrams"), "node-a", &few).unwrap();
        Vec::new()
    });
    Datagrams { stage }
}

impl Datagrams {
    /// What each socket of a client is answered, a dash where it is not.
    #[track_caller]
    fn ask(&self, port: u16, more: &[&str]) -> Vec<String> {
        let host = self.stage.world().running_pod(POD).unwrap().addresses[0].to_string();
        self.ask_from("client", &host, port, more)
    }

    #[track_caller]
    fn ask_from(&self, pod: &str, host: &str, port: u16, more: &[&str]) -> Vec<String> {
        let port = port.to_string();
        let command = ["timeout", "60", "/usr/bin/python3", PROGRAM, "ask", host, &port];
        // Not under the lock of the world, which others want.
        let netns = self.stage.world().running_pod(pod).unwrap().netns.clone();
        let done = within(&netns, &[&command[..], more].concat()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// The metrics of the Gateway's pod that begin so.
    fn metrics(&self, name: &str) -> Vec<String> {
        let probe = ["curl", "-s", "http://127.0.0.1:15000/metrics"];
        let text = self.stage.world().exec(POD, &probe).unwrap().stdout;
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    fn metric(&self, name: &str) -> u64 {
        let lines = self.metrics(name);
        lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!("gammarus_udp_datagrams_dropped_total{{reason=\"{reason}\"}}"))
    }

    fn lines(&self, texts: &[&str]) -> Vec<String> {
        let path = self.stage.world().gateway_access_log(POD);
        let log = std::fs::read_to_string(path).unwrap_or_default();
        log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned).collect()
    }

    fn address(&self, pod: &str) -> String {
        self.stage.world().running_pod(pod).unwrap().addresses[0].to_string()
    }

    /// Has a Service without a selector lead to these addresses and ports.
    fn lead(&self, service: &str, endpoints: &[(&str, u16)]) {
        let mut slices = String::new();
        for (index, (pod, port)) in endpoints.iter().enumerate() {
            let address = self.address(pod);
            write!(
                slices,
                "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                 metadata: {{name: {service}-{index}, namespace: plain, labels: {{kubernetes.io/service-name: {service}}}}}, \
                 ports: [{{port: {port}, protocol: UDP}}], endpoints: [{{addresses: [{address}], \
                 targetRef: {{kind: Pod, name: {pod}, namespace: plain}}}}]}}\n"
            )
            .unwrap();
        }
        self.stage.world().apply_in("plain", "endpoints", &slices).unwrap();
    }
}

fn count(answers: &[String], what: &str) -> usize {
    answers.iter().filter(|answer| answer.split(' ').next() == Some(what)).count()
}

#[test]
fn answers_come_back_by_both_families_beside_tcp_on_the_same_number() {
    let stage = datagrams();
    let addresses = stage.stage.world().running_pod(POD).unwrap().addresses.clone();
    assert_eq!(addresses.len(), 2, "one of each family: {addresses:?}");
    for address in addresses {
        for port in [5300, 80] {
            let answers = stage.ask_from("client", &address.to_string(), port, &["--sockets", "20"]);
            assert_eq!(count(&answers, "left") + count(&answers, "right"), 20, "{answers:?}");
        }
        let bracketed = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let probe = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{bracketed}/")];
        assert_eq!(
            stage.stage.world().exec("client", &probe).unwrap().stdout,
            "404",
            "HTTP on the same number"
        );
    }
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let stage = datagrams();
    // Without more, the kernel would answer from 127.0.0.1.
    let answers = stage.ask_from(POD, "127.0.0.2", 5300, &[]);
    assert_eq!(count(&answers, "left") + count(&answers, "right"), 1, "{answers:?}");
}

#[test]
fn the_longest_datagrams_go_through_whole() {
    let stage = datagrams();
    for bytes in ["1", "1472", "9000", "65507"] {
        assert_eq!(stage.ask(5300, &["--bytes", bytes]), [format!("{bytes} True")]);
    }
}

#[test]
fn sessions_go_by_weight_and_a_client_stays_where_it_is() {
    let stage = datagrams();
    let answers = stage.ask(5301, &["--sockets", "60"]);
    let left = count(&answers, "left");
    assert_eq!(left + count(&answers, "right"), 60, "{answers:?}");
    // Three quarters; outside of it once in a million runs.
    assert!((28..=59).contains(&left), "{left} of 60");
    let again: BTreeSet<String> = (0..10).flat_map(|_| stage.ask(5301, &["--from", "20000"])).collect();
    assert_eq!(again.len(), 1, "one endpoint, and one socket towards it: {again:?}");
}

//= gateway-api UDPRouteRule.backendRefs
//# if an invalid backend is requested to have 80% of the packets, then 80% of packets must be dropped instead.
#[test]
fn a_share_for_nobody_is_dropped_again_and_again_and_counted() {
    let stage = datagrams();
    let before = stage.dropped("invalid_backend");
    // A client that tries again does not come to the other share.
    let answers = stage.ask(5302, &["--sockets", "40", "--tries", "3"]);
    let (left, none) = (count(&answers, "left"), count(&answers, "-"));
    assert_eq!(left + none, 40, "{answers:?}");
    assert!((5..=35).contains(&none), "{none} of 40");
    assert_eq!(stage.dropped("invalid_backend") - before, 3 * none as u64);
    let before = stage.dropped("no_endpoint");
    assert_eq!(stage.ask(5305, &["--tries", "2"]), ["-"]);
    assert_eq!(stage.dropped("no_endpoint") - before, 2);
    let before = stage.dropped("no_matching_rule");
    assert_eq!(stage.ask(5307, &["--tries", "2"]), ["-"]);
    assert_eq!(stage.dropped("no_matching_rule") - before, 2);
}

#[test]
fn a_session_moves_when_its_endpoint_has_gone_and_others_do_not_notice() {
    let stage = datagrams();
    stage.lead("moving", &[("left", 5300), ("left", 5300)]);
    let ask = || stage.ask(5303, &["--from", "20001"]).remove(0);
    assert!(until(PATIENCE, || ask().starts_with("left")), "{}", ask());
    let before = ask();
    // Another endpoint beside it is no reason to move.
    stage.lead("moving", &[("left", 5300), ("right", 5300)]);
    let others = || count(&stage.ask(5303, &["--sockets", "10"]), "right") > 0;
    assert!(until(PATIENCE, others), "nobody comes to the other endpoint");
    assert_eq!(ask(), before);
    stage.lead("moving", &[("right", 5300), ("right", 5300)]);
    assert!(until(PATIENCE, || ask().starts_with("right")), "{}", ask());
    let ended = stage.lines(&["route=UDPRoute/plain/moving/0", ":20001 ", "dst.workload=left"]);
    let ended = ended.first().expect("a line");
    for text in
        ["direction=ingress", "protocol=udp", "backend=plain/moving:53", "duration_ms=", "datagrams_sent="]
    {
        assert!(ended.contains(text), "{text}: {ended}");
    }
    assert!(!ended.contains("reason="), "{ended}");
}

#[test]
fn where_nobody_listens_the_next_datagram_is_for_another_endpoint() {
    let stage = datagrams();
    stage.lead("refused", &[("left", 5300), ("right", 5398)]);
    assert!(until(PATIENCE, || count(&stage.ask(5304, &["--tries", "3"]), "left") == 1), "nobody answers");
    for _ in 0..6 {
        assert_eq!(
            count(&stage.ask(5304, &["--tries", "2"]), "left"),
            1,
            "the second try goes to the other one"
        );
    }
    let refused = || !stage.lines(&["route=UDPRoute/plain/refused/0", "reason=connect_failed"]).is_empty();
    assert!(until(PATIENCE, refused), "{:#?}", stage.lines(&["plain/refused"]));
}

#[test]
fn with_as_many_sessions_as_there_may_be_the_silent_give_way_and_those_that_talk_stay() {
    let stage = datagrams();
    let ask = |from: &str| stage.ask(5306, &["--from", from]).remove(0);
    // One that has come back after an answer, and one that has not.
    let lasting = ask("20002");
    assert_eq!(ask("20002"), lasting);
    let brief = ask("20003");
    for _ in 0..8 {
        // Fewer at once than a socket may have in any case: none gives way before it is answered.
        let answers = stage.ask(5306, &["--sockets", "40"]);
        assert_eq!(count(&answers, "-"), 0, "all are served: {answers:?}");
    }
    assert!(stage.metric("gammarus_udp_sessions ") <= 400, "{:?}", stage.metrics("gammarus_udp_sessions"));
    let evicted = stage.metrics("gammarus_udp_sessions_closed_total");
    assert!(evicted.iter().any(|line| line.contains("reason=\"session_limit\"")), "{evicted:?}");
    assert_eq!(ask("20002"), lasting);
    assert_ne!(ask("20003"), brief);
    assert!(stage.metric("gammarus_udp_sent_datagrams_total") >= 300);
    assert!(stage.metric("gammarus_udp_received_bytes_total") >= 300 * 6);
}

#[test]
fn a_gateway_that_is_told_to_stop_goes_on_with_whom_it_has_and_takes_nobody_new() {
    let stage = datagrams();
    let gateway = crate::rig::gateway(
        "parting",
        "{name: udp, port: 5300, protocol: UDP, allowedRoutes: {namespaces: {from: All}}}",
    );
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: UDPRoute, metadata: {name: parting, namespace: plain}, \
                 spec: {parentRefs: [{name: parting, namespace: edge}], rules: [{backendRefs: [{name: left, port: 53}]}]}}";
    {
        let mut world = stage.stage.world();
        world.apply_in("edge", "a Gateway that goes", &format!("{gateway}\n---\n{route}")).unwrap();
        world.gateway_pod("parting", ("edge", "parting"), "node-b").unwrap();
    }
    let host = stage.address("parting");
    let ask = |from: &str| stage.ask_from("client", &host, 5300, &["--from", from]).remove(0);
    let known = ask("20004");
    assert!(known.starts_with("left"), "{known}");
    stage.stage.world().application("parting").unwrap().signal(Signal::SIGTERM);
    let nobody_new = || stage.ask_from("client", &host, 5300, &[]) == ["-"];
    assert!(until(PATIENCE, nobody_new), "it takes new ones for ever");
    assert_eq!(ask("20004"), known);
    stage.stage.world().remove_pod("parting").unwrap();
}
