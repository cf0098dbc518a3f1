//! How pods come into the mesh and leave it, as a user of a cluster does it.

use std::thread;
use std::time::Duration;

use node_proxy::demo::command::until;

use super::rig::{NODES, Namespace, PATIENCE};

const STRICT: [(&str, &str); 2] = [("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")];

#[test]
fn a_label_enrols_running_pods_and_taking_it_away_releases_them_and_no_pod_is_restarted() {
    let namespace = Namespace::new("label");
    namespace.server("server", NODES[1], 1);
    namespace.client("client", NODES[0]);
    let before = [namespace.pod_now("client"), namespace.pods_of("server").remove(0)];
    assert!(before.iter().all(|pod| pod.mark.is_none()), "{before:?}");
    let same = || {
        let now = [namespace.pod_now("client"), namespace.pods_of("server").remove(0)];
        for (now, before) in now.iter().zip(&before) {
            assert_eq!((&now.uid, now.restarts), (&before.uid, before.restarts));
        }
        now
    };
    for round in 0..2 {
        namespace.label("gammarus.io/mesh=enabled");
        assert!(until(PATIENCE, || same().iter().all(|pod| pod.mark.is_some())), "{round}: {:?}", same());
        namespace.ask("client", &["http://server/in"]);
        namespace.label("gammarus.io/mesh-");
        assert!(until(PATIENCE, || same().iter().all(|pod| pod.mark.is_none())), "{round}: {:?}", same());
        namespace.ask("client", &["http://server/out"]);
    }
    // A release ends some time after the mark has gone, when nobody has used the hop for a while.
    let events = || namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).output();
    let told = || ["Enrolled", "Released"].iter().all(|reason| events().contains(reason));
    assert!(until(PATIENCE, told), "{}", events());
}

#[test]
fn a_pod_can_opt_out() {
    let namespace = Namespace::enrolled("optout");
    namespace.server("server", NODES[1], 1);
    namespace.client("client", NODES[0]);
    namespace.wait_for_mark("client");
    namespace.kubectl(&["label", "pod/client", "gammarus.io/mesh=disabled"]).output();
    assert!(
        until(PATIENCE, || namespace.pod_now("client").mark.is_none()),
        "{:?}",
        namespace.pod_now("client")
    );
    namespace.ask("client", &["http://server/"]);
}

#[test]
fn pods_of_a_namespace_that_was_made_a_moment_before_never_start_outside() {
    // Nothing but mTLS is taken here, so that a single request of a pod outside fails.
    let strict = Namespace::labelled("strict", &STRICT);
    strict.server("server", NODES[1], 1);
    let url = format!("http://server.{}/first", strict.name);
    let job = |namespace: &Namespace, node: &str| {
        namespace.apply(&format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: first}}, spec: {{backoffLimit: 0, template: {{spec: {{
              nodeName: {node}, restartPolicy: Never, containers: [{{name: curl, image: 'curlimages/curl:8.17.0',
              command: [curl, -sS, --fail, --max-time, '10', '{url}']}}]}}}}}}}}"
        ));
        let ended = |what: &str| {
            let path = format!("jsonpath={{.status.{what}}}");
            namespace.kubectl(&["get", "job/first", "-o", &path]).output() == "1"
        };
        assert!(until(PATIENCE, || ended("succeeded") || ended("failed")), "the job goes on");
        let said = namespace.kubectl(&["logs", "job/first"]);
        (ended("succeeded"), said.said())
    };
    for round in 0..6 {
        let namespace = Namespace::enrolled("moment");
        let (went_well, said) = job(&namespace, NODES[round % 2]);
        assert!(went_well, "round {round}: {said}");
    }
    // The control: one that is not in the mesh gets nothing.
    let (went_well, said) = job(&Namespace::new("never"), NODES[0]);
    assert!(!went_well, "{said}");
}

#[test]
fn a_pod_on_the_host_network_is_left_alone_and_named() {
    let namespace = Namespace::enrolled("hostnet");
    namespace.server("server", NODES[1], 1);
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: on-host}}, spec: {{nodeName: {}, hostNetwork: true,
          dnsPolicy: ClusterFirstWithHostNet, terminationGracePeriodSeconds: 0,
          containers: [{{name: curl, image: 'curlimages/curl:8.17.0', command: [sleep, infinity]}}]}}}}",
        NODES[0]
    ));
    namespace.wait("Ready", "pod/on-host");
    namespace.ask("on-host", &["http://server/from-the-host"]);
    let events = || namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).output();
    assert!(until(PATIENCE, || events().contains("HostNetworkIgnored")), "{}", events());
    assert!(namespace.pod_now("on-host").mark.is_none());
}

#[test]
fn connections_that_were_there_before_the_label_live_on() {
    let namespace = Namespace::new("older");
    namespace.server("server", NODES[1], 1);
    namespace.client("client", NODES[0]);
    let address = namespace.pods_of("server").remove(0).addresses[0].to_string();
    // One connection, on which curl asks again and again, for as long as all of this takes.
    let script = format!(
        "exec curl -sS --max-time 60 --rate 2/s -o /dev/null -w '%{{http_code}} %{{num_connects}}\\n' \
         'http://{address}:8080/[1-40]'"
    );
    let said = thread::scope(|scope| {
        let asking = scope.spawn(|| namespace.exec("client", &["sh", "-c", &script]));
        thread::sleep(Duration::from_secs(3));
        namespace.label("gammarus.io/mesh=enabled");
        namespace.wait_for_mark("client");
        asking.join().unwrap()
    });
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert!(
        said.success && lines.len() == 40 && lines.iter().all(|line| line.starts_with("200")),
        "{said:?}"
    );
    let connections: u32 = lines.iter().map(|line| line[4..].parse::<u32>().unwrap()).sum();
    assert_eq!(connections, 1, "{said:?}");
}
