//! What the plugin's tests stand on: the real binary, called as a runtime calls it, and an agent that is as good,
//! silent, mute or strange as a test wants it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use gammarus_cni::state::NamespaceStates;
use gammarus_cni::{Command, Outcome, Reply, read_request, write_reply};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// A previous result as plugins write it, and then some: odd order, odd spaces, keys and numbers of others.
pub(crate) const PREV_RESULT: &str = r#"{ "zebra":[1.0,1e2,-0],"ips" : [{"interface":1,"address":"10.9.0.2/24","gateway":"10.9.0.1"},
  {"address":"fd09::2/64", "interface":1}], "interfaces":[{"name":"br9"},{"name":"eth0","sandbox":"/x","mtu":1500}],
  "dns":{},"routes":[ ],"cniVersion":"1.1.0","alpha":{"b":"\u00e9\/","a":null},"big":12345678901234567890123 }"#;

/// The addresses in [`PREV_RESULT`].
pub(crate) const ADDRESSES: [&str; 2] = ["10.9.0.2", "fd09::2"];

const LIMIT: Duration = Duration::from_secs(5);

/// A network namespace that nothing but its descriptor holds: it goes with the test.
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// Makes one; needs the right to (CAP_SYS_ADMIN).
    pub(crate) fn make() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("making a network namespace needs CAP_SYS_ADMIN: run as root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self { file: made.join().unwrap() }
    }

    /// A path under which another process can open it, while this lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// What tells namespaces apart.
    pub(crate) fn identity(&self) -> (u64, u64) {
        identity(&self.file)
    }
}

pub(crate) fn identity(file: &File) -> (u64, u64) {
    let metadata = file.metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

/// One request that reached the agent, and the namespace that came with it.
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) netns: Option<File>,
}

/// A node: a directory with the socket and the state that plugin and agent share, and one pod's namespace.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) netns: Netns,
}

/// How a call of the plugin ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ended {
    /// The specification's error, which a failed call must have printed.
    #[track_caller]
    pub(crate) fn error(&self) -> (u64, String) {
        assert!(!self.success, "{self:?}");
        let error: Value = serde_json::from_str(&self.stdout).expect("an error is JSON");
        assert!(error["cniVersion"].is_string() && error["details"].is_string(), "{error}");
        (error["code"].as_u64().unwrap(), format!("{}: {}", error["msg"].as_str().unwrap(), error["details"]))
    }

    #[track_caller]
    pub(crate) fn assert_success(&self, stdout: &str) {
        assert!(self.success && self.stdout == stdout, "{self:?}");
    }
}

impl Node {
    pub(crate) fn make() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), netns: Netns::make() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("enrol.sock")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What the agent has left on the disk.
    pub(crate) fn know(&self, enrolled: &str, not_enrolled: &str) {
        let mut states = NamespaceStates::default();
        states.enrolled.insert(enrolled.to_owned());
        states.not_enrolled.insert(not_enrolled.to_owned());
        states.write(&self.state_dir()).unwrap();
    }

    /// The configuration with what a test adds to it (`,"key":value`).
    pub(crate) fn conf(&self, more: &str) -> String {
        let (socket, state) = (self.socket(), self.state_dir());
        format!(
            r#"{{"cniVersion":"1.1.0","name":"podnet","type":"gammarus-cni","socket":{socket:?},"stateDir":{state:?}{more}}}"#
        )
    }

    /// The configuration with [`PREV_RESULT`].
    pub(crate) fn chained(&self) -> String {
        self.conf(&format!(r#","timeoutSeconds":2,"prevResult":{PREV_RESULT}"#))
    }

    /// Calls the plugin for the pod `web-0` of a namespace.
    pub(crate) fn call(&self, command: &str, conf: &str, namespace: &str) -> Ended {
        let args =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-0;K8S_POD_UID=u-1");
        self.call_with(command, conf, &[("CNI_ARGS", &args)])
    }

    /// Calls the plugin with other variables; an empty value takes one away.
    pub(crate) fn call_with(&self, command: &str, conf: &str, variables: &[(&str, &str)]) -> Ended {
        let mut process = Process::new(env!("CARGO_BIN_EXE_gammarus-cni"));
        process.env_clear().env("CNI_COMMAND", command).env("CNI_CONTAINERID", "c1");
        process.env("CNI_IFNAME", "eth0").env("CNI_NETNS", self.netns.path()).env("CNI_PATH", "/opt/cni/bin");
        for (name, value) in variables {
            if value.is_empty() {
                process.env_remove(name)
            } else {
                process.env(name, value)
            };
        }
        run(process, conf)
    }

    /// An agent that answers every request the same way, until the node goes; tells what it was asked.
    pub(crate) fn agent(&self, outcome: Outcome) -> Receiver<Asked> {
        self.serve(move |stream| {
            let (request, netns) = read_request(stream, LIMIT).unwrap();
            write_reply(stream, &request.reply(outcome.clone()), LIMIT).unwrap();
            Some(Asked { command: request.command, netns: netns.map(File::from) })
        })
    }

    /// An agent that answers whatever it is asked with these bytes.
    pub(crate) fn strange_agent(&self, answer: Vec<u8>) {
        self.serve(move |stream| {
            let _ = read_request(stream, LIMIT).unwrap();
            let mut stream = stream;
            // The plugin may have had enough before the end.
            let _ = stream.write_all(&answer);
            None
        });
    }

    /// An agent that takes requests and never answers.
    pub(crate) fn hung_agent(&self) {
        self.serve(|stream| {
            let mut stream = stream;
            let _ = stream.read_to_end(&mut Vec::new());
            None
        });
    }

    fn serve(&self, answer: impl Fn(&UnixStream) -> Option<Asked> + Send + 'static) -> Receiver<Asked> {
        let listener = listen(&self.socket());
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if let Some(asked) = answer(&stream.unwrap()) {
                    // A test that does not ask what came has dropped its end.
                    let _ = sender.send(asked);
                }
            }
        });
        receiver
    }
}

/// An agent of a later release, which does not understand ours.
pub(crate) fn refuse_version(stream: &UnixStream) {
    let error = gammarus_cni::ProtocolError::UnsupportedVersion { version: 1 };
    write_reply(stream, &Reply::refusing(&error), LIMIT).unwrap();
}

pub(crate) fn listen(socket: &Path) -> UnixListener {
    UnixListener::bind(socket).unwrap()
}

fn run(mut process: Process, conf: &str) -> Ended {
    let start = Instant::now();
    let mut child =
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        took: start.elapsed(),
    }
}
