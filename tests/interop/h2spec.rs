//! The listener of a pod's node as an HTTP/2 server, judged by h2spec with its strict cases.

use std::collections::BTreeMap;
use std::fs;

use crate::report::Report;
use crate::rig::{HTTP, Reach, Stage, program, stage};

/// How many cases h2spec has in each group: one that was not run has not been passed.
const CASES: [(&str, usize); 3] = [("generic", 44), ("hpack", 8), ("http2", 95)];

/// The server by a port of HTTP/2 and by one that says nothing, and by a rule that keeps bodies for another try, changes heads
/// and counts the time.
pub(crate) const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [
  {name: prior-knowledge, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c},
  {name: anything, port: 82, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: routed-web}, spec: {selector: {app: web}, ports: [
  {name: http2, port: 80, targetPort: 8080}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed-web}
spec:
  parentRefs: [{group: '', kind: Service, name: routed-web}]
  rules:
    - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: 'yes'}]}}]
      timeouts: {request: 50s, backendRequest: 20s}
      retry: {codes: [503], attempts: 2, backoff: 100ms}
      backendRefs: [{name: web, port: 80}]
";

/// What h2spec says of a server; `name` is that of its report.
#[track_caller]
pub(crate) fn judge(stage: &Stage, reach: &Reach, name: &str) -> Report {
    let file = stage.world.dir().join(format!("{name}.xml"));
    let (tool, place, port) = (program("H2SPEC", None), file.display().to_string(), reach.port.to_string());
    let tls: &[&str] = if reach.tls { &["--tls", "--insecure"] } else { &[] };
    let server = [&["--host", &*reach.host, "--port", &port, "--path", "/page"], tls].concat();
    // In seconds: a server on a busy machine is not to be blamed for being late.
    let how = ["--strict", "--timeout", "5", "--junit-report", &place];
    let done = stage.run(reach, &[&[&*tool], &*server, &how].concat());
    let xml = fs::read_to_string(&file).unwrap_or_default();
    assert!(!xml.is_empty(), "{}: {}: {}{}", done.command, done.status, done.stdout, done.stderr);
    let report = Report::read(&xml);
    let (skipped, failed) = (report.skipped(), report.failed());
    println!(
        "{name}: {:?}, {} skipped, {} failed: {failed:#?}",
        report.groups(),
        skipped.len(),
        failed.len()
    );
    assert_eq!(report.groups(), BTreeMap::from(CASES), "{name}: {}", done.stdout);
    assert_eq!(done.success(), failed.is_empty(), "{name}: {}", done.stdout);
    report
}

/// Every case is passed at this Service.
#[track_caller]
fn check(service: &str, port: u16, evidence: &[&str]) {
    let stage = stage();
    let report = judge(&stage, &stage.service(service, port), &format!("{service}-{port}"));
    assert_eq!((report.skipped(), report.failed()), (vec![], vec![]), "{service}:{port}");
    // Not only refused: about half of the cases are requests that are to be answered.
    let asked = format!("dst.port={port} ");
    let common = [&asked, "protocol=http2 ", "path=/page ", "status=200 ", "mtls=yes ", "dst.workload=web "];
    stage.check_answered(service, 40, &[&common[..], evidence].concat());
}

#[test]
fn a_port_of_http2_passes_all_cases() {
    check("web", 80, &[]);
}

#[test]
fn a_port_that_says_nothing_passes_all_cases() {
    check("web", 82, &[]);
}

#[test]
fn a_port_under_a_rule_with_all_that_slows_a_request_down_passes_all_cases() {
    check("routed-web", 80, &["route=HTTPRoute/shop/routed-web/0 ", "backend=shop/web:80 "]);
}

/// Without the mesh the same server has a fault: what passes above is not what it does, and faults are found.
#[test]
fn the_server_itself_is_judged_without_the_mesh() {
    let stage = stage();
    let report = judge(&stage, &stage.bare("bare-web", HTTP), "bare-web");
    let failed: Vec<_> = report.failed().into_iter().map(|(title, _)| title).collect();
    assert_eq!(failed, ["http2/5.1.1 Sends stream identifier that is numerically smaller than previous"]);
    assert_eq!(stage.lines(&["bare-web"]), [""; 0]);
}

/// A client's preface and a GET of this path, in bytes for `client.py`.
fn request(path: &str) -> String {
    let mut head = vec![0x82, 0x86, 0x41, 3];
    head.extend(b"web");
    head.extend([0x44, u8::try_from(path.len()).unwrap()]);
    head.extend(path.bytes());
    let length = u8::try_from(head.len()).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let bytes = [&preface[..], &[0, 0, length, 1, 5, 0, 0, 0, 1], &head].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This server sends its preface at once: on a port that says nothing that must not make it one that speaks first.
#[test]
fn a_client_that_is_slower_than_its_server_is_routed_all_the_same() {
    let stage = stage();
    let reach = stage.service("web", 82);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/client.py");
    let steps = ["pause:0.5", &request("/slow-client"), "read:404", "half", "rest"];
    let done = stage.run(&reach, &[&["/usr/bin/python3", script, &reach.host, "82"], &steps[..]].concat());
    assert!(done.success(), "{}{}", done.stdout, done.stderr);
    stage.check_answered(
        "web",
        1,
        &["dst.port=82 ", "protocol=http2 ", "path=/slow-client ", "status=404 ", "mtls=yes "],
    );
}
