//! Who keeps the marks is away: pods start captured and are marked later, and none is let go of with its mark.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gammarus_cni::Outcome;
use node_proxy::cluster::objects::{Mark, ObjectKey};

use crate::cluster::fact;
use crate::enrolment::enrol;
use crate::mesh::{CabledPod, Node, QUICK};
use crate::rig::at;

/// Marks cannot be changed from now on, or can be again.
fn marks_fail(node: &Node, fail: bool) {
    node.cluster.marks_fail.store(fail, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_starts_captured_without_its_mark_and_gets_it_later() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    marks_fail(&node, true);
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    assert!(pod.rules().contains("redirect to :15006"));
    let trouble = node.troubles.list().into_values().next().expect("a trouble");
    assert_eq!(trouble.reason, "mark", "{trouble:?}");
    assert!(trouble.message.contains("no marks today"), "{trouble:?}");
    drop(pod.namespace.connect(at("10.96.0.1", 443)));
    assert_eq!(node.herald.told(), ["shop/web EnrolmentFailed mark"]);

    marks_fail(&node, false);
    node.must_be_marked(&["shop/web"]).await;
    while !node.troubles.list().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.herald.told(), ["shop/web EnrolmentFailed mark", "shop/web Enrolled"]);
    node.must_have_seen(&["uid-web joined, 0 marks"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_to_leave_stays_captured_as_long_as_its_mark_cannot_be_taken_away() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    marks_fail(&node, true);
    node.say_not_enrolled("web");
    tokio::time::sleep(QUICK.dial + QUICK.release * 2).await;
    assert_eq!(node.marks(), ["shop/web"]);
    assert!(pod.rules().contains("redirect to :15006"), "other nodes speak mTLS to it");
    marks_fail(&node, false);
    node.must_be_marked(&[]).await;
    let released = async {
        while !pod.rules().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), released).await.expect("it leaves at last");
    node.must_have_seen(&["uid-web joined, 0 marks", "uid-web left, 0 marks"]).await;
    assert_eq!(node.herald.told(), ["shop/web Enrolled", "shop/web Released"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_nobody_stands_for_is_taken_away_and_others_are_not() {
    let (node, pod) = (Node::start(), CabledPod::new());
    let forgotten = Mark::of_captured("uid-old", Vec::new());
    node.cluster.marks.lock().unwrap().insert("shop/old".to_owned(), forgotten);
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    marks_fail(&node, true);
    let registry = node.registry.clone();
    let finder = tokio::spawn(async move { registry.find_older().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.marks(), ["shop/old", "shop/web"]);
    marks_fail(&node, false);
    node.must_be_marked(&["shop/web"]).await;
    finder.abort();
}

#[tokio::test]
async fn pods_of_the_nodes_network_are_named_once_and_listed_as_long_as_they_are_there() {
    let node = Node::start();
    let registry = node.registry.clone();
    let finder = tokio::spawn(async move { registry.find_older().await });
    let host = ObjectKey::new("shop", "host");
    let listed = async |expected: usize| {
        while node.troubles.left_alone().len() != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    node.cluster.left_alone.lock().unwrap().insert(host.clone());
    for other in ["one", "two"] {
        node.say("unrelated", fact(other, false));
        tokio::time::timeout(QUICK.inspection * 5, listed(1)).await.expect("it is listed");
    }
    assert_eq!(node.herald.told(), ["shop/host HostNetworkIgnored"]);
    node.cluster.left_alone.lock().unwrap().clear();
    node.say("unrelated", fact("three", false));
    tokio::time::timeout(QUICK.inspection * 5, listed(0)).await.expect("it is listed no more");
    finder.abort();
}
