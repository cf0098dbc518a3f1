//! A real API server with its store, and no node: for tests of what talks to one.
//!
//! Everyone verifies TLS; RBAC and the usual admission are on. There is no controller manager and no kubelet: service
//! accounts, nodes and pods are objects that a test makes, nobody starts a pod, and a deleted namespace stays.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

#[path = "ended.rs"]
mod ended;
#[path = "ports.rs"]
pub(crate) mod ports;
#[path = "stored.rs"]
pub(crate) mod stored;

pub(crate) use ended::Ended;
use ended::run;
use ports::free_ports;

/// How long the server may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often it is asked whether it is.
const TICK: Duration = Duration::from_millis(100);
/// Another process may take a port between its choice and its use: how often the start is tried.
const ATTEMPTS: usize = 3;
/// The folder of what it stores.
const STORE: &str = "etcd";

/// One that tests of a program share, while one of them has it.
static SHARED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());

/// Which of the Gateway API's types there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Channel {
    /// Those that are settled.
    Standard,
    /// All: XMesh among them.
    Experimental,
}

/// An API server, until it is dropped or the process ends.
pub(crate) struct ApiServer {
    servers: Servers,
    dir: TempDir,
    url: String,
    ports: [u16; 3],
    flags: &'static [&'static str],
}

/// A token that is asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct TokenFor<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service_account: &'a str,
    /// Who is to take it; nobody named is the API server itself.
    pub(crate) audience: Option<&'a str>,
    /// The pod that it is bound to. It then names the pod's node, too.
    pub(crate) pod: Option<&'a str>,
}

