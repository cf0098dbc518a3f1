//! What a Gateway counts, for each kind of listener, of clients that are the only ones it has.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use node_proxy::demo::command::until;

use crate::grpc_programs::grpc_tool;
use crate::rig::{PATIENCE, Stage};
use crate::served::served;

const GATEWAY: &str = "counted";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ingress/datagrams.py");

/// Samples by their labels, without those that are empty.
type Samples = BTreeMap<BTreeSet<String>, f64>;

/// The connections that a listener has had.
struct Had {
    /// The labels of their route.
    route: &'static str,
    mtls: &'static str,
    count: f64,
    /// Of each, to the backend and from it; `None` where that is for the two ends to say.
    bytes: Option<[f64; 2]>,
}

const CONNECTIONS: [Had; 3] = [
    Had {
        route: "route_kind=TCPRoute route_namespace=shop route_name=bytes route_rule=0 \
                backend_namespace=shop backend=origin backend_port=9000",
        mtls: "mtls=yes",
        count: 3.0,
        bytes: Some([14.0, 7.0]),
    },
    Had {
        route: "route_kind=TLSRoute route_namespace=plain route_name=counted-as-it-is route_rule=0 \
                backend_namespace=plain backend=open backend_port=443",
        mtls: "mtls=no",
        count: 2.0,
        bytes: None,
    },
    // Of what is in the TLS.
    Had {
        route: "route_kind=TLSRoute route_namespace=plain route_name=counted-within route_rule=0 \
                backend_namespace=plain backend=open backend_port=9000",
        mtls: "mtls=no",
        count: 2.0,
        bytes: Some([14.0, 7.0]),
    },
];

#[track_caller]
fn start(stage: &Stage) -> String {
    stage.add_origins();
    stage.add_once(GATEWAY, |world| {
        let server = ["/usr/bin/python3", PROGRAM, "serve", "names", "5300"];
        let server = world.spawn("open", "udp", &server).unwrap();
        let listens = || world.exec("open", &["ss", "-Hlun"]).unwrap().stdout.contains(":5300 ");
        assert!(until(PATIENCE, listens), "nobody listens");
        world.apply_in("edge", "what is counted", include_str!("metrics.yaml")).unwrap();
        world.gateway_pod(GATEWAY, ("edge", GATEWAY), "node-a").unwrap();
        vec![server]
    });
    stage.address(GATEWAY)
}

/// All samples of a metric at the Gateway.
#[track_caller]
fn samples(stage: &Stage, metric: &str) -> Samples {
    let probe = ["curl", "-s", "http://127.0.0.1:15000/metrics"];
    let text = stage.world().exec(GATEWAY, &probe).unwrap().stdout;
    let own = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "));
    let filled = |labels: &str| {
        let filled = labels.split(',').filter(|label| !label.ends_with("=\"\""));
        filled.map(|label| label.replace('"', "")).collect()
    };
    own.map(|(labels, value)| (filled(labels), value.parse().unwrap())).collect()
}

/// The labels of a sample at a Gateway.
fn labels(parts: &[&str]) -> BTreeSet<String> {
    parts.iter().flat_map(|part| part.split(' ')).chain(["reporter=gateway"]).map(str::to_owned).collect()
}

/// Once they are there, all samples of a metric are these, and there is no other one.
#[track_caller]
fn check(stage: &Stage, metric: &str, expected: impl IntoIterator<Item = (BTreeSet<String>, f64)>) {
    let expected: Samples = expected.into_iter().collect();
    let is_so = until(PATIENCE, || samples(stage, metric) == expected);
    assert!(is_so, "{metric}: {:#?} is not {expected:#?}", samples(stage, metric));
}

