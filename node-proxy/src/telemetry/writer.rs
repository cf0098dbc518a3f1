//! The one thread that writes access lines.
//!
//! Data path threads hand lines over through a bounded channel and never wait: when it is full the line is counted as
//! dropped. The writer collects what has come in and writes it in one go, and then rests for a moment, so that a busy
//! data path does not wake it for every line.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use super::line::Line;
use super::log::LogFormat;
use super::{Metrics, TelemetryError};

/// Lines that may wait: some MiB at most, and more than a second of a busy node.
const WAITING_LINES: usize = 16_384;
/// A batch is written when it has grown to this.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the writer rests after a batch that was not full.
const REST: Duration = Duration::from_millis(5);
/// How long a flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where access lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessOutput {
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
}

enum Message {
    Line(Box<[u8]>),
    Flush(SyncSender<()>),
}

/// The way to the writer of access lines.
#[derive(Debug)]
pub struct AccessLog {
    lines: Option<SyncSender<Message>>,
    format: LogFormat,
    dropped: IntCounter,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// Opens the output and starts its thread. Dropped lines are counted in `metrics`.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread cannot be started.
    pub fn start(
        output: &AccessOutput,
        format: LogFormat,
        metrics: &Metrics,
    ) -> Result<Self, TelemetryError> {
        match output {
            AccessOutput::Off => {
                Ok(Self { lines: None, format, dropped: metrics.access_lines_dropped.clone() })
            }
            AccessOutput::Stdout => Self::start_with(io::stdout(), format, metrics),
            AccessOutput::File(path) => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .map_err(|source| TelemetryError::AccessFile { path: path.clone(), source })?;
                Self::start_with(file, format, metrics)
            }
        }
    }

    /// Starts the thread over any writer.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start_with(
        output: impl Write + Send + 'static,
        format: LogFormat,
        metrics: &Metrics,
    ) -> Result<Self, TelemetryError> {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let dropped = metrics.access_lines_dropped.clone();
        let counter = dropped.clone();
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || run(output, &waiting, &counter))
            .map_err(TelemetryError::AccessThread)?;
        Ok(Self { lines: Some(lines), format, dropped })
    }

    /// Makes one line in this thread's buffer and hands it over; drops it, counted, if the writer is behind.
    pub(crate) fn write(&self, fill: impl FnOnce(&mut Line<'_>)) {
        let Some(lines) = &self.lines else { return };
        BUFFER.with_borrow_mut(|buffer| {
            let mut line = Line::begin(buffer, self.format);
            fill(&mut line);
            line.end();
            if lines.try_send(Message::Line(buffer.as_slice().into())).is_err() {
                self.dropped.inc();
            }
        });
    }

    pub(crate) fn flush(&self) {
        let Some(lines) = &self.lines else { return };
        let (done, wait) = sync_channel(1);
        let mut message = Message::Flush(done);
        let mut rounds = FLUSH_LIMIT.as_millis() / REST.as_millis();
        while let Err(TrySendError::Full(unsent)) = lines.try_send(message) {
            if rounds == 0 {
                return;
            }
            rounds -= 1;
            message = unsent;
            thread::sleep(REST);
        }
        // A timeout or a dead writer: there is nobody left to tell.
        let _ = wait.recv_timeout(FLUSH_LIMIT);
    }
}

/// What has come in and is not written yet.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    flushes: Vec<SyncSender<()>>,
}

impl Batch {
    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.bytes.extend_from_slice(&line);
                self.lines += 1;
            }
            Message::Flush(done) => self.flushes.push(done),
        }
    }

    fn write(&mut self, output: &mut impl Write, dropped: &IntCounter) {
        if output.write_all(&self.bytes).and_then(|()| output.flush()).is_err() {
            dropped.inc_by(self.lines);
        }
        self.bytes.clear();
        self.lines = 0;
        for done in self.flushes.drain(..) {
            // Whoever waited has given up.
            let _ = done.send(());
        }
    }
}

fn run(mut output: impl Write, waiting: &Receiver<Message>, dropped: &IntCounter) {
    let mut batch = Batch::default();
    while let Ok(first) = waiting.recv() {
        batch.take(first);
        while batch.bytes.len() < BATCH_BYTES {
            let Ok(message) = waiting.try_recv() else { break };
            batch.take(message);
        }
        let is_full = batch.bytes.len() >= BATCH_BYTES;
        batch.write(&mut output, dropped);
        if !is_full {
            thread::sleep(REST);
        }
    }
}
