//! How pods come into the mesh and leave it, as a user of a cluster does it.

use std::thread;
use std::time::Duration;

use node_proxy::demo::command::until;

use super::stage::{NODES, PATIENCE, Space, kubectl};

const STRICT: [(&str, &str); 2] = [("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")];

#[test]
fn a_label_enrols_running_pods_and_taking_it_away_releases_them_and_no_pod_is_restarted() {
    let space = Space::with("label", &[]);
    space.server("server", NODES[1], 1);
    space.client("client", NODES[0]);
    let before = [space.pod("client"), space.pods_of("server").remove(0)];
    assert!(before.iter().all(|pod| pod.mark.is_none()), "{before:?}");
    let same = || {
        let now = [space.pod("client"), space.pods_of("server").remove(0)];
        for (now, before) in now.iter().zip(&before) {
            assert_eq!((&now.uid, now.restarts), (&before.uid, before.restarts));
        }
        now
    };
    let namespace = format!("namespace/{}", space.name);
    for round in 0..2 {
        kubectl(&["label", "--overwrite", &namespace, "gammarus.io/mesh=enabled"]).checked();
        assert!(until(PATIENCE, || same().iter().all(|pod| pod.mark.is_some())), "{round}: {:?}", same());
        space.ask("client", &["http://server/in"]);
        kubectl(&["label", &namespace, "gammarus.io/mesh-"]).checked();
        assert!(until(PATIENCE, || same().iter().all(|pod| pod.mark.is_none())), "{round}: {:?}", same());
        space.ask("client", &["http://server/out"]);
    }
    // A release ends some time after the mark has gone, when nobody has used the hop for a while.
    let events = || space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).checked();
    let told = || ["Enrolled", "Released"].iter().all(|reason| events().contains(reason));
    assert!(until(PATIENCE, told), "{}", events());
}

#[test]
fn a_pod_can_opt_out() {
    let space = Space::enrolled("optout");
    space.server("server", NODES[1], 1);
    space.client("client", NODES[0]);
    space.wait_for_mark("client");
    space.kubectl(&["label", "pod/client", "gammarus.io/mesh=disabled"]).checked();
    assert!(until(PATIENCE, || space.pod("client").mark.is_none()), "{:?}", space.pod("client"));
    space.ask("client", &["http://server/"]);
}

#[test]
fn pods_of_a_namespace_that_was_made_a_moment_before_never_start_outside() {
    // Nothing but mTLS is taken here, so that a single request of a pod outside fails.
    let strict = Space::with("strict", &STRICT);
    strict.server("server", NODES[1], 1);
    let url = format!("http://server.{}/first", strict.name);
    let job = |space: &Space, node: &str| {
        space.apply(&format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: first}}, spec: {{backoffLimit: 0, template: {{spec: {{
              nodeName: {node}, restartPolicy: Never, containers: [{{name: curl, image: 'curlimages/curl:8.17.0',
              command: [curl, -sS, --fail, --max-time, '10', '{url}']}}]}}}}}}}}"
        ));
        let ended = |what: &str| {
            let path = format!("jsonpath={{.status.{what}}}");
            space.kubectl(&["get", "job/first", "-o", &path]).checked() == "1"
        };
        assert!(until(PATIENCE, || ended("succeeded") || ended("failed")), "the job goes on");
        let said = space.kubectl(&["logs", "job/first"]);
        (ended("succeeded"), format!("{}{}", said.out, said.err))
    };
    for round in 0..6 {
        let space = Space::enrolled("moment");
        let (went_well, said) = job(&space, NODES[round % 2]);
        assert!(went_well, "round {round}: {said}");
    }
    // The control: one that is not in the mesh gets nothing.
    let (went_well, said) = job(&Space::with("never", &[]), NODES[0]);
    assert!(!went_well, "{said}");
}

#[test]
fn a_pod_on_the_host_network_is_left_alone_and_named() {
    let space = Space::enrolled("hostnet");
    space.server("server", NODES[1], 1);
    space.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: on-host}}, spec: {{nodeName: {}, hostNetwork: true,
          dnsPolicy: ClusterFirstWithHostNet, terminationGracePeriodSeconds: 0,
          containers: [{{name: curl, image: 'curlimages/curl:8.17.0', command: [sleep, infinity]}}]}}}}",
        NODES[0]
    ));
    space.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", "pod/on-host"]).checked();
    space.ask("on-host", &["http://server/from-the-host"]);
    let events = || space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).checked();
    assert!(until(PATIENCE, || events().contains("HostNetworkIgnored")), "{}", events());
    assert!(space.pod("on-host").mark.is_none());
}

#[test]
fn connections_that_were_there_before_the_label_live_on() {
    let space = Space::with("older", &[]);
    space.server("server", NODES[1], 1);
    space.client("client", NODES[0]);
    let address = space.pods_of("server").remove(0).addresses[0].to_string();
    // One connection, on which curl asks again and again, for as long as all of this takes.
    let script = format!(
        "exec curl -sS --max-time 60 --rate 2/s -o /dev/null -w '%{{http_code}} %{{num_connects}}\\n' \
         'http://{address}:8080/[1-40]'"
    );
    let said = thread::scope(|scope| {
        let asking = scope.spawn(|| space.exec("client", &["sh", "-c", &script]));
        thread::sleep(Duration::from_secs(3));
        kubectl(&["label", &format!("namespace/{}", space.name), "gammarus.io/mesh=enabled"]).checked();
        space.wait_for_mark("client");
        asking.join().unwrap()
    });
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(said.ok && lines.len() == 40 && lines.iter().all(|line| line.starts_with("200")), "{said:?}");
    let connections: u32 = lines.iter().map(|line| line[4..].parse::<u32>().unwrap()).sum();
    assert_eq!(connections, 1, "{said:?}");
}