/// Clients of each listener: how many of each is in the expectations.
fn come(stage: &Stage, host: &str) {
    let file = |name: &str| stage.file(&format!("{name}.pem"));
    let curl = |times: usize, arguments: &[&str]| {
        for _ in 0..times {
            stage.curl_at(host, arguments);
        }
    };
    curl(3, &["http://counted.example.com/a"]);
    curl(2, &["--http2-prior-knowledge", "http://counted.example.com/b"]);
    curl(2, &["http://nobody.example.org/"]);
    curl(4, &["--http2", "--cacert", &file("secure"), "https://secure.example.com/"]);
    curl(2, &["--cacert", &file("passed"), "https://passed.example.com:8443/"]);
    let (client, target) = (grpc_tool("grpc-client"), format!("{host}:8004"));
    let calls = stage.run("client", &[&client, "-target", &target, "-count", "5", "unary"]);
    assert_eq!(calls, "go-1 heard= last= size=0\n".repeat(5));
    let ping = "printf '*1\\r\\n$4\\r\\nPING\\r\\n'";
    let plain = format!("exec 3<>/dev/tcp/{host}/9000; {ping} >&3; head -c 7 <&3");
    let ended = format!(
        "({ping}; sleep 4) | openssl s_client -quiet -no_ign_eof -CAfile {} -servername ended.example.com -connect {host}:8443 2>&1",
        file("ended")
    );
    thread::scope(|scope| {
        for script in [&plain, &plain, &plain, &ended, &ended] {
            scope.spawn(move || {
                let said = stage.run("client", &["bash", "-c", script]);
                assert!(said.contains("+PONG"), "{script}: {said}");
            });
        }
    });
    let asked = stage.run("client", &["/usr/bin/python3", PROGRAM, "ask", host, "5300", "--sockets", "4"]);
    assert_eq!(asked.matches("names ").count(), 4, "{asked}");
}

#[track_caller]
fn check_requests(stage: &Stage) {
    let inside = "route_kind=HTTPRoute route_namespace=shop route_name=counted route_rule=0 \
                  backend_namespace=shop backend=inside backend_port=80 status=200";
    let open = "route_kind=HTTPRoute route_namespace=plain route_name=secure route_rule=0 \
                backend_namespace=plain backend=open backend_port=80 status=200";
    let called = "route_kind=GRPCRoute route_namespace=shop route_name=called route_rule=0 \
                  backend_namespace=shop backend=go-1 backend_port=50051 status=200";
    let counted = [
        (labels(&[inside, "protocol=http1"]), 3.0),
        (labels(&[inside, "protocol=http2"]), 2.0),
        (labels(&["protocol=http1 status=404 reason=no_matching_rule"]), 2.0),
        (labels(&[open, "protocol=http2"]), 4.0),
        (labels(&[called, "protocol=grpc"]), 5.0),
    ];
    check(stage, "gammarus_http_requests_total", counted);
    check(stage, "gammarus_http_request_duration_seconds_count", [(labels(&[]), 16.0)]);
    let took = samples(stage, "gammarus_http_request_duration_seconds_sum")[&labels(&[])];
    assert!(took > 0.0, "{took} s");
    let failures = BTreeSet::from(["direction=ingress".to_owned(), "reason=no_matching_rule".to_owned()]);
    check(stage, "gammarus_failures_total", [(failures, 2.0)]);
}

#[track_caller]
fn check_connections(stage: &Stage) {
    let opened = CONNECTIONS.map(|had| (labels(&[had.route]), had.count));
    check(stage, "gammarus_tcp_connections_opened_total", opened);
    let closed = CONNECTIONS.map(|had| (labels(&[had.route, had.mtls]), had.count));
    check(stage, "gammarus_tcp_connections_closed_total", closed);
    for (way, metric) in
        ["gammarus_tcp_sent_bytes_total", "gammarus_tcp_received_bytes_total"].into_iter().enumerate()
    {
        let samples = samples(stage, metric);
        assert_eq!(samples.len(), CONNECTIONS.len(), "{metric}: {samples:#?}");
        for Had { route, count, bytes, .. } in CONNECTIONS {
            let counted = samples[&labels(&[route])];
            match bytes {
                Some(bytes) => assert_eq!(counted, count * bytes[way], "{metric} {route}"),
                // Two handshakes, and what is in them.
                None => assert!(counted > 1000.0, "{metric} {route}: {counted}"),
            }
        }
    }
}

#[track_caller]
fn check_datagrams(stage: &Stage) {
    let names = "route_kind=UDPRoute route_namespace=plain route_name=names route_rule=0 \
                 backend_namespace=plain backend=names backend_port=53";
    for (metric, count) in [
        ("gammarus_udp_sessions_opened_total", 4.0),
        ("gammarus_udp_sent_datagrams_total", 4.0),
        ("gammarus_udp_received_datagrams_total", 4.0),
        ("gammarus_udp_sent_bytes_total", 12.0),
    ] {
        check(stage, metric, [(labels(&[names]), count)]);
    }
}

#[test]
fn what_comes_to_a_gateway_is_counted_for_every_kind_of_listener() {
    let stage = served();
    let host = start(&stage);
    come(&stage, &host);
    check_requests(&stage);
    check_connections(&stage);
    check_datagrams(&stage);
}
