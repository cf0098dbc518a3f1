//! Records from their guard to the line and the counters.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gammarus_ca::SpiffeId;
use http::StatusCode;

use super::*;
use crate::cluster::objects::ObjectKey;
use crate::error::FailureReason;
use crate::pod::Direction;
use crate::route::split::Split;
use crate::route::{RouteKind, RouteRef, Rule, Terms};
use crate::snapshot::service::ServicePortKey;
use crate::tls::Expiries;

/// What the writer has written, and a way to hold it up.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn telemetry(format: LogFormat) -> (Telemetry, Paper) {
    let metrics = Arc::new(Metrics::new().unwrap());
    let paper = Paper::default();
    let access = AccessLog::start_with(paper.clone(), format, &metrics).unwrap();
    (Telemetry::new(metrics, access), paper)
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/client".parse().unwrap()
}

fn service(name: &str) -> ServicePortKey {
    ServicePortKey::tcp(ObjectKey::new("shop", name), 80)
}

fn journey(direction: Direction) -> Journey {
    let source = Peer {
        address: Some("10.0.0.1:4000".parse().unwrap()),
        pod: Some(ObjectKey::new("shop", "client")),
        identity: None,
    };
    let destination = Peer { address: Some("[fd00::2]:8080".parse().unwrap()), pod: None, identity: None };
    Journey { service: Some(service("web")), ..Journey::new(direction, source, destination) }
}

fn request() -> RequestRecord {
    let route = RouteRef { kind: RouteKind::Http, key: ObjectKey::new("shop", "by-version") };
    RequestRecord {
        journey: journey(Direction::Outbound),
        protocol: ProtocolLabel::Http1,
        method: Bytes::from_static(b"GET"),
        path: Bytes::from_static(b"/a b\xff\r\n"),
        status: Some(StatusCode::OK),
        rule: Some(Arc::new(Rule {
            route: Arc::new(route),
            index: 2,
            name: None,
            terms: Terms::default(),
            filters: Arc::default(),
            backends: Split::default(),
        })),
        backend: Some(service("web-v2")),
    }
}

fn connection(direction: Direction) -> ConnectionRecord {
    ConnectionRecord { protocol: Some(ProtocolLabel::Opaque), ..ConnectionRecord::new(journey(direction)) }
}

/// The line without its time and duration, which differ.
fn stable(line: &str) -> String {
    let words = line.split(' ');
    words
        .filter(|word| !word.starts_with("time=") && !word.starts_with("duration_ms="))
        .collect::<Vec<_>>()
        .join(" ")
}

