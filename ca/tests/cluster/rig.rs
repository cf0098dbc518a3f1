//! A cluster's objects around the CA, and its replicas as processes with the rights of its manifest and no others.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gammarus_ca::bundle::TrustBundle;
use gammarus_ca::{CaClient, ClientError, SignedIdentity, SpiffeId, WorkloadKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::Value;

use crate::api_server::{ApiServer, TokenFor};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Replicas look at what they share, and nodes ask, as often as they can.
pub(crate) const SHORT_LEAVES: [&str; 1] = ["--leaf-lifetime-seconds=10"];
/// Lives that squeeze a rotation into seconds, as flags. From the end of its second third, at 60 s, a root has 20 s until
/// it cannot sign a whole leaf any more.
pub(crate) const SHORT_LIVES: [&str; 3] =
    ["--leaf-lifetime-seconds=10", "--issuer-lifetime-seconds=45", "--root-lifetime-seconds=90"];

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// Waits until there is something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The certificates of a PEM text.
pub(crate) fn roots(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

/// Whether a leaf with what it came with leads to one of `roots`.
pub(crate) fn is_under(signed: &SignedIdentity, roots: &[CertificateDer<'static>]) -> bool {
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = webpki::EndEntityCert::try_from(&signed.chain[0]).unwrap();
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let (now, usage) = (UnixTime::now(), webpki::KeyUsage::client_auth());
    leaf.verify_for_usage(algorithms, &anchors, &signed.chain[1..], now, usage, None, None).is_ok()
}

/// What the manifest allows to the CA, in another namespace than there.
fn rights(namespace: &str) -> Vec<Value> {
    let manifest = include_str!("../../../manifests/install/ca.yaml").replace("gammarus-system", namespace);
    let mut objects = serde_saphyr::from_multiple::<Value>(&manifest).unwrap();
    objects.retain(|object| object["apiVersion"] == "rbac.authorization.k8s.io/v1");
    assert_eq!(objects.len(), 4, "a role and its binding, in the namespace and in the cluster");
    for object in objects.iter_mut().filter(|object| object["kind"] == "ClusterRoleBinding") {
        // Every world has its own.
        object["metadata"]["name"] = format!("gammarus-ca-{namespace}").into();
    }
    objects
}

/// A namespace with the CA's service account and its rights, and what the CA is asked about.
pub(crate) struct World {
    pub(crate) server: Arc<ApiServer>,
    /// The namespace of the CA; workloads are in `NAMESPACE-shop`.
    pub(crate) namespace: String,
    pub(crate) dir: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl World {
    /// With a node that has a node proxy, and on it a pod of service account `web`.
    pub(crate) fn new(server: Arc<ApiServer>, namespace: &str) -> Self {
        server.namespace(namespace, &[]);
        server.namespace(&format!("{namespace}-shop"), &[]);
        for account in ["gammarus-ca", "gammarus-node"] {
            server.service_account(namespace, account);
        }
        for rights in rights(namespace) {
            server.apply(&rights.to_string());
        }
        let kubeconfig = server.kubeconfig_of(namespace, "gammarus-ca");
        let dir = tempfile::tempdir().unwrap();
        let world = Self { server, namespace: namespace.to_owned(), dir, kubeconfig };
        world.agent("agent-a", "node-a");
        world.pod("web", "node-a");
        world
    }

    /// A node, ready, with a pod of the node proxy.
    pub(crate) fn agent(&self, name: &str, node: &str) {
        let node = self.node(node);
        self.server.node(&node);
        let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
        self.server.kubectl(&["patch", "node", &node, "--subresource=status", "--patch", ready]).output();
        self.server.pod(&self.namespace, name, "gammarus-node", &node);
    }

    /// The name of a node in the cluster, which several worlds share.
    pub(crate) fn node(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    pub(crate) fn shop(&self) -> String {
        format!("{}-shop", self.namespace)
    }

    /// A pod of the shop with a service account of its own name.
    pub(crate) fn pod(&self, name: &str, node: &str) {
        self.server.service_account(&self.shop(), name);
        self.server.pod(&self.shop(), name, name, &self.node(node));
    }

    pub(crate) fn identity(&self, account: &str) -> SpiffeId {
        id(&format!("spiffe://cluster.local/ns/{}/sa/{account}", self.shop()))
    }

    /// A pod of the shop that is a Gateway's, with a service account of its own name.
    pub(crate) fn gateway(&self, name: &str, node: &str) {
        self.pod(name, node);
        self.label(&self.shop(), name, "front");
    }

    /// Gives a pod the label of a Gateway, with this value.
    pub(crate) fn label(&self, namespace: &str, pod: &str, gateway: &str) {
        let label = format!("gateway.networking.k8s.io/gateway-name={gateway}");
        self.server.kubectl(&["label", "--overwrite", "pod", pod, &label, "--namespace", namespace]).output();
    }

    /// The controller's pod: its token.
    pub(crate) fn controller(&self, node: &str) -> String {
        let account = "gammarus-controller";
        self.server.service_account(&self.namespace, account);
        self.server.pod(&self.namespace, "controller", account, &self.node(node));
        self.token_of((&self.namespace, account), "controller")
    }

    /// The token of a pod of the node proxy, as it is mounted.
    pub(crate) fn token(&self, pod: &str) -> String {
        self.token_of((&self.namespace, "gammarus-node"), pod)
    }

    /// The token for the CA of a pod of a service account.
    pub(crate) fn token_of(&self, (namespace, service_account): (&str, &str), pod: &str) -> String {
        let audience = Some("gammarus-ca");
        self.server.token(TokenFor { namespace, service_account, audience, pod: Some(pod) })
    }

    /// The same of a pod of the shop that has a service account of its own name.
    pub(crate) fn token_in_shop(&self, pod: &str) -> String {
        self.token_of((&self.shop(), pod), pod)
    }

    /// Says how a pod ended.
    pub(crate) fn end(&self, namespace: &str, pod: &str, phase: &str) {
        let status = format!(r#"{{"status":{{"phase":"{phase}"}}}}"#);
        let patch = ["patch", "pod", pod, "--subresource=status", "--patch", &status, "--namespace"];
        self.server.kubectl(&[&patch[..], &[namespace]].concat()).output();
    }

    /// `kubectl` in the CA's namespace; what it prints, byte for byte.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let ended = self.server.kubectl(&[args, &["--namespace", &self.namespace]].concat());
        ended.assert_success();
        ended.stdout
    }

    /// Removes a pod at once, as its kubelet would in the end.
    pub(crate) fn remove(&self, namespace: &str, pod: &str) {
        let now = ["--grace-period=0", "--force", "--wait=true"];
        self.server.kubectl(&[&["delete", "pod", pod, "--namespace", namespace][..], &now].concat()).output();
    }

    /// The bundle in the ConfigMap; empty if it is not there.
    pub(crate) fn given_out(&self) -> String {
        let get = ["get", "configmap", "gammarus-trust-bundle", "--ignore-not-found", "--output"];
        self.kubectl(&[&get[..], &[r"jsonpath={.data.ca\.crt}"]].concat())
    }

    /// The state in the Secret, in base64; empty if it is not there.
    pub(crate) fn stored(&self) -> String {
        let get = ["get", "secret", "gammarus-ca", "--ignore-not-found", "--output"];
        self.kubectl(&[&get[..], &[r"jsonpath={.data.authorities\.json}"]].concat())
    }

    /// A client with this token and these roots.
    pub(crate) fn client(&self, replica: &Replica, token: &str, roots: &str) -> CaClient {
        let file = |kind: &str, text: &str| {
            let name = gammarus_ca::bundle::fingerprint(text.as_bytes());
            let path = self.dir.path().join(format!("{kind}-{name}"));
            fs::write(&path, text).unwrap();
            path
        };
        let name = format!("gammarus-ca.{}.svc", self.namespace);
        let (roots, token) = (file("roots", roots), file("token", token));
        CaClient::new(replica.address.clone(), &name, roots, token).unwrap()
    }

    /// Starts a replica; it need not come to serve.
    pub(crate) fn spawn(&self, flags: &[&str]) -> Starting {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_gammarus-ca")]);
        command.args(["--namespace", &self.namespace, "--kubeconfig"]).arg(&self.kubeconfig);
        Starting::spawn(command.args(flags))
    }

    /// Starts a replica with what a pod of its service account finds, and no flag.
    pub(crate) fn spawn_in_pod(&self) -> Starting {
        let mounted = self.dir.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        let account =
            TokenFor { namespace: &self.namespace, service_account: "gammarus-ca", ..TokenFor::default() };
        fs::write(mounted.join("token"), self.server.token(account)).unwrap();
        fs::write(mounted.join("namespace"), &self.namespace).unwrap();
        fs::copy(self.server.authority(), mounted.join("ca.crt")).unwrap();
        let place = "/var/run/secrets/kubernetes.io/serviceaccount";
        let script = format!(
            "mount -t tmpfs none /run && mkdir -p {place} && cp {}/* {place} && exec setpriv --pdeathsig KILL -- \"$@\"",
            mounted.display()
        );
        let (_, port) = self.server.url().rsplit_once(':').unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
        command.arg(env!("CARGO_BIN_EXE_gammarus-ca")).env_remove("KUBECONFIG").env("HOME", self.dir.path());
        command.envs([("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", port)]);
        Starting::spawn(&mut command)
    }

    /// Starts a replica and waits until it serves.
    #[track_caller]
    pub(crate) fn start(&self, flags: &[&str]) -> Replica {
        self.spawn(flags).serving()
    }
}

/// A process that may come to serve.
pub(crate) struct Starting {
    child: Option<Child>,
    pub(crate) said: Arc<Mutex<String>>,
}

impl Starting {
    fn spawn(command: &mut Command) -> Self {
        let command = command.args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (log, copy) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let mut said = copy.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Self { child: Some(child), said }
    }

    /// Waits until it serves.
    #[track_caller]
    pub(crate) fn serving(mut self) -> Replica {
        let address = eventually("it serves", || {
            let said = self.said.lock().unwrap();
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {said}");
            let line = said.lines().find(|line| line.contains("serving"))?;
            Some(line.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
        });
        Replica { child: self.child.take().unwrap(), said: Arc::clone(&self.said), address }
    }

    /// Waits until it has ended by itself: what it said.
    #[track_caller]
    pub(crate) fn ended(mut self) -> String {
        let status = eventually("it ends", || self.child.as_mut().unwrap().try_wait().unwrap());
        assert!(!status.success());
        self.child = None;
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _has_ended_before = child.kill();
            let _its_status = child.wait();
        }
    }
}

/// A process that serves; it is killed when it is dropped.
pub(crate) struct Replica {
    child: Child,
    pub(crate) said: Arc<Mutex<String>>,
    pub(crate) address: String,
}

impl Replica {
    /// Waits until it has said this.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        eventually(text, || self.said.lock().unwrap().contains(text).then_some(()));
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _has_ended_before = self.child.kill();
        let _its_status = self.child.wait();
    }
}

/// A leaf for `identity`.
pub(crate) async fn sign(client: &CaClient, identity: &SpiffeId) -> Result<SignedIdentity, ClientError> {
    client.sign(identity, WorkloadKey::generate().unwrap().csr(identity).unwrap()).await
}

/// What is trusted by a node that asks as node proxies do.
pub(crate) async fn bundle(client: &CaClient) -> TrustBundle {
    client.trust_bundle(None).await.unwrap().bundle.unwrap()
}
