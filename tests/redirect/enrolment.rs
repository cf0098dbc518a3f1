//! A pod joins, is checked, and leaves: proven, marked, and with nothing of it left.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gammarus_cni::protocol::code;
use gammarus_cni::state::{NamespaceState, NamespaceStates, list_unseen, write_unseen};
use gammarus_cni::{Attachment, Command, Outcome, Request, call};
use node_proxy::pod::proof::{ProofError, prove};
use node_proxy::pod::{Direction, enroll, sockets};

use crate::mesh::{CabledPod, Node};
use crate::rig::at;

pub(crate) async fn enrol(node: &Node, pod: &CabledPod, name: &str) -> Outcome {
    let netns = pod.namespace.fd().try_clone().expect("a descriptor");
    node.registry.enrol(pod.attachment(name), netns).await
}

#[track_caller]
pub(crate) fn check_failed(outcome: &Outcome, expected: u32) {
    match outcome {
        Outcome::Failed { code, .. } => assert_eq!(*code, expected, "{outcome:?}"),
        other => panic!("{other:?} is no failure"),
    }
}

#[tokio::test]
async fn a_pod_joins_with_proof_and_mark_and_leaves_nothing_behind() {
    let (node, mut pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    assert_eq!(node.marks(), ["shop/web"]);
    let mark = node.cluster.marks.lock().unwrap()["shop/web"].clone();
    assert_eq!(mark.uid, "uid-web");
    assert_eq!(mark.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), [&*pod.v4, &*pod.v6]);
    assert_eq!(node.captured[0].load(Ordering::SeqCst), 0, "proofs are no traffic");
    assert_eq!(node.registry.check(&pod.attachment("web"), None).await, Outcome::Enrolled);
    assert_eq!(node.registry.pods().await.len(), 1);

    node.registry.withdraw(&pod.attachment("web").id).await;
    node.registry.withdraw(&pod.attachment("web").id).await;
    assert!(node.registry.pods().await.is_empty());
    // The mark comes last and goes first.
    node.must_have_seen(&["uid-web joined, 0 marks", "uid-web left, 0 marks"]).await;
    pod.must_vanish().await;
}

#[tokio::test]
async fn a_pod_that_is_not_to_be_enrolled_is_not_touched() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_not_enrolled("plain");
    assert_eq!(enrol(&node, &pod, "plain").await, Outcome::NotEnrolled);
    assert_eq!(node.registry.check(&pod.attachment("plain"), None).await, Outcome::NotEnrolled);
    assert_eq!(pod.rules(), "");
    assert!(node.journal().is_empty() && node.marks().is_empty());
}

#[tokio::test]
async fn enrolment_waits_until_the_pod_has_been_seen() {
    let (node, pod) = (Node::start(), CabledPod::new());
    let (outcome, ()) = tokio::join!(enrol(&node, &pod, "web"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(node.journal().is_empty());
        node.say_enrolled("web");
    });
    assert_eq!(outcome, Outcome::Enrolled);
}

#[tokio::test]
async fn a_pod_that_nobody_has_seen_is_to_be_tried_again() {
    let (node, pod) = (Node::start(), CabledPod::new());
    check_failed(&enrol(&node, &pod, "web").await, code::TRY_AGAIN_LATER);
    assert_eq!(pod.rules(), "");
}

#[tokio::test]
async fn a_pod_that_leaves_while_it_is_waited_for_does_not_join_later() {
    let (node, mut pod) = (Node::start(), CabledPod::new());
    let (outcome, ()) = tokio::join!(enrol(&node, &pod, "web"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.registry.withdraw(&pod.attachment("web").id).await;
        node.say_enrolled("web");
    });
    check_failed(&outcome, code::ENROLMENT_FAILED);
    assert!(node.journal().is_empty());
    pod.must_vanish().await;
}

