//! A strict namespace takes mTLS of the trust domain, its node's own processes, and the ports that it names.

use std::io::Read;
use std::time::Duration;

use node_proxy::demo::world::World;

use super::rig::{
    APP, End, OWN_APP, accept, address, ask_plain, connect, curl, curl_on_node, failures, listen, listen_in,
    logged, nodes, read_to_end, remove_mark, settle, stage, timed, url_of,
};

#[test]
fn strict_refuses_plain_text_and_lets_the_mesh_and_the_nodes_own_processes_in() {
    let world = stage();
    let application = listen_in(&world, "guarded");
    let before = failures(&world, "node-b", "inbound", "plaintext_refused");
    let mut plain = connect(&world, "outsider", address(&world, "guarded", OWN_APP)).unwrap();
    assert_eq!(ask_plain(&mut plain, "/plain"), (String::new(), End::Broken));
    assert!(accept(&application, Duration::from_millis(200)).is_none(), "plain text reached the application");
    let line = logged(&world, "node-b", &["direction=inbound", "reason=plaintext_refused"]);
    assert!(line.contains("src.workload=outsider") && line.contains("dst.workload=guarded"), "{line}");
    assert!(failures(&world, "node-b", "inbound", "plaintext_refused") > before);

    let url = url_of(&world, "guarded", "/from-the-mesh");
    assert_eq!(curl(&world, "client", &[&url]).stdout, answer(&world, "/from-the-mesh", "client"));
    let line = logged(&world, "node-a", &["direction=outbound", "dst.workload=guarded", "mtls=yes"]);
    assert!(line.contains("dst.identity=spiffe://cluster.local/ns/vault/sa/guarded"), "{line}");

    // As the kubelet probes.
    let probe = curl_on_node(&world, "node-b", &[&url_of(&world, "guarded", "/probe")]);
    assert!(probe.stdout.starts_with("guarded: GET /probe"), "{probe:?}");
    logged(&world, "node-b", &["direction=inbound", "dst.workload=guarded", "plaintext_reason=node_process"]);
    let other_node = curl_on_node(&world, "node-a", &[&url_of(&world, "guarded", "/other")]);
    assert!(!other_node.success(), "a process of another node is no process of this one: {other_node:?}");
}

#[track_caller]
fn answer(world: &World, path: &str, client: &str) -> String {
    format!("guarded: GET {path} from {}\n", super::rig::ip(world, client))
}

#[test]
fn strict_does_not_take_a_masqueraded_client_for_the_node() {
    let mut world = stage();
    world.pod("near").namespace("outside").on("node-b").start().unwrap();
    let rules = "add table inet masq; \
                 add chain inet masq post { type nat hook postrouting priority 100; }; \
                 add rule inet masq post meta nfproto ipv4 oifname \"pod*\" ip saddr 10.244.0.0/16 masquerade";
    world.exec_on_node("node-b", &["nft", rules]).unwrap().checked().unwrap();
    // Both seem to come from the node: one is a process of it.
    for pod in ["near", "outsider"] {
        let refused = curl(&world, pod, &[&url_of(&world, "guarded", "/masqueraded")]);
        assert!(!refused.success(), "{pod}: {refused:?}");
    }
    let line = logged(&world, "node-b", &["direction=inbound", "reason=plaintext_refused"]);
    assert!(!line.contains("src.workload="), "the client was not masqueraded: {line}");
    let probe = curl_on_node(&world, "node-b", &[&url_of(&world, "guarded", "/probe")]);
    assert!(probe.stdout.starts_with("guarded: GET /probe"), "{probe:?}");
}

#[test]
fn strict_resets_a_client_that_says_nothing_after_three_seconds() {
    let world = stage();
    let mut silent = connect(&world, "outsider", address(&world, "guarded", APP)).unwrap();
    let (outcome, took) = timed(|| read_to_end(&mut silent));
    assert_eq!(outcome, (String::new(), End::Broken));
    assert!((2500..6000).contains(&took.as_millis()), "{took:?}");
    logged(&world, "node-b", &["direction=inbound", "reason=handshake_timeout"]);
    assert!(failures(&world, "node-b", "inbound", "handshake_timeout") >= 1.0);
}

