//! From an update handed to the writer, or a file written, until the snapshot is published: everything at once, and
//! one change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gammarus_ca::TrustDomain;
use node_proxy::attach::Attachments;
use node_proxy::cluster::directory::Directory;
use node_proxy::cluster::objects::{Change, Changed, Objects};
use node_proxy::cluster::source::{ClusterError, ObjectSource, Update};
use node_proxy::cluster::writer::Writer;
use node_proxy::compile::{Compiler, Step};
use node_proxy::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::meter::{Moment, Spent, median, resident};
use crate::world::{World, applied, pod, route, slice};

const WORLDS: [World; 2] = [World { routes: 100 }, World { routes: 10_000 }];

/// A change of the object of a number, in one of two forms.
type Touch = fn(usize, bool) -> Value;

const TOUCHES: [(&str, Touch); 3] = [
    ("one route", |at, odd| route(at, if odd { 80 } else { 90 })),
    ("one slice", |at, odd| slice(at / 2, !odd)),
    ("one pod", |at, odd| pod(at * 5, if odd { "False" } else { "True" })),
];

/// How often each change is made.
const fn times() -> usize {
    if cfg!(debug_assertions) { 3 } else { 200 }
}

/// The number of the object that a change is of: far apart, so that nothing is near at hand from the one before.
const fn spread(time: usize, world: World) -> usize {
    (time * 7919) % world.routes
}

/// Notes from when an update was there until its snapshot was published, by being asked for the next one.
struct Timed<S> {
    source: S,
    handed: Option<Moment>,
    spent: Arc<Mutex<Vec<Spent>>>,
}

impl<S: ObjectSource> ObjectSource for Timed<S> {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        if let Some(handed) = self.handed {
            self.spent.lock().unwrap().push(handed.spent());
        }
        let update = self.source.next().await?;
        self.handed = Some(Moment::now());
        Ok(update)
    }
}

/// Hands out updates one by one.
struct Script(std::vec::IntoIter<Vec<Change>>);

impl ObjectSource for Script {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        match self.0.next() {
            Some(changes) => Ok(Update { changes, reports: Vec::new() }),
            None => Err(the_end()),
        }
    }
}

/// Writes a file before each look at the directory, and notes what came of it.
struct Edited {
    directory: Directory,
    edits: std::vec::IntoIter<(PathBuf, Value)>,
    began: Option<Moment>,
    spent: Arc<Mutex<Vec<Spent>>>,
}

impl ObjectSource for Edited {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        if let Some(began) = self.began {
            self.spent.lock().unwrap().push(began.spent());
            let (path, object) = self.edits.next().ok_or_else(the_end)?;
            fs::write(path, object.to_string()).unwrap();
        }
        self.began = Some(Moment::now());
        self.directory.next().await
    }
}

fn the_end() -> ClusterError {
    ClusterError::Read { path: PathBuf::from("script"), source: std::io::Error::other("the end") }
}

fn build() -> impl FnMut(&Objects, &Changed) -> Snapshot {
    let mut attachments = Attachments::default();
    let mut compiler = Compiler::new("node-0", TrustDomain::new("cluster.local").unwrap());
    move |objects, changed| {
        let groups = &attachments.update(objects, changed).groups;
        compiler.update(&Step { objects, changed, attachments: &attachments, groups })
    }
}

/// Plays a source to its end; what is resident then, in MiB.
fn play<S: ObjectSource>(open: impl FnOnce() -> S) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (writer, _view) = Writer::new(open(), build());
        let mut writer = Box::pin(writer.run());
        let _ = writer.as_mut().await;
        resident()
    })
}

pub(crate) fn run() {
    for world in WORLDS {
        let mut updates = vec![world.everything()];
        for (_, touch) in TOUCHES {
            let changes = (0..times()).map(|time| applied(touch(spread(time, world), time % 2 == 0)));
            updates.extend(changes.map(|change| vec![change]));
        }
        let spent = Arc::default();
        let source = Script(updates.into_iter());
        let memory = play(|| Timed { source, handed: None, spent: Arc::clone(&spent) });
        let spent = spent.lock().unwrap();
        tell_world("handed over", world, &spent[0], memory);
        for ((name, _), spent) in TOUCHES.iter().zip(spent[1..].chunks(times())) {
            tell(name, spent);
        }
    }
}

/// The same from files: one for each route, and one for all else of a namespace.
pub(crate) fn run_files() {
    for world in WORLDS {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), world);
        let edits = (0..times()).map(|time| {
            let at = spread(time, world);
            (route_file(folder.path(), at), route(at, if time % 2 == 0 { 80 } else { 90 }))
        });
        let spent = Arc::default();
        let edits = edits.collect::<Vec<_>>().into_iter();
        let memory = play(|| Edited {
            directory: Directory::open(folder.path()).unwrap(),
            edits,
            began: None,
            spent: Arc::clone(&spent),
        });
        let spent = spent.lock().unwrap();
        tell_world("from files", world, &spent[0], memory);
        tell("one route's file", &spent[1..]);
    }
}

fn write_files(folder: &Path, world: World) {
    let mut by_namespace: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in world.without_routes() {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("namespaces").to_owned();
        by_namespace.entry(namespace).or_default().push(object);
    }
    for (namespace, items) in by_namespace {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(folder.join(format!("{namespace}.json")), list.to_string()).unwrap();
    }
    for at in 0..world.routes {
        fs::write(route_file(folder, at), route(at, 90).to_string()).unwrap();
    }
}

fn route_file(folder: &Path, at: usize) -> PathBuf {
    folder.join(format!("route-{at}.json"))
}

fn tell_world(how: &str, world: World, whole: &Spent, memory: f64) {
    println!(
        "{} routes, {} Services, {} endpoints, {how}: {:.1} ms (CPU {:.1}), resident {memory:.0} MiB",
        world.routes,
        world.services(),
        world.endpoints(),
        whole.wall.as_secs_f64() * 1e3,
        whole.cpu.as_secs_f64() * 1e3,
    );
}

fn tell(name: &str, spent: &[Spent]) {
    let wall = median(spent.iter().map(|spent| spent.wall).collect());
    let cpu = median(spent.iter().map(|spent| spent.cpu).collect());
    println!("  {name}: {:.1} us, CPU {:.1} us", wall.as_secs_f64() * 1e6, cpu.as_secs_f64() * 1e6);
}
