//! What passes between the nodes, and what the application sees of its client.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_proxy::demo::command::until;
use tempfile::TempDir;

use super::rig::{NODES, Namespace};

/// The network between the nodes (`tests/cluster/layout.sh`).
const BRIDGE: &str = "gammarus0";

/// A recording of all TCP between the nodes.
struct Recording {
    tcpdump: Child,
    folder: TempDir,
}

impl Recording {
    #[track_caller]
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let tcpdump = Command::new("tcpdump")
            .args(["-i", BRIDGE, "-s0", "-B65536", "-U", "--immediate-mode", "-Zroot", "-w"])
            .arg(folder.path().join("pcap"))
            .arg("tcp")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program tcpdump (Debian package tcpdump)");
        let recording = Self { tcpdump, folder };
        let listens = || recording.log().contains("listening on");
        assert!(until(Duration::from_secs(20), listens), "{}", recording.log());
        recording
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("pcap")).unwrap_or_default()
    }

    /// Waits until a text has been seen in clear, and with it everything that came before.
    #[track_caller]
    fn wait_for(&self, text: &str) {
        let seen = || count(&self.bytes(), text.as_bytes()) > 0;
        assert!(until(Duration::from_secs(20), seen), "\"{text}\" has not been recorded: {}", self.log());
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _gone = kill(Pid::from_raw(self.tcpdump.id().cast_signed()), Signal::SIGKILL);
        let _reaped = self.tcpdump.wait();
    }
}

fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).filter(|window| *window == wanted).count()
}

#[test]
fn between_nodes_there_is_tls_on_the_pods_own_ports_and_nothing_readable() {
    let (mesh, outside) = (Namespace::enrolled("wire"), Namespace::new("clear"));
    for namespace in [&mesh, &outside] {
        namespace.server("server", NODES[1], 1);
        namespace.client("client", NODES[0]);
    }
    mesh.wait_for_mark("client");
    let server = mesh.pods_of("server").remove(0);
    let recording = Recording::start();
    let secret = |namespace: &Namespace| {
        let header = format!("x-word: secret-of-{}", namespace.name);
        namespace.ask("client", &["-H", &header, "http://server/path-that-nobody-reads"])
    };
    let seen = secret(&mesh);
    assert!(seen.header("x-word").is_some_and(|word| word.contains(&mesh.name)), "{seen:?}");
    // The application sees who asks, by the client's own address.
    let client = mesh.pod_now("client").addresses;
    assert!(client.contains(&seen.client), "{seen:?} is not of {client:?}");
    // The control: without the mesh the same request is there to be read, and what came before has been recorded.
    let in_clear = secret(&outside);
    assert!(outside.pod_now("client").addresses.contains(&in_clear.client), "{in_clear:?}");
    let clear = format!("secret-of-{}", outside.name);
    recording.wait_for(&clear);
    let bytes = recording.bytes();
    assert_eq!(count(&bytes, format!("secret-of-{}", mesh.name).as_bytes()), 0, "plain text in the mesh");
    // A TLS handshake record (RFC 8446, 5.1) in a segment to the pod's own port.
    let hellos = segments(&bytes)
        .filter(|segment| segment.destination_port == 8080 && segment.destination == server.addresses[0])
        .filter(|segment| segment.payload.starts_with(&[0x16, 0x03, 0x01]))
        .count();
    assert!(hellos > 0, "no ClientHello to {:?} port 8080 among {} bytes", server.addresses, bytes.len());
}

/// A TCP segment of a recording.
struct Segment<'a> {
    destination: std::net::IpAddr,
    destination_port: u16,
    payload: &'a [u8],
}

/// The TCP segments over IPv4 of a pcap file with Ethernet headers, as tcpdump writes on this machine.
fn segments(file: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    const FILE_HEADER: usize = 24;
    let mut rest = file.get(FILE_HEADER..).unwrap_or_default();
    let frames = std::iter::from_fn(move || {
        let length = u32::from_le_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
        let frame = rest.get(16..16 + length)?;
        rest = &rest[16 + length..];
        Some(frame)
    });
    frames.filter_map(|frame| {
        let is_ipv4 = frame.get(12..14)? == [0x08, 0x00];
        let packet = frame.get(14..).filter(|_| is_ipv4)?;
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        let tcp = packet.get(header..).filter(|_| packet.get(9) == Some(&6))?;
        let destination_port = u16::from_be_bytes(tcp.get(2..4)?.try_into().ok()?);
        let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
        Some(Segment { destination: destination.into(), destination_port, payload })
    })
}
