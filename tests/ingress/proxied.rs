//! A Gateway whose connections begin with the PROXY protocol: of HAProxy, of curl, byte by byte, and of nobody.

use std::fs;

use node_proxy::demo::command::until;
use serde_json::json;

use crate::rig::{ALL, PATIENCE, Stage, gateway, route, stage};

const HAPROXY: &str = "global
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen http
  bind :::80 v4v6
  server gateway GATEWAY:80 send-proxy-v2 proxy-v2-options crc32c,authority
listen https
  bind :::443 v4v6
  server gateway GATEWAY:443 send-proxy
listen tls
  bind :::8443 v4v6
  server gateway GATEWAY:8443 send-proxy-v2
listen bytes
  bind :::9000 v4v6
  server gateway GATEWAY:9000 send-proxy
";

/// Starts a Gateway with a listener of each protocol, to which PROXY is to be spoken.
fn start(stage: &Stage, name: &str, flags: &[&str]) -> String {
    let listeners = [
        format!("{{name: http, port: 80, protocol: HTTP, {ALL}}}"),
        format!(
            "{{name: https, port: 443, protocol: HTTPS, hostname: secure.example.com, \
             tls: {{certificateRefs: [{{name: secure}}]}}, {ALL}}}"
        ),
        format!("{{name: tls, port: 8443, protocol: TLS, tls: {{mode: Passthrough}}, {ALL}}}"),
        format!("{{name: bytes, port: 9000, protocol: TCP, {ALL}}}"),
    ];
    let of_connections = |kind: &str, listener: &str, more: &str, port: u16| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: plain}}, \
             spec: {{parentRefs: [{{name: {name}, namespace: edge, sectionName: {listener}}}], {more} \
             rules: [{{backendRefs: [{{name: open, port: {port}}}]}}]}}}}"
        )
    };
    let objects = [
        gateway(name, &listeners.join(", ")),
        route(name, name),
        of_connections("TLSRoute", "tls", "hostnames: [passed.example.com],", 443),
        of_connections("TCPRoute", "bytes", "", 9000),
    ];
    let mut world = stage.world();
    world.apply_in("edge", "a Gateway behind a load balancer", &objects.join("\n---\n")).unwrap();
    world.gateway_pod_with(name, ("edge", name), "node-a", flags).unwrap();
    drop(world);
    stage.address(name)
}

/// What comes back to a client that says this.
#[track_caller]
fn speak(stage: &Stage, place: (&str, &str), text: &str, size: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ingress/speak.py");
    let command = ["/usr/bin/python3", script, place.0, place.1, text, "--in", size];
    let done = stage.world().exec("client", &command).unwrap();
    assert!(done.success(), "{text}: {done:?}");
    done.stdout
}

/// A header of version 2 with escapes, `command` and `block` among it.
fn version2(command: &str, block: &[u8]) -> String {
    let block: String = block.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\\r\\n\\r\\n\\x00\\r\\nQUIT\\n{command}\\x00\\x{:02x}{block}", block.len() / 4)
}

const REQUEST: &str =
    "GET /PATH HTTP/1.1\\r\\nhost: any\\r\\naccept: application/json\\r\\nconnection: close\\r\\n\\r\\n";
/// 203.0.113.5:4711 to 198.51.100.1:80.
const BLOCK: [u8; 12] = [203, 0, 113, 5, 198, 51, 100, 1, 0x12, 0x67, 0, 80];

