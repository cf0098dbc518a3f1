//! A proxy that starts again, or takes over from another, finds the pods of its node by their records.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use gammarus_cni::Outcome;
use gammarus_cni::protocol::code;
use gammarus_cni::state::{Record, list_records, list_withdrawn, note_withdrawal, write_record};
use node_proxy::cluster::objects::Mark;
use node_proxy::pod::{redirect, sockets};

use crate::enrolment::{check_failed, enrol};
use crate::mesh::{CabledPod, Node, QUICK};
use crate::repair::until;
use crate::rig::{Namespace, at, run};

fn records(state_dir: &Path) -> Vec<Record> {
    list_records(state_dir).unwrap().into_iter().map(Result::unwrap).collect()
}

fn node(state_dir: &Path) -> Node {
    Node::with(Some(state_dir.to_owned()), true)
}

/// How many of a pod's connections to the outside were captured, after one more was opened.
#[track_caller]
fn captured(node: &Node, pod: &CabledPod, wanted: usize) -> usize {
    // The stand-in for the data path ends it at once.
    drop(pod.namespace.connect(at("10.96.0.1", 443)));
    for _ in 0..100 {
        if node.captured[1].load(Ordering::SeqCst) >= wanted {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    node.captured[1].load(Ordering::SeqCst)
}

#[tokio::test]
async fn every_pod_that_add_has_passed_is_written_down_until_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (node, web, plain) = (node(directory.path()), CabledPod::new(), CabledPod::new());
    node.say_enrolled("web");
    node.say_not_enrolled("plain");
    assert_eq!(enrol(&node, &web, "web").await, Outcome::Enrolled);
    assert_eq!(enrol(&node, &plain, "plain").await, Outcome::NotEnrolled);
    check_failed(&enrol(&node, &CabledPod::new(), "unknown").await, code::TRY_AGAIN_LATER);
    let written = records(directory.path());
    for (pod, name) in [(&web, "web"), (&plain, "plain")] {
        let cookie = pod.namespace.fd().id().unwrap().0;
        assert!(
            written.contains(&Record::new(pod.attachment(name), cookie, format!("uid-{name}"))),
            "{name}"
        );
    }
    assert_eq!(written.len(), 2, "{written:?}");
    node.registry.withdraw(&web.attachment("web").id).await;
    node.registry.collect_garbage("podnet", &[]).await;
    assert_eq!(records(directory.path()), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_again_finds_its_pods() {
    let directory = tempfile::tempdir().unwrap();
    let (before, web, plain) = (node(directory.path()), CabledPod::new(), CabledPod::new());
    before.say_enrolled("web");
    before.say_not_enrolled("plain");
    assert_eq!(enrol(&before, &web, "web").await, Outcome::Enrolled);
    assert_eq!(enrol(&before, &plain, "plain").await, Outcome::NotEnrolled);
    before.registry.shutdown().await;
    before.end().await;
    // A look at its sockets that is under way holds them for a moment longer.
    let refused = || web.namespace.connect(at("10.96.0.1", 443)).is_err();
    assert!(until(QUICK.inspection * 10, refused).await, "no proxy: refused, and not passed on");

    let after = node(directory.path());
    after.say_enrolled("web");
    after.say_not_enrolled("plain");
    after.registry.restore().await;
    after.must_be_marked(&["shop/web"]).await;
    assert_eq!(captured(&after, &web, 1), 1);
    assert_eq!(after.registry.check(&web.attachment("web"), None).await, Outcome::Enrolled);
    assert_eq!(plain.rules(), "");
    // What was not enrolled is known all the same: its label may come.
    after.say_enrolled("plain");
    after.must_be_marked(&["shop/plain", "shop/web"]).await;
    assert!(plain.rules().contains("redirect to :15006"));
}

#[tokio::test]
async fn pods_that_went_meanwhile_leave_neither_mark_nor_record() {
    let directory = tempfile::tempdir().unwrap();
    let (mut gone, deleted, mut reused) = (CabledPod::new(), CabledPod::new(), CabledPod::new());
    for (pod, name) in [(&gone, "gone"), (&deleted, "deleted"), (&reused, "reused")] {
        let cookie = pod.namespace.fd().id().unwrap().0;
        let record = Record::new(pod.attachment(name), cookie, format!("uid-{name}"));
        write_record(directory.path(), &record).unwrap();
    }
    note_withdrawal(directory.path(), &deleted.attachment("deleted").id).unwrap();
    gone.must_vanish().await;
    // Another pod's namespace at the same path.
    reused.must_vanish().await;
    run(&format!("ip netns add {}", reused.namespace.name));
    let node = node(directory.path());
    for name in ["gone", "deleted", "reused", "moved"] {
        let uid = if name == "moved" { "uid-of-another".to_owned() } else { format!("uid-{name}") };
        let mark = Mark::of_captured(uid, Vec::new());
        node.cluster.marks.lock().unwrap().insert(format!("shop/{name}"), mark);
    }
    node.registry.restore().await;
    run(&format!("ip netns del {}", reused.namespace.name));
    assert_eq!(node.marks(), ["shop/moved"]);
    assert_eq!(records(directory.path()), []);
    assert!(list_withdrawn(directory.path()).unwrap().is_empty());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let web = CabledPod::new();
    let cookie = web.namespace.fd().id().unwrap().0;
    write_record(directory.path(), &Record::new(web.attachment("web"), cookie, "uid-web".to_owned()))
        .unwrap();
    fs::write(directory.path().join("attachments/broken@eth0.json"), "{").unwrap();
    let node = node(directory.path());
    node.say_enrolled("web");
    node.registry.restore().await;
    node.must_be_marked(&["shop/web"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_listen_already_are_adopted_and_never_closed() {
    let (node, web) = (Node::start(), CabledPod::new());
    let netns = || web.namespace.fd().try_clone().unwrap();
    redirect::install(&netns()).unwrap();
    let listeners = sockets::listen(&netns()).unwrap();
    // Waits in the backlog, as a connection does that comes between two proxies.
    let _waiting = web.namespace.connect(at("10.96.0.1", 443)).expect("a listener without a proxy");
    let cookie = netns().id().unwrap().0;
    let record = |cookie| Record::new(web.attachment("web"), cookie, "uid-web".to_owned());
    node.say_enrolled("web");
    let other = sockets::listen(Namespace::new("other").fd()).unwrap();
    node.registry.adopt(record(cookie + 1), netns(), other).await.expect_err("another namespace");
    node.registry.adopt(record(cookie), netns(), listeners).await.expect("an adoption");
    assert_eq!(captured(&node, &web, 2), 2);
    node.must_be_marked(&["shop/web"]).await;
    assert_eq!(node.registry.check(&web.attachment("web"), None).await, Outcome::Enrolled);
    node.must_have_seen(&["uid-web joined, 0 marks"]).await;
}

#[tokio::test]
async fn a_pod_that_is_gone_everywhere_needs_no_del() {
    let directory = tempfile::tempdir().unwrap();
    let (node, mut web) = (node(directory.path()), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &web, "web").await, Outcome::Enrolled);
    node.say_gone("web");
    // As long as its namespace is there, it may only be that the cluster's view has lost it.
    tokio::time::sleep(QUICK.inspection + QUICK.proof).await;
    assert_eq!(node.marks(), ["shop/web"]);
    web.must_vanish_soon().await;
    assert!(node.marks().is_empty() && node.registry.pods().await.is_empty());
    assert_eq!(records(directory.path()), []);
}

#[tokio::test]
async fn check_compares_the_namespace_too() {
    let (node, web, other) = (Node::start(), CabledPod::new(), Namespace::new("other"));
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &web, "web").await, Outcome::Enrolled);
    let [own, other] = [web.namespace.fd(), other.fd()].map(|netns| Some(netns.try_clone().unwrap()));
    assert_eq!(node.registry.check(&web.attachment("web"), own).await, Outcome::Enrolled);
    check_failed(&node.registry.check(&web.attachment("web"), other).await, code::NOT_AS_EXPECTED);
}
