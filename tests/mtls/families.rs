//! IPv4 only, IPv6 only, both, and a pod in which one of the two is switched off.

use std::io::Write as _;

use node_proxy::demo::address::Families;
use node_proxy::demo::world::World;

use super::rig::{
    APP, End, accepted, address, connect, curl, expect_bytes, listen, logged, nodes, read_to_end, service,
    settle, settle_hop, staged,
};

/// HTTP and an opaque connection through the hop, with the client's address kept, and nothing readable.
#[track_caller]
fn check(families: Families) {
    let world = staged(World::builder().families(families));
    let wire = world.capture().unwrap();
    for (number, server) in world.running_pod("server").unwrap().addresses.iter().enumerate() {
        let client = world.running_pod("client").unwrap().addresses[number];
        let url = format!("http://{}/marker-address", std::net::SocketAddr::new(*server, APP));
        let answer = curl(&world, "client", &[&url]);
        assert_eq!(answer.stdout, format!("server: GET /marker-address from {client}\n"), "{answer:?}");
        logged(
            &world,
            "node-a",
            &[&format!("dst.addr={}", std::net::SocketAddr::new(*server, APP)), "mtls=yes"],
        );
        let control = url.replace("marker-address", &format!("marker-control-{number}"));
        assert!(curl(&world, "outsider", &[&control]).success());
    }
    let answer = curl(&world, "client", &["http://server.shop/marker-service"]);
    assert!(answer.stdout.starts_with("server: GET /marker-service"), "{answer:?}");
    let strict = curl(&world, "client", &["http://guarded.vault/marker-strict"]);
    assert!(strict.stdout.starts_with("guarded:"), "{strict:?}");

    let application = listen(&world, "server", address(&world, "server", super::rig::OWN_APP));
    let destination = service(&world, "server.shop", 9000);
    let mut client = connect(&world, "client", destination).unwrap();
    let mut app = accepted(&application);
    // The server speaks first.
    app.write_all(b"220 marker-greeting\r\n").unwrap();
    expect_bytes(&mut client, "220 marker-greeting\r\n");
    client.write_all(b"QUIT marker\r\n").unwrap();
    expect_bytes(&mut app, "QUIT marker\r\n");
    drop(app);
    assert_eq!(read_to_end(&mut client), (String::new(), End::Clean));

    let recording = wire.stop().unwrap();
    for number in 0..world.running_pod("server").unwrap().addresses.len() {
        assert!(recording.shows(&format!("marker-control-{number}")), "the capture sees nothing");
    }
    for marker in ["marker-address", "marker-service", "marker-strict", "marker-greeting"] {
        assert!(!recording.shows(marker), "{marker} was readable between the nodes");
    }
}

#[test]
fn both_families_carry_the_hop() {
    check(Families::Dual);
}

#[test]
fn ipv4_alone_carries_the_hop() {
    check(Families::V4);
}

#[test]
fn ipv6_alone_carries_the_hop() {
    check(Families::V6);
}

#[test]
fn a_pod_with_one_family_switched_off_joins_with_the_other() {
    let mut world = nodes(World::builder());
    world.pod("client").namespace("shop").service_account("client").on("node-a").start().unwrap();
    // As a runtime's sysctls do it: IPv6 goes from a pod that has joined, and it joins anew.
    let pod = world.pod("server").namespace("shop").service_account("server").on("node-b");
    pod.labels(&[("app", "server")]).app("server").unwrap().start().unwrap();
    settle(&world, "client", "http://server.shop", "server");
    world.call_plugin("DEL", "server").unwrap();
    let off = ["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"];
    world.exec("server", &off).unwrap().checked().unwrap();
    world.call_plugin("ADD", "server").unwrap();
    settle_hop(&world, "client", &super::rig::url_of(&world, "server", "/"), "server");
    let url = super::rig::url_of(&world, "server", "/by-ipv4");
    assert!(curl(&world, "client", &[&url]).stdout.starts_with("server: GET /by-ipv4"));
    let line = logged(&world, "node-b", &["direction=inbound", "mtls=yes", "dst.workload=server"]);
    assert!(line.contains("src.workload=client"), "{line}");
}
