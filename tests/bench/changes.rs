//! Requests that never stop while one route goes back and forth between two backends.

use std::thread;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::fault::DemoError;

use crate::bare::{BACKEND_PORT, Bare, Logs, OTHER_PORT};
use crate::contender::Contender;
use crate::measure::{Figures, Measure};
use crate::plan::Plan;
use crate::stage::LOAD_CORE;
use crate::table::Table;
use crate::work::Section;
use crate::wrk;

const SECTION: Section = Section {
    title: "Requests while one route changes 20 times, 200 ms apart (32 connections)",
    measures: &[Measure::NotGood, Measure::Answers, Measure::ChangesSeen, Measure::P99],
};
const WORK: &str = "route-changes";
const CHANGES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);
/// The seconds of load: the changes, with a second before and after.
const SECONDS: &str = "8s";

pub(crate) fn run(plan: &Plan, table: &mut Table) {
    if plan.has(WORK) {
        let (mut bare, _servers) = Bare::make(Logs::On);
        let is_there = until(Duration::from_secs(20), || served_by(&bare).is_some());
        let outcome = if is_there { measure(&mut bare) } else { Err("the route does not answer".to_owned()) };
        table.add((&SECTION, WORK), (Contender::OURS, Logs::On), outcome);
    }
}

fn measure(bare: &mut Bare) -> Result<Figures, String> {
    let failed = |error: DemoError| error.to_string();
    let argv =
        ["taskset", "-c", LOAD_CORE, "wrk", "-t1", "-c32", "-d", SECONDS, "--latency", "http://server/100"];
    let mut load = bare.world.spawn("client", "wrk", &argv).map_err(failed)?;
    thread::sleep(Duration::from_secs(1));
    let mut seen = 0;
    for change in 0..CHANGES {
        let (backend, port) = if change % 2 == 0 { ("other", OTHER_PORT) } else { ("server", BACKEND_PORT) };
        bare.world.apply_in("bench", "the route", &route(backend)).map_err(failed)?;
        thread::sleep(PAUSE);
        seen += u32::from(served_by(bare) == Some(port));
    }
    if !until(Duration::from_secs(20), || !load.is_running()) {
        return Err("wrk does not end".to_owned());
    }
    let said = wrk::read(&load.log())?;
    Ok(Figures::new([
        (Measure::NotGood, wrk::count_failures(&load.log())),
        (Measure::Answers, said.answers),
        (Measure::ChangesSeen, f64::from(seen)),
        (Measure::P99, said.p99_us),
    ]))
}

fn route(backend: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: server}}, spec: {{\n\
         parentRefs: [{{group: '', kind: Service, name: server}}],\n\
         rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}}}\n"
    )
}

/// The port behind the route that has answered.
fn served_by(bare: &Bare) -> Option<u16> {
    let argv = ["curl", "-s", "-m", "2", "-o", "/dev/null", "-D", "-", "http://server/100"];
    let heads = bare.world.exec("client", &argv).ok()?.stdout;
    heads.lines().find_map(|line| line.strip_prefix("served-by: ")?.trim().parse().ok())
}
