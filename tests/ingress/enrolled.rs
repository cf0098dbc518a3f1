//! Connections and calls to a pod that takes nothing but the hop, with TLS inside of it where a BackendTLSPolicy says so.

use std::fs;

use node_proxy::demo::command::{Process, until};

use crate::backends::authorities;
use crate::certificate_folder::certificate_folder;
use crate::connections::say;
use crate::grpc_programs::grpc_tool;
use crate::rig::{ALL, PATIENCE, Stage, gateway, stage};

/// The Gateway and its pod.
const NAME: &str = "steady";

/// Starts the servers and the Gateway, and says where it is.
fn start(stage: &Stage) -> (String, [Process; 3]) {
    let servers = start_servers(stage);
    let ends = |name: &str, host: &str, more: &str| {
        format!(
            "{{name: {name}, port: 9443, protocol: TLS, hostname: {host}.example.com, \
             allowedRoutes: {{namespaces: {{from: All}}{more}}}, \
             tls: {{mode: Terminate, certificateRefs: [{{name: {host}}}]}}}}"
        )
    };
    let takes_bytes = ", kinds: [{kind: TCPRoute}]";
    let listeners = [
        format!("{{name: bytes, port: 9000, protocol: TCP, {ALL}}}"),
        format!("{{name: begun, port: 9001, protocol: TCP, {ALL}}}"),
        format!(
            "{{name: passed, port: 9443, protocol: TLS, hostname: passed.example.com, {ALL}, \
             tls: {{mode: Passthrough}}}}"
        ),
        ends("ended", "ended", ""),
        ends("ended-bytes", "bytes", takes_bytes),
        ends("begun-again", "secure", ""),
        ends("begun-bytes", "special", takes_bytes),
        format!("{{name: calls, port: 8100, protocol: HTTP, {ALL}}}"),
        format!("{{name: open-calls, port: 8101, protocol: HTTP, {ALL}}}"),
        format!("{{name: untold, port: 8102, protocol: HTTP, {ALL}}}"),
    ];
    let trusted = fs::read_to_string(stage.file("passed.pem")).unwrap();
    let objects = [
        include_str!("enrolled.yaml").to_owned(),
        gateway(NAME, &listeners.join(", ")),
        authorities(("shop", "enrolled"), &trusted),
        authorities(("plain", "enrolled"), &trusted),
    ];
    let mut world = stage.world();
    world.apply_in("edge", "a Gateway before a strict namespace", &objects.join("\n---\n")).unwrap();
    world.gateway_pod(NAME, ("edge", NAME), "node-a").unwrap();
    (world.running_pod(NAME).unwrap().addresses[0].to_string(), servers)
}

fn start_servers(stage: &Stage) -> [Process; 3] {
    let (key, certificate) = (stage.file("passed.key"), stage.file("passed.pem"));
    let folder = certificate_folder(stage.world().dir(), "passed");
    let web =
        ["openssl", "s_server", "-accept", "9443", "-key", &key, "-cert", &certificate, "-www", "-quiet"];
    let server = grpc_tool("grpc-server");
    let calls = |name| {
        let ports = [&*server, "-name", name, "-http", "8091", "-https", "8492", "-echo", "9091"];
        [&ports[..], &["-tls", "-certificate", &folder]].concat()
    };
    stage.add_origins();
    let world = stage.world();
    let servers = [
        world.spawn("inside", "begun", &web).unwrap(),
        world.spawn("inside", "calls", &calls("inside")).unwrap(),
        world.spawn("open", "calls", &calls("open")).unwrap(),
    ];
    Stage::wait_listening(&world, "inside", &[9443, 50051]);
    Stage::wait_listening(&world, "open", &[50051]);
    servers
}

#[test]
fn what_goes_to_a_strict_pod_goes_by_the_hop_with_the_policys_tls_inside() {
    let stage = stage();
    let (host, _servers) = start(&stage);
    let inside = stage.address("inside");
    // The control: who comes without the hop is refused.
    assert_eq!(say(&stage, (&inside, "9000"), None), "");
    let refused = format!("dst.addr={inside}:9000 ");
    let is_refused = || {
        let lines = stage.world().access_log("node-b").unwrap();
        lines.lines().any(|line| line.contains(&refused) && line.contains("reason=plaintext_refused"))
    };
    assert!(until(PATIENCE, is_refused), "{}", stage.world().access_log("node-b").unwrap());
    bytes_arrive(&stage, &host);
    tls_arrives(&stage, &host);
    calls_arrive(&stage, &host);
    stage.world().remove_pod(NAME).unwrap();
}

