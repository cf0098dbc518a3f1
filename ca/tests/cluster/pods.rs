//! Pods that ask for themselves, the controller's and those of Gateways: each gets what it is, and nothing beside it.

use std::time::{Duration, Instant};

use gammarus_ca::{CaClient, ClientError, SpiffeId};

use crate::api_server::{ApiServer, TokenFor};
use crate::refused;
use crate::rig::{PATIENCE, World, bundle, id, sign};

const LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The identity of an account of the CA's own namespace.
fn own(world: &World, account: &str) -> SpiffeId {
    id(&format!("spiffe://cluster.local/ns/{}/sa/{account}", world.namespace))
}

/// None of these is signed for the pod of this name, which has an identity.
async fn refuses_all(client: &CaClient, pod: &str, others: &[SpiffeId]) {
    for other in others {
        let reason = format!("pod `{pod}` may have the identity of its own service account `");
        refused(sign(client, other).await, 403, &reason);
        refused(sign(client, other).await, 403, &format!("`, and not `{other}`"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_pod_gets_its_own_identity_and_no_other() {
    let world = World::new(ApiServer::shared(), "gateways");
    let (replica, roots, shop) = (world.start(&[]), world.given_out(), world.shop());
    // As a node proxy, too, it would get what runs on its node; and the names of accounts say nothing in other namespaces.
    for account in ["front", "gammarus-node", "gammarus-controller"] {
        world.gateway(account, "node-a");
        let client = world.client(&replica, &world.token_in_shop(account), &roots);
        let signed = sign(&client, &world.identity(account)).await.unwrap();
        assert!(crate::rig::is_under(&signed, &crate::rig::roots(&roots)));
        assert_eq!(bundle(&client).await.to_pem(), roots);
        let others = [
            world.identity("web"),
            world.identity("nobody"),
            own(&world, account),
            own(&world, "gammarus-ca"),
            own(&world, "gammarus-node"),
            own(&world, "gammarus-controller"),
        ];
        refuses_all(&client, &format!("{shop}/{account}"), &others).await;
        let elsewhere = id(&format!("spiffe://example.org/ns/{shop}/sa/{account}"));
        refused(sign(&client, &elsewhere).await, 403, "trust domain `example.org` is not signed for here");
    }
    // What the pod of a Gateway has, its node has as before; and a node proxy with the label is one all the same.
    world.label(&world.namespace, "agent-a", "front");
    let node = world.client(&replica, &world.token("agent-a"), &roots);
    for account in ["front", "web"] {
        sign(&node, &world.identity(account)).await.unwrap();
    }
    replica.says(&format!("pod={shop}/front "));
    replica.says(&format!("node=\"{}\"", world.node("node-a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_the_label_of_a_gateway_is_refused() {
    let world = World::new(ApiServer::shared(), "labels");
    let (replica, roots, shop) = (world.start(&[]), world.given_out(), world.shop());
    let (web, token) = (world.identity("web"), world.token_in_shop("web"));
    let client = world.client(&replica, &token, &roots);
    let has = |what: &str| format!("pod `{shop}/web` of the bearer token has {what} `{LABEL}`");
    refused(sign(&client, &web).await, 403, &has("no label"));
    refused(client.trust_bundle(None).await, 403, &has("no label"));
    // What was found of a token is remembered for some seconds.
    let answers = async |expected: Result<(), String>| {
        let begun = Instant::now();
        loop {
            let outcome = sign(&client, &web).await.map(drop);
            let is_it = match (&outcome, &expected) {
                (Ok(()), Ok(())) => true,
                (Err(error), Err(reason)) => error.to_string().contains(reason),
                _ => false,
            };
            if is_it {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{outcome:?}, and not {expected:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    world.label(&shop, "web", "");
    answers(Err(has("an empty label"))).await;
    world.label(&shop, "web", "front");
    answers(Ok(())).await;
    let unlabel = ["label", "pod", "web", &format!("{LABEL}-"), "--namespace", &shop];
    world.server.kubectl(&unlabel).output();
    answers(Err(has("no label"))).await;
    // A token of no pod has no label either, whatever other pods of the account have.
    world.gateway("front", "node-a");
    let (namespace, audience) = (shop.as_str(), Some("gammarus-ca"));
    let unbound = TokenFor { namespace, service_account: "front", audience, pod: None };
    let unbound = world.client(&replica, &world.server.token(unbound), &roots);
    refused(sign(&unbound, &world.identity("front")).await, 403, "not bound to a pod");
    // Nor is one for somebody else as good as one for the CA.
    let elsewhere = TokenFor { audience: Some("vault"), pod: Some("front"), ..TokenFor::default() };
    let elsewhere = TokenFor { namespace, service_account: "front", ..elsewhere };
    let elsewhere = world.client(&replica, &world.server.token(elsewhere), &roots);
    refused(sign(&elsewhere, &world.identity("front")).await, 401, "audience");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_that_asks_for_itself_has_to_be_there() {
    let world = World::new(ApiServer::shared(), "selves");
    let (replica, roots, shop) = (world.start(&[]), world.given_out(), world.shop());
    // The API server itself remembers a token that was good for ten seconds, and is asked here before.
    let remembered = |token: String| {
        assert_eq!(world.server.review(&token, &["gammarus-ca"])["authenticated"], true);
        token
    };
    let of_gateway = |pod: &str| {
        world.gateway(pod, "node-a");
        remembered(world.token_in_shop(pod))
    };
    let ask = async |token: &str, identity: SpiffeId, reason: String| {
        refused(sign(&world.client(&replica, token, &roots), &identity).await, 403, &reason);
    };
    let says = |pod: &str, problem: &str| format!("pod `{shop}/{pod}` of the bearer token {problem}");
    let gone = of_gateway("gone");
    world.remove(&shop, "gone");
    ask(&gone, world.identity("gone"), says("gone", "is not there")).await;
    let replaced = of_gateway("replaced");
    world.remove(&shop, "replaced");
    world.gateway("replaced", "node-a");
    ask(&replaced, world.identity("replaced"), says("replaced", "was replaced by another one of that name"))
        .await;
    for phase in ["Failed", "Succeeded"] {
        let name = phase.to_lowercase();
        let ended = of_gateway(&name);
        world.end(&shop, &name, phase);
        ask(&ended, world.identity(&name), says(&name, "has ended")).await;
    }
    // The same for the controller.
    let controller = remembered(world.controller("node-a"));
    world.end(&world.namespace, "controller", "Failed");
    let ended = "pod `selves/controller` of the bearer token has ended".to_owned();
    ask(&controller, own(&world, "gammarus-controller"), ended).await;
    world.remove(&world.namespace, "controller");
    let controller = remembered(world.controller("node-a"));
    sign(&world.client(&replica, &controller, &roots), &own(&world, "gammarus-controller")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_gets_its_own_identity_and_nothing_else() {
    let world = World::new(ApiServer::shared(), "controllers");
    let (replica, roots) = (world.start(&[]), world.given_out());
    let (namespace, shop) = (world.namespace.as_str(), world.shop());
    let token = world.controller("node-a");
    let client = world.client(&replica, &token, &roots);
    let itself = own(&world, "gammarus-controller");
    sign(&client, &itself).await.unwrap();
    assert_eq!(bundle(&client).await.to_pem(), roots);
    let namesake = world.identity("gammarus-controller");
    let others = [world.identity("web"), own(&world, "gammarus-node"), own(&world, "gammarus-ca"), namesake];
    refuses_all(&client, "controllers/controller", &others).await;
    let audience = Some("gammarus-ca");
    let unbound = TokenFor { namespace, service_account: "gammarus-controller", audience, pod: None };
    let unbound = world.client(&replica, &world.server.token(unbound), &roots);
    refused(sign(&unbound, &itself).await, 403, "not bound to a pod");
    // Neither its namesake elsewhere nor another account beside it is the controller.
    world.pod("gammarus-controller", "node-a");
    let elsewhere = world.client(&replica, &world.token_in_shop("gammarus-controller"), &roots);
    let reason = format!("pod `{shop}/gammarus-controller` of the bearer token has no label `{LABEL}`");
    refused(sign(&elsewhere, &itself).await, 403, &reason);
    world.server.service_account(namespace, "steward");
    world.server.pod(namespace, "steward", "steward", &world.node("node-a"));
    let steward = world.token_of((namespace, "steward"), "steward");
    let beside = world.client(&replica, &steward, &roots);
    let reason = "pod `controllers/steward` of the bearer token has no label";
    refused(sign(&beside, &own(&world, "steward")).await, 403, reason);
    // Unless the CA is told so: then the usual one is any account.
    let replica = world.start(&["--controller-service-account=steward"]);
    let told = world.client(&replica, &steward, &roots);
    sign(&told, &own(&world, "steward")).await.unwrap();
    refuses_all(&told, "controllers/steward", &[itself.clone(), own(&world, "gammarus-node")]).await;
    let usual = world.client(&replica, &token, &roots);
    refused(
        sign(&usual, &itself).await,
        403,
        "pod `controllers/controller` of the bearer token has no label",
    );
    let said = world.spawn(&["--controller-service-account=gammarus-node"]).ended();
    assert!(said.contains("--controller-service-account are both `gammarus-node`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_asks_too_often_takes_nothing_from_its_node_or_its_like() {
    let world = World::new(ApiServer::shared(), "rates");
    let (replica, roots) = (world.start(&["--requests-per-second=1"]), world.given_out());
    for pod in ["front", "other"] {
        world.gateway(pod, "node-a");
    }
    let client = |token: &str| world.client(&replica, token, &roots);
    let busy = client(&world.token_in_shop("front"));
    let begun = Instant::now();
    // Sixty at once, and one in each second from then on.
    let mut asked = 0;
    loop {
        match busy.trust_bundle(None).await {
            Ok(_) => asked += 1,
            Err(ClientError::TooMany { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "{asked} requests were taken");
    }
    assert!(asked >= 60, "{asked}");
    sign(&client(&world.token_in_shop("other")), &world.identity("other")).await.unwrap();
    sign(&client(&world.token("agent-a")), &world.identity("front")).await.unwrap();
    sign(&client(&world.controller("node-a")), &own(&world, "gammarus-controller")).await.unwrap();
}
