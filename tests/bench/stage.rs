//! The world with every contender in place, and one round of one of them.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use node_proxy::demo::command::{Process, until};

use crate::bare::{BACKEND_PORT, BULK_PORT, Bare, HTTP2_PORT, Logs, PEER_CLIENT};
use crate::contender::{Contender, Entry, HopVersion};
use crate::measure::Figures;
use crate::peers::Peers;
use crate::work::{Load, Way, Work};
use crate::{envoy, haproxy, nginx, ztunnel};

/// The core of whatever asks and answers, and the core of whoever stands between.
pub(crate) const LOAD_CORE: &str = "0";
const PROXY_CORE: &str = "1";
/// How long a contender may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everybody in place.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) bare: Bare,
    pub(crate) contenders: Vec<Contender>,
    _servers: Vec<Process>,
}

impl Stage {
    /// Makes the world and starts everybody.
    pub(crate) fn set(logs: Logs, peers: &Peers) -> Self {
        let (mut bare, servers) = Bare::make(logs);
        for server in &servers {
            pin(server.id(), LOAD_CORE);
        }
        let ours = ours(&mut bare);
        let hops = [HopVersion::Http1, HopVersion::Http2];
        let mut contenders = vec![ours, nginx::contend(&bare)];
        contenders.extend(hops.map(|version| haproxy::contend(&bare, version)));
        if let Ok(program) = std::env::var("ENVOY") {
            contenders.extend(hops.map(|version| envoy::contend(&bare, &program, version)));
        }
        contenders.push(nginx::contend_with_streams(&bare));
        contenders.push(haproxy::contend_with_connections(&bare));
        contenders.extend(peers.ztunnel().map(|program| ztunnel::contend(&bare, program)));
        contenders.push(limit(&bare));
        for process in contenders.iter().flat_map(|contender| &contender.processes) {
            pin(*process, PROXY_CORE);
        }
        Self { bare, contenders, _servers: servers }
    }

    /// Waits until every contender does every work once. One that does not is said, and has no round that counts.
    pub(crate) fn settle(&self, works: &[&Work]) {
        for contender in &self.contenders {
            for work in works {
                let Some(way) = self.way(contender, work.load.as_ref()) else { continue };
                let mut last = Ok(());
                let does = until(PATIENCE, || {
                    last = work.load.probe(&way);
                    last.is_ok()
                });
                if !does {
                    eprintln!("{} does not do {}: {last:?}", contender.name, work.name);
                    break;
                }
            }
        }
    }

    /// How a contender is asked, if it takes part.
    pub(crate) fn way<'s>(&'s self, contender: &'s Contender, load: &dyn Load) -> Option<Way<'s>> {
        let address = contender.address(load.entry())?;
        Some(Way { bare: &self.bare, contender, address })
    }

    /// One round of one contender; nothing if it takes no part.
    pub(crate) fn measure(
        &self,
        contender: &Contender,
        load: &dyn Load,
        seconds: u32,
    ) -> Option<Result<Figures, String>> {
        let way = self.way(contender, load)?;
        Some(load.probe(&way).and_then(|()| load.run(&way, seconds)))
    }

    /// What runs, on what.
    pub(crate) fn describe(&self) -> Vec<String> {
        let machine = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = machine.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = available_parallelism().unwrap();
        let mut lines = vec![
            format!(
                "{cores} cores of {}, Linux {}",
                model.trim_start_matches([' ', '\t', ':']),
                kernel.trim()
            ),
            format!(
                "clients (one thread) and servers on core {LOAD_CORE}, all proxies on core {PROXY_CORE}, one worker each"
            ),
            "CPU is of both proxies of a pair; mTLS by TLS 1.3 with P-256 certificates and full handshakes"
                .to_owned(),
            "a work's name has its connections and the bytes of an answer; http2-10x100 is 10 connections of 100 streams"
                .to_owned(),
            "wrk for HTTP/1.1, h2load for HTTP/2 and gRPC, iperf3 for bulk; nginx answers".to_owned(),
        ];
        for tool in [["wrk", "-v"], ["h2load", "--version"], ["iperf3", "--version"]] {
            lines.push(format!("{}: {}", tool[0], self.bare.version(&tool)));
        }
        let versions = self.contenders.iter().filter(|contender| !contender.version.is_empty());
        lines.extend(versions.map(|contender| format!("{}: {}", contender.name, contender.version)));
        lines
    }
}

fn ours(bare: &mut Bare) -> Contender {
    let processes = ["node-a", "node-b"].map(|node| bare.world.proxy(node).unwrap().id());
    let entries = [
        (Entry::Http1, "server:80"),
        (Entry::Http2, "http2:80"),
        (Entry::Grpc, "calls:80"),
        (Entry::Opaque, "opaque:9000"),
        (Entry::Bulk, "opaque:5201"),
    ];
    Contender {
        name: Contender::OURS,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client: "client",
        flooder: "flooder",
        entries: entries.map(|(entry, address)| (entry, address.to_owned())).into(),
        processes: processes.into(),
        _running: Vec::new(),
    }
}

/// Nobody between: what the machine and the servers can do.
fn limit(bare: &Bare) -> Contender {
    let entries = [
        (Entry::Http1, BACKEND_PORT),
        (Entry::Http2, HTTP2_PORT),
        (Entry::Grpc, HTTP2_PORT),
        (Entry::Opaque, BACKEND_PORT),
        (Entry::Bulk, BULK_PORT),
    ];
    Contender {
        name: "no proxy",
        version: String::new(),
        client: PEER_CLIENT,
        flooder: PEER_CLIENT,
        entries: entries.map(|(entry, port)| (entry, format!("{}:{port}", bare.server_address()))).into(),
        processes: Vec::new(),
        _running: Vec::new(),
    }
}

/// Binds all threads of a process to a core.
fn pin(process: u32, core: &str) {
    let status =
        Command::new("taskset").args(["-a", "-c", "-p", core, &process.to_string()]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
}