#[track_caller]
fn check_hop(stage: &Stage, route: &str, protocol: &str) {
    let line = stage.wait_line_of(NAME, &["direction=ingress ", &format!("route={route}/0 ")]);
    let identity = "dst.identity=spiffe://cluster.local/ns/shop/sa/inside ";
    let protocol = format!("protocol={protocol} ");
    for text in ["mtls=yes ", "dst.workload=inside ", identity, &protocol] {
        assert!(line.contains(text), "{text} is not in {line}");
    }
    assert!(!line.contains("reason="), "{line}");
}

fn bytes_arrive(stage: &Stage, host: &str) {
    for (port, name, route, protocol) in [
        ("9000", None, "TCPRoute/shop/steady-bytes", "opaque"),
        ("9443", Some(("ended.example.com", "ended")), "TLSRoute/shop/steady-ended", "opaque"),
        ("9443", Some(("bytes.example.com", "bytes")), "TCPRoute/shop/steady-ended-bytes", "opaque"),
    ] {
        let said = say(stage, (host, port), name);
        assert!(said.contains("+PONG"), "{route}: {said}");
        check_hop(stage, route, protocol);
    }
}

fn tls_arrives(stage: &Stage, host: &str) {
    for (file, url, route, protocol) in [
        // The client's own, which no policy wraps again.
        ("passed", "https://passed.example.com:9443/", "TLSRoute/shop/steady-passed", "tls"),
        // The Gateway's, around what the client says in plain text, and in a TLS that has ended.
        ("passed", "http://begun.example.com:9001/", "TCPRoute/shop/steady-begun", "opaque"),
        ("secure", "https://secure.example.com:9443/", "TLSRoute/shop/steady-begun-again", "opaque"),
        ("special", "https://special.example.com:9443/", "TCPRoute/shop/steady-begun-bytes", "opaque"),
    ] {
        let trusted = stage.file(&format!("{file}.pem"));
        let answer = stage.curl_at(host, &["--http1.1", "--cacert", &trusted, url]);
        assert!(answer.printed.contains("s_server -accept 9443"), "{route}: {answer:?}");
        check_hop(stage, route, protocol);
    }
}

/// Both ends are gRPC's own; the server takes nothing but TLS.
fn calls_arrive(stage: &Stage, host: &str) {
    let client = grpc_tool("grpc-client");
    let call = |port: u16, arguments: &[&str]| {
        let target = format!("{host}:{port}");
        let full = [&[&*client, "-target", &target], arguments].concat();
        stage.world().exec("client", &full).unwrap().checked().unwrap().stdout
    };
    let messages: String = (0..20).map(|number| format!("message {number}\n")).collect();
    for (port, name) in [(8100, "inside"), (8101, "open")] {
        let said = call(port, &["-headers", "x-said=one,x-said=two", "-size", "100000", "unary"]);
        assert_eq!(said, format!("{name} heard=one|two last=one|two size=100000\n"));
        assert_eq!(call(port, &["status"]), "code=FailedPrecondition message=as it was asked\n");
        assert_eq!(call(port, &["-count", "300", "-size", "20000", "upload"]), "size=6000000\n");
        assert_eq!(call(port, &["-count", "20", "duplex"]), messages);
    }
    check_hop(stage, "GRPCRoute/shop/steady-calls", "grpc");
    let open = stage.wait_line_of(NAME, &["route=GRPCRoute/plain/steady-calls/0 ", "protocol=grpc "]);
    assert!(open.contains("mtls=no "), "{open}");
    // The control: the same server, where the Gateway does not know of its TLS.
    let said = call(8102, &["unary"]);
    assert!(said.starts_with("code=Unavailable ") && said.contains("reason="), "{said}");
}
