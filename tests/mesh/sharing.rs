//! The connections of one pod to another share a hop: between the nodes there is one, whatever travels on it.

use crate::rig::{PYTHON, stage};

/// Opens many connections that say something, keeps them open, and lists what is open to the port.
const CROWD: &str = r#"
import socket, subprocess, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
crowd = [socket.create_connection((host, port), 10) for _ in range(count)]
for member in crowd:
    member.sendall(b"*1\r\n$4\r\nPING\r\n")
for member in crowd:
    assert member.recv(100) == b"+PONG\r\n"
print(subprocess.run(["ss", "-Htn", "state", "established", "dport", "=", f":{port}"],
                     check=True, capture_output=True, text=True).stdout)
"#;

#[test]
fn many_connections_of_a_pod_are_one_between_the_nodes() {
    const CROWD_SIZE: usize = 40;
    let stage = stage();
    let argv = [PYTHON, "-c", CROWD, "raw.shop", "9000", &CROWD_SIZE.to_string()];
    let seen = stage.world.exec("near", &argv).unwrap().checked().unwrap().stdout;
    let peers: Vec<&str> = seen
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.rsplit_once(':'))
        .map(|(ip, _)| ip)
        .collect();
    let bare = |ip: &str| ip.trim_matches(['[', ']']).trim_start_matches("::ffff:").to_owned();
    let hops = peers.iter().filter(|ip| stage.is_address("raw", &bare(ip))).count();
    // Each thread of the proxy has hops of its own.
    let threads = std::thread::available_parallelism().unwrap().get();
    assert!((1..=threads).contains(&hops), "{hops} hops for {CROWD_SIZE} connections:\n{seen}");
    assert_eq!(peers.len() - hops, CROWD_SIZE, "the connections themselves:\n{seen}");
}
