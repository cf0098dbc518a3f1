//! What enrolment says to an API server, and asks of it: marks, Events, pods that no watch has shown yet, and whether the
//! mesh is being uninstalled.

use std::future::pending;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gammarus_ca::TrustDomain;
use gammarus_cni::PodName;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use node_proxy::cluster::objects::{Change, MARK_ANNOTATION, Mark, Object, ObjectKey};
use node_proxy::cluster::source::{ClusterError, ObjectSource, Update};
use node_proxy::cluster::trimmed::Pod;
use node_proxy::cluster::writer::{ClusterView, Writer};
use node_proxy::pod::api_server::{ApiServer as Asked, EventWriter, Installation, PodMarks};
use node_proxy::pod::facts::{Asked as Answer, MarkWriter as _, PodFacts as _};
use node_proxy::pod::known::KnownPods;
use node_proxy::pod::news::{Herald as _, News};
use node_proxy::snapshot::Snapshot;
use node_proxy::telemetry::Metrics;
use serde_json::Value;

use crate::api_server::ApiServer;

/// What the agent of a node may do, as far as these tests need it.
const RIGHTS: &str =
    "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: NAME}, rules: [
  {apiGroups: [''], resources: [pods, namespaces], verbs: [get]},
  {apiGroups: [''], resources: [pods/status], verbs: [patch]},
  {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]},
  {apiGroups: [apps], resources: [daemonsets], verbs: [get, list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: NAME},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NAME},
  subjects: [{kind: ServiceAccount, name: agent, namespace: NAME}]}";

/// A namespace with the service account of an agent, and the agent's own way to the server.
async fn agent(server: &ApiServer, namespace: &str) -> Asked {
    server.namespace(namespace, &[("gammarus.io/mesh", "enabled")]);
    server.service_account(namespace, "agent");
    server.apply(&RIGHTS.replace("NAME", namespace));
    Asked::new(client(&server.kubeconfig_of(namespace, "agent"), namespace).await)
}

async fn client(kubeconfig: &Path, namespace: &str) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
    config.default_namespace = namespace.to_owned();
    Client::try_from(config).unwrap()
}

/// A pod's object as JSON.
#[track_caller]
fn read_pod(server: &ApiServer, namespace: &str, name: &str) -> Value {
    let args = ["get", "pod", name, "--namespace", namespace, "--output", "json"];
    serde_json::from_str(&server.kubectl(&args).output()).unwrap()
}

