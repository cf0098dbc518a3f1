//! Not to be enrolled is a fact: what the watched view does not say, or not yet, is asked for once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gammarus_cni::Outcome;
use gammarus_cni::protocol::code;
use gammarus_cni::state::list_unseen;
use node_proxy::pod::facts::Asked;

use crate::cluster::fact;
use crate::enrolment::{check_failed, enrol};
use crate::mesh::{CabledPod, Node, QUICK};

fn answer(node: &Node, answer: Asked) {
    *node.cluster.answer.lock().unwrap() = Some(answer);
}

fn asked(node: &Node) -> usize {
    node.cluster.asked.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_pod_that_the_view_has_not_seen_is_asked_for_once_and_not_waited_for() {
    let (node, pod) = (Node::start(), CabledPod::new());
    answer(&node, Asked::Fact(fact("web", true)));
    let begun = Instant::now();
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    assert!(begun.elapsed() < QUICK.facts, "{:?}", begun.elapsed());
    assert_eq!((asked(&node), node.marks()), (1, vec!["shop/web".to_owned()]));
}

#[tokio::test]
async fn a_view_that_is_late_lets_no_pod_start_outside_and_none_go() {
    let (node, pod) = (Node::start(), CabledPod::new());
    // The namespace was labelled a moment ago.
    node.say_not_enrolled("web");
    answer(&node, Asked::Fact(fact("web", true)));
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    node.say_not_enrolled("web");
    tokio::time::sleep(QUICK.lag / 2).await;
    let enrolled = node.registry.pods().await.pop().expect("the pod");
    assert!(!enrolled.standing.is_leaving(), "the view is older than the answer");
    node.say_enrolled("web");
    tokio::time::sleep(QUICK.lag * 2).await;
    assert!(!enrolled.standing.is_leaving());
    node.must_have_seen(&["uid-web joined, 0 marks"]).await;
    // What the view says later holds.
    node.say_not_enrolled("web");
    node.must_be_marked(&[]).await;
}

#[tokio::test]
async fn a_pod_that_is_enrolled_by_the_view_is_not_asked_for() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    answer(&node, Asked::Fact(fact("web", false)));
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    assert_eq!(asked(&node), 0);
}

#[tokio::test]
async fn a_pod_that_is_not_there_is_waited_for() {
    let (node, pod) = (Node::start(), CabledPod::new());
    answer(&node, Asked::NoSuchPod);
    let (outcome, ()) = tokio::join!(enrol(&node, &pod, "web"), async {
        tokio::time::sleep(QUICK.facts / 2).await;
        node.say_enrolled("web");
    });
    assert_eq!((outcome, asked(&node)), (Outcome::Enrolled, 1));
    let unseen = CabledPod::new();
    check_failed(&enrol(&node, &unseen, "unseen").await, code::TRY_AGAIN_LATER);
}

#[tokio::test]
async fn where_nobody_answers_it_goes_by_what_is_known_of_the_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let (node, pod) = (Node::with(Some(directory.path().to_owned()), true), CabledPod::new());
    answer(&node, Asked::Silence("away".to_owned()));
    let namespace = |name: &str| {
        let mut attachment = serde_json::to_value(pod.attachment("web")).unwrap();
        attachment["pod"]["namespace"] = name.into();
        serde_json::from_value(attachment).unwrap()
    };
    let netns = || pod.namespace.fd().try_clone().unwrap();
    let unseen = || list_unseen(directory.path()).unwrap().len();
    // A pod of the mesh waits.
    check_failed(&node.registry.enrol(namespace("shop"), netns()).await, code::TRY_AGAIN_LATER);
    assert_eq!(unseen(), 0);
    // One that is of none is not even kept waiting.
    node.cluster.not_enrolled.lock().unwrap().insert("outside".to_owned());
    let begun = Instant::now();
    assert_eq!(node.registry.enrol(namespace("outside"), netns()).await, Outcome::NotEnrolled);
    assert!(begun.elapsed() < QUICK.facts - Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(unseen(), 1);
    // Nobody has seen this namespace: it starts, and is looked at later.
    assert_eq!(node.registry.enrol(namespace("strange"), netns()).await, Outcome::NotEnrolled);
    assert_eq!((unseen(), pod.rules()), (1, String::new()), "one record for each sandbox");
    // What the view has seen is believed.
    node.say_not_enrolled("web");
    assert_eq!(node.registry.enrol(namespace("shop"), netns()).await, Outcome::NotEnrolled);
}