fn metric(telemetry: &Telemetry, start: &str) -> Vec<String> {
    let text = String::from_utf8(telemetry.metrics().render().unwrap()).unwrap();
    text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

#[test]
fn a_finished_request_is_one_line_and_one_count() {
    let (telemetry, paper) = telemetry(LogFormat::Text);
    let mut recording = telemetry.request(request());
    recording.journey.hop = Some(Hop::Plain(PlaintextReason::DestinationNotEnrolled));
    recording.journey.bytes_sent = 3;
    recording.journey.bytes_received = 5;
    recording.finish();
    telemetry.flush();
    let wanted = "level=INFO target=access direction=outbound src.addr=10.0.0.1:4000 src.workload=client \
        src.namespace=shop dst.addr=[fd00::2]:8080 dst.service=shop/web dst.port=80 mtls=no \
        plaintext_reason=destination_not_enrolled protocol=http1 method=GET path=\"/a b\\xff\\r\\n\" status=200 \
        route=HTTPRoute/shop/by-version/2 backend=shop/web-v2:80 bytes_sent=3 bytes_recv=5";
    assert_eq!(stable(&paper.text()), wanted);
    assert!(paper.text().ends_with('\n'));
    let counted = metric(&telemetry, "gammarus_http_requests_total{");
    let wanted = "gammarus_http_requests_total{backend=\"web-v2\",backend_namespace=\"shop\",backend_port=\"80\",\
        port=\"80\",protocol=\"http1\",reason=\"\",reporter=\"source\",route_kind=\"HTTPRoute\",\
        route_name=\"by-version\",route_namespace=\"shop\",route_rule=\"2\",service=\"web\",\
        service_namespace=\"shop\",status=\"200\"} 1";
    assert_eq!(counted, [wanted]);
    assert_eq!(metric(&telemetry, "gammarus_http_request_duration_seconds_count").len(), 1);
    assert!(metric(&telemetry, "gammarus_failures_total").is_empty());
}

#[test]
fn a_cancelled_request_is_one_line_that_says_the_client_left() {
    let (telemetry, paper) = telemetry(LogFormat::Json);
    drop(telemetry.request(RequestRecord { status: None, rule: None, backend: None, ..request() }));
    telemetry.flush();
    let text = paper.text();
    assert_eq!(text.lines().count(), 1);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["reason"], "client_closed");
    assert_eq!(line["error"], "ended before it was complete");
    assert_eq!(line["path"], "/a b\u{fffd}\r\n");
    assert!(line.get("status").is_none() && line.get("route").is_none());
    assert!(line["duration_ms"].as_f64().unwrap() >= 0.0);
    assert!(metric(&telemetry, "gammarus_failures_total").is_empty(), "the proxy has not failed");
}

#[test]
fn the_first_reason_stays() {
    let (telemetry, paper) = telemetry(LogFormat::Text);
    let mut recording = telemetry.request(request());
    recording.status = Some(StatusCode::SERVICE_UNAVAILABLE);
    recording.journey.fail(FailureReason::NoEndpoint, "shop/web has no ready endpoint");
    recording.journey.fail(FailureReason::UpstreamReset, "later");
    drop(recording);
    telemetry.flush();
    let line = paper.text();
    assert!(line.contains("level=WARN"), "{line}");
    assert!(line.contains(" reason=no_endpoint "), "{line}");
    assert!(line.ends_with(" error=\"shop/web has no ready endpoint\"\n"), "{line}");
}

#[test]
fn an_identity_that_nobody_proved_is_not_written() {
    let identity = identity();
    for (hop, is_written) in
        [(Some(Hop::Mutual), true), (Some(Hop::Plain(PlaintextReason::SamePod)), false), (None, false)]
    {
        let (telemetry, paper) = telemetry(LogFormat::Text);
        let mut recording = telemetry.connection(connection(Direction::Inbound));
        recording.journey.source.identity = Some(identity.clone());
        recording.journey.hop = hop;
        recording.finish();
        telemetry.flush();
        let written = format!(" src.identity={identity} ");
        assert_eq!(paper.text().contains(&written), is_written, "{hop:?}: {}", paper.text());
    }
}

#[test]
fn a_client_that_somebody_else_speaks_for_is_the_source_and_the_other_is_named_too() {
    for (client, expected) in [
        (
            ClientAddress { ip: [198, 51, 100, 1].into(), port: None },
            "src.addr=198.51.100.1 peer.addr=10.0.0.1:4000",
        ),
        (
            ClientAddress { ip: "2001:db8::1".parse().unwrap(), port: Some(7) },
            "src.addr=[2001:db8::1]:7 peer.addr=10.0.0.1:4000",
        ),
    ] {
        let (telemetry, paper) = telemetry(LogFormat::Text);
        let mut recording = telemetry.request(request());
        recording.journey.client = Some(client);
        recording.finish();
        telemetry.flush();
        assert!(paper.text().contains(expected), "{expected}: {}", paper.text());
    }
}

