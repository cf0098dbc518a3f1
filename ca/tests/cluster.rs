//! The CA in a cluster, against a real API server: whose token is taken for what, and what the CA does without one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by panicking")]

#[path = "../../tests/cluster/api_server.rs"]
mod api_server;
#[path = "cluster/pods.rs"]
mod pods;
#[path = "cluster/replicas.rs"]
mod replicas;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/tokens.rs"]
mod tokens;

use std::sync::Arc;
use std::time::Instant;

use gammarus_ca::ClientError;

use crate::api_server::ApiServer;
use crate::rig::{SHORT_LEAVES, World, bundle, eventually, sign};

/// It was refused for this reason.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>, expected: u16, reason: &str) {
    match outcome {
        Err(ClientError::Refused { status, message }) => {
            assert!(status.as_u16() == expected && message.contains(reason), "{status} {message}: {reason}");
        }
        other => panic!("{reason}: {other:?}"),
    }
}

/// How many tokens the API server was asked to review.
fn reviews(server: &ApiServer) -> u64 {
    let metrics = server.kubectl(&["get", "--raw", "/metrics"]).output();
    let lines = metrics.lines().filter(|line| {
        line.starts_with("apiserver_request_total") && line.contains("resource=\"tokenreviews\"")
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_requests_is_a_single_review() {
    let world = World::new(Arc::new(ApiServer::start()), "storm");
    let replica = world.start(&[]);
    let client = world.client(&replica, &world.token("agent-a"), &world.given_out());
    let before = reviews(&world.server);
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (client, web) = (client.clone(), world.identity("web"));
            tokio::spawn(async move { sign(&client, &web).await.map(drop) })
        })
        .collect();
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(reviews(&world.server) - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_nothing_is_signed_and_the_bundle_is_still_given_out() {
    let world = World::new(Arc::new(ApiServer::start()), "away");
    let replica = world.start(&SHORT_LEAVES);
    let client = world.client(&replica, &world.token("agent-a"), &world.given_out());
    let held = bundle(&client).await;
    let web = world.identity("web");
    sign(&client, &web).await.unwrap();
    world.server.set_answering(false);
    let late = world.spawn(&SHORT_LEAVES);
    let begun = Instant::now();
    eventually("the memory of the token ends", || (begun.elapsed().as_secs() >= 11).then_some(()));
    refused(sign(&client, &web).await, 503, "callers cannot be checked now: the API server does not answer");
    assert_eq!(bundle(&client).await, held);
    assert!(client.trust_bundle(Some(held.tag())).await.unwrap().bundle.is_none());
    refused(client.trust_bundle(Some("another")).await, 503, "another replica may have a newer trust bundle");
    world.server.set_answering(true);
    late.serving();
    let begun = Instant::now();
    while let Err(error) = sign(&client, &web).await {
        assert!(begun.elapsed() < rig::PATIENCE, "{error}");
        assert!(matches!(error, ClientError::Refused { status, .. } if status == 503), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pod_it_takes_what_is_mounted_there() {
    let world = World::new(ApiServer::shared(), "mounted");
    let replica = world.spawn_in_pod().serving();
    let client = world.client(&replica, &world.token("agent-a"), &world.given_out());
    sign(&client, &world.identity("web")).await.unwrap();
}
