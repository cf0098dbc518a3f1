//! What the installer's tests stand on: a node's folders, real installers that look after them, and the CNI project's
//! own caller of plugins.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::rig::Netns;

/// What has to be there at once; what nobody waits for has this long on a busy machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A list as a primary CNI writes it; the reference plugin in it needs no network of a node.
pub(crate) const LIST: &str = "{\n  \"name\": \"podnet\",\n  \"cniVersion\": \"1.0.0\",\n  \"plugins\": [\n    { \"type\": \"loopback\", \"own\": 1e0 }\n  ]\n}\n";

/// Runs after a folder has been put over the one that libcni keeps results in.
const WITH_CACHE: &str = "mkdir -p /var/lib/cni && mount --bind \"$0\" /var/lib/cni && exec \"$@\"";
/// Runs where a folder is mounted, as in a pod.
const MOUNTED: &str = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
/// Runs where a folder cannot be written.
const READ_ONLY: &str = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";

/// A node's root, with its folders of plugins and of network configuration.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// An installer that runs.
pub(crate) struct Installer {
    child: Child,
    lines: Arc<Mutex<String>>,
}

fn reference_plugins() -> PathBuf {
    let tool = env::var_os("CNI_REFERENCE_PLUGINS");
    tool.expect("$CNI_REFERENCE_PLUGINS is not set: run tests/run install").into()
}

/// Is it so within `limit`?
pub(crate) fn until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Host {
    pub(crate) fn make() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(host.conf_dir()).unwrap();
        host.fill_bin_dir("opt/cni/bin");
        host
    }

    /// Makes a folder of plugins that has the network's own.
    pub(crate) fn fill_bin_dir(&self, path: &str) {
        let dir = self.root().join(path);
        fs::create_dir_all(&dir).unwrap();
        symlink(reference_plugins().join("loopback"), dir.join("loopback")).unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn conf_dir(&self) -> PathBuf {
        self.root().join("etc/cni/net.d")
    }

    pub(crate) fn conf(&self, name: &str) -> PathBuf {
        self.conf_dir().join(name)
    }

    pub(crate) fn plugin(&self) -> PathBuf {
        self.root().join("opt/cni/bin/gammarus-cni")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root().join("enrol.sock")
    }

    /// Our entry, as it stands in a list.
    pub(crate) fn entry(&self) -> String {
        let (socket, state) = (self.socket(), self.state_dir());
        format!(r#"{{"type":"gammarus-cni","socket":{socket:?},"stateDir":{state:?}}}"#)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.conf(name)).unwrap_or_default()
    }

    /// Has a list our entry, and only once?
    pub(crate) fn has_entry(&self, name: &str) -> bool {
        self.text(name).matches(&self.entry()).count() == 1
    }

    /// Writes a file as a primary CNI does that takes care: whole.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let beside = self.conf(&format!("{name}.tmp"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.conf(name)).unwrap();
    }

    /// The files in the folder of configuration.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.conf_dir()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn command(&self, command: &str, more: &[&str]) -> Vec<String> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut argv = vec![env!("CARGO_BIN_EXE_gammarus-cni").to_owned(), command.to_owned()];
        argv.extend(["--host-root".to_owned(), path(self.root())]);
        argv.extend([
            "--socket".to_owned(),
            path(&self.socket()),
            "--state-dir".to_owned(),
            path(&self.state_dir()),
        ]);
        argv.extend(["--health-listen=127.0.0.1:0".to_owned(), "--uninstall-wait-seconds=1".to_owned()]);
        argv.extend(more.iter().map(|&flag| flag.to_owned()));
        argv
    }

    /// Starts an installer.
    pub(crate) fn install(&self, more: &[&str]) -> Installer {
        Installer::start(&self.command("install", more))
    }

    /// Starts an installer for which the folder `on` is what lies at `folder`.
    pub(crate) fn install_mounted(&self, folder: &Path, on: &Path) -> Installer {
        let mut argv: Vec<_> =
            ["unshare", "-m", "--propagation", "private", "sh", "-c", MOUNTED].map(ToOwned::to_owned).into();
        argv.extend([folder, on].map(|path| path.to_str().unwrap().to_owned()));
        argv.extend(self.command("install", &[]));
        Installer::start(&argv)
    }

    /// Starts an installer for which a folder of this node is read-only.
    pub(crate) fn install_read_only(&self, folder: &Path) -> Installer {
        let mut argv = vec!["unshare", "-m", "--propagation", "private", "sh", "-c", READ_ONLY];
        argv.push(folder.to_str().unwrap());
        let mut argv: Vec<_> = argv.into_iter().map(ToOwned::to_owned).collect();
        argv.extend(self.command("install", &[]));
        Installer::start(&argv)
    }

    /// Starts one, and waits until it has put its entry into a list.
    #[track_caller]
    pub(crate) fn installed(&self, name: &str) -> Installer {
        let installer = self.install(&[]);
        assert!(until(PATIENCE, || self.has_entry(name)), "{}", installer.log());
        installer.assert_ready(true, name);
        installer
    }

    /// `gammarus-cni uninstall`, as a person calls it.
    pub(crate) fn uninstall(&self) -> Output {
        let argv = self.command("uninstall", &[]);
        Command::new(&argv[0]).args(&argv[1..]).output().unwrap()
    }

    /// `cnitool add podnet` for a pod of a namespace, with the network configuration in `net_d`.
    pub(crate) fn add(&self, namespace: &str, net_d: &Path) -> Added {
        let cnitool = env::var_os("CNITOOL").expect("$CNITOOL is not set: run tests/run install");
        let (netns, cache) = (Netns::make(), self.root().join("cache"));
        fs::create_dir_all(&cache).unwrap();
        Added(
            Command::new("unshare")
                .args(["-m", "--propagation", "private", "sh", "-c", WITH_CACHE])
                .arg(cache)
                .args([cnitool.as_os_str(), "add".as_ref(), "podnet".as_ref()])
                .arg(netns.path())
                .env("CNI_PATH", self.root().join("opt/cni/bin"))
                .env("NETCONFPATH", net_d)
                .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-0"))
                .output()
                .unwrap(),
        )
    }
}

