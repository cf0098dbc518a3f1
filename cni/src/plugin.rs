//! What the plugin does for each command of the CNI specification.
//!
//! It speaks for a pod to the node's proxy and otherwise stays out of the way: a pod that does not belong to the
//! mesh must never depend on the proxy being there, and no pod must ever fail to go away. The result of the plugins
//! before it is handed on as it came.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gammarus_cni::protocol::{self, code};
use gammarus_cni::state::{self, NamespaceState, NamespaceStates};
use gammarus_cni::{Attachment, Command, Outcome, PodName, ProtocolError, Request};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde_json::{Value, json};

use crate::netconf::{CniVersion, Environment, NetConf, SUPPORTED};

/// How long STATUS waits for the proxy: runtimes ask every few seconds, and wait for the answer.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// Why a command fails; [`PluginError::code`] is what the runtime is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    /// The node's proxy gave an answer that does not belong to the question.
    #[error("the node's proxy answered {outcome:?} to {command}")]
    Answer { command: &'static str, outcome: &'static str },
    /// A CNI variable is missing or wrong.
    #[error("{variable}: {reason}")]
    Environment { variable: &'static str, reason: String },
    /// A `cniVersion` or a command in it that is not supported.
    #[error("cniVersion {version:?} is not supported for this command")]
    IncompatibleVersion { version: String },
    /// A key of the configuration is missing or wrong.
    #[error("{key}: {reason}")]
    InvalidConfig { key: String, reason: String },
    /// `CNI_NETNS` cannot be used.
    #[error("CNI_NETNS: cannot open the network namespace {}", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    /// The node's proxy refused, in its own words.
    #[error("{msg}")]
    Refused { code: u32, msg: String, details: String },
    /// Standard input could not be read.
    #[error("cannot read the network configuration from standard input")]
    Stdin(#[source] io::Error),
    /// JSON that is none, or has the wrong types.
    #[error("{what} is not understood: {source}")]
    Undecodable { what: &'static str, source: serde_json::Error },
    /// The node's proxy does not answer, and this command needs it.
    #[error("the node's proxy does not answer on {}{}", socket.display(), for_pod(pod.as_deref()))]
    Unreachable { socket: PathBuf, pod: Option<Box<PodName>>, source: ProtocolError },
}

fn for_pod(pod: Option<&PodName>) -> String {
    pod.map_or_else(String::new, |pod| format!(", and pod {pod} is of an enrolled namespace"))
}

impl PluginError {
    pub(crate) fn invalid(key: &str, reason: String) -> Self {
        Self::InvalidConfig { key: key.to_owned(), reason }
    }

    /// The code of CNI 1.1, section 5; from 100 on they are the plugin's own.
    pub(crate) const fn code(&self) -> u32 {
        match self {
            Self::IncompatibleVersion { .. } => 1,
            Self::Environment { .. } => 4,
            Self::Namespace { .. } | Self::Stdin(_) => 5,
            Self::Undecodable { .. } => 6,
            Self::InvalidConfig { .. } => 7,
            Self::Unreachable { .. } => code::TRY_AGAIN_LATER,
            Self::Answer { .. } => code::MALFORMED,
            Self::Refused { code, .. } => *code,
        }
    }

    /// What else helps: the proxy's own details, or the causes, outermost first.
    pub(crate) fn details(&self) -> String {
        if let Self::Refused { details, .. } = self {
            return details.clone();
        }
        let mut causes = Vec::new();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        causes.join(": ")
    }

    /// The specification's JSON for this error.
    pub(crate) fn to_json(&self, cni_version: &str) -> Value {
        json!({"cniVersion": cni_version, "code": self.code(), "msg": self.to_string(), "details": self.details()})
    }
}

/// Runs one command; returns what goes to standard output. `log` takes what the runtime cannot be told otherwise.
pub(crate) fn run(
    environment: &Environment,
    stdin: &[u8],
    log: &mut dyn Write,
) -> Result<String, PluginError> {
    let unknown = |reason| PluginError::Environment { variable: "CNI_COMMAND", reason };
    if let Some(answer) = without_mesh(environment, stdin) {
        return answer;
    }
    match environment.command.as_deref() {
        Some("ADD") => add(environment, &NetConf::parse(stdin)?, log),
        Some("CHECK") => check(environment, &NetConf::parse(stdin)?, log),
        Some("DEL") => {
            del(environment, stdin, log);
            Ok(String::new())
        }
        Some("GC") => gc(NetConf::parse(stdin)?),
        Some("STATUS") => status(&NetConf::parse(stdin)?, log),
        Some("VERSION") => Ok(version(stdin)),
        Some(other) => Err(unknown(format!("{other:?} is not a command of CNI"))),
        None => Err(unknown("not set: this program is called by a container runtime, see CNI".to_owned())),
    }
}

/// What is answered on a node that the mesh has been taken off: the runtime may still have the configuration in memory.
/// Every pod passes, and nobody is asked. `None` while there is a mesh.
fn without_mesh(environment: &Environment, stdin: &[u8]) -> Option<Result<String, PluginError>> {
    let conf = NetConf::parse(stdin).ok()?;
    match environment.command.as_deref() {
        Some("ADD") if state::is_uninstalled(&conf.state_dir()) => {
            Some(conf.require_prev_result().map(|result| result.get().to_owned()))
        }
        Some("CHECK" | "DEL" | "GC" | "STATUS") if state::is_uninstalled(&conf.state_dir()) => {
            Some(Ok(String::new()))
        }
        _ => None,
    }
}

/// ADD: the pod is enrolled, or is none of ours, when this returns; the result is the one that came.
fn add(environment: &Environment, conf: &NetConf, log: &mut dyn Write) -> Result<String, PluginError> {
    conf.supported_version()?;
    let result = conf.require_prev_result()?.get().to_owned();
    if let Some(attachment) = environment.attachment(conf)? {
        enrol(conf, &attachment, log)?;
    }
    Ok(result)
}

fn enrol(conf: &NetConf, attachment: &Attachment, log: &mut dyn Write) -> Result<(), PluginError> {
    let netns = open_netns(&attachment.netns)?;
    let (start, allowed) = (Instant::now(), conf.timeout()?);
    let request = Request::new(Command::Enrol(attachment.clone()));
    let ask = || {
        let left = allowed.saturating_sub(start.elapsed());
        answer(protocol::call(&conf.socket(), &request, Some(netns.as_fd()), left))
    };
    let outcome = match ask() {
        Ok(outcome) => outcome,
        Err(silence) => {
            without_proxy(conf, attachment, silence, log)?;
            if let Err(error) = state::write_unseen(&conf.state_dir(), attachment) {
                // The pod starts all the same: the proxy, when it is back, also looks for pods by itself.
                warn(log, &format!("pod {} could not be written down", attachment.pod), &error);
                return Ok(());
            }
            // The proxy may have come back, and listed what is written down, just before this was written.
            match ask() {
                Ok(outcome) => {
                    forget(conf, attachment, log);
                    outcome
                }
                Err(_) => return Ok(()),
            }
        }
    };
    accept("ADD", outcome, &[Outcome::Enrolled, Outcome::NotEnrolled])
}

/// CHECK: is the pod enrolled as it should be?
fn check(environment: &Environment, conf: &NetConf, log: &mut dyn Write) -> Result<String, PluginError> {
    require_version(conf, CniVersion::V0_4_0)?;
    conf.require_prev_result()?;
    let Some(attachment) = environment.attachment(conf)? else { return Ok(String::new()) };
    let netns = open_netns(&attachment.netns)?;
    match ask(conf, Command::Check(attachment.clone()), Some(netns.as_fd()))? {
        Ok(outcome) => accept("CHECK", outcome, &[Outcome::Enrolled, Outcome::NotEnrolled])?,
        Err(silence) => without_proxy(conf, &attachment, silence, log)?,
    }
    Ok(String::new())
}

/// DEL: tells the proxy if it is there. Whatever is wrong, the pod must be able to go: it never fails.
fn del(environment: &Environment, stdin: &[u8], log: &mut dyn Write) {
    let conf = NetConf::parse(stdin).unwrap_or_else(|error| {
        warn(log, "DEL goes on without its configuration", &error);
        NetConf::default()
    });
    let id = match environment.attachment_id() {
        Ok(id) => id,
        Err(error) => return warn(log, "DEL has nothing to release", &error),
    };
    if let Err(error) = state::forget_unseen(&conf.state_dir(), &id) {
        warn(log, &format!("the record of {id} stays"), &error);
    }
    let done = ask(&conf, Command::Withdraw(id.clone()), None).and_then(|answer| match answer {
        Ok(outcome) => accept("DEL", outcome, &[Outcome::Done]),
        Err(source) => Err(PluginError::Unreachable { socket: conf.socket(), pod: None, source }),
    });
    if let Err(error) = done {
        warn(log, &format!("{id} is left to the node's proxy to find"), &error);
        if let Err(error) = state::note_withdrawal(&conf.state_dir(), &id) {
            warn(log, &format!("the record of {id} stays"), &error);
        }
    }
}

/// GC: tells the proxy what the runtime still has. A runtime that does not say has nothing collected.
fn gc(conf: NetConf) -> Result<String, PluginError> {
    require_version(&conf, CniVersion::V1_1_0)?;
    let network = conf.network()?.to_owned();
    let (socket, timeout) = (conf.socket(), conf.timeout()?);
    let Some(valid) = conf.valid_attachments() else { return Ok(String::new()) };
    let request = Request::new(Command::Gc { network, valid });
    match answer(protocol::call(&socket, &request, None, timeout)) {
        Ok(outcome) => accept("GC", outcome, &[Outcome::Done])?,
        Err(source) => return Err(PluginError::Unreachable { socket, pod: None, source }),
    }
    Ok(String::new())
}

/// STATUS: could ADD be served? With a proxy that does not answer it can, as far as ADD then goes, and that must not be
/// an error: a runtime that gets one lets no pod's network be made ready, not even that of the proxy's own pod, which
/// then never comes back. What is amiss goes to `log`; what fails is a configuration with which no ADD could succeed.
fn status(conf: &NetConf, log: &mut dyn Write) -> Result<String, PluginError> {
    require_version(conf, CniVersion::V1_1_0)?;
    conf.network()?;
    let patience = conf.timeout()?.min(STATUS_PATIENCE);
    let asked = protocol::call(&conf.socket(), &Request::new(Command::Status), None, patience);
    let answered = match answer(asked) {
        Ok(outcome) => accept("STATUS", outcome, &[Outcome::Done]),
        Err(source) => Err(PluginError::Unreachable { socket: conf.socket(), pod: None, source }),
    };
    if let Err(error) = answered {
        warn(log, "pods of the mesh cannot be enrolled now", &error);
    }
    if let Err(error) = NamespaceStates::read(&conf.state_dir()) {
        warn(log, "no namespace would be known without the node's proxy", &error);
    }
    Ok(String::new())
}

/// VERSION: what this plugin supports, in the version that it was asked in.
fn version(stdin: &[u8]) -> String {
    let asked = NetConf::parse(stdin).unwrap_or_default();
    let supported = SUPPORTED.map(CniVersion::as_str);
    let answered = if asked.cni_version().is_empty() { "1.1.0" } else { asked.cni_version() };
    json!({"cniVersion": answered, "supportedVersions": supported}).to_string()
}

fn require_version(conf: &NetConf, first: CniVersion) -> Result<(), PluginError> {
    if conf.supported_version()? >= first {
        return Ok(());
    }
    Err(PluginError::IncompatibleVersion { version: conf.cni_version().to_owned() })
}

/// Asks the proxy; the inner error means that nobody there understands us, which is not yet a failure.
fn ask(
    conf: &NetConf,
    command: Command,
    netns: Option<BorrowedFd<'_>>,
) -> Result<Result<Outcome, ProtocolError>, PluginError> {
    Ok(answer(protocol::call(&conf.socket(), &Request::new(command), netns, conf.timeout()?)))
}

/// A proxy that does not speak our version is as good as none.
fn answer(reply: Result<protocol::Reply, ProtocolError>) -> Result<Outcome, ProtocolError> {
    match reply?.outcome {
        Outcome::Failed { code: code::UNSUPPORTED_VERSION, .. } => {
            Err(ProtocolError::UnsupportedVersion { version: protocol::VERSION })
        }
        outcome => Ok(outcome),
    }
}

fn accept(command: &'static str, outcome: Outcome, wanted: &[Outcome]) -> Result<(), PluginError> {
    match outcome {
        Outcome::Failed { code, msg, details } => Err(PluginError::Refused { code, msg, details }),
        outcome if wanted.contains(&outcome) => Ok(()),
        outcome => Err(PluginError::Answer { command, outcome: outcome.as_label() }),
    }
}

/// What the last known state of the pod's namespace makes of a proxy that does not answer: pods of enrolled
/// namespaces wait, all others go on.
fn without_proxy(
    conf: &NetConf,
    attachment: &Attachment,
    silence: ProtocolError,
    log: &mut dyn Write,
) -> Result<(), PluginError> {
    let states = NamespaceStates::read(&conf.state_dir()).unwrap_or_else(|error| {
        warn(log, "no namespace is known", &error);
        NamespaceStates::default()
    });
    match states.find(attachment.pod.namespace()) {
        NamespaceState::Enrolled => {
            let pod = Some(Box::new(attachment.pod.clone()));
            Err(PluginError::Unreachable { socket: conf.socket(), pod, source: silence })
        }
        NamespaceState::NotEnrolled => Ok(()),
        NamespaceState::Unknown => {
            warn(log, &format!("pod {} goes on without the node's proxy", attachment.pod), &silence);
            Ok(())
        }
    }
}

fn forget(conf: &NetConf, attachment: &Attachment, log: &mut dyn Write) {
    if let Err(error) = state::forget_unseen(&conf.state_dir(), &attachment.id) {
        warn(log, &format!("the record of pod {} stays", attachment.pod), &error);
    }
}

fn open_netns(path: &Path) -> Result<File, PluginError> {
    let failed = |source| PluginError::Namespace { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let kind = fstatfs(&file).map_err(|error| failed(error.into()))?.filesystem_type();
    if kind == NSFS_MAGIC {
        return Ok(file);
    }
    Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is a file and no namespace")))
}

/// A line in the runtime's log. That it cannot be written must not fail a pod.
fn warn(log: &mut dyn Write, what: &str, error: &dyn std::error::Error) {
    let mut line = format!("gammarus-cni: {what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    let _ = writeln!(log, "{line}");
}
