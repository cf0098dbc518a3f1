//! What passes between the nodes, recorded by tcpdump.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::command::{self, Process};
use super::fault::DemoError;

/// A recording that runs.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
    netns: String,
}

/// The port of the discard protocol (RFC 863), which nobody serves here.
const DISCARD_PORT: u16 = 9;

/// A recording that has ended.
#[derive(Debug)]
pub struct Recording {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(netns: &str, dir: &Path) -> Result<Self, DemoError> {
        let file = dir.join("fabric.pcap");
        let path = file.display().to_string();
        // Root is kept (-Z): the folder is not for tcpdump's own user. The kernel's buffer has few places when
        // packets are kept whole (-s), and a busy machine would overrun them: it is made larger (-B, in KiB).
        let argv =
            ["tcpdump", "-iany", "-s0", "-B65536", "-U", "--immediate-mode", "-Zroot", "-w", &path, "tcp"];
        let log = dir.join("tcpdump.log");
        let mut tcpdump = Process::start("tcpdump", command::within(netns, &argv), &log)?;
        let listens = || fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"));
        tcpdump.wait_until("listening", Duration::from_secs(20), listens)?;
        Ok(Self { tcpdump, file, netns: netns.to_owned() })
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// When tcpdump cannot be stopped, has missed a packet, or its file cannot be read.
    pub fn stop(mut self) -> Result<Recording, DemoError> {
        self.wait_for_the_last()?;
        self.tcpdump.stop(Signal::SIGINT, Duration::from_secs(5))?;
        let log = self.tcpdump.log();
        if !log.contains("\n0 packets dropped by kernel") {
            let (command, outcome) = ("tcpdump".to_owned(), "it has missed packets".to_owned());
            return Err(DemoError::Command { command, outcome, said: log });
        }
        let bytes = fs::read(&self.file).map_err(DemoError::file(&self.file))?;
        Ok(Recording { file: self.file, bytes })
    }
}

impl Capture {
    /// Sends one more packet and waits until it has been recorded: everything before it is there, too. An
    /// interrupt alone could come before tcpdump has read what the kernel holds for it.
    fn wait_for_the_last(&mut self) -> Result<(), DemoError> {
        let discard = format!("http://127.0.0.1:{DISCARD_PORT}/");
        let _refused = command::exec(&self.netns, &["curl", "-s", "--max-time", "5", &discard])?;
        let file = self.file.clone();
        let recorded = move || {
            let bytes = fs::read(&file).unwrap_or_default();
            // Source and destination address, a source port, and the destination port.
            bytes.windows(12).any(|window| {
                window[..8] == [127, 0, 0, 1, 127, 0, 0, 1] && window[10..] == DISCARD_PORT.to_be_bytes()
            })
        };
        self.tcpdump.wait_until("recording the last packet", Duration::from_secs(20), recorded)
    }
}

impl Recording {
    /// Whether `text` can be read in what was recorded.
    #[must_use]
    pub fn shows(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// How many packets with something in them went between two addresses, either way.
    ///
    /// # Errors
    /// When tcpdump cannot read its own file.
    pub fn packets(&self, one: IpAddr, other: IpAddr) -> Result<usize, DemoError> {
        let file = self.file.display().to_string();
        let filter = format!("host {one} and host {other}");
        let text = command::run("tcpdump", &["-nn", "-q", "-r", &file, &filter])?.checked()?;
        // `tcp 0` ends the line of a packet that only opens, acknowledges or closes.
        Ok(text.stdout.lines().filter(|line| !line.trim_end().ends_with("tcp 0")).count())
    }
}
