//! Memory of one proxy of ours: with pods, and with many routes.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::bare::Logs;
use crate::contender::{Contender, resident_mib};
use crate::measure::{Figures, Measure};
use crate::plan::Plan;
use crate::table::Table;
use crate::work::Section;

const SECTION: Section =
    Section { title: "Memory of one proxy of ours", measures: &[Measure::OneResident, Measure::PodKib] };
const NODE: &str = "node-a";
/// How long everything may take to be seen by the proxy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Endpoints of each of the many Services, and its routes.
const ENDPOINTS: u32 = 10;
const ROUTES: u32 = 2;

pub(crate) fn run(plan: &Plan, table: &mut Table) {
    let counts: &[(&'static str, u32)] = if plan.is_quick {
        &[("memory-0-pods", 0), ("memory-5-pods", 5)]
    } else {
        &[("memory-0-pods", 0), ("memory-110-pods", 110), ("memory-250-pods", 250)]
    };
    if plan.has("memory-pods") {
        let mut world = empty_world();
        let idle = resident(&mut world);
        let mut begun = 0;
        for (work, count) in counts {
            add_pods(&mut world, begun..*count);
            begun = *count;
            let resident = resident(&mut world);
            let mut figures = vec![(Measure::OneResident, resident)];
            if *count > 0 {
                figures.push((Measure::PodKib, (resident - idle) * 1024.0 / f64::from(*count)));
            }
            table.add((&SECTION, work), (Contender::OURS, Logs::On), Ok(Figures::new(figures)));
        }
    }
    if plan.has("memory-routes") {
        let (work, services) =
            if plan.is_quick { ("memory-100-routes", 50) } else { ("memory-10000-routes", 5_000) };
        let mut world = empty_world();
        let generation = || metric(&world, "gammarus_snapshot_generation");
        let before = generation();
        fs::write(world.objects_dir().join("many.yaml"), many(services)).unwrap();
        assert!(until(PATIENCE, || generation() > before), "the proxy has not seen {work}");
        let figures = Figures::new([(Measure::OneResident, resident(&mut world))]);
        table.add((&SECTION, work), (Contender::OURS, Logs::On), Ok(figures));
    }
}

fn empty_world() -> World {
    let mut world = World::builder().start().unwrap();
    world.node(NODE).unwrap();
    world.namespace("bench", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
    world
}

fn add_pods(world: &mut World, numbers: std::ops::Range<u32>) {
    let all = f64::from(numbers.end);
    for number in numbers {
        let name = format!("pod-{number}");
        world.pod(&name).namespace("bench").service_account(&name).on(NODE).start().unwrap();
    }
    assert!(
        until(PATIENCE, || metric(world, "gammarus_pods_enrolled") >= all),
        "not all of {all} pods are enrolled"
    );
}

/// Memory of the proxy once it has nothing more to do.
fn resident(world: &mut World) -> f64 {
    thread::sleep(Duration::from_secs(3));
    resident_mib(world.proxy(NODE).unwrap().id())
}

fn metric(world: &World, name: &str) -> f64 {
    // A proxy that takes in very much at once may be late with its answer.
    let text = world.admin(NODE, "/metrics").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

/// So many Services, each with endpoints and routes of its own.
fn many(services: u32) -> String {
    let mut text = String::new();
    for service in 0..services {
        let [high, low] = [service / 250, service % 250];
        writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: many-{service}, namespace: bench}}, spec: \
             {{clusterIP: 10.97.{high}.{low}, clusterIPs: [10.97.{high}.{low}], ipFamilies: [IPv4], \
             ports: [{{name: http, port: 80}}]}}}}"
        )
        .unwrap();
        let endpoints: Vec<String> = (0..ENDPOINTS)
            .map(|endpoint| {
                let last = service * ENDPOINTS + endpoint;
                let [second, third, fourth] = [last / 62_500, last / 250 % 250, last % 250 + 1];
                format!("{{addresses: [11.{second}.{third}.{fourth}], conditions: {{ready: true}}}}")
            })
            .collect();
        writeln!(
            text,
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: many-{service}, \
             namespace: bench, labels: {{kubernetes.io/service-name: many-{service}}}}}, addressType: IPv4, \
             ports: [{{name: http, port: 8080, protocol: TCP}}], endpoints: [{}]}}",
            endpoints.join(", ")
        )
        .unwrap();
        for route in 0..ROUTES {
            writeln!(
                text,
                "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: \
                 {{name: many-{service}-{route}, namespace: bench}}, spec: {{parentRefs: [{{group: '', \
                 kind: Service, name: many-{service}}}], rules: [{{matches: [{{path: {{value: /r{route}}}}}], \
                 backendRefs: [{{name: many-{service}, port: 80}}]}}]}}}}"
            )
            .unwrap();
        }
    }
    text
}
