//! The CA from the outside: a node's token is good for the identities of that node's pods, and no others.

use gammarus_ca::{CaClient, SpiffeId, WorkloadKey};
use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;

use super::rig::{metric, stage};

/// Asks the CA for an identity with the token of `node`, from that node's namespace.
#[track_caller]
fn ask(world: &World, node: &str, identity: &str) -> Result<usize, String> {
    let identity: SpiffeId = identity.parse().unwrap();
    let (bundle, token) = (world.dir().join("ca/ca.crt"), world.dir().join("tokens").join(node));
    let client =
        CaClient::new("192.168.255.1:8443", "gammarus-ca.gammarus-system.svc", bundle, token).unwrap();
    let netns =
        NetnsFd::open(&std::path::Path::new("/run/netns").join(format!("{}{node}", world.prefix()))).unwrap();
    netns
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let csr = WorkloadKey::generate().unwrap().csr(&identity).unwrap();
            Ok(runtime.block_on(client.sign(&identity, csr)))
        })
        .unwrap()
        .map(|signed| signed.chain.len())
        .map_err(|error| error.to_string())
}

#[test]
fn a_node_gets_the_identities_of_its_own_pods_only() {
    let world = stage();
    let (client, server) =
        ("spiffe://cluster.local/ns/shop/sa/client", "spiffe://cluster.local/ns/shop/sa/server");
    assert!(ask(&world, "node-a", client).is_ok_and(|chain| chain >= 1));
    assert!(ask(&world, "node-b", server).is_ok_and(|chain| chain >= 1));
    for (node, identity) in [
        ("node-a", server),
        ("node-b", client),
        ("node-a", "spiffe://cluster.local/ns/shop/sa/nobody"),
        ("node-a", "spiffe://other.example/ns/shop/sa/client"),
        ("node-a", "spiffe://cluster.local/ns/vault/sa/guarded"),
    ] {
        let refused = ask(&world, node, identity).expect_err(identity);
        assert!(refused.contains("the CA answered 4"), "{node} for {identity}: {refused}");
    }
}

#[test]
fn the_metrics_say_until_when_the_local_identities_are_good() {
    let world = stage();
    let seconds = |node, name| {
        let identity = format!("identity=\"spiffe://cluster.local/ns/shop/sa/{name}\"");
        metric(&world, node, "gammarus_cert_expiry_seconds", &[&identity])
    };
    let day = 24.0 * 3600.0;
    for (node, name) in [("node-a", "client"), ("node-b", "server")] {
        let left = seconds(node, name);
        assert!((day - 600.0..=day).contains(&left), "{name}: {left}");
    }
    assert!(seconds("node-a", "server") == 0.0, "an identity is local where its pods are");
}
