//! A Gateway that changes while it serves: certificates, listeners, routes, and its own end.

use std::time::Duration;

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;

use crate::rig::{ALL, GATEWAY, PATIENCE, gateway, make_certificate, route, secret, stage};

#[test]
fn listeners_come_and_go_and_a_certificate_is_exchanged_while_it_serves() {
    let stage = stage();
    let dir = stage.world().dir().to_owned();
    let first = format!("{{name: first, port: 8001, protocol: HTTP, {ALL}}}");
    let secured = format!(
        "{{name: secured, port: 8444, protocol: HTTPS, hostname: moving.example.com, \
         tls: {{certificateRefs: [{{name: moving}}]}}, {ALL}}}"
    );
    make_certificate(&dir, "moving-1", &["moving.example.com"]);
    make_certificate(&dir, "moving-2", &["moving.example.com"]);
    {
        let mut world = stage.world();
        let objects = [gateway("moving", &first), route("moving", "moving")].join("\n---\n");
        world.apply_in("edge", "a second Gateway", &objects).unwrap();
        world.gateway_pod("moving", ("edge", "moving"), "node-b").unwrap();
    }
    let host = stage.world().running_pod("moving").unwrap().addresses[0].to_string();
    let ask = |port: u16, scheme: &str, trusted: &str| {
        let url = format!("{scheme}://moving.example.com:{port}/");
        let to = format!("::{host}:");
        let trusted = stage.file(trusted);
        let command = ["curl", "-s", "-S", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"];
        let more = ["--connect-to", &to, "--cacert", &trusted, &url];
        stage.world().exec("client", &[&command[..], &more].concat()).unwrap().stdout
    };
    assert_eq!(ask(8001, "http", "moving-1.pem"), "200");
    assert_eq!(ask(8444, "https", "moving-1.pem"), "000");
    // A listener without its certificate is not served, and in nobody's way; with it, it is.
    let both = gateway("moving", &format!("{first}, {secured}"));
    stage.world().apply_in("edge", "with HTTPS", &both).unwrap();
    assert_eq!(ask(8001, "http", "moving-1.pem"), "200");
    assert_eq!(ask(8444, "https", "moving-1.pem"), "000");
    stage.world().apply_in("edge", "its certificate", &secret(&dir, "moving-1", ("edge", "moving"))).unwrap();
    assert!(until(PATIENCE, || ask(8444, "https", "moving-1.pem") == "200"), "no HTTPS");
    stage
        .world()
        .apply_in("edge", "another certificate", &secret(&dir, "moving-2", ("edge", "moving")))
        .unwrap();
    assert!(until(PATIENCE, || ask(8444, "https", "moving-2.pem") == "200"), "the old certificate");
    assert_eq!(ask(8444, "https", "moving-1.pem"), "000");
    // The first listener goes; its port is closed.
    stage.world().apply_in("edge", "HTTPS alone", &gateway("moving", &secured)).unwrap();
    assert!(until(PATIENCE, || ask(8001, "http", "moving-1.pem") == "000"), "the port is still open");
    assert_eq!(ask(8444, "https", "moving-2.pem"), "200");
    // Told to stop, it ends by itself.
    let mut world = stage.world();
    let stopped = world.application("moving").unwrap().stop(Signal::SIGTERM, Duration::from_secs(10));
    assert!(stopped.unwrap().success());
    world.remove_pod("moving").unwrap();
}

#[test]
fn a_gateway_that_cannot_have_one_port_serves_the_others() {
    let stage = stage();
    // The admin server of the Gateway's own pod has this one.
    let taken = format!("{{name: taken, port: 15021, protocol: HTTP, {ALL}}}");
    let free = format!("{{name: free, port: 8002, protocol: HTTP, {ALL}}}");
    let log = {
        let mut world = stage.world();
        let objects = [gateway("torn", &format!("{taken}, {free}")), route("torn", "torn")].join("\n---\n");
        world.apply_in("edge", "a Gateway with a port that is taken", &objects).unwrap();
        // It is never ready: one of its ports is not open.
        let not_ready = world.gateway_pod("torn", ("edge", "torn"), "node-a").unwrap_err();
        assert!(not_ready.to_string().contains("the Gateway's ports"), "{not_ready}");
        world.application("torn").unwrap().log()
    };
    assert!(log.contains("port 15021"), "{log}");
    let host = stage.world().running_pod("torn").unwrap().addresses[0].to_string();
    let to = format!("::{host}:");
    let command = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--connect-to",
        &to,
        "http://torn.example.com:8002/",
    ];
    assert_eq!(stage.world().exec("client", &command).unwrap().stdout, "200");
    stage.world().remove_pod("torn").unwrap();
    assert!(stage.lines(&["torn"]).is_empty(), "{GATEWAY} has had requests of another Gateway");
}
