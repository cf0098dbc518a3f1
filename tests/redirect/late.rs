//! A node whose view of the cluster is five seconds late, while pods join and leave: nobody hangs, and nothing reaches
//! an application that it cannot read.
//!
//! The late node reads a folder into which everything is copied five seconds after it was written; what its own proxy
//! says is known to the other node at once. A pod of each node calls the other's, in a protocol in which the server
//! speaks first and in one in which the client does.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;

const LATE: Duration = Duration::from_secs(5);
/// How long a step may take: the view's delay, the proxies' own waits, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one exchange may take before it counts as one that hangs.
const HANGS: Duration = Duration::from_secs(4);
/// Ports of the applications: the server speaks first on one, the client on the other.
const SERVER_FIRST: u16 = 7000;
const CLIENT_FIRST: u16 = 7001;
/// Pods with their namespaces and nodes; the second node is late.
const PODS: [(&str, &str, &str); 2] = [("prompt", "one", "node-a"), ("late", "two", "node-b")];

/// Threads that go on until it is dropped.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn new() -> Self {
        Self { stop: Arc::default(), threads: Vec::new() }
    }

    /// Does something again and again, with a pause after it.
    fn repeat(&mut self, pause: Duration, mut work: impl FnMut() + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                work();
                thread::sleep(pause);
            }
        }));
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The files below a folder with their texts; drafts, which begin with a dot, are nobody's business.
fn files(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let Ok(entries) = fs::read_dir(root.join(below)) else { return };
    for entry in entries.flatten() {
        let path = below.join(entry.file_name());
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.path().is_dir() {
            files(root, &path, found);
        } else if let Ok(text) = fs::read(entry.path()) {
            found.insert(path, text);
        }
    }
}

