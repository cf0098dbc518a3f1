//! Backends that are spoken to in TLS (BackendTLSPolicy), in the mesh and outside of it.

use std::fs;

use node_proxy::demo::command::{Process, until};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::json;

use crate::rig::{ALL, PATIENCE, Stage, gateway, make_certificate, secret, stage};

/// A ConfigMap with such authorities.
pub(crate) fn authorities((namespace, name): (&str, &str), text: &str) -> String {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
        "data": {"ca.crt": text},
    });
    object.to_string()
}

/// Makes the certificates, starts the servers and the Gateway, and says where it is.
fn start(stage: &Stage) -> (String, [Process; 4]) {
    let dir = stage.world().dir().to_owned();
    // A certificate whose only name is a URI.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI("spiffe://a/b".try_into().unwrap())];
    fs::write(dir.join("by-uri.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("by-uri.key"), key.serialize_pem()).unwrap();
    make_certificate(&dir, "careful", &["careful.example.com"]);
    let servers = start_servers(stage);
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let both = [read("passed.pem"), read("by-uri.pem")].concat();
    let listeners = format!(
        "{{name: first, port: 8003, protocol: HTTP, {ALL}}}, {{name: calls, port: 8004, protocol: HTTP, {ALL}}}, \
         {{name: bytes, port: 9003, protocol: TCP, {ALL}}}, {{name: lost, port: 9004, protocol: TCP, {ALL}}}, \
         {{name: ended, port: 9443, protocol: TLS, hostname: careful.example.com, {ALL}, \
           tls: {{mode: Terminate, certificateRefs: [{{name: careful}}]}}}}"
    );
    let shows = "tls: {backend: {clientCertificateRef: {name: careful}}}, listeners:";
    let objects = [
        include_str!("backends.yaml").to_owned(),
        gateway("careful", &listeners).replace("listeners:", shows),
        secret(&dir, "careful", ("edge", "careful")),
        authorities(("plain", "backends"), &both),
        authorities(("shop", "backends"), &both),
    ];
    let mut world = stage.world();
    world.apply_in("edge", "a careful Gateway", &objects.join("\n---\n")).unwrap();
    world.gateway_pod("careful", ("edge", "careful"), "node-a").unwrap();
    (world.running_pod("careful").unwrap().addresses[0].to_string(), servers)
}

fn start_servers(stage: &Stage) -> [Process; 4] {
    let file = |name: &str| stage.file(name);
    let (key, certificate) = (file("passed.key"), file("passed.pem"));
    let (uri_key, uri_certificate, trusted) = (file("by-uri.key"), file("by-uri.pem"), file("careful.pem"));
    let pages = file("pages");
    fs::create_dir(format!("{pages}/calls")).unwrap();
    fs::write(format!("{pages}/calls/page"), "a page over HTTP/2\n").unwrap();
    let web = |port, key, certificate| {
        ["openssl", "s_server", "-accept", port, "-key", key, "-cert", certificate, "-www", "-quiet"]
    };
    let asking = ["-Verify", "1", "-verify_return_error", "-CAfile", &trusted];
    let asking = [&web("8446", &*key, &*certificate)[..], &asking].concat();
    let servers = {
        let world = stage.world();
        [
            world.spawn("open", "h2-tls", &["nghttpd", "-d", &pages, "8444", &key, &certificate]).unwrap(),
            world.spawn("open", "uri-tls", &web("8445", &uri_key, &uri_certificate)).unwrap(),
            world.spawn("open", "asking-tls", &asking).unwrap(),
            world.spawn("inside", "tls", &web("8443", &key, &certificate)).unwrap(),
        ]
    };
    for (pod, port) in [("open", "8444"), ("open", "8445"), ("open", "8446"), ("inside", "8443")] {
        let listens =
            || stage.world().exec(pod, &["ss", "-Hltn"]).unwrap().stdout.contains(&format!(":{port} "));
        assert!(until(PATIENCE, listens), "nobody listens on {port} of {pod}");
    }
    servers
}

#[test]
fn backends_are_spoken_to_in_tls_as_their_policy_says_or_not_at_all() {
    let stage = stage();
    let (host, _servers) = start(&stage);
    let ask = |version: &str, path: &str| {
        let url = format!("http://{host}:8003{path}");
        let command = ["curl", "-s", "-i", "--max-time", "10", version, &url];
        stage.world().exec("client", &command).unwrap().stdout
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (path, text) in [
            ("/good", "s_server -accept 8443"),
            ("/page", "a page over HTTP/2"),
            ("/plain", "open: GET /plain"),
            ("/by-uri", "s_server -accept 8445"),
            // It has asked the Gateway for a certificate, and got one: who has none is refused, as below.
            ("/asks", "s_server -accept 8446"),
            ("/within", "s_server -accept 8443"),
            ("/misnamed", "gammarus-reason: handshake_failed"),
            ("/other-uri", "gammarus-reason: handshake_failed"),
            ("/strangers", "gammarus-reason: handshake_failed"),
            ("/lost", "gammarus-reason: invalid_backend"),
        ] {
            let answer = ask(version, path);
            assert!(answer.contains(text), "{version} {path}: {answer}");
        }
    }
    a_certificate_is_asked_for_and_its_end_told(&stage);
    let lines = fs::read_to_string(stage.world().gateway_access_log("careful")).unwrap();
    let is_within = |line: &&str| line.contains("path=/within ") && line.contains("mtls=yes");
    assert_eq!(lines.lines().filter(is_within).count(), 2, "{lines}");
    // A call goes by HTTP/2, although nothing but its route says so.
    let url = format!("http://{host}:8004/calls/page");
    let call = ["curl", "-s", "-i", "--max-time", "10", "--http2-prior-knowledge", "-d", ""];
    let call = [&call[..], &["-H", "content-type: application/grpc", "-H", "te: trailers", &url]].concat();
    let answer = stage.world().exec("client", &call).unwrap().stdout;
    assert!(answer.contains("a page over HTTP/2"), "{answer}");
    connections_are_begun_in_tls_or_reset(&stage, &host);
    let mut lost = || ask("--http1.1", "/lost");
    authorities_are_used_as_soon_as_they_are_there(&stage, &mut lost);
    for pod in ["careful", "silent"] {
        stage.world().remove_pod(pod).unwrap();
    }
}

/// The control is a Gateway that has no certificate to show. What its policies mean by `System` is a list of its own, so that
/// it takes what the other one does not.
fn a_certificate_is_asked_for_and_its_end_told(stage: &Stage) {
    let listener = format!("{{name: first, port: 8003, protocol: HTTP, {ALL}}}");
    let flag = format!("--system-authorities={}", stage.file("passed.pem"));
    let mut world = stage.world();
    world.apply_in("edge", "another Gateway", &gateway("silent", &listener)).unwrap();
    world.gateway_pod_with("silent", ("edge", "silent"), "node-a", &[&flag]).unwrap();
    drop(world);
    let (host, own) = (stage.address("silent"), stage.file("careful.pem"));
    let ask = |path: &str| stage.curl_at(&host, &[&format!("http://any.example.com:8003{path}")]);
    let refused = ask("/asks");
    assert!(refused.status >= 500 && refused.fields.contains_key("gammarus-reason"), "{refused:?}");
    stage.wait_line_of("silent", &["path=/asks ", "reason="]);
    let fine = ask("/strangers");
    assert!(fine.body.contains("s_server -accept 8443"), "{fine:?}");
    let left = |pod: &str| {
        let probe = ["curl", "-s", "http://127.0.0.1:15000/metrics"];
        let metrics = stage.world().exec(pod, &probe).unwrap().stdout;
        let start = "gammarus_client_cert_expiry_seconds{";
        metrics.lines().find_map(|line| line.strip_prefix(start).map(str::to_owned))
    };
    let said = left("careful").unwrap();
    let seconds: f64 = said.strip_prefix("secret=\"edge/careful\"} ").unwrap().parse().unwrap();
    let lasts = |seconds: f64| {
        let check = ["openssl", "x509", "-noout", "-in", &own, "-checkend", &format!("{seconds:.0}")];
        stage.world().exec("client", &check).unwrap().stdout.contains("will not expire")
    };
    assert!(lasts(seconds - 60.0) && !lasts(seconds + 60.0), "{said}");
    assert_eq!(left("silent"), None);
}

/// What comes out of a TCPRoute and of a TLSRoute whose TLS has ended, and of one that may not go on.
fn connections_are_begun_in_tls_or_reset(stage: &Stage, host: &str) {
    let script =
        format!("exec 3<>/dev/tcp/{host}/9003; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 cat <&3");
    let said = stage.world().exec("client", &["bash", "-c", &script]).unwrap().stdout;
    assert!(said.contains("s_server -accept 8443"), "{said}");
    let to = format!("::{host}:");
    let curl = |more: &[&str]| {
        let command = ["curl", "-s", "-S", "--max-time", "10", "--http1.1", "--connect-to", &*to];
        stage.world().exec("client", &[&command, more].concat()).unwrap()
    };
    let ended = curl(&["--cacert", &stage.file("careful.pem"), "https://careful.example.com:9443/"]);
    assert!(ended.stdout.contains("s_server -accept 8443"), "{ended:?}");
    let lost = curl(&["http://careful.example.com:9004/"]);
    assert!(lost.stdout.is_empty() && lost.stderr.contains("reset"), "{lost:?}");
    let lines = fs::read_to_string(stage.world().gateway_access_log("careful")).unwrap();
    let is_lost = |line: &&str| line.contains("reason=invalid_backend") && line.contains("protocol=opaque");
    assert_eq!(lines.lines().filter(is_lost).count(), 1, "{lines}");
}

fn authorities_are_used_as_soon_as_they_are_there(stage: &Stage, ask: &mut dyn FnMut() -> String) {
    let text = fs::read_to_string(stage.file("passed.pem")).unwrap();
    let (refused, fine) = ("gammarus-reason: invalid_backend", "s_server -accept 8443");
    for (text, expected) in [(&*text, fine), ("", refused), (&text, fine)] {
        let config_map = authorities(("plain", "nowhere"), text);
        stage.world().apply_in("plain", "late authorities", &config_map).unwrap();
        // How soon is asked of a proxy that is fed: the server here has one client after the other.
        assert!(until(PATIENCE, || ask().contains(expected)), "{expected}: {}", ask());
    }
}
