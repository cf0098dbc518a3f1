//! The stage of these tests: the pod that asks too much, its innocent neighbour, and a server on the other node.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use node_proxy::demo::command::until;
use node_proxy::demo::world::{World, WorldBuilder};
use node_proxy::pod::netns::NetnsFd;

/// How long anything may take that should be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where the server pours.
pub(crate) const POUR: u16 = 9000;
/// The first of the ports that the server has besides.
pub(crate) const MORE: u16 = 8100;

/// A world with a client, an innocent neighbour of it, and a server with `more` HTTP ports besides its own.
pub(crate) fn stage(builder: WorldBuilder, more: u16) -> World {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut world = builder.start().unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
    for name in ["client", "innocent"] {
        let pod = world.pod(name).namespace("shop").service_account(name).on("node-a");
        pod.program(&["sleep", "infinity"]).start().unwrap();
    }
    let ports: Vec<String> = (0..more).map(|port| (MORE + port).to_string()).collect();
    for name in ["server", "other"] {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/limits/server.py").display().to_string();
        let pour = POUR.to_string();
        let own = ["/usr/bin/python3", &script, "8080", &pour];
        let program: Vec<&str> = own.into_iter().chain(ports.iter().map(String::as_str)).collect();
        let pod = world.pod(name).namespace("shop").service_account(name).on("node-b");
        pod.labels(&[("app", name)]).program(&program).start().unwrap();
        let more: String =
            ports.iter().map(|port| format!(", {{name: http-{port}, port: {port}}}")).collect();
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}}, \
             ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp-pour, port: {POUR}}}{more}]}}}}"
        );
        world.apply_in("shop", name, &service).unwrap();
    }
    for (pod, host) in
        [("client", "server"), ("innocent", "other"), ("innocent", "server"), ("client", "other")]
    {
        assert!(until(PATIENCE, || get(&world, pod, host) == "200"), "{pod} does not reach {host}");
    }
    let is_hop = || {
        get(&world, "client", "server");
        world.access_log("node-a").unwrap().lines().last().is_some_and(|line| line.contains("mtls=yes"))
    };
    assert!(until(PATIENCE, is_hop), "no hop");
    world
}

/// The status of one request of a pod.
pub(crate) fn get(world: &World, pod: &str, host: &str) -> String {
    let url = format!("http://{host}/");
    let full = ["curl", "-s", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", &url];
    world.exec(pod, &full).unwrap().stdout
}

/// So many requests of the innocent pod to its own server, each on a new connection: all must succeed. Gives the
/// longest time that one took.
#[track_caller]
pub(crate) fn check_innocent(world: &World, count: usize) -> Duration {
    let url = format!("http://other/?n=[1-{count}]");
    let full = [
        "curl",
        "-s",
        "--max-time",
        "60",
        "-H",
        "Connection: close",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{time_total}\n",
        &url,
    ];
    let done = world.exec("innocent", &full).unwrap();
    let times: Vec<f64> =
        done.stdout.lines().filter_map(|line| line.strip_prefix("200 ")?.parse().ok()).collect();
    assert_eq!(times.len(), count, "{} {}", done.stdout, done.stderr);
    Duration::from_secs_f64(times.into_iter().fold(0.0, f64::max))
}

/// A Service's address as a pod resolves it.
#[track_caller]
pub(crate) fn service(world: &World, name: &str, port: u16) -> SocketAddr {
    let found = world.exec("client", &["getent", "ahostsv4", name]).unwrap().checked().unwrap();
    let address = found.stdout.split_whitespace().next().and_then(|text| text.parse().ok());
    SocketAddr::new(address.expect("the Service has an address"), port)
}

/// Opens connections from inside a pod.
pub(crate) struct Inside(NetnsFd);

impl Inside {
    pub(crate) fn new(world: &World, pod: &str) -> Self {
        let name = format!("{}{pod}", world.prefix());
        Self(NetnsFd::open(&Path::new("/run/netns").join(name)).unwrap())
    }

    pub(crate) fn connect(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        // The end of a program that the test has started interrupts it.
        let stream = loop {
            match self.0.run(|| TcpStream::connect_timeout(&destination, PATIENCE)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                connected => break connected?,
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// One request on a connection that stays open, and its whole answer: head and `ok`.
pub(crate) fn ask(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")?;
    read_until(stream, "\r\n\r\nok")
}

/// Reads until a text has come, or the end.
pub(crate) fn read_until(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    let (mut read, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&read).into_owned()),
            count => read.extend_from_slice(&piece[..count]),
        }
        let so_far = String::from_utf8_lossy(&read);
        if so_far.contains(text) {
            return Ok(so_far.into_owned());
        }
    }
}

/// What a node's proxy has in memory, in KiB.
#[track_caller]
pub(crate) fn resident_kib(world: &mut World, node: &str) -> u64 {
    let process = world.proxy(node).unwrap().id();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("VmRSS of the proxy")
}

/// How often a node's proxy has given a reason in a direction.
#[track_caller]
pub(crate) fn failures(world: &World, node: &str, direction: &str, reason: &str) -> f64 {
    let text = world.admin(node, "/metrics").unwrap();
    let labels = [format!("direction=\"{direction}\""), format!("reason=\"{reason}\"")];
    let of_it = |line: &&str| {
        line.starts_with("gammarus_failures_total{") && labels.iter().all(|label| line.contains(label))
    };
    text.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// How many descriptors a node's proxy has open.
#[track_caller]
pub(crate) fn descriptors(world: &mut World, node: &str) -> usize {
    let process = world.proxy(node).unwrap().id();
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// How long something took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let outcome = work();
    (outcome, begun.elapsed())
}
