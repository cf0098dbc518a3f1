//! Commands that are run to their end: what they printed, and whether they went well.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn assert_success(&self) {
        assert!(self.success, "{self:?}");
    }

    /// What it printed, without space around it; it has to have succeeded.
    #[track_caller]
    pub(crate) fn output(self) -> String {
        self.assert_success();
        self.stdout.trim().to_owned()
    }

    /// All that it said.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// It failed, and said each of these texts.
    #[track_caller]
    pub(crate) fn assert_failure(&self, expected: &[&str]) {
        let said = self.said();
        assert!(!self.success && expected.iter().all(|text| said.contains(text)), "{expected:?}: {self:?}");
    }

    /// It failed, and its error says this.
    #[track_caller]
    pub(crate) fn assert_refused(&self, saying: &str) {
        assert!(!self.success && self.stderr.contains(saying), "{saying}: {self:?}");
    }
}

/// Runs a command to its end, with a text to read.
#[track_caller]
pub(crate) fn run(mut command: Command, input: &str) -> Ended {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        // One that does not read to the end is none of this one's worry.
        scope.spawn(move || stdin.is_some_and(|mut stdin| stdin.write_all(input.as_bytes()).is_ok()));
        child.wait_with_output().unwrap().into()
    })
}
