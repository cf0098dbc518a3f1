//! From pods of the mesh to a Gateway: by the mesh's hop as soon as the Gateway's pod is marked, and everybody else as before.

use std::fs;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use serde_json::Value;

use crate::rig::{ALL, GATEWAY, PATIENCE, Stage, gateway, route, stage};

const BUYER: &str = "spiffe://cluster.local/ns/buyers/sa/buyer";

/// The ports in the mark of a Gateway's pod; none as long as it has no mark.
fn marked_ports(world: &World, pod: &str) -> Vec<u64> {
    let file = world.objects_dir().join(format!("status/pods/edge.{pod}.yaml"));
    let text = fs::read_to_string(file).unwrap_or_default();
    let mark: Value = serde_saphyr::from_str(&text).unwrap_or_default();
    mark["ports"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// Waits until a Gateway's pod is marked with exactly these ports.
#[track_caller]
fn wait_marked(stage: &Stage, pod: &str, ports: &[u64]) {
    let is_marked = until(PATIENCE, || marked_ports(&stage.world(), pod) == ports);
    assert!(is_marked, "{pod} is marked with {:?}", marked_ports(&stage.world(), pod));
}

/// Waits until the buyer's node knows of the mark of the stage's Gateway.
#[track_caller]
fn marked() -> std::sync::Arc<Stage> {
    let stage = stage();
    wait_known(&stage, GATEWAY, &[80, 443, 8443, 9000, 9001]);
    stage
}

/// Waits until a Gateway's pod is marked with exactly these ports, which no other one has, and the buyer's node knows.
#[track_caller]
pub(crate) fn wait_known(stage: &Stage, pod: &str, ports: &[u64]) {
    wait_marked(stage, pod, ports);
    let mark = format!("\"hopPorts\":{ports:?}").replace(' ', "");
    let knows = || {
        let dump: String = stage.world().admin("node-b", "/snapshot").unwrap().split_whitespace().collect();
        dump.contains(&mark)
    };
    assert!(until(PATIENCE, knows), "node-b does not know of the mark");
}

/// Runs curl in the pod of the mesh.
#[track_caller]
fn buy(stage: &Stage, arguments: &[&str]) -> String {
    let fixed = ["curl", "-4", "-s", "-S", "--max-time", "10"];
    let done = stage.world().exec("buyer", &[&fixed[..], arguments].concat()).unwrap();
    assert!(done.success(), "{arguments:?}: {done:?}");
    done.stdout
}

/// Waits for a line of the Gateway's that says this and who has come.
#[track_caller]
fn check_known(stage: &Stage, texts: &[&str]) {
    let identity = format!("src.identity={BUYER} ");
    let line = stage.wait_line(&[&["direction=ingress", &identity], texts].concat());
    let addresses = stage.world().running_pod("buyer").unwrap().addresses.clone();
    let is_of_the_pod = addresses.iter().any(|own| {
        line.contains(&format!("src.addr={own}:")) || line.contains(&format!("src.addr=[{own}]:"))
    });
    assert!(is_of_the_pod && line.contains("src.workload=buyer"), "{line}");
}

#[test]
fn a_pod_of_the_mesh_is_known_at_the_gateway_and_nothing_of_it_can_be_read_on_the_way() {
    let stage = marked();
    let wire = stage.world().capture().unwrap();
    let control = stage.curl(&["http://plain.example.com/marker-outside"]);
    assert_eq!(control.status, 200, "{control:?}");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let path = format!("/marker-buyer{version}");
        let url = format!("http://front.edge{path}");
        let seen =
            buy(&stage, &[version, "-H", "host: site.example.com", "-H", "accept: application/json", &url]);
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["name"], "inside", "{seen}");
        // To whoever is behind the Gateway, the client is the pod.
        assert_eq!(seen["headers"]["x-forwarded-for"][0], stage.address("buyer"), "{seen}");
        check_known(&stage, &[&format!("path={path} "), "status=200", "route=HTTPRoute/shop/site/0"]);
        let mut own = String::new();
        let is_told = until(PATIENCE, || {
            let log = stage.world().access_log("node-b").unwrap();
            let line = log.lines().find(|line| line.contains("direction=outbound") && line.contains(&path));
            line.unwrap_or_default().clone_into(&mut own);
            line.is_some()
        });
        let gateway = "dst.identity=spiffe://cluster.local/ns/edge/sa/front";
        assert!(is_told && own.contains("mtls=yes") && own.contains(gateway), "{own}");
    }
    let recording = wire.stop().unwrap();
    assert!(recording.shows("marker-outside"), "the capture sees nothing");
    assert!(!recording.shows("marker-buyer"), "the hop to the Gateway can be read");
    assert!(stage.lines(&["marker-outside", "src.identity"]).is_empty(), "somebody outside is known");
}

#[test]
fn tls_of_the_clients_own_goes_on_inside_the_hop() {
    let stage = marked();
    let at = stage.world().exec("buyer", &["getent", "ahostsv4", "front.edge"]).unwrap().stdout;
    let at = at.split_whitespace().next().unwrap();
    for (name, port, file, texts) in [
        ("secure.example.com", "443", "secure", &["protocol=http2", "path=/by-tls "][..]),
        ("passed.example.com", "8443", "passed", &["protocol=tls", "route=TLSRoute/plain/passed/0"]),
    ] {
        let (to, trusted) = (format!("::{at}:"), stage.file(&format!("{file}.pem")));
        let url = format!("https://{name}:{port}/by-tls");
        let answer = buy(&stage, &["-i", "--connect-to", &to, "--cacert", &trusted, &url]);
        assert!(answer.contains(" 200"), "{name}: {answer}");
        check_known(&stage, texts);
    }
}