/// Writes a file as a whole, or removes it.
fn put(path: &Path, text: Option<&[u8]>) {
    let Some(text) = text else {
        let _ = fs::remove_file(path);
        return;
    };
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let draft = path.with_file_name(".draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, path).unwrap();
}

/// Copies one folder to another, later.
struct Copier {
    from: PathBuf,
    to: PathBuf,
    seen: BTreeMap<PathBuf, Vec<u8>>,
    queue: VecDeque<(Instant, PathBuf, Option<Vec<u8>>)>,
    /// In milliseconds.
    delay: Arc<AtomicU64>,
    is_wanted: fn(&Path) -> bool,
}

impl Copier {
    fn step(&mut self) {
        let (mut now, at) = (BTreeMap::new(), Instant::now());
        files(&self.from, Path::new(""), &mut now);
        now.retain(|path, _| (self.is_wanted)(path));
        for (path, text) in &now {
            if self.seen.get(path) != Some(text) {
                self.queue.push_back((at, path.clone(), Some(text.clone())));
            }
        }
        for path in self.seen.keys().filter(|path| !now.contains_key(*path)) {
            self.queue.push_back((at, path.clone(), None));
        }
        self.seen = now;
        let delay = Duration::from_millis(self.delay.load(Ordering::SeqCst));
        while let Some((_, path, text)) = self.queue.pop_front_if(|(at, ..)| at.elapsed() >= delay) {
            put(&self.to.join(path), text.as_deref());
        }
    }
}

/// What the late node's proxy itself has written.
fn is_of_late_node(path: &Path) -> bool {
    path.ends_with("status/pods/two.late.yaml")
}

/// Each pod with each port.
fn both_ports() -> impl Iterator<Item = ((&'static str, &'static str, &'static str), u16)> {
    PODS.into_iter().flat_map(|pod| [SERVER_FIRST, CLIENT_FIRST].map(|port| (pod, port)))
}

/// What was seen by clients and applications.
#[derive(Default)]
struct Seen {
    exchanges: AtomicU64,
    slowest: Mutex<Duration>,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn complain(&self, text: String) {
        let at = time::OffsetDateTime::now_utc().time();
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{at}: {text}"));
    }
}

struct Stage {
    world: World,
    seen: Arc<Seen>,
    delay: Arc<AtomicU64>,
    begun: Instant,
    _workers: Workers,
}

impl Stage {
    #[track_caller]
    fn set() -> Self {
        let flags = ["--lag-seconds=8", "--release-seconds=8", "--inspection-seconds=2"];
        let mut world = World::builder().proxy_arguments(&flags).start().unwrap();
        let (prompt, late) = (world.objects_dir().to_owned(), world.dir().join("late"));
        fs::create_dir_all(&late).unwrap();
        let (mut workers, delay) = (Workers::new(), Arc::new(AtomicU64::new(0)));
        let copier = |from: &Path, to: &Path, delay, is_wanted| Copier {
            from: from.to_owned(),
            to: to.to_owned(),
            seen: BTreeMap::new(),
            queue: VecDeque::new(),
            delay,
            is_wanted,
        };
        let mut there = copier(&prompt, &late, delay.clone(), |path| !is_of_late_node(path));
        let mut back = copier(&late, &prompt, Arc::default(), is_of_late_node);
        workers.repeat(Duration::from_millis(20), move || there.step());
        workers.repeat(Duration::from_millis(5), move || back.step());
        world.node("node-a").unwrap();
        world.node_that_reads("node-b", late).unwrap();
        for (pod, namespace, node) in PODS {
            world.namespace(namespace, &[]).unwrap();
            world.pod(pod).namespace(namespace).service_account(pod).on(node).start().unwrap();
            // Few ports: before its pod's kernel has forgotten a connection, its ports are used again.
            let few = "echo 40000 40499 >/proc/sys/net/ipv4/ip_local_port_range";
            world.exec(pod, &["sh", "-c", few]).unwrap().checked().unwrap();
        }
        let seen = Arc::<Seen>::default();
        let netns =
            |pod| NetnsFd::open(&Path::new("/run/netns").join(&world.running_pod(pod).unwrap().netns));
        let address = |pod| world.running_pod(pod).unwrap().addresses[0];
        // All applications listen before the first client calls.
        for ((pod, ..), port) in both_ports() {
            let listener = netns(pod).unwrap().run(|| TcpListener::bind((address(pod), port))).unwrap();
            let told = seen.clone();
            listener.set_nonblocking(true).unwrap();
            workers.repeat(Duration::from_millis(5), move || accept(&listener, port, &told));
        }
        for ((pod, ..), port) in both_ports() {
            let peer = if pod == PODS[0].0 { PODS[1].0 } else { PODS[0].0 };
            let (netns, other, told) = (netns(pod).unwrap(), address(peer), seen.clone());
            let call = format!("{pod} to port {port} of {peer}");
            workers.repeat(Duration::from_millis(40), move || {
                exchange(&netns, SocketAddr::new(other, port), &call, &told);
            });
        }
        Self { world, seen, delay, begun: Instant::now(), _workers: workers }
    }

    fn is_marked(&self, pod: usize) -> bool {
        let (pod, namespace, _) = PODS[pod];
        self.world.objects_dir().join(format!("status/pods/{namespace}.{pod}.yaml")).exists()
    }

    fn is_captured(&self, pod: usize) -> bool {
        self.world
            .exec(PODS[pod].0, &["nft", "list", "ruleset"])
            .unwrap()
            .stdout
            .contains("redirect to :15001")
    }

    /// Labels the namespaces of these pods, and waits until that is done, on the late node too.
    #[track_caller]
    fn turn(&mut self, pods: &[usize], is_on: bool) {
        let labels = [("gammarus.io/mesh", "enabled")];
        for pod in pods {
            self.world.namespace(PODS[*pod].1, if is_on { &labels } else { &[] }).unwrap();
        }
        for pod in pods {
            let done = || self.is_marked(*pod) == is_on && self.is_captured(*pod) == is_on;
            assert!(until(PATIENCE, done), "{}: {:?}", PODS[*pod].0, self.seen.wrong.lock().unwrap());
        }
        // Both views, and what the pods themselves make of them, are settled.
        thread::sleep(LATE * 2);
    }

    fn carried(&self) -> usize {
        self.world.access_log("node-a").unwrap().matches("mtls=yes").count()
    }

    #[track_caller]
    fn check(&self) {
        let (wrong, exchanges) =
            (self.seen.wrong.lock().unwrap(), self.seen.exchanges.load(Ordering::SeqCst));
        let slowest = *self.seen.slowest.lock().unwrap();
        let text = format!(
            "{exchanges} exchanges in {} s, {} wrong, the slowest took {} ms\n",
            self.begun.elapsed().as_secs(),
            wrong.len(),
            slowest.as_millis()
        );
        std::io::stdout().write_all(text.as_bytes()).unwrap();
        assert!(wrong.is_empty(), "{:#?}", wrong.iter().take(20).collect::<Vec<_>>());
        assert!(exchanges > 200 && slowest < HANGS);
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = Vec::new();
    match stream.read_until(b'\n', &mut line) {
        Ok(_) => Ok(String::from_utf8_lossy(&line).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The applications: what they read must be what the clients say.
fn accept(listener: &TcpListener, port: u16, seen: &Arc<Seen>) {
    let Ok((mut stream, client)) = listener.accept() else { return };
    let seen = seen.clone();
    thread::spawn(move || {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(HANGS)).unwrap();
        if port == SERVER_FIRST && stream.write_all(b"220 ready\n").is_err() {
            return;
        }
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        match line(&mut reader) {
            // A client that has given up; it says itself why.
            Ok(text) if text.is_empty() => {}
            Err(_) => {}
            Ok(text) if text == "HELLO\n" => {
                let _ = stream.write_all(b"250 hello\n");
            }
            Ok(text) => seen.complain(format!("an application on {port} reads {text:?} of {client}")),
        }
    });
}

fn exchange(netns: &NetnsFd, to: SocketAddr, call: &str, seen: &Seen) {
    let begun = Instant::now();
    let talk = || -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = netns.run(|| TcpStream::connect_timeout(&to, HANGS)).map_err(text)?;
        stream.set_read_timeout(Some(HANGS)).map_err(text)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(text)?);
        let mut expect = |expected: &str| match line(&mut reader)? {
            said if said == expected => Ok(()),
            said => Err(format!("{said:?} came instead of {expected:?}")),
        };
        if to.port() == SERVER_FIRST {
            expect("220 ready\n")?;
        }
        stream.write_all(b"HELLO\n").map_err(text)?;
        expect("250 hello\n")?;
        // The server ends first, so that it is its kernel that remembers the connection.
        expect("")
    };
    if let Err(error) = talk() {
        seen.complain(format!("{call}: {error} after {} ms", begun.elapsed().as_millis()));
    }
    seen.exchanges.fetch_add(1, Ordering::SeqCst);
    let mut slowest = seen.slowest.lock().unwrap();
    *slowest = (*slowest).max(begun.elapsed());
}

#[test]
fn pods_of_a_late_node_join_and_leave_and_all_is_understood() {
    let mut stage = Stage::set();
    stage.delay.store(LATE.as_millis().try_into().unwrap(), Ordering::SeqCst);
    stage.turn(&[0, 1], true);
    let before = stage.carried();
    assert!(until(PATIENCE, || stage.carried() > before + 20), "the hop is not used");
    stage.turn(&[0, 1], false);
    stage.check();
}

#[test]
fn with_one_side_in_the_mesh_the_other_joins_and_leaves_and_all_is_understood() {
    let mut stage = Stage::set();
    stage.delay.store(LATE.as_millis().try_into().unwrap(), Ordering::SeqCst);
    for (first, second) in [(0, 1), (1, 0)] {
        stage.turn(&[first], true);
        stage.turn(&[second], true);
        let before = stage.carried();
        assert!(until(PATIENCE, || stage.carried() > before + 20), "the hop is not used");
        stage.turn(&[first], false);
        stage.turn(&[second], false);
    }
    stage.check();
}
