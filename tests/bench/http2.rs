//! HTTP/2 and gRPC: many streams on a few connections, each asking again as soon as it is answered.

use std::fs;

use crate::contender::Entry;
use crate::h2load;
use crate::http1::SMALL;
use crate::measure::{Figures, Measure};
use crate::work::{Load, Section, Way, Work};

const SECTION: Section = Section {
    title: "HTTP/2 and gRPC unary, 100 streams on each connection",
    measures: &[Measure::CpuPerAnswer, Measure::PerSecond, Measure::P50, Measure::P99, Measure::Resident],
};
const STREAMS: &str = "100";
/// A method, and the file that holds both its request and its answer: a message of eight bytes behind its length.
pub(crate) const METHOD: &str = "/bench.Echo/Call";
pub(crate) const MESSAGE: (&str, &[u8]) = ("call", b"\0\0\0\0\x08\x0a\x06abcdef");

pub(crate) fn works() -> Vec<Work> {
    let work = |name, entry, connections, in_quick| Work {
        name,
        section: &SECTION,
        load: Box::new(Streams { entry, connections }),
        in_quick,
    };
    vec![
        work("http2-1x100", Entry::Http2, 1, true),
        work("http2-10x100", Entry::Http2, 10, false),
        work("grpc-1x100", Entry::Grpc, 1, true),
        work("grpc-10x100", Entry::Grpc, 10, false),
    ]
}

/// Requests by h2load.
#[derive(Clone, Copy, Debug)]
struct Streams {
    entry: Entry,
    connections: u32,
}

impl Streams {
    /// What a request says, with the file of its body.
    fn request<'a>(&self, body: &'a str) -> (&'static str, Vec<&'a str>) {
        let mut says = vec!["-H", "version: new"];
        if self.entry == Entry::Grpc {
            says.extend(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", body]);
            return (METHOD, says);
        }
        (SMALL.0, says)
    }
}

impl Load for Streams {
    fn entry(&self) -> Entry {
        self.entry
    }

    fn probe(&self, way: &Way<'_>) -> Result<(), String> {
        let body = way.bare.file(MESSAGE.0);
        let (path, says) = self.request(&body);
        let url = format!("http://{}{path}", way.address);
        let mut argv = vec!["timeout", "5", "nghttp", "-nv", "--no-dep"];
        argv.extend(says);
        argv.push(&url);
        let seen = way.ask(&argv)?;
        let is_good =
            seen.contains(":status: 200") && (self.entry != Entry::Grpc || seen.contains("grpc-status: 0"));
        if is_good { Ok(()) } else { Err(format!("{url}: {seen}")) }
    }

    fn run(&self, way: &Way<'_>, seconds: u32) -> Result<Figures, String> {
        let body = way.bare.file(MESSAGE.0);
        let (path, says) = self.request(&body);
        let url = format!("http://{}{path}", way.address);
        let log = way.bare.file("h2load.log");
        let (connections, log_option) = (self.connections.to_string(), format!("--log-file={log}"));
        let load = |seconds: u32| {
            let duration = seconds.to_string();
            let mut argv = vec!["h2load", "-c", &connections, "-m", STREAMS, "-D", &duration, &log_option];
            argv.extend(&says);
            argv.push(&url);
            // It appends to a log that is there.
            let _there_was_none = fs::remove_file(&log);
            way.load(&argv)
        };
        way.warm_up(seconds, load)?;
        let (said, cpu_seconds) = load(seconds)?;
        let said = h2load::read(&said, &fs::read_to_string(&log).map_err(|error| error.to_string())?)?;
        Ok(Figures::new([
            (Measure::CpuPerAnswer, cpu_seconds * 1e6 / said.answers),
            (Measure::PerSecond, said.per_second),
            (Measure::P50, said.p50_us),
            (Measure::P99, said.p99_us),
            way.resident(),
        ]))
    }
}
