//! Whose token gets what: each that is not the bound token of a node proxy, or asks for what its node has not, is refused.

use base64::Engine as _;
use rcgen::{KeyPair, SigningKey as _};
use serde_json::json;

use crate::api_server::{ApiServer, TokenFor};
use crate::refused;
use crate::rig::{World, bundle, sign};

/// A token as the API server makes it, with these claims, signed by its own key.
fn forge(world: &World, claims: &serde_json::Value, header: &str) -> String {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let folder = world.server.authority();
    let key = std::fs::read_to_string(folder.with_file_name("accounts.key")).unwrap();
    let text = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let der = KeyPair::from_pem(&key).unwrap().sign(text.as_bytes()).unwrap();
    // An ECDSA-Sig-Value (RFC 3279, 2.2.3) as RFC 7518, 3.4 has it: both numbers with 32 bytes each.
    let (_, rest) = der.split_at(2);
    let (r, s) = rest[2..].split_at(usize::from(rest[1]));
    let number = |bytes: &[u8]| {
        let mut padded = [0; 64].to_vec();
        padded.extend(bytes);
        padded.split_off(padded.len() - 32)
    };
    let signature = [number(r), number(&s[2..])].concat();
    format!("{text}.{}", encode(&signature))
}

/// The claims of a token, and its first part.
fn claims(token: &str) -> (serde_json::Value, &str) {
    let mut parts = token.split('.');
    let header = parts.next().unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
    (serde_json::from_slice(&payload).unwrap(), header)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_bound_token_of_a_node_proxy_is_taken() {
    let world = World::new(ApiServer::shared(), "tokens");
    let (server, web) = (&world.server, world.identity("web"));
    let replica = world.start(&[]);
    let roots = world.given_out();
    let ask = async |token: &str| sign(&world.client(&replica, token, &roots), &web).await;
    let good = world.token("agent-a");
    ask(&good).await.unwrap();
    let of = |namespace, service_account, audience, pod| {
        server.token(TokenFor { namespace, service_account, audience, pod })
    };
    let (own, shop) = (world.namespace.as_str(), world.shop());
    let ours = Some("gammarus-ca");
    let other_audience = of(own, "gammarus-node", Some("vault"), Some("agent-a"));
    refused(ask(&other_audience).await, 401, "audience");
    let for_the_api_server = of(own, "gammarus-node", None, Some("agent-a"));
    refused(ask(&for_the_api_server).await, 401, "audience");
    let workload = of(&shop, "web", ours, Some("web"));
    refused(
        ask(&workload).await,
        403,
        &format!(
            "pod `{shop}/web` of the bearer token has no label `gateway.networking.k8s.io/gateway-name`: only"
        ),
    );
    server.service_account(&shop, "gammarus-node");
    let namesake = of(&shop, "gammarus-node", ours, None);
    refused(ask(&namesake).await, 403, "not bound to a pod");
    let unbound = of(own, "gammarus-node", ours, None);
    refused(ask(&unbound).await, 403, "not bound to a pod");
    // A token is what the API server says of it: every byte counts, and so does the time.
    let (mut said, header) = claims(&good);
    assert!(ask(&forge(&world, &said, header)).await.is_ok(), "control: this is how they are made");
    said["exp"] = json!(said["iat"].as_i64().unwrap() - 3600);
    refused(ask(&forge(&world, &said, header)).await, 401, "expired");
    let (text, signature) = good.rsplit_once('.').unwrap();
    let swapped: String = signature.chars().rev().collect();
    refused(ask(&format!("{text}.{swapped}")).await, 401, "is not taken for the audience `gammarus-ca`");
    refused(ask("token-of-nobody-0123456789").await, 401, "is not taken for the audience `gammarus-ca`");
    // Roots are no secret, and still nobody's who shows a bad token.
    let stranger = world.client(&replica, &unbound, &roots);
    refused(stranger.trust_bundle(None).await, 403, "not bound to a pod");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_proxy_of_a_token_has_to_be_there() {
    let world = World::new(ApiServer::shared(), "agents");
    let (own, web) = (world.namespace.clone(), world.identity("web"));
    let replica = world.start(&[]);
    let roots = world.given_out();
    let ask = async |token: &str| sign(&world.client(&replica, token, &roots), &web).await;
    // The API server itself remembers a token that was good for ten seconds, and is asked here before.
    let remembered = |pod: &str| {
        let token = world.token(pod);
        assert_eq!(world.server.review(&token, &["gammarus-ca"])["authenticated"], true);
        token
    };
    for pod in ["gone", "replaced", "ended"] {
        world.agent(pod, "node-a");
    }
    let gone = remembered("gone");
    world.remove(&own, "gone");
    refused(ask(&gone).await, 403, "pod `agents/gone` of the bearer token is not there");
    let replaced = remembered("replaced");
    world.remove(&own, "replaced");
    world.agent("replaced", "node-a");
    refused(ask(&replaced).await, 403, "was replaced by another one of that name");
    let ended = remembered("ended");
    world.end(&own, "ended", "Failed");
    refused(ask(&ended).await, 403, "pod `agents/ended` of the bearer token has ended");
    world.agent("never-asked", "node-a");
    let invalid = world.token("never-asked");
    world.remove(&own, "never-asked");
    refused(ask(&invalid).await, 401, "is not taken for the audience `gammarus-ca`");
    // A token that says another node than its pod is on: only the API server could make one, and it does not.
    let token = world.token("agent-a");
    let (mut said, header) = claims(&token);
    said["kubernetes.io"]["node"]["name"] = json!(world.node("node-b"));
    refused(ask(&forge(&world, &said, header)).await, 403, "is on node `agents-node-a`, and not on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_the_identities_of_the_pods_that_it_runs_now() {
    let world = World::new(ApiServer::shared(), "pods");
    let replica = world.start(&[]);
    world.agent("agent-b", "node-b");
    world.pod("db", "node-b");
    let roots = world.given_out();
    let a = world.client(&replica, &world.token("agent-a"), &roots);
    let b = world.client(&replica, &world.token("agent-b"), &roots);
    let (web, db) = (world.identity("web"), world.identity("db"));
    sign(&a, &web).await.unwrap();
    sign(&b, &db).await.unwrap();
    refused(sign(&a, &db).await, 403, "node `pods-node-a` has no running pod of service account `db`");
    refused(sign(&b, &web).await, 403, "node `pods-node-b` has no running pod of service account `web`");
    refused(sign(&a, &world.identity("nobody")).await, 403, "has no running pod of service account `nobody`");
    let namesake = format!("spiffe://cluster.local/ns/{}/sa/web", world.namespace);
    refused(sign(&a, &crate::rig::id(&namesake)).await, 403, "has no running pod");
    // Neither what has just come nor what has just gone or ended is seen late.
    for round in 0..3 {
        let name = format!("batch-{round}");
        let identity = world.identity(&name);
        refused(sign(&a, &identity).await, 403, "has no running pod");
        world.pod(&name, "node-a");
        sign(&a, &identity).await.unwrap();
        world.end(&world.shop(), &name, "Succeeded");
        refused(sign(&a, &identity).await, 403, "has no running pod");
    }
    world.remove(&world.shop(), "web");
    refused(sign(&a, &web).await, 403, "has no running pod of service account `web`");
    // One that is asked to end and takes its time still needs its identity.
    world.pod("slow", "node-a");
    let delete = ["delete", "pod", "slow", "--grace-period=600", "--wait=false", "--namespace"];
    world.server.kubectl(&[&delete[..], &[&world.shop()]].concat()).output();
    sign(&a, &world.identity("slow")).await.unwrap();
    assert_eq!(bundle(&a).await.to_pem(), roots);
}
