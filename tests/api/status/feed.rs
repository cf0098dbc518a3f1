//! The controller feeds the proxies of Gateways, which see nothing of the API server: with a CA, and certificates of its making.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, Patch, PatchParams};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::provision::{CLASS, bundle, programmed};
use super::{Cluster, Controller, PATIENCE, SYSTEM, TICK};
use crate::api_server::ports::free_ports;
use crate::door;
use crate::handshake;
use crate::relay::Relay;

/// What the CA goes by: who runs where. All tokens are of one node's.
const PODS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: controller, namespace: gammarus-system}, spec: {nodeName: here,
  serviceAccountName: gammarus-controller, containers: [{name: a, image: a}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop}, spec: {nodeName: here,
  serviceAccountName: web-gammarus, containers: [{name: a, image: a}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: thief, namespace: shop}, spec: {nodeName: here,
  serviceAccountName: thief, containers: [{name: a, image: a}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shared, namespace: shop}, spec: {nodeName: here,
  serviceAccountName: web-b-c, containers: [{name: a, image: a}]}}
";

/// A Service that is spoken to in TLS, and a route that sends there.
const BACKEND: &str = "
{kind: Service, metadata: {name: web}, spec: {ports: [{name: https, port: 443}]}}
---
{kind: BackendTLSPolicy, metadata: {name: web}, spec: {targetRefs: [{group: '', kind: Service, name: web}],
  validation: {hostname: web.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: backends}]}}}
---
{kind: HTTPRoute, metadata: {name: backend}, spec: {parentRefs: [{name: web}],
  rules: [{matches: [{path: {value: /backend}}], backendRefs: [{name: web, port: 443}]}]}}
";

/// A Service whose endpoints are each for the clients of one zone, and a route that sends there.
const ZONES: &str = "
{kind: Service, metadata: {name: near}, spec: {ports: [{name: http, port: 80}]}}
---
{kind: EndpointSlice, metadata: {name: near, labels: {kubernetes.io/service-name: near}}, addressType: IPv4,
  ports: [{name: http, port: 80, protocol: TCP}], endpoints: [
    {addresses: [10.0.0.1], conditions: {ready: true}, hints: {forZones: [{name: zone-a}]}},
    {addresses: [10.0.0.2], conditions: {ready: true}, hints: {forZones: [{name: zone-b}]}}]}
---
{kind: HTTPRoute, metadata: {name: near}, spec: {parentRefs: [{name: web}],
  rules: [{matches: [{path: {value: /near}}], backendRefs: [{name: near, port: 80}]}]}}
";

fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// A process that goes with its test, its log in a file.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(program: &str, arguments: &[String], log: PathBuf) -> Self {
        let path = Path::new(env!("CARGO_BIN_EXE_node-proxy")).with_file_name(program);
        assert!(path.is_file(), "{} is not built: build the whole workspace", path.display());
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(path).args(arguments);
        let child =
            command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn when(&self, what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < PATIENCE, "never {what}:\n{}", self.log());
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CA, and where proxies of Gateways find a controller.
struct Place {
    dir: TempDir,
    ca: Process,
    ca_port: u16,
    feed: u16,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let folder = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (state, tokens, objects) = (folder("ca"), folder("tokens"), folder("objects"));
        fs::write(tokens.join("here"), "a-token-of-this-node").unwrap();
        fs::write(objects.join("pods.yaml"), PODS).unwrap();
        let ca_port = free_port();
        let arguments = [
            format!("--listen=127.0.0.1:{ca_port}"),
            format!("--state-dir={}", state.display()),
            format!("--tokens={}", tokens.display()),
            format!("--objects={}", objects.display()),
            "--server-name=gammarus-ca".to_owned(),
        ];
        let ca = Process::start("gammarus-ca", &arguments, dir.path().join("ca.log"));
        let bundle = state.join("ca.crt");
        ca.when("has a root", || bundle.exists());
        Self { dir, ca, ca_port, feed: free_port() }
    }

    fn ca_flags(&self) -> Vec<String> {
        vec![
            format!("--ca-address=127.0.0.1:{}", self.ca_port),
            "--ca-server-name=gammarus-ca".to_owned(),
            format!("--ca-bundle={}", self.dir.path().join("ca/ca.crt").display()),
            format!("--token-file={}", self.dir.path().join("tokens/here").display()),
        ]
    }

    /// A controller that feeds, with these flags more.
    async fn controller(&self, cluster: &Cluster, more: &[&str]) -> Controller {
        let mut flags = self.ca_flags();
        flags.push(format!("--feed-listen=127.0.0.1:{}", self.feed));
        let flags = flags.iter().map(String::as_str).chain(more.iter().copied());
        cluster.controller_with(&flags.collect::<Vec<_>>()).await
    }

    /// A proxy of the Gateway `web` as this service account, and the port of its admin server.
    fn proxy(&self, account: &str) -> (Process, u16) {
        self.proxy_by(account, self.feed)
    }

    /// The same, which finds a controller on this port.
    fn proxy_by(&self, account: &str, feed: u16) -> (Process, u16) {
        let (admin, health) = (free_port(), free_port());
        let mut arguments = vec!["ingress".to_owned()];
        arguments.extend(self.ca_flags());
        arguments.extend([
            "--node=here".to_owned(),
            "--gateway=shop/web".to_owned(),
            "--pod=web-1".to_owned(),
            "--workers=1".to_owned(),
            "--access-log=off".to_owned(),
            format!("--service-account={account}"),
            format!("--feed-address=127.0.0.1:{feed}"),
            format!("--feed-service-account={SYSTEM}/gammarus-controller"),
            format!("--state-dir={}", self.dir.path().join(account).display()),
            format!("--admin-listen=127.0.0.1:{admin}"),
            format!("--health-listen=127.0.0.1:{health}"),
        ]);
        let log = self.dir.path().join(format!("{account}.log"));
        (Process::start("node-proxy", &arguments, log), admin)
    }
}

/// A listener on a port of this machine, and a route whose answer needs nobody else.
fn web(port: u16, target: &str) -> String {
    front(("web", "gammarus"), port, target)
}

/// The same of a Gateway of this name and class.
fn front((name, class): (&str, &str), port: u16, target: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: {name}}}, spec: {{gatewayClassName: {class}, listeners: [
          {{name: http, port: {port}, protocol: HTTP}}]}}}}
---
{{kind: HTTPRoute, metadata: {{name: {name}}}, spec: {{parentRefs: [{{name: {name}}}], rules: [{{filters: [{{type: RequestRedirect,
  requestRedirect: {{hostname: {target}}}}}]}}]}}}}"
    )
}

fn leads_to(port: u16, target: &str) -> bool {
    door::ask(port, "/").contains(&format!("location: http://{target}"))
}