#[track_caller]
fn uid(server: &ApiServer, namespace: &str, name: &str) -> String {
    read_pod(server, namespace, name)["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Runs what may block on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A source that says one thing and then nothing more.
struct Once(Option<Vec<Change>>);

impl ObjectSource for Once {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        match self.0.take() {
            Some(changes) => Ok(Update { changes, reports: Vec::new() }),
            None => pending().await,
        }
    }
}

/// A view that has these pods and no others, and stays so.
async fn view_of(pods: &[(ObjectKey, String)]) -> ClusterView {
    let applied = pods.iter().map(|(key, uid)| {
        let pod = Pod { uid: Some(uid.as_str().into()), ..Pod::default() };
        Change::Applied(key.clone(), Object::Pod(Arc::new(pod)))
    });
    let (writer, view) = Writer::new(Once(Some(applied.collect())), |_: &_, _: &_| Snapshot::default());
    tokio::spawn(writer.run());
    view.ready().await.unwrap();
    view
}

#[tokio::test]
async fn a_mark_is_written_and_removed_for_exactly_one_pod_and_nothing_else_of_it_changes() {
    const NAMESPACE: &str = "marks";
    let server = ApiServer::shared();
    let agent = agent(&server, NAMESPACE).await;
    server.pod(NAMESPACE, "web", "agent", "node-a");
    let before = read_pod(&server, NAMESPACE, "web");
    let (marks, key) = (PodMarks::new(agent), ObjectKey::new(NAMESPACE, "web"));
    let uid = uid(&server, NAMESPACE, "web");
    let mark = Mark::of_captured(uid.clone(), vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
    let annotation =
        || read_pod(&server, NAMESPACE, "web")["metadata"]["annotations"][MARK_ANNOTATION].clone();
    let write = async |mark: &Mark| {
        let (marks, key, mark) = (marks.clone(), key.clone(), mark.clone());
        blocking(move || marks.write(&key, &mark)).await
    };
    let remove = async |uid: &str| {
        let (marks, key, uid) = (marks.clone(), key.clone(), uid.to_owned());
        blocking(move || marks.remove(&key, &uid)).await
    };
    for _ in 0..2 {
        write(&mark).await.expect("written");
        assert_eq!(serde_json::from_str::<Mark>(annotation().as_str().unwrap()).unwrap(), mark);
    }
    let marked = read_pod(&server, NAMESPACE, "web");
    for field in ["spec", "status"] {
        assert_eq!(marked[field], before[field], "{field}");
    }
    assert_eq!(marked["metadata"]["labels"], before["metadata"]["labels"]);

    let of_another = Mark::of_captured("another", Vec::new());
    let refused = write(&of_another).await.expect_err("there is no such pod");
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
    remove("another").await.expect("the pod has gone");
    assert_eq!(annotation(), marked["metadata"]["annotations"][MARK_ANNOTATION], "another's is left alone");
    for _ in 0..2 {
        remove(&uid).await.expect("removed");
        assert_eq!(annotation(), Value::Null);
    }
    server.kubectl(&["delete", "pod", "web", "--namespace", NAMESPACE, "--force"]).output();
    assert_eq!(write(&mark).await.expect_err("it has gone").kind(), ErrorKind::NotFound);
    remove(&uid).await.expect("it has gone");
}

#[tokio::test]
async fn a_mark_that_the_server_does_not_take_is_no_pod_that_has_gone() {
    const NAMESPACE: &str = "pending";
    let server = ApiServer::start();
    let agent = agent(&server, NAMESPACE).await;
    server.pod(NAMESPACE, "web", "agent", "node-a");
    let (marks, key) = (PodMarks::new(agent), ObjectKey::new(NAMESPACE, "web"));
    let mark = Mark::of_captured(uid(&server, NAMESPACE, "web"), Vec::new());
    let write = async || {
        let (marks, key, mark, begun) = (marks.clone(), key.clone(), mark.clone(), Instant::now());
        (blocking(move || marks.write(&key, &mark)).await, begun.elapsed())
    };
    write().await.0.expect("the control");
    server.set_answering(false);
    let (outcome, took) = write().await;
    assert_ne!(outcome.expect_err("nobody answers").kind(), ErrorKind::NotFound);
    assert!(took < Duration::from_millis(2500), "{took:?}");
    server.set_answering(true);
    server.kubectl(&["delete", "clusterrolebinding", NAMESPACE]).output();
    let refused = loop {
        if let (Err(refused), _) = write().await {
            break refused;
        }
    };
    assert_ne!(refused.kind(), ErrorKind::NotFound, "{refused}");
}

fn name(namespace: &str, pod: &str, uid: Option<&str>) -> PodName {
    PodName::new(namespace.to_owned(), pod.to_owned(), uid.map(ToOwned::to_owned)).unwrap()
}

#[tokio::test]
async fn a_pod_that_no_watch_has_shown_is_known_by_asking_with_its_namespace_as_it_is() {
    const NAMESPACE: &str = "asked";
    let server = ApiServer::start();
    let agent = agent(&server, NAMESPACE).await;
    server.pod(NAMESPACE, "web", "agent", "node-a");
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    let blind = view_of(&[]).await;
    let facts = KnownPods::new(blind, trust_domain.clone(), "node-a".to_owned()).asking(agent.clone());
    let ask = async |facts: &KnownPods, name: &PodName| {
        let (facts, name) = (facts.clone(), name.clone());
        blocking(move || facts.ask(&name)).await
    };
    let uid = uid(&server, NAMESPACE, "web");
    let web = name(NAMESPACE, "web", Some(&uid));
    assert_eq!(facts.find(&web), None);
    let Answer::Fact(fact) = ask(&facts, &web).await else { panic!("the pod is there") };
    assert_eq!((&*fact.uid, fact.is_enrolled), (&*uid, true));
    assert_eq!(fact.identity.to_string(), "spiffe://cluster.local/ns/asked/sa/agent");
    for absent in [
        name(NAMESPACE, "web", Some("another")),
        name(NAMESPACE, "nobody", None),
        name("nowhere", "web", None),
    ] {
        assert_eq!(ask(&facts, &absent).await, Answer::NoSuchPod, "{absent:?}");
    }

    // The label that counts is that of this moment.
    server.kubectl(&["label", "namespace", NAMESPACE, "gammarus.io/mesh-"]).output();
    let Answer::Fact(fact) = ask(&facts, &web).await else { panic!("the pod is there") };
    assert!(!fact.is_enrolled);
    server.kubectl(&["label", "namespace", NAMESPACE, "gammarus.io/mesh=enabled"]).output();
    server.kubectl(&["label", "pod", "web", "--namespace", NAMESPACE, "gammarus.io/mesh=disabled"]).output();
    let Answer::Fact(fact) = ask(&facts, &web).await else { panic!("the pod is there") };
    assert!(!fact.is_enrolled);

    // A pod that is known is not asked for again, its namespace is.
    let seeing = view_of(&[(ObjectKey::new(NAMESPACE, "web"), uid.clone())]).await;
    let seeing = KnownPods::new(seeing, trust_domain, "node-a".to_owned()).asking(agent);
    let Answer::Fact(fact) = ask(&seeing, &web).await else { panic!("the pod is there") };
    assert!(fact.is_enrolled, "as its labels are in the view");

    server.set_answering(false);
    let begun = Instant::now();
    let answer = ask(&facts, &web).await;
    assert!(matches!(answer, Answer::Silence(_)), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    server.set_answering(true);
}

/// The Events of a namespace.
#[track_caller]
fn events(server: &ApiServer, namespace: &str) -> Vec<Value> {
    let args = ["get", "events.events.k8s.io", "--namespace", namespace, "--output", "json"];
    let list: Value = serde_json::from_str(&server.kubectl(&args).output()).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// Waits until there are so many Events.
async fn wait_for_events(server: &ApiServer, namespace: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = events(server, namespace);
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn failed(reason: &'static str) -> News {
    News::EnrolmentFailed { reason, message: format!("the reason is {reason}") }
}

#[tokio::test]
async fn news_are_events_of_exactly_that_pod_and_the_same_is_not_said_twice() {
    const NAMESPACE: &str = "news";
    let server = ApiServer::shared();
    let agent = agent(&server, NAMESPACE).await;
    server.pod(NAMESPACE, "web", "agent", "node-a");
    let (key, uid) = (ObjectKey::new(NAMESPACE, "web"), uid(&server, NAMESPACE, "web"));
    let metrics = Arc::new(Metrics::new().unwrap());
    let view = view_of(&[(key.clone(), uid.clone())]).await;
    let writer = EventWriter::start(&agent, "node-a", view, metrics.clone());
    for _ in 0..5 {
        for news in
            [failed("mark"), failed("rules"), News::Enrolled, News::Released, News::HostNetworkIgnored]
        {
            writer.tell(&key, news);
        }
        writer.tell(&key, News::Repaired { what: "rules".to_owned(), found: "a rule was gone".to_owned() });
    }
    // Of a pod that has no Pod (any more) it is said all the same; it comes last.
    writer.tell(&ObjectKey::new(NAMESPACE, "nobody"), News::Enrolled);
    let found = wait_for_events(&server, NAMESPACE, 7).await;
    assert_eq!(found.len(), 7, "{found:?}");
    let of_web: Vec<&Value> = found.iter().filter(|event| event["regarding"]["name"] == "web").collect();
    let mut said: Vec<String> = of_web
        .iter()
        .map(|event| {
            assert_eq!(event["regarding"]["uid"].as_str(), Some(&*uid), "{event}");
            assert_eq!(event["reportingController"], "gammarus.io/node-proxy");
            assert_eq!(event["reportingInstance"], "node-a");
            assert!(event["series"].is_null(), "{event}");
            format!("{} {}", event["type"].as_str().unwrap(), event["reason"].as_str().unwrap())
        })
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            "Normal Enrolled",
            "Normal HostNetworkIgnored",
            "Normal Released",
            "Warning EnrolmentFailed",
            "Warning EnrolmentFailed",
            "Warning Repaired",
        ]
    );
    assert!(of_web.iter().any(|event| event["note"] == "the reason is rules"), "{found:?}");
    // People find it where they look.
    let described = server.kubectl(&["describe", "pod", "web", "--namespace", NAMESPACE]).output();
    assert!(described.contains("EnrolmentFailed") && described.contains("the reason is mark"), "{described}");
    assert_eq!(dropped(&metrics), 0.0);
}

fn dropped(metrics: &Metrics) -> f64 {
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("gammarus_events_dropped_total"));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn news_that_cannot_be_written_are_dropped_and_counted_and_nobody_waits() {
    const NAMESPACE: &str = "flood";
    let server = ApiServer::start();
    let agent = agent(&server, NAMESPACE).await;
    let metrics = Arc::new(Metrics::new().unwrap());
    let writer = EventWriter::start(&agent, "node-a", view_of(&[]).await, metrics.clone());
    server.set_answering(false);
    let begun = Instant::now();
    for number in 0..1000 {
        writer.tell(&ObjectKey::new(NAMESPACE, &format!("pod-{number}")), News::Enrolled);
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    let overflow = dropped(&metrics);
    assert!(overflow > 700.0, "{overflow}");
    while dropped(&metrics) <= overflow {
        assert!(begun.elapsed() < Duration::from_secs(30), "what is not answered is not dropped");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.set_answering(true);
    wait_for_events(&server, NAMESPACE, 1).await;
}

const DAEMON_SET: &str = "gammarus-node";

/// The DaemonSet, as far as it matters; nobody makes pods of it here.
fn daemon_set(namespace: &str, finalizers: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: DaemonSet,
           metadata: {{name: {DAEMON_SET}, namespace: {namespace}, finalizers: [{finalizers}]}},
           spec: {{selector: {{matchLabels: {{app: node}}}}, template: {{metadata: {{labels: {{app: node}}}},
           spec: {{containers: [{{name: proxy, image: none}}]}}}}}}}}"
    )
}

/// A namespace with the DaemonSet in it, which the proxy has seen.
async fn installed(server: &ApiServer, namespace: &str, finalizers: &str) -> Installation {
    let agent = agent(server, namespace).await;
    server.apply(&daemon_set(namespace, finalizers));
    let installation = Installation::follow(&agent, DAEMON_SET);
    assert!(!installation.is_going().await, "it is there");
    installation
}

#[track_caller]
fn delete(server: &ApiServer, namespace: &str) {
    let args = ["delete", "daemonset", DAEMON_SET, "--namespace", namespace, "--wait=false"];
    server.kubectl(&args).output();
}

/// Waits until something is taken for an uninstall.
async fn must_go(installation: &Installation) {
    let begun = Instant::now();
    while !installation.is_going().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "the DaemonSet has gone");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_daemon_set_that_has_gone_or_is_going_is_an_uninstall_until_it_is_back() {
    let server = ApiServer::shared();
    for (namespace, finalizers) in [("gone", ""), ("going", "example.com/hold")] {
        let installation = installed(&server, namespace, finalizers).await;
        delete(&server, namespace);
        assert!(installation.is_going().await, "{namespace}");
        let patch = ["--type=merge", "--patch", "{\"metadata\":{\"finalizers\":null}}"];
        let release = ["patch", "daemonset", DAEMON_SET, "--namespace", namespace];
        server.kubectl(&[&release[..], &patch].concat());
        // Whoever makes it anew, with orphaned pods, does not uninstall.
        server.apply(&daemon_set(namespace, ""));
        assert!(!installation.is_going().await, "{namespace}");
    }
}

#[tokio::test]
async fn a_daemon_set_that_was_never_there_has_not_gone() {
    let server = ApiServer::shared();
    let agent = agent(&server, "elsewhere").await;
    let installation = Installation::follow(&agent, "of-another-name");
    assert!(!installation.is_going().await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!installation.is_going().await);
}

#[tokio::test]
async fn a_proxy_without_rights_goes_by_what_it_saw_before() {
    const NAMESPACE: &str = "rights";
    let server = ApiServer::shared();
    let installation = installed(&server, NAMESPACE, "").await;
    // The watch is there, and stays when the rights go.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.kubectl(&["delete", "clusterrolebinding", NAMESPACE]).output();
    server.kubectl(&["delete", "serviceaccount", "agent", "--namespace", NAMESPACE]).output();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(!installation.is_going().await, "rights that are gone are no uninstall");
    }
    delete(&server, NAMESPACE);
    must_go(&installation).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_no_uninstall() {
    let server = ApiServer::start();
    let installation = installed(&server, "away", "").await;
    server.set_answering(false);
    let begun = Instant::now();
    assert!(!installation.is_going().await);
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    server.set_answering(true);
}