impl ApiServer {
    /// Starts one and waits until it is ready, some seconds.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more flags of the API server.
    #[track_caller]
    pub(crate) fn start_with(flags: &'static [&'static str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), flags)
    }

    /// The same in a folder, which may have a store.
    #[track_caller]
    fn start_in(mut dir: TempDir, flags: &'static [&'static str]) -> Self {
        let is_new = !dir.path().join(STORE).exists();
        write_certificates(dir.path());
        for attempt in 1.. {
            let ports = free_ports();
            let [_, _, port] = ports;
            let url = format!("https://127.0.0.1:{port}");
            let servers = Servers::start(commands(dir.path(), ports, flags));
            let server = Self { servers, dir, url, ports, flags };
            server.write_kubeconfig(
                "admin",
                &json!({
                    "client-certificate": server.file("admin.crt"), "client-key": server.file("admin.key"),
                }),
            );
            match server.wait_until_ready(port) {
                Ok(()) => return server,
                Err(log) if attempt < ATTEMPTS && log.contains("address already in use") => {
                    let Self { servers, dir: emptied, .. } = server;
                    drop(servers);
                    if is_new {
                        let _not_there_yet = fs::remove_dir_all(emptied.path().join(STORE));
                    }
                    dir = emptied;
                }
                Err(log) => panic!("the API server is not ready: {log}"),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    /// The one that other tests of this program have at the same time, or a new one: for tests in namespaces of
    /// their own.
    #[track_caller]
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start());
        *shared = Arc::downgrade(&server);
        server
    }

    /// Where it listens, such as `https://127.0.0.1:40001`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The certificate of the authority that signed the server's.
    pub(crate) fn authority(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// A kubeconfig of somebody who may do everything.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.file("admin.kubeconfig")
    }

    /// A kubeconfig with a token of a service account, which must exist.
    #[track_caller]
    pub(crate) fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> PathBuf {
        let token = self.token(TokenFor { namespace, service_account, ..TokenFor::default() });
        self.kubeconfig_with(&format!("{namespace}.{service_account}"), &token)
    }

    /// A kubeconfig with this token, in a file of this name.
    #[track_caller]
    pub(crate) fn kubeconfig_with(&self, name: &str, token: &str) -> PathBuf {
        self.write_kubeconfig(name, &json!({ "token": token }))
    }

    /// A token for an hour, from the API server. The service account must exist, and the pod, too, if it is to be bound.
    #[track_caller]
    pub(crate) fn token(&self, request: TokenFor<'_>) -> String {
        let uid;
        let mut args = vec!["create", "token", request.service_account, "--namespace", request.namespace];
        if let Some(audience) = request.audience {
            args.extend(["--audience", audience]);
        }
        if let Some(pod) = request.pod {
            let namespace = ["--namespace", request.namespace];
            let get = ["get", "pod", pod, "--output", "jsonpath={.metadata.uid}"];
            uid = self.kubectl(&[&get[..], &namespace].concat()).output();
            args.extend([
                "--bound-object-kind",
                "Pod",
                "--bound-object-name",
                pod,
                "--bound-object-uid",
                &uid,
            ]);
        }
        self.kubectl(&args).output()
    }

    /// What the API server says of a token to somebody who is asked for one of these audiences: TokenReview's status.
    #[track_caller]
    pub(crate) fn review(&self, token: &str, audiences: &[&str]) -> Value {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token, "audiences": audiences },
        });
        let args = ["create", "--output", "json", "--filename", "-"];
        let answer = run(self.command(&self.kubeconfig(), &args), &review.to_string()).output();
        serde_json::from_str::<Value>(&answer).unwrap()["status"].take()
    }

    /// `kubectl` as the one who may do everything.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Ended {
        self.kubectl_as(&self.kubeconfig(), args)
    }

    /// `kubectl` with a kubeconfig.
    pub(crate) fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Ended {
        run(self.command(kubeconfig, args), "")
    }

    /// Applies objects from YAML or JSON.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &str) {
        let args = ["apply", "--server-side", "--filename", "-"];
        run(self.command(&self.kubeconfig(), &args), objects).output();
    }

    /// Applies a file, or the files of a folder.
    #[track_caller]
    pub(crate) fn apply_path(&self, path: &Path) {
        self.kubectl(&["apply", "--server-side", "--filename", path.to_str().unwrap()]).output();
    }

    /// Makes the types of the Gateway API known, and waits until they are served.
    #[track_caller]
    pub(crate) fn install_gateway_api(&self, channel: Channel) {
        let folder = match channel {
            Channel::Standard => "standard",
            Channel::Experimental => "experimental",
        };
        self.apply_path(&prepared("GATEWAY_API_CRDS").join(folder));
        let types = ["customresourcedefinitions", "--all"];
        let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
        self.kubectl(&[&wait[..], &types].concat()).output();
    }

    /// Makes a namespace with these labels.
    #[track_caller]
    pub(crate) fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: Value = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        self.apply(&namespace.to_string());
    }

    /// Makes a service account.
    #[track_caller]
    pub(crate) fn service_account(&self, namespace: &str, name: &str) {
        let metadata = json!({ "name": name, "namespace": namespace });
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata });
        self.apply(&account.to_string());
    }

    /// Makes a node's object.
    #[track_caller]
    pub(crate) fn node(&self, name: &str) {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        self.apply(&node.to_string());
    }

    /// Makes the object of a pod on a node. Its service account must exist.
    #[track_caller]
    pub(crate) fn pod(&self, namespace: &str, name: &str, service_account: &str, node: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "nodeName": node, "serviceAccountName": service_account,
                      "containers": [{ "name": "app", "image": "none" }] },
        });
        self.apply(&pod.to_string());
    }

    /// Ends both processes and starts them again, with what they have stored, where they were.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.servers.end();
        self.servers = Servers::start(commands(self.dir.path(), self.ports, self.flags));
        self.wait_until_ready(self.ports[2]).unwrap_or_else(|log| panic!("it does not come back: {log}"));
    }

    /// Stops or continues both processes, as if the API server were out of reach.
    #[track_caller]
    pub(crate) fn set_answering(&self, answering: bool) {
        for process in &self.servers.processes {
            set_running(*process, answering);
        }
    }

    /// Looks at the folder of the store while the store is stopped: what is there then is what a store begins with that
    /// was killed.
    fn while_the_store_rests<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        let [store, _] = self.processes();
        set_running(store, false);
        let seen = look(&self.file(STORE));
        set_running(store, true);
        seen
    }

    /// The processes of the store and of the API server itself.
    pub(crate) fn processes(&self) -> [u32; 2] {
        self.servers.processes[..].try_into().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, kubeconfig: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(prepared("KUBECTL"));
        // What it caches of a server is of no use to another one at the same port.
        command.arg("--cache-dir").arg(self.file("kubectl-cache")).arg("--kubeconfig").arg(kubeconfig);
        command.args(args);
        command
    }

    fn write_kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let cluster = json!({ "server": self.url, "certificate-authority": self.authority() });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        let path = self.file(&format!("{name}.kubeconfig"));
        // Whole at every moment: tests that share a server write and read the same ones.
        let mut file = NamedTempFile::new_in(self.dir.path()).unwrap();
        file.write_all(config.to_string().as_bytes()).unwrap();
        file.persist(&path).unwrap();
        path
    }

    /// Waits, or says what the processes wrote.
    fn wait_until_ready(&self, port: u16) -> Result<(), String> {
        let begun = Instant::now();
        let is_ready = || self.kubectl(&["get", "--raw", "/readyz"]).success;
        while !(TcpStream::connect(("127.0.0.1", port)).is_ok() && is_ready()) {
            let log = |name: &str| fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default();
            if begun.elapsed() > PATIENCE || self.servers.one_has_ended() {
                return Err(format!("{}\n{}", log("etcd"), log("kube-apiserver")));
            }
            thread::sleep(TICK);
        }
        Ok(())
    }
}

