//! What the mesh does not know, and what it does not route: pods' own addresses, pods that are not enrolled,
//! addresses outside.

use node_proxy::demo::command::until;

use crate::rig::{PATIENCE, PYTHON, hex, stage};

#[test]
fn a_pod_that_is_not_enrolled_is_reached_in_plain_text() {
    let stage = stage();
    let address = stage.address("stranger");
    stage.curl(&[&format!("http://{address}:8080/to-a-stranger")]);
    let seen = &stage.requests("stranger", "/to-a-stranger");
    assert_eq!((seen.len(), &seen[0]["from"]), (1, &stage.address("client").into()));
    let line = stage.wait_lines("node-a", &[&format!("dst.addr={address}:8080 ")], 1).pop().unwrap();
    line.check(&[
        ("mtls", "no"),
        ("plaintext_reason", "destination_not_enrolled"),
        ("route", ""),
        ("protocol", "opaque"),
        ("path", ""),
    ]);
    assert!(stage.lines("node-b", &[&format!("dst.addr={address}:8080 ")]).is_empty(), "it was captured");
}

#[test]
fn ends_are_kept_on_the_way_to_a_stranger() {
    let stage = stage();
    let address = stage.address("stranger");
    let seen = stage.speak(&address, 9000, &[&hex("hash\n"), "bulk:3000000", "half", "rest"]);
    assert!(
        seen.text.starts_with("3000000 ") && seen.text.ends_with(&format!(" {}\n", stage.address("client"))),
        "{seen:?}"
    );
    assert_eq!(stage.speak(&address, 9000, &[&hex("reset\n"), "rest"]).end, "reset");
}

#[test]
fn a_pods_own_address_is_never_routed_but_takes_the_hop() {
    let stage = stage();
    for (pod, port) in [("go-1", 8080), ("go-2", 8080)] {
        let address = stage.address(pod);
        // By the route of the Service this header would go to go-2.
        let answer = stage.curl(&[
            "-H",
            "version: new",
            "-H",
            "host: routed",
            &format!("http://{address}:{port}/by-address"),
        ]);
        assert!(answer.starts_with(&format!("{pod} ")), "{answer}");
        stage.wait_lines(
            "node-a",
            &["direction=outbound", &format!("dst.addr={address}:{port} "), "protocol=opaque"],
            1,
        )[0]
        .check(&[
            ("mtls", "yes"),
            ("route", ""),
            ("backend", ""),
            ("dst.service", ""),
            ("dst.identity", &format!("spiffe://cluster.local/ns/shop/sa/{pod}")),
        ]);
    }
}

#[test]
fn an_address_outside_the_mesh_is_passed_through() {
    let stage = stage();
    let server = [PYTHON, &crate::rig::tool("origin.py"), "http", "8088"];
    // The node's own address is no pod's: an address outside, as far as the mesh knows.
    let mut outside = std::process::Command::new("ip")
        .args(["netns", "exec", &stage.world.running_node("node-b").unwrap().netns])
        .args(server)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let url = "http://192.168.2.2:8088/outside";
    let reached = until(PATIENCE, || stage.status(&[url]) == "200");
    let sixth = stage.status(&["-g", "http://[fd67:6d72:11:2::2]:8088/outside"]);
    let _ = outside.kill();
    let _ = outside.wait();
    assert!(reached, "the node was not reached");
    assert_eq!(sixth, "200");
    let lines = stage.some_lines("node-a", &["dst.addr=192.168.2.2:8088 ", "mtls=no"]);
    lines[0].check(&[("plaintext_reason", "destination_unknown"), ("route", ""), ("level", "INFO")]);
}

#[test]
fn an_address_that_refuses_is_refused_without_an_answer() {
    let stage = stage();
    let address = stage.address("stranger");
    let seen = stage.speak(&address, 7, &["rest"]);
    assert_eq!((seen.text.as_str(), seen.end.as_str()), ("", "reset"));
    stage.wait_lines("node-a", &[&format!("dst.addr={address}:7 ")], 1)[0]
        .check(&[("reason", "connect_failed")]);
}

#[test]
fn a_pod_outside_the_mesh_reaches_one_inside_in_plain_text() {
    let stage = stage();
    let address = stage.address("raw");
    let seen = stage.speak_from(
        "visitor",
        &address,
        8080,
        &[&hex("GET /from-a-visitor HTTP/1.1\r\nHost: raw\r\n\r\n"), "read:Host: raw"],
    );
    assert!(seen.text.starts_with("HTTP/1.1 200 "), "{seen:?}");
    assert_eq!(stage.requests("raw", "/from-a-visitor")[0]["from"], stage.address("visitor"));
    let line = stage
        .wait_lines("node-b", &["direction=inbound", &format!("src.addr={}:", stage.address("visitor"))], 1)
        .pop()
        .unwrap();
    line.check(&[("mtls", "no"), ("plaintext_reason", "source_not_enrolled"), ("src.identity", "")]);
}
