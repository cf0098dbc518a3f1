//! Within a node: a pod that calls itself, two pods of one node, and ports that nobody listens on.

use std::io;
use std::time::Duration;

use node_proxy::demo::world::World;

use super::rig::{
    End, address, ask_plain, connect, curl, logged, nodes, read_to_end, service, settle, stage, timed, url_of,
};

/// Two enrolled pods on node-b, in a namespace of this label.
#[track_caller]
fn neighbours(namespace: &str) -> World {
    let mut world = nodes(World::builder());
    let pod = world.pod("server").namespace(namespace).service_account("server").on("node-b");
    pod.labels(&[("app", "server"), ("app", "guarded")]).app("server").unwrap().start().unwrap();
    let pod = world.pod("client").namespace(namespace).service_account("client").on("node-b");
    pod.app("client").unwrap().start().unwrap();
    world
}

#[track_caller]
fn check_self(namespace: &str, selected: &str) {
    let mut world = neighbours(namespace);
    let yaml = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: self, namespace: {namespace}}}, \
         spec: {{selector: {{app: {selected}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
    );
    world.apply(&yaml).unwrap();
    let url = format!("http://self.{namespace}/by-service");
    settle(&world, "server", &url, "server");
    let line = logged(&world, "node-b", &["direction=outbound", "src.workload=server", "/by-service"]);
    assert!(line.contains("mtls=no") && line.contains("plaintext_reason=same_pod"), "{line}");
    let own = curl(&world, "server", &[&url_of(&world, "server", "/by-address")]);
    assert!(own.stdout.starts_with("server: GET /by-address"), "{own:?}");
    let local = curl(&world, "server", &["http://127.0.0.1:8080/by-loopback"]);
    assert!(local.stdout.starts_with("server: GET /by-loopback"), "{local:?}");

    // Its neighbour takes the same hop as a pod of another node.
    settle(&world, "client", &format!("http://self.{namespace}/from-next-door"), "server");
    let line = logged(&world, "node-b", &["direction=outbound", "/from-next-door", "mtls=yes"]);
    assert!(line.contains("mtls=yes") && line.contains("sa/server"), "{line}");
    let by_address = curl(&world, "client", &[&url_of(&world, "server", "/next-door-by-address")]);
    assert!(by_address.success(), "{by_address:?}");
    let line = logged(&world, "node-b", &["direction=inbound", "src.workload=client", "mtls=yes"]);
    assert!(line.contains("sa/client"), "{line}");
}

#[test]
fn a_pod_calls_itself_in_plain_text_and_its_neighbour_by_the_hop() {
    check_self("shop", "guarded");
}

#[test]
fn a_pod_of_a_strict_namespace_calls_itself_too() {
    check_self("vault", "guarded");
}

#[test]
fn a_port_that_nobody_listens_on_fails_as_without_a_mesh() {
    let world = stage();
    let nobody = address(&world, "server", 9999);
    for place in ["outsider", "node-b", "node-a"] {
        let (outcome, took) = timed(|| connect(&world, place, nobody));
        let error = outcome.expect_err(place);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{place}");
        assert!(took < Duration::from_secs(1), "{place}: {took:?}");
    }
    // An enrolled client's connect() is taken by its proxy; the refusal follows at once.
    for destination in [nobody, service(&world, "server.shop", 9999)] {
        let (outcome, took) = timed(|| {
            connect(&world, "client", destination)
                .map_or_else(|_| End::Broken, |mut stream| read_to_end(&mut stream).1)
        });
        assert_eq!(outcome, End::Broken, "{destination}");
        assert!(took < Duration::from_secs(1), "{destination}: {took:?}");
    }
    logged(&world, "node-a", &["direction=outbound", "reason=connect_failed", "9999"]);
    let line = curl(&world, "client", &["http://server.shop/still-there"]);
    assert!(line.success(), "the Service's other port: {line:?}");
    // A declared HTTP port whose target nobody listens on is answered.
    let (answer, _) =
        ask_plain(&mut connect(&world, "client", service(&world, "server.shop", 9080)).unwrap(), "/");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connect_failed"), "{answer}");
}
