//! The mesh is taken off a node: every pod leaves in order, within a time, and nothing is left on the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gammarus_cni::Outcome;
use gammarus_cni::state::{NamespaceState, NamespaceStates, list_records, list_unseen, write_unseen};

use crate::enrolment::enrol;
use crate::mesh::{CabledPod, Node};
use crate::rig::run;

const ALLOWED: Duration = Duration::from_secs(20);

#[track_caller]
fn nothing_is_written(state_dir: &Path) {
    assert_eq!(list_records(state_dir).unwrap().len(), 0);
    assert_eq!(list_unseen(state_dir).unwrap().len(), 0);
    assert_eq!(NamespaceStates::read(state_dir).unwrap().find("shop"), NamespaceState::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pod_is_released_in_order_and_no_pod_joins_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path();
    let node = Node::with(Some(state_dir.to_owned()), true);
    let pods = [CabledPod::new(), CabledPod::new(), CabledPod::new()];
    for (pod, name) in pods.iter().zip(["a", "b"]) {
        node.say_enrolled(name);
        assert_eq!(enrol(&node, pod, name).await, Outcome::Enrolled);
    }
    node.say_not_enrolled("plain");
    assert_eq!(enrol(&node, &pods[2], "plain").await, Outcome::NotEnrolled);
    write_unseen(state_dir, &pods[2].attachment("unseen")).unwrap();
    let mut states = NamespaceStates::default();
    states.enrolled.insert("shop".to_owned());
    states.write(state_dir).unwrap();

    let (registry, begun) = (Arc::clone(&node.registry), Instant::now());
    let asked = Arc::new(AtomicBool::new(false));
    let (is_asked, netns) = (Arc::clone(&asked), pods[0].namespace.name.clone());
    let ask_to_go = move || {
        let rules = run(&format!("ip netns exec {netns} nft list ruleset"));
        is_asked.store(!rules.contains("redirect to :15006"), Ordering::SeqCst);
    };
    let releasing = tokio::spawn(async move { registry.release_all(ALLOWED, ask_to_go).await });
    node.must_be_marked(&[]).await;
    assert!(pods[0].rules().contains("redirect to :15006"), "captured after its mark has gone");
    releasing.await.unwrap();
    assert!(begun.elapsed() < ALLOWED, "nobody used the pods: {:?}", begun.elapsed());
    assert!(asked.load(Ordering::SeqCst), "clients are asked to go when they are not captured any more");
    for pod in &pods {
        assert_eq!(pod.rules(), "");
    }
    nothing_is_written(state_dir);
    let left: Vec<String> = node.journal().into_iter().filter(|line| line.contains("left")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|line| line.ends_with("0 marks")), "marks go first: {left:?}");
    assert_eq!(node.herald.told().iter().filter(|news| news.ends_with("Released")).count(), 2);

    node.say_enrolled("late");
    assert_eq!(enrol(&node, &pods[2], "late").await, Outcome::NotEnrolled);
    assert_eq!(pods[2].rules(), "");
    nothing_is_written(state_dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_may_not_be_taken_away_and_connections_that_stay_keep_no_pod() {
    const SHORT: Duration = Duration::from_secs(6);
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    node.cluster.marks_fail.store(true, Ordering::SeqCst);
    let enrolled = node.registry.pods().await.pop().expect("the pod");
    enrolled.standing.connection_begins();
    let begun = Instant::now();
    node.registry.release_all(SHORT, || {}).await;
    let took = begun.elapsed();
    assert!(took >= SHORT && took < SHORT + Duration::from_secs(3), "{took:?}");
    assert_eq!(pod.rules(), "");
    assert_eq!(node.marks(), ["shop/web"], "for a mesh that is installed anew to take away");
}
