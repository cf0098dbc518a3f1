//! `sessionAffinity: ClientIP`: a client stays with its endpoint until it has been silent for a time.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::stage::{PATIENCE, ask, stage};
use node_proxy::demo::command::until;

/// The servers that a client reaches with so many connections, one after another.
fn reached(pod: &str, count: usize) -> BTreeSet<String> {
    let new = ["-H", "Connection: close"];
    let answers = stage().with(|world| ask(world, pod, "http://loyal/stay", &new, count));
    answers.into_iter().map(|(_, body)| body).collect()
}

#[test]
fn a_client_stays_with_its_endpoint_for_its_time() {
    let stage = stage();
    // On whatever thread its connections are.
    let first = reached("client", 60);
    assert_eq!(first.len(), 1, "{first:?}");
    let later = reached("client", 20);
    assert_eq!(first, later);
    // After three seconds of silence it is anybody's: of four, it is another one soon.
    let moves = || {
        std::thread::sleep(Duration::from_millis(3_200));
        reached("client", 1) != first
    };
    assert!(until(PATIENCE * 3, moves), "it stays for ever with {first:?}");
    drop(stage);
}
