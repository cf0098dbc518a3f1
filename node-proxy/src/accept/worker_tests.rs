//! Tasks that panic, on a thread's real turns, with real connections: a connection's, and the accept loop's.

use std::path::Path;

use arc_swap::ArcSwap;
use gammarus_cni::state::Record;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::accept::{Drainer, PodLimits, Seat, listener};
use crate::cluster::objects::ObjectKey;
use crate::ingress::intermediaries::Intermediaries;
use crate::pod::EnrolledPod;
use crate::pod::host::Host;
use crate::pod::netns::NetnsFd;
use crate::pod::proof::ProofBoard;
use crate::pod::standing::Standing;
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, AccessOutput, LogFormat, Metrics, Telemetry, panics};
use crate::tls::store::Fetch;
use crate::tls::trust::Ask;
use crate::tls::{BundleSource, CertSource, CertStore};

/// A CA that does not answer.
#[derive(Debug)]
struct Mute;

impl CertSource for Mute {
    fn fetch<'a>(&'a self, _: &'a gammarus_ca::SpiffeId) -> Fetch<'a> {
        Box::pin(std::future::pending())
    }
}

impl BundleSource for Mute {
    fn ask<'a>(&'a self, _: Option<&'a str>) -> Ask<'a> {
        Box::pin(std::future::pending())
    }
}

fn mesh(metrics: &Arc<Metrics>) -> Arc<Mesh> {
    let access = AccessLog::start(&AccessOutput::Off, LogFormat::Text, metrics).unwrap();
    Arc::new(Mesh {
        snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
        certs: Arc::new(CertStore::new(Arc::new(Mute), tokio::runtime::Handle::current())),
        telemetry: Telemetry::new(Arc::clone(metrics), access),
        drain: Drainer::new().1,
        limits: PodLimits { connections: 2, handshakes_per_second: 1, buffered_bytes: 1024 * 1024 },
        intermediaries: Intermediaries::default(),
    })
}

fn worker(mesh: Arc<Mesh>) -> Rc<Worker> {
    let (messages, _) = mpsc::unbounded_channel();
    let inbox = Inbox { messages, connections: Arc::default(), turns: Turns::default() };
    Rc::new(Worker {
        silent: RefCell::default(),
        mesh,
        hops: RefCell::default(),
        idle: RefCell::default(),
        streams: RefCell::default(),
        exchanges: RefCell::default(),
        retries: RefCell::default(),
        inboxes: [inbox].into(),
        index: 0,
    })
}

/// A pod in the namespace of this process, as long as the sender stays.
fn pod(worker: &Worker) -> (Arc<JoinedPod>, watch::Sender<bool>) {
    let attachment = serde_json::json!({
        "id": {"containerId": "a", "ifname": "eth0"}, "network": "podnet", "netns": "/proc/self/ns/net",
        "pod": {"namespace": "shop", "name": "pod", "uid": "uid"}, "addresses": [],
    });
    let enrolled = EnrolledPod {
        record: Some(Record::new(serde_json::from_value(attachment).unwrap(), 0, "uid".to_owned())),
        uid: "uid".into(),
        pod: ObjectKey::new("shop", "pod"),
        identity: "spiffe://cluster.local/ns/shop/sa/pod".parse().unwrap(),
        addresses: Vec::new(),
        netns: NetnsFd::open(Path::new("/proc/self/ns/net")).unwrap(),
        host: Arc::new(Host::open(Path::new("/")).unwrap()),
        proofs: ProofBoard::default(),
        standing: Standing::default(),
    };
    let memory = Memory::new(worker.mesh.limits.buffered_bytes);
    let shares = worker.inboxes.iter().map(|inbox| inbox.turns.share_of(&memory)).collect();
    let (stays, gone) = watch::channel(false);
    (Arc::new(JoinedPod::new(Arc::new(enrolled), gone, (memory, shares))), stays)
}

/// Both ends of a new connection.
async fn connection() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0.into(), client)
}

#[tokio::test]
async fn a_panic_costs_its_connection_alone_and_gives_everything_back() {
    let metrics = Arc::new(Metrics::new().unwrap());
    panics::count(&metrics);
    let worker = worker(mesh(&metrics));
    let (pod, _stays) = pod(&worker);
    let (pod, limits) = (&pod, &worker.mesh.limits);
    let serve = |mut stream: Socket, seat: Seat| {
        worker.run((pod, pod.share(0)), async move {
            let _seat = seat;
            loop {
                let mut byte = [0];
                if stream.read_exact(&mut byte).await.is_err() {
                    return;
                }
                assert_ne!(byte, *b"!", "a client that knows how");
                stream.write_all(&byte).await.unwrap();
            }
        });
    };
    let (here, mut bad) = connection().await;
    serve(here, Seat::take(pod, limits).unwrap());
    let (here, mut good) = connection().await;
    serve(here, Seat::take(pod, limits).unwrap());
    assert!(Seat::take(pod, limits).is_err(), "there are two");
    let load = || worker.inboxes[0].connections.load(Ordering::Relaxed);
    assert_eq!((load(), pod.pod.standing.connections()), (2, 2));
    let panics = metrics.panics();
    let story = async {
        good.write_all(b"a").await.unwrap();
        bad.write_all(b"b!").await.unwrap();
        let mut said = Vec::new();
        let end = bad.read_to_end(&mut said).await;
        assert!(said == b"b" || end.is_err(), "{said:?} {end:?}");
        // What a panic held is dropped before its socket is seen to end, or right after.
        while load() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(metrics.panics() > panics, "also those of other tests count here");
        // Its seat is free, and its neighbour is served on the same thread.
        serve(connection().await.0, Seat::take(pod, limits).unwrap());
        good.write_all(b"c").await.unwrap();
        let mut answer = [0; 2];
        good.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ac");
    };
    tokio::select! {
        () = story => {}
        () = worker.inboxes[0].turns.clone().run() => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn a_panic_in_the_accept_loop_costs_the_connection_that_was_dealt_and_accepting_goes_on() {
    let metrics = Arc::new(Metrics::new().unwrap());
    panics::count(&metrics);
    let worker = worker(mesh(&metrics));
    let (pod, _stays) = pod(&worker);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let first = Rc::new(std::cell::Cell::new(true));
    let (there, limits) = (Rc::clone(&worker), Arc::clone(&pod));
    pod.share(0)
        .run(async move {
            let deal = |(mut stream, _): (Socket, _)| {
                assert!(!first.replace(false), "the first client knows how");
                there.run(
                    (&limits, limits.share(0)),
                    async move { stream.write_all(b"served").await.unwrap() },
                );
            };
            listener::accept((&limits, Direction::Outbound), &socket, deal).await;
        })
        .detach();
    let panics = metrics.panics();
    let story = async {
        let mut said = Vec::new();
        let mut bad = TcpStream::connect(address).await.unwrap();
        // Dropped while a panic unwinds: ended by a reset, or in order.
        let _ = bad.read_to_end(&mut said).await;
        assert!(said.is_empty() && metrics.panics() > panics, "{said:?}");
        for _ in 0..3 {
            TcpStream::connect(address).await.unwrap().read_to_end(&mut said).await.unwrap();
        }
        assert_eq!(String::from_utf8_lossy(&said), "served".repeat(3));
    };
    tokio::select! {
        () = story => {}
        () = worker.inboxes[0].turns.clone().run() => unreachable!("it never ends"),
    }
}
