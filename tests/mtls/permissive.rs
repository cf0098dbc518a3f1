//! A permissive namespace takes both, and is in nobody's way.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use super::rig::{
    End, OWN_APP, accepted, address, connect, curl, curl_on_node, expect_bytes, ip, listen_in, logged,
    metric, read_to_end, remove_mark, service, stage, timed, url_of,
};

const STALE: &str = "gammarus_stale_peer_total";

#[test]
fn plain_text_from_outside_the_mesh_passes_at_once_with_the_clients_address() {
    let world = stage();
    let answer = curl(&world, "outsider", &[&url_of(&world, "server", "/plain")]);
    assert_eq!(answer.stdout, format!("server: GET /plain from {}\n", ip(&world, "outsider")));
    let line = logged(&world, "node-b", &["direction=inbound", "plaintext_reason=source_not_enrolled"]);
    assert!(line.contains("src.workload=outsider") && !line.contains("src.identity="), "{line}");

    // A server that speaks first is heard at once: by a pod outside, and by the node itself.
    let application = listen_in(&world, "server");
    for place in ["outsider", "node-b", "node-a"] {
        let mut plain = connect(&world, place, address(&world, "server", OWN_APP)).unwrap();
        let mut app = accepted(&application);
        app.write_all(b"220 hello").unwrap();
        let ((), took) = timed(|| expect_bytes(&mut plain, "220 hello"));
        assert!(took < Duration::from_millis(250), "{place} waited for {took:?}");
        plain.write_all(b"QUIT").unwrap();
        expect_bytes(&mut app, "QUIT");
        drop(plain);
        assert_eq!(read_to_end(&mut app), (String::new(), End::Clean), "{place}");
    }
    let probe = curl_on_node(&world, "node-b", &[&url_of(&world, "server", "/probe")]);
    assert!(probe.success(), "{probe:?}");
    assert!(metric(&world, "node-b", STALE, &[]).abs() < f64::EPSILON, "nobody here was a stale peer");
}

#[test]
fn the_applications_own_tls_passes_untouched() {
    let mut world = stage();
    let dir = world.dir().to_owned();
    let path = |name: &str| dir.join(name).display().to_string();
    let (key, certificate) = (path("own.key"), path("own.crt"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
        ])
        .args(["-subj", "/CN=own-tls", "-keyout", &key, "-out", &certificate])
        .output()
        .expect("openssl is needed: install the Debian package openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let server =
        ["openssl", "s_server", "-accept", "8443", "-cert", &certificate, "-key", &key, "-www", "-quiet"];
    world.pod("own-tls").namespace("shop").on("node-b").program(&server).start().unwrap();
    let url = format!("https://{}/", address(&world, "own-tls", 8443));
    for pod in ["outsider", "client"] {
        let ask = || curl(&world, pod, &["-v", "--cacert", &certificate, "-k", &url]);
        let mut said = ask();
        // The server needs a moment to listen.
        let _asserted_below = node_proxy::demo::command::until(super::rig::PATIENCE, || {
            said = ask();
            said.success()
        });
        assert!(
            said.stderr.contains("CN=own-tls") || said.stderr.contains("CN = own-tls"),
            "{pod}: {said:?}"
        );
        assert!(said.stdout.contains("s_server"), "{pod}: {said:?}");
    }
    logged(&world, "node-b", &["direction=inbound", "src.workload=outsider", "protocol=tls", "mtls=no"]);
    logged(&world, "node-b", &["direction=inbound", "src.workload=client", "mtls=yes"]);
}

#[test]
fn a_peer_with_a_stale_view_is_held_a_moment_and_counted() {
    let world = stage();
    let application = listen_in(&world, "server");
    // Its client's proxy does not know (any more) that the server is in the mesh, and dials in plain text.
    remove_mark(&world, "node-a", "server");
    let mut client = connect(&world, "client", service(&world, "server.shop", 9000)).unwrap();
    let mut app = accepted(&application);
    app.write_all(b"220 hello").unwrap();
    let ((), took) = timed(|| expect_bytes(&mut client, "220 hello"));
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&took), "{took:?}");
    client.write_all(b"QUIT").unwrap();
    expect_bytes(&mut app, "QUIT");
    // The log's line comes with the end.
    drop((client, app));
    logged(&world, "node-b", &["direction=inbound", "plaintext_reason=stale_peer", "src.workload=client"]);
    assert!(metric(&world, "node-b", STALE, &[]) >= 1.0);
    logged(&world, "node-a", &["direction=outbound", "plaintext_reason=destination_not_enrolled"]);
}