#[test]
fn an_opaque_connection_is_opened_and_closed_once() {
    let (telemetry, paper) = telemetry(LogFormat::Text);
    let mut recording = telemetry.connection(connection(Direction::Inbound));
    assert!(metric(&telemetry, "gammarus_tcp_connections_opened_total").is_empty());
    recording.opened();
    recording.opened();
    let labels = "{backend=\"\",backend_namespace=\"\",backend_port=\"\",port=\"80\",reporter=\"destination\",\
                  route_kind=\"\",route_name=\"\",route_namespace=\"\",route_rule=\"\",\
                  service=\"web\",service_namespace=\"shop\"}";
    let opened = format!("gammarus_tcp_connections_opened_total{labels} 1");
    assert_eq!(metric(&telemetry, "gammarus_tcp_connections_opened_total"), [opened.as_str()]);
    recording.journey.hop = Some(Hop::Mutual);
    recording.journey.bytes_sent = 11;
    recording.journey.bytes_received = 13;
    recording.finish();
    telemetry.flush();
    assert_eq!(paper.text().lines().count(), 1);
    assert_eq!(metric(&telemetry, "gammarus_tcp_connections_opened_total"), [opened]);
    let closed = metric(&telemetry, "gammarus_tcp_connections_closed_total");
    assert_eq!(closed.len(), 1);
    assert!(closed[0].contains("mtls=\"yes\"") && closed[0].ends_with(" 1"), "{closed:?}");
    assert_eq!(
        metric(&telemetry, "gammarus_tcp_sent_bytes_total"),
        [format!("gammarus_tcp_sent_bytes_total{labels} 11")]
    );
    assert_eq!(
        metric(&telemetry, "gammarus_tcp_received_bytes_total"),
        [format!("gammarus_tcp_received_bytes_total{labels} 13")]
    );
}

#[test]
fn a_connection_that_a_route_has_decided_about_carries_it() {
    let (telemetry, paper) = telemetry(LogFormat::Text);
    let route = Arc::new(RouteRef { kind: RouteKind::Tcp, key: ObjectKey::new("shop", "db") });
    let mut recording = telemetry.connection(connection(Direction::Outbound));
    recording.rule = request().rule.map(|rule| {
        Arc::new(Rule {
            route: Arc::clone(&route),
            index: 0,
            name: Some("main".into()),
            ..Rule::clone(&rule)
        })
    });
    recording.backend = Some(service("web-v2"));
    recording.finish();
    telemetry.connection(connection(Direction::Outbound)).finish();
    telemetry.flush();
    let lines = paper.text();
    assert!(
        lines.lines().next().unwrap().contains(" route=TCPRoute/shop/db/main backend=shop/web-v2:80 "),
        "{lines}"
    );
    assert!(!lines.lines().last().unwrap().contains("route="), "{lines}");
    let labels = "{backend=\"web-v2\",backend_namespace=\"shop\",backend_port=\"80\",port=\"80\",reporter=\"source\",\
                  route_kind=\"TCPRoute\",route_name=\"db\",route_namespace=\"shop\",route_rule=\"main\",\
                  service=\"web\",service_namespace=\"shop\"}";
    let opened = metric(&telemetry, "gammarus_tcp_connections_opened_total");
    assert_eq!(opened.len(), 2, "{opened:?}");
    assert!(opened.contains(&format!("gammarus_tcp_connections_opened_total{labels} 1")), "{opened:?}");
    let closed = metric(&telemetry, "gammarus_tcp_connections_closed_total");
    assert_eq!(closed.iter().filter(|line| line.contains("route_name=\"db\"")).count(), 1, "{closed:?}");
}

#[test]
fn a_connection_that_became_requests_leaves_nothing() {
    let (telemetry, paper) = telemetry(LogFormat::Text);
    telemetry.connection(connection(Direction::Outbound)).dismiss();
    telemetry.flush();
    assert_eq!(paper.text(), "");
    assert!(metric(&telemetry, "gammarus_tcp_connections").is_empty());
}