#[tokio::test]
async fn a_pod_whose_capture_is_not_proven_gets_no_mark_and_everything_is_undone() {
    let (node, mut pod) = (Node::with(None, false), CabledPod::new());
    node.say_enrolled("web");
    let outcome = enrol(&node, &pod, "web").await;
    check_failed(&outcome, code::ENROLMENT_FAILED);
    assert!(node.marks().is_empty() && node.registry.pods().await.is_empty());
    assert_eq!(pod.rules(), "");
    node.must_have_seen(&["uid-web joined, 0 marks", "uid-web left, 0 marks"]).await;
    pod.must_vanish().await;
}

#[tokio::test]
async fn a_pod_that_has_gone_when_its_mark_is_written_is_not_enrolled() {
    let (node, mut pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    node.cluster.pods_gone.store(true, Ordering::SeqCst);
    check_failed(&enrol(&node, &pod, "web").await, code::ENROLMENT_FAILED);
    assert_eq!(pod.rules(), "");
    pod.must_vanish().await;
}

#[tokio::test]
async fn a_proof_says_which_direction_fails_where_rules_are_missing() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    let enrolled = node.registry.pods().await.pop().expect("the pod");
    let allowed = Duration::from_secs(1);
    prove(&enrolled, &[], allowed).await.expect("the control: with rules it is proven");

    pod.namespace.exec("nft flush chain inet gammarus outbound");
    let error = prove(&enrolled, &[], allowed).await.expect_err("outbound is not captured");
    assert_eq!(error.direction(), Some(Direction::Outbound), "{error}");
    assert!(matches!(error, ProofError::NotCaptured { .. }), "{error}");

    pod.namespace.exec("nft flush ruleset");
    let error = prove(&enrolled, &[], allowed).await.expect_err("nothing is captured");
    assert!(matches!(error, ProofError::Bypassed { .. }), "{error}");
}

#[tokio::test]
async fn a_pod_without_an_address_proves_nothing() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    let attachment = Attachment { addresses: Vec::new(), ..pod.attachment("web") };
    let netns = pod.namespace.fd().try_clone().unwrap();
    check_failed(&node.registry.enrol(attachment, netns).await, code::ENROLMENT_FAILED);
    assert!(node.marks().is_empty());
}

#[tokio::test]
async fn asking_again_changes_nothing_and_a_new_namespace_replaces_the_old() {
    let (node, mut old, new) = (Node::start(), CabledPod::new(), CabledPod::new());
    node.say_enrolled("web");
    for _ in 0..2 {
        assert_eq!(enrol(&node, &old, "web").await, Outcome::Enrolled);
    }
    assert_eq!(node.journal().len(), 1);
    assert_eq!(enrol(&node, &new, "web").await, Outcome::Enrolled);
    // The DEL of the old sandbox comes late, and is not the new one's.
    node.registry.withdraw(&old.attachment("web").id).await;
    assert_eq!(node.registry.check(&new.attachment("web"), None).await, Outcome::Enrolled);
    let joined = "uid-web joined, 0 marks";
    node.must_have_seen(&[joined, "uid-web left, 0 marks", joined]).await;
    assert_eq!(node.marks(), ["shop/web"]);
    old.must_vanish().await;
}

#[tokio::test]
async fn a_pod_that_left_may_join_again_at_once() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    for _ in 0..3 {
        assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
        node.registry.withdraw(&pod.attachment("web").id).await;
    }
    assert!(node.marks().is_empty());
}

#[tokio::test]
async fn check_finds_missing_rules_and_listeners() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    check_failed(&node.registry.check(&pod.attachment("web"), None).await, code::NOT_AS_EXPECTED);
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    pod.namespace.exec("nft flush chain inet gammarus inbound");
    check_failed(&node.registry.check(&pod.attachment("web"), None).await, code::NOT_AS_EXPECTED);

    let expected = [at("127.0.0.1", 15001), at("::1", 15001), at("0.0.0.0", 15006), at("::", 15006)];
    assert_eq!(sockets::missing_listeners(pod.namespace.fd(), &expected).unwrap(), []);
    let elsewhere = [at("127.0.0.1", 15002), at("::", 15007)];
    assert_eq!(sockets::missing_listeners(pod.namespace.fd(), &elsewhere).unwrap(), elsewhere);
}

