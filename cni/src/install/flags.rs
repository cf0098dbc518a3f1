//! What `gammarus-cni install` and `uninstall` are told: a handful of flags, read by hand, because the same program is
//! started for every pod and should stay small.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gammarus_cni::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};

/// What is printed for `--help`.
pub(super) const HELP: &str = "\
gammarus-cni install      puts the plugin on this node and keeps it there, until SIGTERM
gammarus-cni uninstall    takes it out of the runtime's configuration; what is left lets every pod pass
gammarus-cni              without an argument: the plugin itself, called by a container runtime

  --host-root DIR               the node's root, as it is mounted here [/]
  --conf-dir DIR                the node's network configuration [what its runtime says, /etc/cni/net.d]
  --bin-dir DIR[:DIR...]        the node's plugins, the first is written to [what its runtime says, /opt/cni/bin]
  --socket PATH                 where the node's proxy listens [/run/gammarus/enrol.sock]
  --state-dir DIR               what outlives the proxy, on the node and here [/var/lib/gammarus]
  --plugin FILE                 the plugin to install [this program]
  --health-listen ADDRESS:PORT  /readyz, /livez and /metrics [[::]:15022]
  --uninstall-wait-seconds N    how long after SIGTERM the proxy may say that this is an uninstall [10]
";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Install,
    Uninstall,
    Help,
    Version,
}

/// The flags, with their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flags {
    /// Where the node's root is mounted; paths of the runtime's configuration lie below it.
    pub(super) host_root: PathBuf,
    /// On the node.
    pub(super) conf_dir: Option<PathBuf>,
    /// On the node; none if the runtime is to be asked.
    pub(super) bin_dirs: Vec<PathBuf>,
    pub(super) socket: PathBuf,
    /// The same path on the node and here.
    pub(super) state_dir: PathBuf,
    pub(super) plugin: PathBuf,
    pub(super) health_listen: SocketAddr,
    pub(super) uninstall_wait: Duration,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            host_root: "/".into(),
            conf_dir: None,
            bin_dirs: Vec::new(),
            socket: DEFAULT_SOCKET.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            plugin: "/proc/self/exe".into(),
            health_listen: (std::net::Ipv6Addr::UNSPECIFIED, 15022).into(),
            uninstall_wait: Duration::from_secs(10),
        }
    }
}

/// A flag or its value that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct FlagError(String);

/// Reads the arguments after the program's name.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<(Task, Flags), FlagError> {
    let mut arguments = arguments.map(|argument| {
        argument.into_string().map_err(|argument| FlagError(format!("{} is not UTF-8", argument.display())))
    });
    let task = match arguments.next().transpose()?.as_deref() {
        Some("install") => Task::Install,
        Some("uninstall") => Task::Uninstall,
        Some("--help" | "-h" | "help") | None => Task::Help,
        Some("--version" | "-V") => Task::Version,
        Some(other) => return Err(FlagError(format!("there is no command {other:?}, see --help"))),
    };
    let mut flags = Flags::default();
    while let Some(argument) = arguments.next().transpose()? {
        if matches!(argument.as_str(), "--help" | "-h") {
            return Ok((Task::Help, flags));
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = arguments.next().transpose()?;
                let value =
                    value.ok_or_else(|| FlagError(format!("{argument}: needs a value, see --help")))?;
                (argument, value)
            }
        };
        flags.set(&name, &value)?;
    }
    Ok((task, flags))
}

impl Flags {
    fn set(&mut self, name: &str, value: &str) -> Result<(), FlagError> {
        let wrong = |expected: &str| FlagError(format!("{name}: {value:?} is not {expected}"));
        let path = || {
            let path = PathBuf::from(value);
            if path.is_absolute() { Ok(path) } else { Err(wrong("an absolute path")) }
        };
        match name {
            "--host-root" => self.host_root = path()?,
            "--conf-dir" => self.conf_dir = Some(path()?),
            "--bin-dir" => {
                self.bin_dirs = value.split(':').map(PathBuf::from).collect();
                if !self.bin_dirs.iter().all(|dir| dir.is_absolute()) {
                    return Err(wrong("a list of absolute paths"));
                }
            }
            "--socket" => self.socket = path()?,
            "--state-dir" => self.state_dir = path()?,
            "--plugin" => self.plugin = path()?,
            "--health-listen" => {
                self.health_listen = value.parse().map_err(|_| wrong("an address and a port"))?;
            }
            "--uninstall-wait-seconds" => {
                let seconds = value.parse().ok().filter(|seconds| *seconds <= 300);
                self.uninstall_wait = Duration::from_secs(seconds.ok_or_else(|| wrong("0 to 300"))?);
            }
            _ => return Err(FlagError(format!("there is no flag {name}, see --help"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Flags, Task, parse};

    fn parsed(arguments: &str) -> Result<(Task, Flags), String> {
        parse(arguments.split(' ').map(Into::into)).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_read_in_both_forms_and_have_defaults() {
        assert_eq!(parsed("install").unwrap(), (Task::Install, Flags::default()));
        let (task, flags) = parsed(
            "uninstall --host-root /host --bin-dir=/opt/cni/bin:/usr/lib/cni --uninstall-wait-seconds 3",
        )
        .unwrap();
        assert_eq!((task, flags.host_root.to_str()), (Task::Uninstall, Some("/host")));
        assert_eq!((flags.bin_dirs.len(), flags.uninstall_wait.as_secs()), (2, 3));
        assert_eq!(parsed("install --state-dir /s --help").unwrap().0, Task::Help);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (arguments, named) in [
            ("instal", "\"instal\""),
            ("install --bindir /x", "--bindir"),
            ("install --socket", "--socket: needs a value"),
            ("install --conf-dir etc/cni", "--conf-dir: \"etc/cni\" is not an absolute path"),
            ("install --bin-dir /a:b", "--bin-dir"),
            ("install --health-listen 15022", "--health-listen"),
            ("install --uninstall-wait-seconds 301", "--uninstall-wait-seconds"),
        ] {
            let message = parsed(arguments).unwrap_err();
            assert!(message.contains(named), "{arguments}: {message}");
        }
    }
}
