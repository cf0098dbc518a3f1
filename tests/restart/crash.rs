//! A proxy that is killed: new connections wait for the next one and are served, and nothing is readable meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;

use super::rig::{PATIENCE, ask_once, curl, netns, say, service, stage};

/// By then a connection that came while no proxy was there is served.
const SERVED: Duration = Duration::from_secs(2);
/// Clients at once.
const CLIENTS: usize = 4;
/// How often the proxy is killed.
const KILLS: usize = 5;
/// How many come each time while no proxy is there.
const NEWCOMERS: usize = 20;

/// One request on a connection of its own.
struct Attempt {
    begun: Instant,
    took: Duration,
    outcome: Result<(), String>,
}

/// Clients that ask again and again, and never twice for the same.
struct Clients {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn attempt(netns: &NetnsFd, destination: SocketAddr, path: &str) -> Attempt {
    let begun = Instant::now();
    let outcome = match ask_once(netns, destination, path) {
        Ok(body) if body.starts_with(&format!("server: GET {path}")) => Ok(()),
        Ok(body) => Err(body),
        Err(error) => Err(error.to_string()),
    };
    Attempt { begun, took: begun.elapsed(), outcome }
}

impl Clients {
    fn start(world: &World) -> Self {
        let attempts = Arc::<Mutex<Vec<Attempt>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let destination: SocketAddr = service(world, 80);
        let threads = (0..CLIENTS).map(|_| {
            let (attempts, stop, netns) = (attempts.clone(), stop.clone(), netns(world, "client"));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let outcome = attempt(&netns, destination, "/marker-crash");
                    attempts.lock().unwrap().push(outcome);
                    thread::sleep(Duration::from_millis(2));
                }
            })
        });
        Self { threads: threads.collect(), attempts, stop }
    }

    /// Waits until so many more requests have been made.
    #[track_caller]
    fn pass(&self, more: usize) {
        let enough = self.attempts.lock().unwrap().len() + more;
        assert!(until(PATIENCE, || self.attempts.lock().unwrap().len() >= enough), "the clients stand still");
    }

    fn finish(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *self.attempts.lock().unwrap())
    }
}

/// Requests that begin while no proxy is there, each on a thread of its own.
fn newcomers(world: &World) -> Vec<JoinHandle<Attempt>> {
    let destination = service(world, 80);
    let ask = |number: usize| {
        let netns = netns(world, "client");
        let path = format!("/marker-crash-{number}");
        thread::spawn(move || attempt(&netns, destination, &path))
    };
    (0..NEWCOMERS).map(ask).collect()
}

#[track_caller]
fn check_killed(node: &str) {
    let mut world = stage();
    world.stop_ca().unwrap();
    let wire = world.capture_on_node(node).unwrap();
    let clients = Clients::start(&world);
    clients.pass(100);
    let (mut gaps, mut waited) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        let killed = Instant::now();
        world.proxy(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
        let gone = Instant::now();
        let came = newcomers(&world);
        // A supervisor starts it again at once.
        world.restart_proxy(node).unwrap();
        gaps.push((killed, gone));
        waited.extend(came.into_iter().map(|thread| thread.join().unwrap()));
        clients.pass(100);
    }
    let attempts = clients.finish();
    let stranger = world.running_pod("stranger-b").unwrap().addresses[0];
    let control = curl(&world, "stranger-a", &format!("http://{stranger}:8080/marker-control"));
    assert!(control.starts_with("stranger-b: GET /marker-control"), "{control}");
    let recording = wire.stop().unwrap();
    assert!(!recording.shows("marker-crash"), "a request was readable");
    assert!(recording.shows("marker-control"), "the capture sees nothing");

    let is_cut = |attempt: &Attempt| {
        let overlaps = |(killed, gone): &(Instant, Instant)| {
            attempt.begun < *gone && attempt.begun + attempt.took >= *killed
        };
        attempt.outcome.is_err() && gaps.iter().any(overlaps)
    };
    let failed = |attempts: &[Attempt]| -> Vec<String> {
        let failed = attempts.iter().filter(|attempt| attempt.outcome.is_err() && !is_cut(attempt));
        failed.map(|attempt| format!("after {:?}: {:?}", attempt.took, attempt.outcome)).collect()
    };
    let slowest =
        |attempts: &[Attempt]| attempts.iter().map(|attempt| attempt.took).max().unwrap_or_default();
    let (others, late) = (failed(&attempts), failed(&waited));
    say(&format!(
        "{KILLS} kills of the proxy of {node}, the CA away: {} connections begun while no proxy was there, {} failed, the \
         slowest served in {:?}; of {} requests beside them {} were cut, {} failed otherwise, the slowest took {:?}",
        waited.len(),
        late.len(),
        slowest(&waited),
        attempts.len(),
        attempts.iter().filter(|attempt| is_cut(attempt)).count(),
        others.len(),
        slowest(&attempts),
    ));
    assert!(late.is_empty() && others.is_empty(), "{late:?} {others:?}");
    assert!(slowest(&waited) < SERVED && slowest(&attempts) < SERVED);
    // The control: they did wait.
    assert!(waited.iter().any(|attempt| attempt.took > Duration::from_millis(50)), "nobody has waited");
}

#[test]
fn connections_wait_for_the_next_proxy_of_the_clients_node() {
    check_killed("node-a");
}

#[test]
fn connections_wait_for_the_next_proxy_of_the_servers_node() {
    check_killed("node-b");
}

/// The records on the disk are all that is left.
#[test]
fn without_proxy_and_holder_connections_are_refused_until_both_are_back() {
    let mut world = stage();
    for node in ["node-a", "node-b"] {
        let wire = world.capture_on_node(node).unwrap();
        world.proxy(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
        world.holder(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
        let (client, destination) = (netns(&world, "client"), service(&world, 80));
        let (mut refused, begun) = (0, Instant::now());
        for _ in 0..10 {
            let outcome = ask_once(&client, destination, "/marker-gone");
            assert!(outcome.is_err(), "{outcome:?}");
            refused += 1;
        }
        say(&format!("{node} without proxy and holder: {refused} of 10 refused, in {:?}", begun.elapsed()));
        world.restart_holder(node).unwrap();
        world.restart_proxy(node).unwrap();
        let served = || ask_once(&client, destination, "/again").is_ok();
        assert!(until(PATIENCE, served), "{node}: {:?}", ask_once(&client, destination, "/again"));
        assert!(!wire.stop().unwrap().shows("marker-gone"), "a request was readable");
    }
}