#[tokio::test]
async fn garbage_is_what_the_runtime_no_longer_knows_of_that_network() {
    let (node, mut gone, kept) = (Node::start(), CabledPod::new(), CabledPod::new());
    for (pod, name) in [(&gone, "gone"), (&kept, "kept")] {
        node.say_enrolled(name);
        assert_eq!(enrol(&node, pod, name).await, Outcome::Enrolled);
    }
    node.registry.collect_garbage("other", &[]).await;
    assert_eq!(node.registry.pods().await.len(), 2);
    node.registry.collect_garbage("podnet", &[kept.attachment("kept").id]).await;
    assert_eq!(node.marks(), ["shop/kept"]);
    gone.must_vanish().await;
}

#[tokio::test]
async fn a_shutdown_lets_go_and_leaves_rules_and_marks() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    node.registry.shutdown().await;
    assert!(node.registry.pods().await.is_empty());
    assert_eq!(node.marks(), ["shop/web"]);
    assert!(pod.rules().contains("redirect to :15006"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_is_answered_over_the_socket() {
    let (node, mut pod) = (Node::start(), CabledPod::new());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/enrol.sock");
    let listener = enroll::bind(&path).expect("a socket");
    drop(listener);
    let listener = enroll::bind(&path).expect("in place of one left behind");
    let server = tokio::spawn(enroll::serve(node.registry.clone(), listener));
    let netns = pod.namespace.fd().try_clone().unwrap();
    let ask = |command: Command| {
        let descriptor = matches!(command, Command::Enrol(_)).then(|| netns.as_fd());
        let reply = call(&path, &Request::new(command), descriptor, Duration::from_secs(10));
        reply.expect("an answer").outcome
    };
    node.say_enrolled("web");
    let attachment = pod.attachment("web");
    assert_eq!(ask(Command::Status), Outcome::Done);
    assert_eq!(ask(Command::Enrol(attachment.clone())), Outcome::Enrolled);
    assert_eq!(ask(Command::Check(attachment.clone())), Outcome::Enrolled);
    let valid = vec![attachment.id.clone()];
    assert_eq!(ask(Command::Gc { network: "podnet".to_owned(), valid }), Outcome::Done);
    assert_eq!(node.marks(), ["shop/web"]);
    assert_eq!(ask(Command::Withdraw(attachment.id.clone())), Outcome::Done);
    assert_eq!(ask(Command::Withdraw(attachment.id.clone())), Outcome::Done);
    assert!(node.marks().is_empty());
    server.abort();
    drop(netns);
    pod.must_vanish().await;
}

#[tokio::test]
async fn pods_that_started_unseen_are_enrolled_and_namespaces_are_kept_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path();
    let pod = CabledPod::new();
    write_unseen(state_dir, &pod.attachment("web")).unwrap();
    let node = Node::with(Some(state_dir.to_owned()), true);
    let registry = node.registry.clone();
    let follower = tokio::spawn(async move { registry.follow_state().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(list_unseen(state_dir).unwrap().len(), 1, "the pod is not known yet");
    node.say_enrolled("web");
    for _ in 0..100 {
        if list_unseen(state_dir).unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(list_unseen(state_dir).unwrap().is_empty());
    node.must_be_marked(&["shop/web"]).await;
    assert_eq!(NamespaceStates::read(state_dir).unwrap().find("shop"), NamespaceState::Enrolled);
    follower.abort();
}

#[tokio::test]
async fn a_descriptor_that_is_no_network_namespace_is_refused() {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    let file = std::fs::File::open("/proc/self/ns/mnt").unwrap();
    let netns = node_proxy::pod::netns::NetnsFd::new(file.into());
    let outcome = node.registry.enrol(pod.attachment("web"), netns).await;
    check_failed(&outcome, code::ENROLMENT_FAILED);
}