/// How a pod was added.
pub(crate) struct Added(Output);

impl Added {
    /// The result that came through the whole chain.
    #[track_caller]
    pub(crate) fn result(self) -> Value {
        assert!(self.0.status.success(), "{:?}", self.0);
        let result: Value = serde_json::from_slice(&self.0.stdout).expect("a result is JSON");
        assert!(result["interfaces"].is_array(), "the result of the plugin before is handed on: {result}");
        result
    }

    /// Why the pod must not start.
    #[track_caller]
    pub(crate) fn refusal(self) -> String {
        assert!(!self.0.status.success(), "{:?}", self.0);
        String::from_utf8_lossy(&[self.0.stdout, self.0.stderr].concat()).into_owned()
    }
}

impl Installer {
    fn start(argv: &[String]) -> Self {
        let mut child = Command::new(&argv[0]).args(&argv[1..]).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(String::new()));
        let (stderr, taken) = (child.stderr.take().unwrap(), lines.clone());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *taken.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, lines }
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn assert_says(&self, text: &str) {
        assert!(until(PATIENCE, || self.log().contains(text)), "{text:?} is not in {}", self.log());
    }

    /// A connection to where it answers.
    pub(crate) fn connect(&self) -> TcpStream {
        let mut address = None;
        until(PATIENCE, || {
            let log = self.log();
            address = log
                .split("answers /readyz on ")
                .nth(1)
                .and_then(|rest| rest.lines().next())
                .map(str::to_owned);
            address.is_some()
        });
        TcpStream::connect(address.expect("it says where it answers")).unwrap()
    }

    /// Asks it over HTTP, as a kubelet does: the status and the body.
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\naccept: */*\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// It comes to say of `/readyz` whether it is ready, and why.
    #[track_caller]
    pub(crate) fn assert_ready(&self, ready: bool, why: &str) {
        let status = if ready { 200 } else { 503 };
        let fits = |(got, body): (u16, String)| got == status && body.contains(why);
        assert!(until(PATIENCE, || fits(self.ask("/readyz"))), "{status} {why:?}: {:?}", self.ask("/readyz"));
    }

    /// A counter of what was put back.
    pub(crate) fn repairs(&self, what: &str) -> u64 {
        let (_, metrics) = self.ask("/metrics");
        let name = format!("gammarus_cni_repairs_total{{what=\"{what}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }

    /// Tells it to end, as a kubelet does.
    pub(crate) fn tell_to_end(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("it does not end: {}", self.log()))
    }

    /// Kills it, whatever it is doing.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
