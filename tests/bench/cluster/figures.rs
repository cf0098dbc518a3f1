//! Figures as people read them: lines of a table, printed as they come and kept in a file.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The table, a section for each part.
pub(crate) struct Report {
    path: PathBuf,
    text: String,
}

impl Report {
    pub(crate) fn new(path: PathBuf, is_quick: bool) -> Self {
        let mut report = Self { path, text: String::new() };
        if is_quick {
            report.say("The quick form: no figure counts.");
        }
        report
    }

    /// Begins a part.
    pub(crate) fn section(&mut self, title: &str) {
        self.say(&format!("\n## {title}\n"));
    }

    /// One figure, or several that belong together.
    pub(crate) fn line(&mut self, what: &str, figures: impl fmt::Display) {
        self.say(&format!("- {what}: {figures}"));
    }

    fn say(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
        // What is there is kept after each line: a run may be ended in the middle.
        fs::create_dir_all(self.path.parent().unwrap()).unwrap();
        fs::write(&self.path, &self.text).unwrap();
    }
}

/// How long something took, many times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        let place = self.0.partition_point(|other| *other <= time);
        self.0.insert(place, time);
    }

    /// The smallest time that this many of a hundred do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(place).copied().unwrap_or_default()
    }
}

impl Extend<Duration> for Times {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, times: I) {
        times.into_iter().for_each(|time| self.push(time));
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [middle, late] = [50, 99].map(|percent| milliseconds(self.percentile(percent)));
        let most = milliseconds(self.percentile(100));
        write!(f, "p50 {middle:.1} ms, p99 {late:.1} ms, most {most:.1} ms, of {}", self.0.len())
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Bytes in KiB.
pub(crate) fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1024.0 / 1024.0)
}