/// What a pod hears at a port of the Gateway within five seconds, having said a line once the server had said `after`.
#[track_caller]
fn talk(stage: &Stage, pod: &str, host: &str, port: u16, after: usize) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port}; head -c {after} <&3; printf '*1\\r\\n$4\\r\\nPING\\r\\n' >&3; head -c 4 <&3"
    );
    stage.world().exec(pod, &["timeout", "5", "bash", "-c", &script]).unwrap().stdout
}

#[test]
fn bytes_go_inside_the_hop_whoever_speaks_first() {
    let stage = marked();
    let outside = stage.gateway();
    for (port, after, expected) in [(9000, 0, "+PON"), (9001, 15, "220 greetings\r\n*1\r\n")] {
        assert_eq!(talk(&stage, "buyer", "front.edge", port, after), expected, "port {port}, in the mesh");
        assert_eq!(talk(&stage, "client", &outside, port, after), expected, "port {port}, outside of it");
    }
    check_known(&stage, &["route=TCPRoute/plain/bytes/0"]);
    check_known(&stage, &["route=TCPRoute/plain/greeting/0"]);
}

#[test]
fn a_first_word_of_the_mesh_that_comes_too_late_is_for_nobody_behind_the_gateway() {
    let stage = marked();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ingress/late_hello.py");
    let late = ["/usr/bin/python3", script, &stage.gateway(), "9001"];
    let done = stage.world().exec("client", &late).unwrap();
    assert_eq!(done.stdout, "b'220 greetings\\r\\n'\nreset\n", "{done:?}");
    let line = stage.wait_line(&["route=TCPRoute/plain/greeting/0", "reason=client_closed", "bytes_sent=0 "]);
    assert!(!line.contains("src.identity"), "{line}");
}

#[test]
fn what_is_no_listener_of_the_gateway_takes_no_hop_and_is_reached_as_before() {
    let stage = marked();
    let metrics = buy(&stage, &["http://front.edge:15021/metrics"]);
    assert!(metrics.contains("gammarus_"), "{metrics}");
    let by_address = buy(&stage, &[&format!("http://{}:15021/readyz", stage.gateway())]);
    assert!(!by_address.contains("gammarus"), "{by_address}");
    // By its address as by a Service's.
    let url = format!("http://{}/by-address", stage.gateway());
    assert!(buy(&stage, &["-H", "host: site.example.com", &url]).contains("inside"));
    check_known(&stage, &["path=/by-address "]);
}

#[test]
fn a_hop_of_another_version_is_refused_and_whoever_is_nobody_gets_none() {
    let stage = marked();
    let connect = format!("{}:80", stage.gateway());
    let hello = |protocol: &str| {
        let command = ["openssl", "s_client", "-connect", &connect, "-alpn", protocol, "-tls1_3"];
        let script = format!("timeout 5 {} </dev/null 2>&1; echo", command.join(" "));
        stage.world().exec("client", &["bash", "-c", &script]).unwrap().stdout
    };
    let other = hello("gammarus/9");
    assert!(!other.contains("BEGIN CERTIFICATE"), "{other}");
    stage.wait_line(&["direction=ingress", "reason=unknown_hop_version", "gammarus/9"]);
    let anonymous = hello("gammarus/1");
    assert!(anonymous.contains("ALPN protocol: gammarus/1"), "{anonymous}");
    let foreign = hello("h2");
    assert!(!foreign.contains("BEGIN CERTIFICATE"), "{foreign}");
    assert!(stage.lines(&["reason=handshake_failed"]).is_empty(), "asking for the hop is no failure");
}

#[test]
fn a_mark_follows_the_listeners_of_its_gateway() {
    let stage = stage();
    let listener = |name: &str, port: u16| format!("{{name: {name}, port: {port}, protocol: HTTP, {ALL}}}");
    let own = |listeners: &[String]| gateway("growing", &listeners.join(", "));
    let service = "{apiVersion: v1, kind: Service, metadata: {name: growing, namespace: edge}, \
                   spec: {selector: {app: growing}, ports: [{name: http, port: 80}, {name: http-more, port: 8080}]}}";
    {
        let mut world = stage.world();
        let objects = [own(&[listener("one", 80)]), route("growing", "growing"), service.to_owned()];
        world.apply_in("edge", "a Gateway that grows", &objects.join("\n---\n")).unwrap();
        world.gateway_pod("growing", ("edge", "growing"), "node-a").unwrap();
    }
    wait_marked(&stage, "growing", &[80]);
    let both = own(&[listener("one", 80), listener("two", 8080)]);
    stage.world().apply_in("edge", "one listener more", &both).unwrap();
    wait_marked(&stage, "growing", &[80, 8080]);
    assert!(buy(&stage, &["http://growing.edge:8080/second"]).contains("open"));
    // A proxy that is too busy to answer keeps what it has, and goes without what Services do not lead to any more.
    let frozen = stage.world().application("growing").unwrap().id();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(frozen.cast_signed()),
        nix::sys::signal::Signal::SIGSTOP,
    )
    .unwrap();
    let fewer = service.replace(", {name: http-more, port: 8080}", "");
    assert_ne!(fewer, service);
    stage.world().apply_in("edge", "a Service that leads to less", &fewer).unwrap();
    wait_marked(&stage, "growing", &[80]);
    stage.world().remove_pod("growing").unwrap();
}