#[test]
fn requests_that_differ_in_one_label_are_counted_apart_and_a_renamed_rule_is_another() {
    let (telemetry, _paper) = telemetry(LogFormat::Text);
    let named = |name: &str| {
        let Rule { route, index, terms, filters, backends, .. } =
            (**request().rule.as_ref().unwrap()).clone();
        Some(Arc::new(Rule { route, index, name: Some(name.into()), terms, filters, backends }))
    };
    for _ in 0..3 {
        telemetry.request(request()).finish();
        telemetry.request(RequestRecord { status: Some(StatusCode::NOT_FOUND), ..request() }).finish();
        telemetry.request(RequestRecord { backend: None, ..request() }).finish();
        telemetry.request(RequestRecord { rule: named("old"), ..request() }).finish();
        telemetry.request(RequestRecord { rule: named("new"), ..request() }).finish();
        let odd = StatusCode::from_u16(799).unwrap();
        telemetry.request(RequestRecord { status: Some(odd), ..request() }).finish();
    }
    let counted = metric(&telemetry, "gammarus_http_requests_total{");
    assert_eq!(counted.len(), 6);
    assert!(counted.iter().all(|line| line.ends_with(" 3")), "{counted:#?}");
    assert_eq!(counted.iter().filter(|line| line.contains("status=\"other\"")).count(), 1);
}

#[test]
fn two_sets_of_metrics_on_one_thread_do_not_mix() {
    let (first, _paper) = telemetry(LogFormat::Text);
    let (second, _paper) = telemetry(LogFormat::Text);
    for _ in 0..2 {
        first.request(request()).finish();
        second.request(request()).finish();
    }
    for telemetry in [first, second] {
        assert!(metric(&telemetry, "gammarus_http_requests_total{")[0].ends_with(" 2"));
    }
}

/// Blocks in its first write until told to go on.
struct Stuck {
    entered: Sender<()>,
    go: Receiver<()>,
    paper: Paper,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.go.recv_timeout(Duration::from_secs(30));
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_is_behind_costs_lines_and_never_time() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (entered, is_entered) = channel();
    let (go, wait) = channel();
    let paper = Paper::default();
    let stuck = Stuck { entered, go: wait, paper: paper.clone() };
    let access = AccessLog::start_with(stuck, LogFormat::Text, &metrics).unwrap();
    let telemetry = Telemetry::new(metrics, access);
    telemetry.request(request()).finish();
    is_entered.recv_timeout(Duration::from_secs(30)).unwrap();
    for _ in 0..16_384 + 10 {
        telemetry.request(request()).finish();
    }
    assert_eq!(
        metric(&telemetry, "gammarus_access_lines_dropped_total"),
        ["gammarus_access_lines_dropped_total 10"]
    );
    drop(go);
    telemetry.flush();
    assert_eq!(paper.text().lines().count(), 16_385);
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let access = AccessLog::start_with(Broken, LogFormat::Text, &metrics).unwrap();
    let telemetry = Telemetry::new(metrics, access);
    telemetry.request(request()).finish();
    telemetry.flush();
    let dropped = metric(&telemetry, "gammarus_access_lines_dropped_total");
    assert_eq!(dropped, ["gammarus_access_lines_dropped_total 1"]);
}

#[test]
fn the_access_log_appends_to_a_file_or_is_off() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    std::fs::write(&path, "before\n").unwrap();
    for (output, lines) in [(AccessOutput::File(path.clone()), 2), (AccessOutput::Off, 2)] {
        let metrics = Arc::new(Metrics::new().unwrap());
        let access = AccessLog::start(&output, LogFormat::Text, &metrics).unwrap();
        let telemetry = Telemetry::new(metrics, access);
        telemetry.request(request()).finish();
        telemetry.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), lines, "{output:?}");
        assert_eq!(metric(&telemetry, "gammarus_http_requests_total{").len(), 1);
    }
    let missing = AccessOutput::File(directory.path().join("none/a"));
    let error = AccessLog::start(&missing, LogFormat::Text, &Metrics::new().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("cannot open the access log "), "{error}");
}