#[tokio::test]
async fn a_gateways_proxy_is_fed_by_who_it_is_and_serves_on_without_a_controller() {
    let cluster = Cluster::start().await;
    let place = Place::new();
    let port = free_port();
    cluster.apply(CLASS).await;
    cluster.apply(&web(port, "one.example")).await;

    // It waits for a controller, and is served by the first.
    let (proxy, admin) = place.proxy("web-gammarus");
    proxy.when("asks for a controller", || proxy.log().contains("the controller cannot be followed"));
    let controller = place.controller(&cluster, &[]).await;
    proxy.when("serves", || leads_to(port, "one.example"));
    proxy.when("is ready", || door::ask(admin, "/readyz").ends_with("ready\n"));
    assert!(controller.log().contains("feeding the proxy of a Gateway"), "{}", controller.log());

    // An edit.
    let begun = Instant::now();
    cluster.apply(&web(port, "two.example")).await;
    proxy.when("serves the edit", || leads_to(port, "two.example"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // A policy for what its routes send to, and the authorities of that, which come late.
    let said = |what: &str| {
        let status = door::ask(admin, "/status");
        status.contains("BackendTLSPolicy shop/web at Gateway shop/web") && status.contains(what)
    };
    cluster.apply(BACKEND).await;
    proxy.when("is told of the policy", || said("Accepted=False NoValidCACertificate"));
    let authority = CertificateParams::new(Vec::new()).unwrap().self_signed(&KeyPair::generate().unwrap());
    let authorities = json!({"kind": "ConfigMap", "metadata": {"name": "backends"}, "data": {"ca.crt": authority.unwrap().pem()}});
    let begun = Instant::now();
    cluster.apply(&authorities.to_string()).await;
    proxy.when("is told of the authorities", || said("ResolvedRefs=True ResolvedRefs") && !said("NoValid"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // Others leave it no room in its status, and have gone again: it is there as before.
    let others = |count: u32| json!({ "ancestors": (0..count).map(ancestor_of_another).collect::<Vec<_>>() });
    cluster.write_status("BackendTLSPolicy", "web", &others(16)).await;
    proxy.when("refuses", || said("Accepted=False Invalid: status.ancestors has no room for this Gateway"));
    cluster.write_status("BackendTLSPolicy", "web", &others(15)).await;
    proxy.when("does not refuse any more", || said("Accepted=True Accepted"));

    // Somebody else of the same namespace is told nothing.
    let (thief, _) = place.proxy("thief");
    thief.when("is refused", || {
        thief.log().contains("no Gateway has a proxy that is spiffe://cluster.local/ns/shop/sa/thief")
    });
    drop(thief);

    // What it was told is kept: it starts without a controller.
    let kept = place.dir.path().join("web-gammarus/cluster.jsonl");
    proxy.when("keeps it", || fs::read_to_string(&kept).is_ok_and(|text| text.contains("two.example")));
    controller.terminate().await;
    assert!(leads_to(port, "two.example"), "{}", proxy.log());
    drop(proxy);
    let (proxy, _) = place.proxy("web-gammarus");
    proxy.when("serves by what was kept", || leads_to(port, "two.example"));
    assert!(proxy.log().contains("serving by what was kept"), "{}", proxy.log());

    // And follows the next one.
    cluster.apply(&web(port, "three.example")).await;
    let controller = place.controller(&cluster, &[]).await;
    proxy.when("follows the next controller", || leads_to(port, "three.example"));

    // With the Gateway everything goes: nothing listens any more.
    cluster.delete("Gateway", "web").await;
    proxy.when("has no Gateway any more", || door::ask(port, "/").is_empty());
    drop((controller, place.ca));
}

/// An entry of another controller in the status of a policy.
fn ancestor_of_another(number: u32) -> Value {
    json!({"controllerName": "example.com/other", "ancestorRef": {"name": format!("other-{number}")}, "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

/// A Secret with a certificate for this name, and the certificate.
fn secret((namespace, name): (&str, &str), host: &str) -> (String, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let data = json!({"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()});
    let metadata = json!({"name": name, "namespace": namespace});
    let secret =
        json!({"kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "stringData": data});
    (secret.to_string(), made.cert.der().clone())
}

#[tokio::test]
async fn a_certificate_that_comes_late_is_shown_soon_and_nobody_elses_is_told() {
    let cluster = Cluster::start().await;
    let place = Place::new();
    cluster.apply(CLASS).await;
    let (port, tls) = (free_port(), free_port());
    let https = |name: &str, port: u16, certificate: &str| {
        format!("{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{certificate}]}}}}")
    };
    let own = web(port, "one.example").replace(
        "protocol: HTTP}",
        &format!(
            "protocol: HTTP}}, {}, {}",
            https("https", tls, "{name: late}"),
            https("foreign", free_port(), "{name: cert, namespace: checkout}")
        ),
    );
    cluster.apply(&own).await;
    cluster
        .apply(&format!("{{kind: Gateway, metadata: {{name: other}}, spec: {{gatewayClassName: gammarus, listeners: [{}]}}}}", https("https", 8443, "{name: others}")))
        .await;
    let _controller = place.controller(&cluster, &[]).await;
    let (proxy, _) = place.proxy("web-gammarus");
    proxy.when("serves", || leads_to(port, "one.example"));

    // One of another namespace that is named and not granted, one of another Gateway, one of nobody.
    let strangers = [("checkout", "cert"), ("shop", "others"), ("shop", "unused")];
    for stranger in strangers {
        cluster.apply(&secret(stranger, "shop.example").0).await;
    }
    let (late, certificate) = secret(("shop", "late"), "shop.example");
    assert!(!handshake::shows(tls, "shop.example", &certificate));
    let begun = Instant::now();
    cluster.apply(&late).await;
    proxy.when("shows the certificate", || handshake::shows(tls, "shop.example", &certificate));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // What it was told lies in its folder: of Secrets that one.
    let kept = place.dir.path().join("web-gammarus/cluster.jsonl");
    let kept = || fs::read_to_string(&kept).unwrap_or_default();
    let text = async |(namespace, name): (&str, &str)| {
        let found = cluster.get("Secret", namespace, name).await;
        found["data"]["tls.key"].as_str().unwrap().to_owned()
    };
    let own = text(("shop", "late")).await;
    proxy.when("keeps its own", || kept().contains(&own));
    for stranger in strangers {
        assert!(!kept().contains(&text(stranger).await), "{stranger:?}: {}", kept());
    }
    // Exchanged, it is another one from the next handshake on; gone, nothing is shown.
    let (exchanged, certificate) = secret(("shop", "late"), "shop.example");
    let begun = Instant::now();
    cluster.apply(&exchanged).await;
    proxy.when("shows the next certificate", || handshake::shows(tls, "shop.example", &certificate));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    cluster.delete("Secret", "late").await;
    proxy.when("shows none", || !handshake::shows(tls, "shop.example", &certificate));
    assert!(leads_to(port, "one.example"), "its neighbour is served on");
}

fn node(name: &str, zone: &str, range: &str) -> String {
    json!({
        "kind": "Node", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
    })
    .to_string()
}

/// What a kubelet says of its node every few minutes, whatever has become of it.
async fn beat(cluster: &Cluster, node: &str, time: u32) {
    let images: Vec<Value> = (0..40)
        .map(|number| json!({"names": [format!("registry/image-{number}:{time}")], "sizeBytes": time}))
        .collect();
    let heard = format!("2026-01-01T00:00:{time:02}Z");
    let condition = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": heard});
    let patch = json!({"status": {"images": images, "conditions": [condition]}});
    let nodes = cluster.api("Node", "");
    nodes.patch_status(node, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn a_gateways_proxy_is_told_of_nodes_zones_and_ranges_and_of_no_heartbeat() {
    let cluster = Cluster::start().await;
    let place = Place::new();
    cluster.apply(CLASS).await;
    cluster.apply(&web(free_port(), "one.example")).await;
    cluster.apply(ZONES).await;
    cluster.apply(&node("here", "zone-a", "10.244.0.0/24")).await;
    cluster.apply(&node("there", "zone-b", "10.244.1.0/24")).await;
    let controller = place.controller(&cluster, &[]).await;
    let way = Relay::to_address(format!("127.0.0.1:{}", place.feed));
    let (proxy, admin) = place.proxy_by("web-gammarus", way.port());
    let snapshot = || {
        let answer = door::ask(admin, "/snapshot");
        serde_json::from_str::<Value>(answer.split_once("\r\n\r\n").unwrap_or_default().1).unwrap_or_default()
    };
    let chosen = || {
        let snapshot = snapshot();
        let mut ports = snapshot["servicePorts"].as_array().into_iter().flatten();
        let near = ports.find(|port| port["service"] == "shop/near").cloned().unwrap_or_default();
        let endpoints = near["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|endpoint| endpoint["address"].clone()).collect::<Vec<_>>()
    };
    proxy.when("chooses by its zone", || chosen() == ["10.0.0.1:80"]);
    assert_eq!(snapshot()["podRanges"], json!(["10.244.0.0/24", "10.244.1.0/24"]));

    // Nodes are heard of, and nothing is said; then one moves, which is.
    let (before, begun) = (way.answered(), Instant::now());
    for time in 0..20 {
        beat(&cluster, "here", time).await;
        beat(&cluster, "there", time).await;
    }
    cluster.apply(&node("here", "zone-b", "10.244.0.0/24")).await;
    proxy.when("chooses by its new zone", || chosen() == ["10.0.0.2:80"]);
    // One Node, with what TLS adds to it, and a sign of life every five seconds.
    let (told, most) = (way.answered() - before, 300 + 25 * (begun.elapsed().as_secs() as usize / 5 + 1));
    assert!((100..most).contains(&told), "{told} bytes, at most {most}:\n{}", controller.log());

    // One that is not there any more is in no zone, and its pods have gone.
    cluster.api("Node", "").delete("here", &DeleteParams::default()).await.unwrap();
    proxy.when("is in no zone", || chosen() == ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(snapshot()["podRanges"], json!(["10.244.1.0/24"]));
    drop((controller, place.ca));
}

#[tokio::test]
async fn of_two_gateways_that_meet_in_one_name_the_first_stays_fed_and_the_other_says_why_it_is_not() {
    let cluster = Cluster::start().await;
    let place = Place::new();
    let feed = format!("--feed-address=127.0.0.1:{}", place.feed);
    let providing = ["--ingress-image=registry.example.com/gammarus:1", &feed];
    for class in ["b-c", "c"] {
        cluster.apply(&format!("{{kind: GatewayClass, metadata: {{name: {class}}}, spec: {{controllerName: gammarus.io/gateway-controller}}}}")).await;
    }
    cluster.apply(&bundle("one")).await;
    let (port, others) = (free_port(), free_port());
    cluster.apply(&front(("web", "b-c"), port, "one.example")).await;
    let controller = place.controller(&cluster, &providing).await;
    cluster.when(("ServiceAccount", "shop", "web-b-c"), "made", |_| true).await;
    let (proxy, _) = place.proxy("web-b-c");
    proxy.when("serves", || leads_to(port, "one.example"));

    cluster.apply(&front(("web-b", "c"), others, "other.example")).await;
    let said = "False NoResources: ServiceAccount shop/web-b-c is there already and not of this Gateway";
    cluster
        .when(("Gateway", "shop", "web-b"), "told that its name is taken", |gateway| {
            programmed(gateway).starts_with(said)
        })
        .await;
    // The first is served on, a proxy that comes only now, too, and by the next controller; and nobody by what is the other's.
    cluster.apply(&front(("web", "b-c"), port, "two.example")).await;
    proxy.when("serves the edit", || leads_to(port, "two.example"));
    let kept = place.dir.path().join("web-b-c/cluster.jsonl");
    proxy.when("keeps it", || fs::read_to_string(&kept).is_ok_and(|text| text.contains("two.example")));
    drop(proxy);
    fs::remove_file(kept).unwrap();
    let (proxy, _) = place.proxy("web-b-c");
    proxy.when("serves from nothing", || leads_to(port, "two.example"));
    controller.terminate().await;
    cluster.apply(&front(("web", "b-c"), port, "three.example")).await;
    let controller = place.controller(&cluster, &providing).await;
    proxy.when("follows the next controller", || leads_to(port, "three.example"));
    assert!(door::ask(others, "/").is_empty(), "{}", proxy.log());
    drop((controller, place.ca));
}
