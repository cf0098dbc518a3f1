//! What somebody takes away from a pod comes back; what does not stay, or does not work, costs the pod its mark.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gammarus_cni::Outcome;
use gammarus_cni::protocol::code;
use node_proxy::cluster::objects::Mark;
use node_proxy::pod::redirect;

use crate::enrolment::{check_failed, enrol};
use crate::mesh::{CabledPod, Node, QUICK};
use crate::rig::at;

/// Waits until something holds; what it needs to be true is done by others.
pub(crate) async fn until(allowed: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + allowed;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

/// A node with the pod `web` in the mesh.
async fn member() -> (Node, CabledPod) {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    (node, pod)
}

/// A node with the pod `web` that runs and is not in the mesh.
async fn outsider() -> (Node, CabledPod) {
    let (node, pod) = (Node::start(), CabledPod::new());
    node.say_not_enrolled("web");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::NotEnrolled);
    (node, pod)
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_routes_settings_and_sockets_that_were_taken_away_come_back() {
    let (node, pod) = member().await;
    let listening = "ss -Hltn sport = :15001 or sport = :15006";
    let sockets = pod.namespace.exec(listening).lines().count();
    for (what, breakage) in [
        ("rules", "nft delete table inet gammarus"),
        ("rules", "nft flush table inet gammarus"),
        ("rules", "nft flush chain inet gammarus inbound"),
        ("rules", "nft insert rule inet gammarus outbound accept"),
        ("routing", "ip rule del priority 100"),
        ("routing", "ip -6 rule del priority 100"),
        ("routing", "ip route flush table 26465"),
        ("settings", "sysctl -qw net.ipv4.tcp_fwmark_accept=0"),
        ("listeners", "ss -K state listening sport = :15006"),
        ("listeners", "ss -K state listening sport = :15001"),
    ] {
        let (before, begun) =
            (node.metric(&format!("gammarus_repairs_total{{what=\"{what}\"}}")), Instant::now());
        pod.namespace.exec(breakage);
        let again = || {
            pod.namespace.exec(listening).lines().count() == sockets
                && redirect::inspect(pod.namespace.fd()).unwrap().is_empty()
                && node.metric(&format!("gammarus_repairs_total{{what=\"{what}\"}}")) > before
        };
        assert!(until(QUICK.inspection * 4, again).await, "{breakage} was not repaired");
        eprintln!("{breakage}: repaired after {} ms", begun.elapsed().as_millis());
        assert_eq!(node.marks(), ["shop/web"], "{breakage}: one repair costs no mark");
        // Several in a row would: the pod is looked at again, and nothing is amiss.
        tokio::time::sleep(QUICK.retry * 3).await;
    }
    let before = node.captured[1].load(Ordering::SeqCst);
    drop(pod.namespace.connect(at("10.96.0.1", 443)));
    let captured = || node.captured[1].load(Ordering::SeqCst) > before;
    assert!(until(QUICK.proof, captured).await, "the new sockets are accepted on");
}

/// Takes all rules of a namespace away, again and again, until it is dropped.
struct Flusher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    fn start(pod: &CabledPod) -> Self {
        let (stop, name) = (Arc::new(AtomicBool::new(false)), pod.namespace.name.clone());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                crate::rig::run(&format!("ip netns exec {name} nft flush ruleset"));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[track_caller]
fn check_trouble(node: &Node, reasons: &[&str]) {
    let troubles = node.troubles.list();
    let trouble = troubles.values().next().expect("a trouble");
    assert!(reasons.contains(&trouble.reason) && trouble.message.contains("shop/web"), "{trouble:?}");
    let metric = format!("gammarus_pods_unenrolled{{reason=\"{}\"}}", trouble.reason);
    assert!((node.metric(&metric) - 1.0).abs() < f64::EPSILON, "{metric}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_was_taken_away_or_changed_comes_back() {
    let (node, _pod) = member().await;
    let right = node.cluster.marks.lock().unwrap().clone();
    assert!(right.contains_key("shop/web"), "{right:?}");
    let other = Mark::of_captured("uid-web", Vec::new());
    for spoilt in [None, Some(("shop/web".to_owned(), other))] {
        *node.cluster.marks.lock().unwrap() = spoilt.into_iter().collect();
        assert!(until(QUICK.inspection * 4, || *node.cluster.marks.lock().unwrap() == right).await);
    }
    assert_eq!(node.herald.told(), ["shop/web Enrolled", "shop/web Repaired mark", "shop/web Repaired mark"]);
    node.must_have_seen(&["uid-web joined, 0 marks"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_rules_do_not_stay_gets_no_mark_until_they_do() {
    let (node, pod) = outsider().await;
    let flusher = Flusher::start(&pod);
    node.say_enrolled("web");
    assert!(until(QUICK.proof * 10, || !node.troubles.list().is_empty()).await, "it is said");
    tokio::time::sleep(QUICK.inspection * 2).await;
    assert!(node.marks().is_empty());
    check_trouble(&node, &["rules_do_not_stay", "outbound_not_captured", "inbound_not_captured", "bypassed"]);
    drop(flusher);
    node.must_be_marked(&["shop/web"]).await;
    assert!(until(QUICK.inspection * 10, || node.troubles.list().is_empty()).await, "it is said still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_rules_stay_no_longer_loses_its_mark_and_gets_it_back() {
    let (node, pod) = member().await;
    let flusher = Flusher::start(&pod);
    assert!(until(QUICK.inspection * 10, || node.marks().is_empty()).await, "the mark stays");
    check_trouble(&node, &["rules_do_not_stay", "outbound_not_captured", "inbound_not_captured", "bypassed"]);
    drop(flusher);
    node.must_be_marked(&["shop/web"]).await;
    assert!(until(QUICK.inspection * 10, || node.troubles.list().is_empty()).await, "it is said still");
}

/// What a load balancer at the sockets does, as far as the pod's rules can tell: a connection to a Service's address
/// has another destination before they see it.
#[track_caller]
fn rewrite_destinations(pod: &CabledPod, to: SocketAddr) {
    pod.namespace.exec("nft add table ip balancer");
    pod.namespace.exec("nft add chain ip balancer out { type nat hook output priority -150 ; }");
    pod.namespace.exec(&format!("nft add rule ip balancer out ip daddr 10.96.0.0/16 dnat to {}", to.ip()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_destinations_are_rewritten_gets_no_mark_until_they_are_not() {
    let (node, pod) = outsider().await;
    let elsewhere = at(&pod.v4.replace(".2", ".1"), 443);
    rewrite_destinations(&pod, elsewhere);
    node.say_enrolled("web");
    assert!(until(QUICK.proof * 10, || !node.troubles.list().is_empty()).await, "it is said");
    check_trouble(&node, &["outbound_not_captured"]);
    assert!(node.marks().is_empty());
    pod.namespace.exec("nft delete table ip balancer");
    node.must_be_marked(&["shop/web"]).await;
    assert!(node.troubles.list().is_empty());

    // It comes back: the mark goes, without anything of ours being changed.
    rewrite_destinations(&pod, elsewhere);
    assert!(until(QUICK.inspection * 5, || node.marks().is_empty()).await, "the mark stays");
    check_trouble(&node, &["outbound_not_captured"]);
    pod.namespace.exec("nft delete table ip balancer");
    node.must_be_marked(&["shop/web"]).await;
}

#[tokio::test]
async fn a_new_pod_whose_destinations_are_rewritten_does_not_start_and_it_is_said_why() {
    let (node, pod) = (Node::start(), CabledPod::new());
    rewrite_destinations(&pod, at(&pod.v4.replace(".2", ".1"), 443));
    node.say_enrolled("web");
    check_failed(&enrol(&node, &pod, "web").await, code::ENROLMENT_FAILED);
    check_trouble(&node, &["outbound_not_captured"]);
    pod.namespace.exec("nft delete table ip balancer");
    assert_eq!(enrol(&node, &pod, "web").await, Outcome::Enrolled);
    assert!(node.troubles.list().is_empty());
}
