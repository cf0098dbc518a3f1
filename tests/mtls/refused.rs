//! Peers that are refused: at the pod's listener, and at the client's end. Nothing of them goes on.

use std::net::TcpListener;
use std::time::Duration;

use node_proxy::demo::world::World;

use super::peer::{HOP, Leaf, Request, ask, dial, foreign_signer, good_leaf, signer};
use super::rig::{End, OWN_APP, accept, address, listen_in, logged, stage};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

/// A peer in the namespace of a pod outside the mesh tries to get to `guarded`.
#[track_caller]
fn check_refused(
    (world, application): (&World, &TcpListener),
    (leaf, alpn): (Option<&Leaf>, &str),
    (reason, error): (&str, &str),
) {
    let mut client = dial(world, "outsider", address(world, "guarded", OWN_APP), (leaf, alpn));
    assert_eq!(ask(&mut client, "/refused"), (String::new(), End::Broken), "{error}");
    let reached = accept(application, Duration::from_millis(100));
    assert!(reached.is_none(), "{error}: the application was dialled");
    let reason = format!("reason={reason}");
    logged(world, "node-b", &["direction=inbound", "dst.workload=guarded", &reason, error]);
}

#[test]
fn certificates_that_prove_nothing_are_refused_at_the_listener() {
    let world = stage();
    let (own, foreign) = (signer(&world), foreign_signer());
    let application = listen_in(&world, "guarded");
    let at = (&world, &application);
    let identity = "peer_identity_refused";
    let good = good_leaf(&world, CLIENT);

    let stolen = good.with_key_of(&good_leaf(&world, CLIENT));
    check_refused(at, (Some(&stolen), HOP), (identity, "did not prove"));
    let expired = Request::of(&[CLIENT]).expired().sign(&own);
    check_refused(at, (Some(&expired), HOP), (identity, "expired"));
    let other_ca = Request::of(&[CLIENT]).sign(&foreign);
    check_refused(at, (Some(&other_ca), HOP), (identity, "not trusted"));
    let other_domain = Request::of(&["spiffe://other.example/ns/shop/sa/client"]).sign(&own);
    check_refused(at, (Some(&other_domain), HOP), (identity, "trust"));
    let two = Request::of(&[CLIENT, "spiffe://cluster.local/ns/shop/sa/server"]).sign(&own);
    check_refused(at, (Some(&two), HOP), (identity, "2 URI names"));
    let none = Request::of(&[]).sign(&own);
    check_refused(at, (Some(&none), HOP), (identity, "0 URI names"));
    let no_account = Request::of(&["spiffe://cluster.local/workload"]).sign(&own);
    check_refused(at, (Some(&no_account), HOP), (identity, "SPIFFE"));
    check_refused(at, (None, HOP), ("handshake_failed", "certificate"));
    check_refused(at, (Some(&good), "gammarus/9"), ("unknown_hop_version", "gammarus/9"));
    check_refused(at, (Some(&good), "h2"), ("plaintext_refused", "mTLS only"));

    // The control: the same peer with a good certificate gets in.
    let mut client =
        dial(&world, "outsider", address(&world, "guarded", super::rig::APP), (Some(&good), HOP));
    let (answer, end) = ask(&mut client, "/good");
    assert!(answer.contains("guarded: GET /good") && end == End::Clean, "{answer}");
    // The connection is over only when both of its ways are.
    drop(client);
    let line = logged(&world, "node-b", &["direction=inbound", "mtls=yes", "src.workload=outsider"]);
    // Who it is says the certificate, and not the address.
    assert!(line.contains(&format!("src.identity={CLIENT}")), "{line}");
}

#[test]
fn permissive_refuses_the_same_peers_and_gives_the_application_no_byte() {
    use std::io::Read as _;
    let world = stage();
    let good = good_leaf(&world, CLIENT);
    let expired = Request::of(&[CLIENT]).expired().sign(&signer(&world));
    let application = listen_in(&world, "server");
    for (leaf, alpn, reason) in [
        (Some(&expired), HOP, "peer_identity_refused"),
        (None, HOP, "handshake_failed"),
        (Some(&good), "gammarus/9", "unknown_hop_version"),
    ] {
        let mut client = dial(&world, "outsider", address(&world, "server", OWN_APP), (leaf, alpn));
        assert_eq!(ask(&mut client, "/refused"), (String::new(), End::Broken), "{reason}");
        let mut seen = Vec::new();
        let _reset = super::rig::accepted(&application).read_to_end(&mut seen);
        assert_eq!(String::from_utf8_lossy(&seen), "", "{reason}");
        logged(&world, "node-b", &["direction=inbound", "dst.workload=server", &format!("reason={reason}")]);
    }
}
