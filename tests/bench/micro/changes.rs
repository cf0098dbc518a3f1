//! From an update handed to the writer until its snapshot is published: everything at once, and one change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gammarus_ca::TrustDomain;
use node_proxy::attach::Attachments;
use node_proxy::cluster::objects::{Change, Changed, Objects};
use node_proxy::cluster::source::{ClusterError, ObjectSource, Update};
use node_proxy::cluster::writer::Writer;
use node_proxy::compile::{Compiler, Step};
use node_proxy::snapshot::Snapshot;

use crate::meter::{Moment, Spent, median, resident};
use crate::world::{World, pod, route, slice};

/// How often each change is made.
const TIMES: usize = 200;

/// A change of the object of a number, in one of two forms.
type Touch = fn(usize, bool) -> Change;

const STEPS: [(&str, Touch); 3] = [
    ("one route", |at, odd| route(at, if odd { 80 } else { 90 })),
    ("one slice", |at, odd| slice(at / 2, !odd)),
    ("one pod", |at, odd| pod(at * 5, if odd { "False" } else { "True" })),
];

/// Hands out updates one by one and notes what each took the writer.
struct Script {
    updates: std::vec::IntoIter<Vec<Change>>,
    handed: Option<Moment>,
    spent: Arc<Mutex<Vec<Spent>>>,
}

impl ObjectSource for Script {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        if let Some(handed) = self.handed {
            self.spent.lock().unwrap().push(handed.spent());
        }
        let Some(changes) = self.updates.next() else {
            let source = std::io::Error::other("the end");
            return Err(ClusterError::Read { path: PathBuf::from("script"), source });
        };
        self.handed = Some(Moment::now());
        Ok(Update { changes, reports: Vec::new() })
    }
}

fn build() -> impl FnMut(&Objects, &Changed) -> Snapshot {
    let mut attachments = Attachments::default();
    let mut compiler = Compiler::new("node-0", TrustDomain::new("cluster.local").unwrap());
    move |objects, changed| {
        let groups = &attachments.update(objects, changed).groups;
        compiler.update(&Step { objects, changed, attachments: &attachments, groups })
    }
}

fn play(updates: Vec<Vec<Change>>) -> (Vec<Spent>, f64) {
    let spent = Arc::new(Mutex::new(Vec::new()));
    let source = Script { updates: updates.into_iter(), handed: None, spent: Arc::clone(&spent) };
    let (writer, view) = Writer::new(source, build());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _ = runtime.block_on(writer.run());
    let memory = resident();
    drop(view);
    let spent = spent.lock().unwrap().clone();
    (spent, memory)
}

pub(crate) fn run() {
    let before = resident();
    let times = if cfg!(debug_assertions) { 3 } else { TIMES };
    for world in [World { routes: 100 }, World { routes: 10_000 }] {
        let mut updates = vec![world.everything()];
        for (_, step) in STEPS {
            for time in 0..times {
                // Far apart, so that nothing is near at hand from the change before.
                updates.push(vec![step((time * 7919) % world.routes, time % 2 == 0)]);
            }
        }
        let (spent, memory) = play(updates);
        println!(
            "{} routes, {} Services, {} endpoints: whole {:.1} ms (CPU {:.1}), resident {memory:.0} MiB of {before:.0} before",
            world.routes,
            world.services(),
            world.endpoints(),
            spent[0].wall.as_secs_f64() * 1e3,
            spent[0].cpu.as_secs_f64() * 1e3,
        );
        for ((name, _), spent) in STEPS.iter().zip(spent[1..].chunks(times)) {
            let wall = median(spent.iter().map(|spent| spent.wall).collect());
            let cpu = median(spent.iter().map(|spent| spent.cpu).collect());
            println!("  {name}: {:.1} us, CPU {:.1} us", wall.as_secs_f64() * 1e6, cpu.as_secs_f64() * 1e6);
        }
    }
}