#[test]
fn what_the_control_side_knows_is_in_the_metrics() {
    let (telemetry, _paper) = telemetry(LogFormat::Text);
    let metrics = telemetry.metrics();
    metrics.set_pods_enrolled(3);
    metrics.snapshot_published(12, Duration::from_millis(2));
    metrics.stale_peer();
    metrics.detected_protocol(&service("db"), ProtocolLabel::Opaque);
    let identity = identity();
    let of = |leaf| Expiries { leaves: vec![(identity.clone(), leaf)], ..Expiries::default() };
    let expires = |at| {
        let of_one = |name: &str| [(name.to_owned(), at)].into();
        let (listeners, clients) = (of_one("edge/shop"), of_one("edge/own"));
        let (issuers, roots) = (of_one("a1"), of_one("b2"));
        metrics.set_cert_expiries(&Expiries { listeners, clients, issuers, roots, ..of(Some(at)) });
    };
    expires(SystemTime::now() + Duration::from_secs(1000));
    let line = |start: &str| metric(&telemetry, start).pop().unwrap();
    assert_eq!(line("gammarus_pods_enrolled"), "gammarus_pods_enrolled 3");
    assert_eq!(line("gammarus_snapshot_generation"), "gammarus_snapshot_generation 12");
    assert_eq!(line("gammarus_snapshot_build_seconds_count"), "gammarus_snapshot_build_seconds_count 1");
    assert_eq!(line("gammarus_stale_peer_total"), "gammarus_stale_peer_total 1");
    assert!(line("gammarus_snapshot_age_seconds").parse_last() < 60.0);
    let detected = line("gammarus_detected_protocol_total");
    assert!(detected.contains("protocol=\"opaque\"") && detected.contains("service=\"db\""), "{detected}");
    let expiry = line("gammarus_cert_expiry_seconds");
    assert!(expiry.contains(&format!("identity=\"{identity}\"")), "{expiry}");
    assert!((900.0..=1000.0).contains(&expiry.parse_last()), "{expiry}");
    expires(SystemTime::now() - Duration::from_secs(5));
    assert!(line("gammarus_cert_expiry_seconds").parse_last() < 0.0);
    for (what, label) in [
        ("issuer", "fingerprint=\"a1\""),
        ("root", "fingerprint=\"b2\""),
        ("listener_cert", "secret=\"edge/shop\""),
        ("client_cert", "secret=\"edge/own\""),
    ] {
        let expiry = line(&format!("gammarus_{what}_expiry_seconds"));
        assert!(expiry.contains(label), "{expiry}");
    }
    for gone in [of(None), Expiries::default()] {
        metrics.set_cert_expiries(&gone);
        assert!(metric(&telemetry, "gammarus_root_expiry_seconds").is_empty());
        assert!(metric(&telemetry, "gammarus_listener_cert_expiry_seconds").is_empty());
        assert!(metric(&telemetry, "gammarus_client_cert_expiry_seconds").is_empty());
        assert!(metric(&telemetry, "gammarus_cert_expiry_seconds").is_empty());
    }
}

trait ParseLast {
    fn parse_last(&self) -> f64;
}

impl ParseLast for String {
    fn parse_last(&self) -> f64 {
        self.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

#[test]
fn the_log_obeys_its_filter_at_once_and_keeps_it_when_the_new_one_is_wrong() {
    let paper = Paper::default();
    let writer = paper.clone();
    let (subscriber, control) = log::build(LogFormat::Json, "warn", move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("unheard");
        control.set_filter("info").unwrap();
        tracing::info!(pods = 3, "heard");
        control.set_filter("loud=louder").unwrap_err();
        tracing::info!("still heard");
    });
    let text = paper.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["message"], &lines[0]["pods"]), (&"heard".into(), &3.into()));
    assert_eq!(lines[1]["message"], "still heard");
}
