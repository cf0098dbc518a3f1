//! gRPC calls on one connection, by a program that knows nothing of the mesh: the paced mode of `tests/grpc`'s client.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::fs;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use node_proxy::demo::command::{Process, until};
use serde::Deserialize;

use crate::counts::{Counts, Failure, Kind, PATIENCE};
use crate::grpc_programs::grpc_tool;
use crate::source::Source;

/// The program, while it calls.
#[derive(Debug)]
pub(crate) struct Calls {
    process: Process,
}

/// What it prints.
#[derive(Debug, Deserialize)]
struct Report {
    sent: u64,
    ok: u64,
    slowest_ms: u64,
    slowest_at_ms: u64,
    connections: u64,
    failures: Option<Vec<ReportedFailure>>,
    done: bool,
}

#[derive(Debug, Deserialize)]
struct ReportedFailure {
    at_ms: u64,
    took_ms: u64,
    text: String,
}

impl Calls {
    /// Begins to call so many times a second. Returns once its connection is open.
    #[track_caller]
    pub(crate) fn begin(source: &Source, per_second: u32) -> Self {
        let (client, rate) = (grpc_tool("grpc-client"), per_second.to_string());
        let patience = format!("{}s", PATIENCE.as_secs());
        let argv = [&client, "-target", &source.calls, "-rate", &rate, "-timeout", &patience, "paced"];
        let name = format!("paced-{}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis());
        let mut process = source.spawn(&name, &argv);
        let log = process.log_path().to_owned();
        let reports = || fs::read_to_string(&log).is_ok_and(|log| log.contains('\n'));
        process.wait_until("the first report", PATIENCE, reports).unwrap();
        Self { process }
    }

    /// Whether a call has failed so far. Reports come every second.
    pub(crate) fn has_failed(&self) -> bool {
        self.process.log().lines().last().is_some_and(|report| report.contains("\"took_ms\""))
    }

    /// Ends it and adds what it has counted, for a load that began then.
    #[track_caller]
    pub(crate) fn end(mut self, begun: SystemTime, counts: &mut Counts) {
        self.process.signal(Signal::SIGTERM);
        let ended = until(PATIENCE + Duration::from_secs(5), || !self.process.is_running());
        assert!(ended, "{}", self.process.last_words());
        let log = self.process.log();
        let last = log.lines().last().unwrap_or_default();
        let report: Report = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {log}"));
        assert!(report.done, "the client has not ended by itself: {log}");
        let begun = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let since_begun = |at_ms| Duration::from_millis(at_ms).saturating_sub(begun);
        for failure in report.failures.into_iter().flatten() {
            let at = since_begun(failure.at_ms);
            let took = Duration::from_millis(failure.took_ms);
            counts.failures.push(Failure { kind: Kind::Grpc, at, took, text: failure.text });
        }
        counts.grpc_connections = counts.grpc_connections.max(report.connections);
        let count = counts.kinds.entry(Kind::Grpc).or_default();
        count.sent += report.sent;
        count.ok += report.ok;
        count.answered((since_begun(report.slowest_at_ms), Duration::from_millis(report.slowest_ms)));
    }
}
