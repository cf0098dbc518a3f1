//! Backends that are spoken to in TLS (BackendTLSPolicy), in the mesh and outside of it.

use std::fs;

use node_proxy::demo::command::{Process, until};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::json;

use crate::rig::{ALL, PATIENCE, Stage, gateway, make_certificate, secret, stage};

fn authorities(namespace: &str, text: &str) -> String {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "backends", "namespace": namespace},
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
        "{{name: first, port: 8003, protocol: HTTP, {ALL}}}, {{name: bytes, port: 9003, protocol: TCP, {ALL}}}"
    );
    let shows = "tls: {backend: {clientCertificateRef: {name: careful}}}, listeners:";
    let objects = [
        include_str!("backends.yaml").to_owned(),
        gateway("careful", &listeners).replace("listeners:", shows),
        secret(&dir, "careful", ("edge", "careful")),
        authorities("plain", &both),
        authorities("shop", &both),
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
            // It has asked the Gateway for a certificate, and got one.
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
    let lines = fs::read_to_string(stage.world().gateway_access_log("careful")).unwrap();
    let is_within = |line: &&str| line.contains("path=/within ") && line.contains("mtls=yes");
    assert_eq!(lines.lines().filter(is_within).count(), 2, "{lines}");
    let script =
        format!("exec 3<>/dev/tcp/{host}/9003; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 cat <&3");
    let said = stage.world().exec("client", &["bash", "-c", &script]).unwrap().stdout;
    assert!(said.contains("s_server -accept 8443"), "{said}");
    stage.world().remove_pod("careful").unwrap();
}