#[test]
fn a_client_that_only_connects_and_leaves_has_sent_no_plain_text() {
    let world = stage();
    let refused = || failures(&world, "node-b", "inbound", "plaintext_refused");
    let before = refused();
    let mut checking = connect(&world, "outsider", address(&world, "guarded", APP)).unwrap();
    checking.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut checking).0, "");
    logged(&world, "node-b", &["direction=inbound", "dst.workload=guarded", "reason=client_closed"]);
    assert!(refused() == before, "a check of the port is counted as plain text");
}

#[test]
fn ports_that_a_pod_excepts_take_plain_text_and_no_other_port_does() {
    let mut world = nodes(World::builder());
    world.pod("outsider").namespace("outside").on("node-a").start().unwrap();
    let pod = world.pod("guarded").namespace("vault").service_account("guarded").on("node-b");
    pod.annotation("gammarus.io/plaintext-ports", "8080").app("guarded").unwrap().start().unwrap();
    settle(&world, "outsider", &url_of(&world, "guarded", "/"), "guarded");
    logged(&world, "node-b", &["direction=inbound", "plaintext_reason=plaintext_port"]);
    let application = listen_in(&world, "guarded");
    let mut plain = connect(&world, "outsider", address(&world, "guarded", OWN_APP)).unwrap();
    assert_eq!(ask_plain(&mut plain, "/plain").1, End::Broken);
    assert!(accept(&application, Duration::from_millis(200)).is_none());
}

#[test]
fn plain_text_is_never_sent_to_a_strict_namespace_whose_pod_has_no_mark() {
    let world = stage();
    let wire = world.capture().unwrap();
    let control = curl(&world, "outsider", &[&url_of(&world, "server", "/marker-control")]);
    assert!(control.success(), "{control:?}");
    // A hop of before stays good; a new one would have to be plain.
    remove_mark(&world, "node-a", "guarded");
    let refused = curl(&world, "client", &["-i", "http://guarded.vault/marker-strict"]);
    assert!(refused.stdout.starts_with("HTTP/1.1 503"), "{refused:?}");
    assert!(refused.stdout.contains("gammarus-reason: plaintext_refused"), "{refused:?}");
    let by_address = curl(&world, "client", &[&url_of(&world, "guarded", "/marker-address")]);
    assert!(!by_address.success(), "{by_address:?}");
    let recording = wire.stop().unwrap();
    assert!(recording.shows("marker-control"), "the capture sees nothing");
    assert!(!recording.shows("marker-strict") && !recording.shows("marker-address"));
    assert!(failures(&world, "node-a", "outbound", "plaintext_refused") >= 2.0);
}

#[test]
fn a_namespace_that_turns_strict_ends_the_use_of_plain_hops() {
    let mut world = stage();
    // Without its mark the server is spoken with in plain text, and that connection is kept.
    remove_mark(&world, "node-a", "server");
    settle(&world, "client", "http://server.shop/plain", "server");
    let mut kept = connect_to_service(&world);
    assert!(keep_alive(&mut kept, "/kept").contains("GET /kept"));
    let wire = world.capture().unwrap();
    let before = super::rig::generation(&world, "node-a");
    world.namespace("shop", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
    let followed = || super::rig::generation(&world, "node-a") > before;
    assert!(node_proxy::demo::command::until(super::rig::PATIENCE, followed));
    let refused = keep_alive(&mut kept, "/marker-after-strict");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(!wire.stop().unwrap().shows("marker-after-strict"));
}

#[track_caller]
fn connect_to_service(world: &World) -> std::net::TcpStream {
    connect(world, "client", super::rig::service(world, "server.shop", 80)).unwrap()
}

/// One request on a connection that is kept; the answer's head and its first bytes.
#[track_caller]
fn keep_alive(stream: &mut std::net::TcpStream, path: &str) -> String {
    use std::io::Write as _;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: server\r\n\r\n").as_bytes()).unwrap();
    let head = super::peer::read_head(stream);
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8_lossy(&body)
}

#[test]
fn a_node_that_takes_the_clients_side_of_a_strict_pod_never_listens_in_its_place() {
    // A process of the node that merely listens on a port is no client: the kernel's lookup falls back to it.
    let world = stage();
    let gateway = "10.244.2.1".parse().unwrap();
    let _listening = listen(&world, "node-b", std::net::SocketAddr::new(gateway, 40_000));
    let line = format!("http://{}/", address(&world, "guarded", APP));
    let refused = curl(&world, "outsider", &["--local-port", "40000", &line]);
    assert!(!refused.success(), "{refused:?}");
}