/// The processes. They are told to end with the thread that started them, so that nothing outlives a test that is
/// killed; and the thread of one test may end before another that shares the server: hence a thread of their own.
struct Servers {
    processes: Vec<u32>,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Servers {
    fn start(commands: [Command; 2]) -> Self {
        let (started, processes) = channel();
        let (stop, stopped) = channel();
        let keeper = thread::spawn(move || {
            let mut children = commands.map(|mut command| command.spawn().unwrap());
            started.send(children.iter().map(Child::id).collect()).unwrap();
            let _the_sender_is_gone = stopped.recv();
            for child in &mut children {
                let _has_ended_before = child.kill();
                let _its_status = child.wait();
            }
        });
        let processes = processes.recv().expect("etcd and kube-apiserver are started");
        Self { processes, stop: Some(stop), keeper: Some(keeper) }
    }

    /// Whether one is a zombie.
    fn one_has_ended(&self) -> bool {
        let is_alive = |process: &u32| {
            fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        !self.processes.iter().all(is_alive)
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _panicked_before = keeper.join();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.end();
    }
}

fn commands(dir: &Path, [store, peer, port]: [u16; 3], flags: &[&str]) -> [Command; 2] {
    let mut server = kube_apiserver(dir, store, port);
    server.args(flags);
    [etcd(dir, store, peer), server]
}

/// What `tests/prepare.sh` has built and named.
#[track_caller]
fn prepared(variable: &str) -> PathBuf {
    let path = env::var_os(variable).unwrap_or_else(|| {
        panic!(
            "${variable} is not set: run tests/run, or need_api_server_programs of tests/prepare.sh before"
        )
    });
    let path = PathBuf::from(path);
    assert!(path.exists(), "{} is not there: run tests/run, which builds it", path.display());
    path
}

/// Stops or continues a process.
fn set_running(process: u32, running: bool) {
    let signal = if running { "-CONT" } else { "-STOP" };
    run(command("kill", &[signal, &process.to_string()]), "").output();
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// A program that writes into `NAME.log` of a folder, and ends with the thread that starts it.
fn server(dir: &Path, variable: &str, name: &str) -> Command {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(prepared(variable)).current_dir(dir);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command
}

fn etcd(dir: &Path, port: u16, peer_port: u16) -> Command {
    let mut command = server(dir, "ETCD", "etcd");
    let (clients, peers) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    command.args(["--data-dir", STORE, "--unsafe-no-fsync", "--log-level=warn", "--client-cert-auth"]);
    command.args(["--cert-file=server.crt", "--key-file=server.key", "--trusted-ca-file=ca.crt"]);
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.arg(format!("--initial-cluster=default={peers}"));
    command
}

fn kube_apiserver(dir: &Path, store: u16, port: u16) -> Command {
    let mut command = server(dir, "KUBE_APISERVER", "kube-apiserver");
    // Otherwise a fifth of its processor time goes into collecting what a start leaves, and few live longer than that.
    command.envs([("GOGC", "400"), ("GOMEMLIMIT", "600MiB")]);
    command.arg(format!("--etcd-servers=https://127.0.0.1:{store}"));
    command.arg(format!("--secure-port={port}"));
    command.args([
        "--etcd-cafile=ca.crt",
        "--etcd-certfile=server.crt",
        "--etcd-keyfile=server.key",
        "--bind-address=127.0.0.1",
        // There is no network that its own Service would be reached through.
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16,fd67:6d72:96::/108",
        "--tls-cert-file=server.crt",
        "--tls-private-key-file=server.key",
        "--client-ca-file=ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-account-key-file=accounts.pub",
        "--service-account-signing-key-file=accounts.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
    ]);
    command
}

/// An authority, a certificate for both servers, one for who may do everything, and the key of service accounts.
fn write_certificates(dir: &Path) {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "the tests' authority");
    write("ca.crt", authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    let addresses = ["127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"].map(str::to_owned);
    for (name, group, addresses) in
        [("server", "servers", addresses.to_vec()), ("admin", "system:masters", vec![])]
    {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(addresses).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.distinguished_name.push(DnType::OrganizationName, group);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write(&format!("{name}.crt"), leaf.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    let accounts = KeyPair::generate().unwrap();
    write("accounts.pub", accounts.public_key_pem());
    write("accounts.key", accounts.serialize_pem());
}
