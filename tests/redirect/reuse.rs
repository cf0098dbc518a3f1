//! An address that becomes another pod's at once: no client ever takes the one for the other.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;

const PATIENCE: Duration = Duration::from_secs(20);
/// The host number of the address that is used again.
const HOST: u8 = 99;

/// What a client got of a Service.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// From whom.
    From(String),
    /// A refusal of the proxy's, or a connection that ended.
    Refused,
}

fn ask(netns: &NetnsFd, service: IpAddr) -> Answer {
    let request = b"GET /who HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n";
    let asking = || -> std::io::Result<String> {
        let address = SocketAddr::new(service, 80);
        let mut stream = netns.run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match asking() {
        Ok(text) if text.starts_with("HTTP/1.1 200") => {
            let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
            Answer::From(body.split(':').next().unwrap_or_default().to_owned())
        }
        Ok(text) => {
            assert!(text.is_empty() || text.contains("gammarus-reason"), "{text}");
            Answer::Refused
        }
        Err(_) => Answer::Refused,
    }
}

/// Asks a Service all the time.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Answer>>>,
}

impl Asking {
    fn start(world: &World, service: &str) -> Self {
        let found = world.exec("client", &["getent", "ahosts", service]).unwrap().checked().unwrap();
        let address = found.stdout.split_whitespace().next().unwrap().parse().unwrap();
        let netns = &world.running_pod("client").unwrap().netns;
        let netns = NetnsFd::open(&Path::new("/run/netns").join(netns)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut answers = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                answers.push(ask(&netns, address));
                thread::sleep(Duration::from_millis(3));
            }
            answers
        });
        Self { stop, thread: Some(thread) }
    }

    fn finish(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[track_caller]
fn start(world: &mut World, name: &str, node: &str) {
    let pod = world.pod(name).namespace("shop").service_account(name).on(node).at(HOST);
    pod.labels(&[("app", name)]).app(name).unwrap().start().unwrap();
}

#[track_caller]
fn check_swaps(node: &str) {
    let mut world = World::builder().start().unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
    for name in ["alpha", "beta"] {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
             spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
        );
        world.apply_in("shop", name, &service).unwrap();
    }
    world.pod("client").namespace("shop").service_account("client").on("node-a").start().unwrap();
    start(&mut world, "alpha", node);
    let askings = ["alpha", "beta"].map(|service| (service, Asking::start(&world, service)));
    let answered = |world: &World, name: &str| {
        let (log, workload) = (world.access_log("node-a").unwrap(), format!("dst.workload={name} "));
        let is_one =
            |line: &&str| [&workload, "mtls=yes", "status=200"].iter().all(|part| line.contains(part));
        log.lines().filter(is_one).count()
    };
    assert!(until(PATIENCE, || answered(&world, "alpha") > 20), "{}", world.access_log("node-a").unwrap());
    for (old, new) in [("alpha", "beta"), ("beta", "alpha"), ("alpha", "beta")] {
        let (begun, before) = (Instant::now(), answered(&world, new));
        world.remove_pod(old).unwrap();
        let gone = begun.elapsed();
        start(&mut world, new, node);
        eprintln!(
            "{old} went within {} ms, {new} was there after {}",
            gone.as_millis(),
            begun.elapsed().as_millis()
        );
        assert!(
            until(PATIENCE, || answered(&world, new) > before + 20),
            "{}",
            world.access_log("node-a").unwrap()
        );
    }
    for (service, asking) in askings {
        let answers = asking.finish();
        let right = answers.iter().filter(|answer| **answer == Answer::From(service.to_owned())).count();
        let refused = answers.iter().filter(|answer| **answer == Answer::Refused).count();
        let text =
            format!("{service} on {node}: {} asked, {right} right, {refused} refused\n", answers.len());
        std::io::stdout().write_all(text.as_bytes()).unwrap();
        assert_eq!(
            right + refused,
            answers.len(),
            "{:?}",
            answers.iter().find(|answer| {
                **answer != Answer::Refused && **answer != Answer::From(service.to_owned())
            })
        );
        assert!(right > 20, "{text}");
    }
}

#[test]
fn an_address_of_another_node_that_is_used_again_is_never_taken_for_the_pod_before() {
    check_swaps("node-b");
}

#[test]
fn an_address_of_the_own_node_that_is_used_again_is_never_taken_for_the_pod_before() {
    check_swaps("node-a");
}
