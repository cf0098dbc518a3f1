//! Programs run inside a world: one-shot commands with a deadline, and processes that stay.
//!
//! Both enter their namespace through `ip netns exec`, which replaces itself by the program: the child's
//! id is the program's own. Nothing here outlives the world: `teardown` ends what is left.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fault::DemoError;
use super::teardown;

/// How long a one-shot command may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often something that is waited for is looked at again.
const TICK: Duration = Duration::from_millis(20);

/// What a one-shot command left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command as it was typed.
    pub command: String,
    /// How it ended. `timeout` ends a command that overruns [`DEADLINE`] with 124.
    pub status: ExitStatus,
    /// What it wrote to its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Finished {
    pub(crate) fn new(command: String, output: &Output) -> Self {
        Self {
            command,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it ended with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Itself if it ended with 0.
    ///
    /// # Errors
    /// [`DemoError::Command`] with what it said otherwise.
    pub fn checked(self) -> Result<Self, DemoError> {
        if self.success() {
            return Ok(self);
        }
        let said = format!("{} {}", self.stdout.trim(), self.stderr.trim()).trim().to_owned();
        Err(DemoError::Command { command: self.command, outcome: self.status.to_string(), said })
    }
}

/// A command line as a person would type it.
pub(crate) fn typed(argv: &[impl AsRef<str>]) -> String {
    let quote = |arg: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{arg}'") }
    };
    argv.iter().map(|arg| quote(arg.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Runs a program where this process is, and takes what it wrote.
pub(crate) fn run(program: &str, args: &[impl AsRef<OsStr>]) -> Result<Finished, DemoError> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DemoError::Start { program: program.to_owned(), source })?;
    let words = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    Ok(Finished::new(format!("{program} {words}"), &output))
}

/// Runs `ip` and fails if it does.
pub(crate) fn ip(args: &str) -> Result<(), DemoError> {
    run("ip", &args.split_whitespace().collect::<Vec<_>>())?.checked().map(drop)
}

/// A command that will run in a network namespace, by its name.
pub fn within(netns: &str, argv: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns]).args(argv).stdin(Stdio::null());
    command
}

/// Runs `argv` in `netns` within [`DEADLINE`].
pub(crate) fn exec(netns: &str, argv: &[impl AsRef<str>]) -> Result<Finished, DemoError> {
    let mut full = vec!["timeout".to_owned(), "--kill-after=2".to_owned(), DEADLINE.as_secs().to_string()];
    full.extend(argv.iter().map(|arg| arg.as_ref().to_owned()));
    let output = within(netns, &full)
        .output()
        .map_err(|source| DemoError::Start { program: "ip netns exec".to_owned(), source })?;
    Ok(Finished::new(typed(argv), &output))
}

/// A process that stays until it is stopped, its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own: an interrupt typed at the terminal reaches the
    /// demo alone, which then stops its processes in order.
    ///
    /// # Errors
    /// When it cannot be started, and once the demo has been interrupted.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self, DemoError> {
        if teardown::is_interrupted() {
            return Err(DemoError::Interrupted);
        }
        let out = File::options().create(true).append(true).open(log).map_err(DemoError::file(log))?;
        let err = out.try_clone().map_err(DemoError::file(log))?;
        let child = command
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|source| DemoError::Start { program: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, both streams.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The file that it writes to.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, introduced, for an error message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines = log.lines().collect::<Vec<_>>();
        let tail = lines.iter().skip(lines.len().saturating_sub(30)).copied().collect::<Vec<_>>();
        format!("\n--- the end of the log of {} ---\n{}", self.name, tail.join("\n"))
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal; one that has ended is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let _gone_meanwhile = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Asks it to end, and kills it if it has not within `grace`. Returns how it ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self, signal: Signal, grace: Duration) -> Result<ExitStatus, DemoError> {
        self.signal(signal);
        let _killed_below = until(grace, || !self.is_running());
        self.signal(Signal::SIGKILL);
        self.child.wait().map_err(|source| DemoError::Start { program: self.name.clone(), source })
    }

    /// Waits until `happened`, or until the process has ended or `deadline` is over.
    ///
    /// # Errors
    /// [`DemoError::Late`] with the end of its log.
    pub fn wait_until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut happened: impl FnMut() -> bool,
    ) -> Result<(), DemoError> {
        let mut seen = false;
        let _reported_below = until(deadline, || {
            seen = happened();
            seen || !self.is_running()
        });
        if seen {
            return Ok(());
        }
        let (what, log) = (format!("{} of {}", what, self.name), self.last_words());
        Err(DemoError::Late { what, seconds: deadline.as_secs(), log })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _nothing_more_to_do = self.stop(Signal::SIGTERM, Duration::from_secs(2));
    }
}

/// Looks at `happened` again and again until it holds (true) or `deadline` is over (false).
#[must_use]
pub fn until(deadline: Duration, mut happened: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if happened() {
            return true;
        }
        if begun.elapsed() > deadline {
            return false;
        }
        thread::sleep(TICK);
    }
}