#[test]
fn a_connection_is_of_the_client_that_its_header_names_in_each_protocol() {
    let stage = stage();
    let host = start(&stage, "proxied", &["--proxy-protocol"]);
    {
        let mut world = stage.world();
        let balancer = world.pod("balancer").namespace("outside").on("node-b");
        balancer.program(&["sleep", "infinity"]).start().unwrap();
    }
    let file = stage.file("haproxy.cfg");
    fs::write(&file, HAPROXY.replace("GATEWAY", &host)).unwrap();
    let balancing = stage.world().spawn("balancer", "haproxy", &["haproxy", "-db", "-f", &file]).unwrap();
    let listens = || stage.world().exec("balancer", &["ss", "-Hltn"]).unwrap().stdout.contains(":9000 ");
    assert!(until(PATIENCE, listens), "HAProxy does not listen");
    let (client, balancer) = (stage.address("client"), stage.address("balancer"));
    let check_line = |texts: &[&str]| {
        let line = stage.wait_line_of("proxied", texts);
        assert!(line.contains(&format!("src.addr={client}:")), "{line}");
        assert!(line.contains(&format!(" peer.addr={balancer}:")), "{line}");
    };
    // HTTP of both versions, and HTTPS. What the client says of itself does not count any more than elsewhere.
    let trusted = stage.file("secure.pem");
    for (path, scheme, arguments) in [
        ("one", "http", &["--http1.1", "http://any.example.com/one"][..]),
        ("two", "http", &["--http2-prior-knowledge", "http://any.example.com/two"]),
        ("three", "https", &["--http2", "--cacert", &trusted, "https://secure.example.com/three"]),
    ] {
        let lie = ["-H", "x-forwarded-for: 9.9.9.9"];
        let seen = stage.ask_at(&balancer, &[&lie[..], arguments].concat());
        assert_eq!(seen["headers"]["x-forwarded-for"], json!([client]), "{seen}");
        assert_eq!(seen["headers"]["x-forwarded-proto"], json!([scheme]), "{seen}");
        check_line(&["status=200", &format!("path=/{path} ")]);
    }
    // TLS that goes on, and bytes.
    let trusted = stage.file("passed.pem");
    let answer = stage.curl_at(&balancer, &["--cacert", &trusted, "https://passed.example.com:8443/"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    check_line(&["protocol=tls", "route=TLSRoute/plain/proxied/0"]);
    let ping = "exec 3<>/dev/tcp/HOST/9000; printf '*1\\r\\n$4\\r\\nPING\\r\\n' >&3; head -c 7 <&3";
    let ping = ping.replace("HOST", &balancer);
    let said = stage.world().exec("client", &["timeout", "10", "bash", "-c", &ping]).unwrap().stdout;
    assert_eq!(said, "+PONG\r\n");
    check_line(&["protocol=opaque", "route=TCPRoute/plain/proxied/0"]);
    // A client of IPv6.
    let addresses = stage.world().running_pod("balancer").unwrap().addresses.clone();
    let address = addresses.iter().find(|address| address.is_ipv6()).unwrap();
    let seen = stage.ask_at(&format!("[{address}]"), &["http://any.example.com/six"]);
    let told = seen["headers"]["x-forwarded-for"][0].as_str().unwrap().to_owned();
    let clients = stage.world().running_pod("client").unwrap().addresses.clone();
    assert!(clients.iter().any(|client| client.is_ipv6() && client.to_string() == told), "{seen}");
    drop(balancing);
    // curl speaks it by itself, and says its own address.
    let answer = stage.curl_at(&host, &["--haproxy-protocol", "http://any.example.com/curl"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    header_by_header(&stage, &host, &client);
    stage.world().remove_pod("proxied").unwrap();
    stage.world().remove_pod("balancer").unwrap();
}

/// Headers that no load balancer would write so, and connections without one.
fn header_by_header(stage: &Stage, host: &str, client: &str) {
    let say = |path: &str, header: &str, size: &str| {
        let text = format!("{header}{}", REQUEST.replace("PATH", path));
        speak(stage, (host, "80"), &text, size)
    };
    for (path, header, size, told) in [
        ("whole", version2("\\x21\\x11", &BLOCK), "65536", "203.0.113.5"),
        ("bytes", version2("\\x21\\x11", &BLOCK), "1", "203.0.113.5"),
        ("line", "PROXY TCP4 203.0.113.6 198.51.100.1 4711 80\\r\\n".to_owned(), "3", "203.0.113.6"),
        ("local", version2("\\x20\\x00", &[]), "65536", client),
        ("unspec", version2("\\x21\\x00", &BLOCK), "65536", client),
        ("unknown", "PROXY UNKNOWN\\r\\n".to_owned(), "65536", client),
    ] {
        let said = say(path, &header, size);
        assert!(said.starts_with("HTTP/1.1 200") && said.contains(told), "{path}: {said}");
        let line = stage.wait_line_of("proxied", &[&format!("path=/{path} ")]);
        assert!(line.contains(&format!("src.addr={told}:")), "{line}");
        assert_eq!(line.contains("peer.addr"), told != client, "{line}");
    }
    let before = counted(stage);
    let spoilt = [&BLOCK[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
    for (header, error) in [
        ("", "does not begin with a header"),
        ("PROXY TCP4 203.0.113.256 198.51.100.1 4711 80\\r\\n", "malformed"),
        (&version2("\\x21\\x11", &spoilt), "checksum is wrong"),
        (&version2("\\x21\\x11", &BLOCK[..8]), "shorter than what is in it"),
    ] {
        assert_eq!(say("refused", header, "65536"), "reset\n", "{header}");
        let line = stage.wait_line_of("proxied", &["reason=malformed_proxy_header", error]);
        assert!(line.contains(&format!("src.addr={client}:")), "{line}");
    }
    assert!(stage.lines_of("proxied", &["refused"]).is_empty(), "one was served");
    assert_eq!(counted(stage) - before, 4);
    // TLS has its header before the handshake, and without one there is none.
    let bare = stage.curl_at(host, &["-k", "https://secure.example.com/"]);
    assert_eq!(bare.status, 0, "{bare:?}");
    // Who only asks whether the port is open is no failure, and the doors for probes are as they were.
    let before = counted(stage);
    let probe = format!("exec 3<>/dev/tcp/{host}/80");
    assert!(stage.world().exec("client", &["bash", "-c", &probe]).unwrap().success());
    assert_eq!(say("refused", "", "65536"), "reset\n");
    assert_eq!(counted(stage) - before, 1, "a probe was counted");
    let url = format!("http://{host}:15021/readyz");
    assert!(stage.world().exec("client", &["curl", "-s", "--fail", &url]).unwrap().success());
}

/// How many connections were refused for want of a header.
fn counted(stage: &Stage) -> u32 {
    let probe = ["curl", "-s", "http://127.0.0.1:15000/metrics"];
    let metrics = stage.world().exec("proxied", &probe).unwrap().stdout;
    let is_it = |line: &&str| {
        line.starts_with("gammarus_failures_total{") && line.contains("reason=\"malformed_proxy_header\"")
    };
    metrics.lines().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn only_those_who_may_speak_for_clients_are_served() {
    let stage = stage();
    let client = stage.address("client");
    {
        let mut world = stage.world();
        let other = world.pod("other").namespace("outside").on("node-a");
        other.program(&["sleep", "infinity"]).start().unwrap();
    }
    let from = format!("--proxy-protocol-from=192.0.2.0/24,{client}");
    let host = start(&stage, "guarded", &["--proxy-protocol", &from, "--trusted-hops=1"]);
    // A proxy in front of the load balancer is believed, too, and the header names that proxy.
    let header = version2("\\x21\\x11", &BLOCK);
    let request =
        REQUEST.replace("PATH", "both").replacen("host:", "x-forwarded-for: 198.51.100.9\\r\\nhost:", 1);
    let said = speak(&stage, (&host, "80"), &format!("{header}{request}"), "65536");
    assert!(said.contains("198.51.100.9, 203.0.113.5"), "{said}");
    let line = stage.wait_line_of("guarded", &["path=/both "]);
    assert!(
        line.contains("src.addr=198.51.100.9 ") && line.contains(&format!("peer.addr={client}:")),
        "{line}"
    );
    // Somebody else says the same, and nobody listens.
    let url = format!("http://{host}/");
    let command = ["curl", "-sS", "--max-time", "10", "--haproxy-protocol", &url];
    let refused = stage.world().exec("other", &command).unwrap();
    assert!(!refused.success() && refused.stdout.is_empty(), "{refused:?}");
    stage.wait_line_of("guarded", &["reason=proxy_source_refused"]);
    stage.world().remove_pod("guarded").unwrap();
    stage.world().remove_pod("other").unwrap();
}
