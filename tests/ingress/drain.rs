//! A Gateway that is told to stop while much is under way: who is served to the end, who is asked to go, and who is cut.

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use nix::sys::signal::Signal;
use node_proxy::demo::command::{Process, until};
use node_proxy::pod::netns::NetnsFd;

use crate::from_mesh::wait_known;
use crate::rig::{ALL, PATIENCE, Stage, gateway, stage};

/// A Gateway with clients of each kind, none of whom has all of its answer.
struct Held {
    stage: Arc<Stage>,
    pod: &'static str,
    http: u16,
    tcp: u16,
    client: NetnsFd,
    gateway: NetnsFd,
    at: IpAddr,
    /// The answers go on once this file is there.
    go_on: String,
    slow: TcpStream,
    /// The same from a pod of the mesh, by the hop.
    by_hop: TcpStream,
    bytes: TcpStream,
    version2: Process,
}

impl Held {
    #[track_caller]
    fn open(pod: &'static str, [http, tcp]: [u16; 2], drain_seconds: u32) -> Self {
        let stage = stage();
        stage.add_origins();
        let listeners = format!(
            "{{name: http, port: {http}, protocol: HTTP, {ALL}}}, {{name: bytes, port: {tcp}, protocol: TCP, {ALL}}}"
        );
        let route = |kind: &str, listener: &str, port: u16| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {pod}, namespace: shop}}, \
                 spec: {{parentRefs: [{{name: {pod}, namespace: edge, sectionName: {listener}}}], \
                 rules: [{{backendRefs: [{{name: origin, port: {port}}}]}}]}}}}"
            )
        };
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {pod}, namespace: edge}}, spec: {{selector: {{app: {pod}}}, \
             ports: [{{name: http, port: {http}}}, {{name: tcp, port: {tcp}}}]}}}}"
        );
        let routes = [route("HTTPRoute", "http", 80), route("TCPRoute", "bytes", 9000)].join("\n---\n");
        let objects = [gateway(pod, &listeners), service, routes];
        {
            let mut world = stage.world();
            world.apply_in("edge", "a Gateway that goes", &objects.join("\n---\n")).unwrap();
            let flag = format!("--drain-seconds={drain_seconds}");
            world.gateway_pod_with(pod, ("edge", pod), "node-a", &[&flag]).unwrap();
        }
        let (client, gateway) = (stage.netns("client"), stage.netns(pod));
        let at = stage.address(pod).parse().unwrap();
        let go_on = stage.file(&format!("{pod}.go-on"));
        wait_known(&stage, pod, &[http.into(), tcp.into()]);
        let [slow, by_hop] = [&client, &stage.netns("buyer")].map(|netns| {
            let mut slow = connect(netns, at, http).unwrap();
            let get = format!("GET /until{go_on} HTTP/1.1\r\nhost: {pod}\r\n\r\n");
            slow.write_all(get.as_bytes()).unwrap();
            read_until(&mut slow, "first \r\n");
            slow
        });
        let url = format!("http://{at}:{http}/until{go_on}?version=2");
        let verbose = ["stdbuf", "-o0", "nghttp", "-v", &url];
        let version2 = stage.world().spawn("client", &format!("nghttp-to-{pod}"), &verbose).unwrap();
        assert!(until(PATIENCE, || version2.log().contains("first ")), "{}", version2.log());
        let mut bytes = connect(&client, at, tcp).unwrap();
        bytes.write_all(b"hash\nsome").unwrap();
        Self { stage, pod, http, tcp, client, gateway, at, go_on, slow, by_hop, bytes, version2 }
    }

    /// Asks on a connection that is kept, and returns the answer's head in lower case.
    #[track_caller]
    fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /204 HTTP/1.1\r\nhost: anybody\r\n\r\n").unwrap();
        read_until(stream, "\r\n\r\n").to_ascii_lowercase()
    }

    /// Without the world, which another test may have for longer than the proxy takes clients.
    fn is_ready(&self) -> bool {
        let mut answer = String::new();
        let mut admin = connect(&self.gateway, Ipv4Addr::LOCALHOST.into(), 15000).unwrap();
        admin.write_all(b"GET /readyz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
        admin.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200")
    }

    /// Whether a client that comes now is refused at both ports.
    fn refuses_all(&self) -> bool {
        let refuses = |port| {
            connect(&self.client, self.at, port)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        refuses(self.http) && refuses(self.tcp)
    }

    /// The process of the Gateway ends by itself, and with 0; what it has logged.
    #[track_caller]
    fn ends_well(&self) -> String {
        let ended = || !self.stage.world().application(self.pod).unwrap().is_running();
        assert!(until(PATIENCE, ended), "it goes on");
        let mut world = self.stage.world();
        let process = world.application(self.pod).unwrap();
        let status = process.stop(Signal::SIGKILL, PATIENCE).unwrap();
        assert!(status.success(), "{status}: {}", process.last_words());
        process.log()
    }
}

/// Opens a connection from inside a pod.
fn connect(netns: &NetnsFd, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let to = SocketAddr::new(address, port);
    let stream = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads until a text has come.
#[track_caller]
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).unwrap();
        assert!(count > 0, "the end after {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn what_is_under_way_is_served_to_its_end_and_then_the_gateway_ends() {
    let mut held = Held::open("leaving", [8010, 9010], 120);
    let mut kept = connect(&held.client, held.at, held.http).unwrap();
    assert!(!Held::ask(&mut kept).contains("connection: close"));
    assert!(held.is_ready());
    held.stage.world().application(held.pod).unwrap().signal(Signal::SIGTERM);
    assert!(until(PATIENCE, || !held.is_ready()), "it is still ready");
    // Not everybody knows at once.
    let mut late = connect(&held.client, held.at, held.http).unwrap();
    assert!(Held::ask(&mut late).starts_with("http/1.1 204"));
    drop(late);
    assert!(until(PATIENCE, || held.refuses_all()), "new clients are not refused");

    let is_asked_to_go = || held.version2.log().contains("recv GOAWAY frame");
    assert!(until(PATIENCE, is_asked_to_go), "{}", held.version2.log());
    let head = Held::ask(&mut kept);
    assert!(head.starts_with("http/1.1 204") && head.contains("connection: close"), "{head}");
    assert_eq!(kept.read(&mut [0; 8]).unwrap(), 0, "and then it ends");

    assert!(held.version2.is_running(), "{}", held.version2.log());
    fs::write(&held.go_on, "").unwrap();
    for slow in [&mut held.slow, &mut held.by_hop] {
        assert!(read_until(slow, "\r\n0\r\n\r\n").contains("last"));
        slow.shutdown(Shutdown::Both).unwrap();
    }
    assert!(until(PATIENCE, || !held.version2.is_running()), "{}", held.version2.log());
    let log = held.version2.log();
    assert!(log.contains("last") && !log.contains("not processed") && !log.contains("RST_STREAM"), "{log}");
    held.bytes.write_all(b" more").unwrap();
    held.bytes.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    held.bytes.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("9 "), "{answer}");

    let log = held.ends_well();
    assert!(log.contains("drained"), "{log}");
    let buyer = "src.identity=spiffe://cluster.local/ns/buyers/sa/buyer";
    for own in ["protocol=http1", "protocol=http2", buyer] {
        let texts = ["direction=ingress", "path=/until", "status=200", own];
        let line = held.stage.wait_line_of(held.pod, &texts);
        assert!(line.contains("mtls=yes") && !line.contains(" reason="), "{line}");
    }
    let line = held.stage.wait_line_of(held.pod, &["route=TCPRoute/shop/leaving/0", "bytes_sent=14 "]);
    assert!(line.contains("mtls=yes") && !line.contains(" reason="), "{line}");
    held.stage.world().remove_pod(held.pod).unwrap();
}

#[test]
fn what_is_left_at_the_deadline_is_cut_and_nobody_takes_a_part_for_the_whole() {
    let mut held = Held::open("hurried", [8011, 9011], 1);
    held.stage.world().application(held.pod).unwrap().signal(Signal::SIGTERM);
    let log = held.ends_well();
    assert!(log.contains("what is left is cut connections="), "{log}");
    for stream in [&mut held.slow, &mut held.by_hop, &mut held.bytes] {
        let error = stream.read(&mut [0; 8]).expect_err("it was cut");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(until(PATIENCE, || !held.version2.is_running()), "{}", held.version2.log());
    let log = held.version2.log();
    assert!(log.contains("recv GOAWAY frame") && log.contains("not processed"), "{log}");
    held.stage.world().remove_pod(held.pod).unwrap();
}
