//! HAProxy: with an HTTP/1.1 hop, with one of HTTP/2, and for plain connections.

use node_proxy::demo::command::Process;

use crate::bare::{BACKEND_PORT, BULK_PORT, Bare, HTTP2_PORT, Logs, PEER_CLIENT, PEER_SERVER};
use crate::contender::{Contender, Entry, HopVersion};

/// Ports of the client's side and of the server's, the one behind, and what goes there.
type Line = (u16, u16, u16, Entry);

/// As many connections as the machine's limit of 20,000 descriptors allows, two for each.
const MOST: u32 = 9_900;

/// Streams on one connection of HTTP/2, where 100 are usual. With those, a thousand requests at a time open a
/// thousand connections of the hop, and what is measured are handshakes.
const STREAMS: u32 = 1024;

/// What a configuration begins with; its log goes to a socket that a process reads, as it has no other.
fn preamble(bare: &Bare, mode: &str) -> String {
    let log = match bare.logs {
        Logs::On => ("log stdout format raw local0\n", format!("log global\n option {mode}log\n")),
        Logs::Off => ("", String::new()),
    };
    let reuse = if mode == "http" { "http-reuse always\n" } else { "" };
    format!(
        "global\n nbthread 1\n maxconn {MOST}\n tune.h2.max-concurrent-streams {STREAMS}\n {}defaults\n mode {mode}\n {}{reuse}\
         timeout connect 5s\n timeout client 1h\n timeout server 1h\n",
        log.0, log.1
    )
}

/// How a server is reached over the hop.
fn hop(bare: &Bare, port: u16, alpn: &str) -> String {
    format!(
        "server s {place}:{port} ssl crt {crt} ca-file {ca} verify required verifyhost server{alpn} \
         ssl-min-ver TLSv1.3 no-tls-tickets no-ssl-reuse\n",
        place = bare.server_address(),
        crt = bare.pki.file("client.pem"),
        ca = bare.pki.file("ca.crt"),
    )
}

/// How the hop is taken.
fn bind(bare: &Bare, port: u16, alpn: &str) -> String {
    format!(
        "bind :{port} ssl crt {crt} ca-file {ca} verify required{alpn} ssl-min-ver TLSv1.3 no-tls-tickets\n",
        crt = bare.pki.file("server.pem"),
        ca = bare.pki.file("ca.crt"),
    )
}

/// A pair that routes by header on the client's side, with mTLS between.
pub(crate) fn contend(bare: &Bare, version: HopVersion) -> Contender {
    let (name, lines): (_, &[Line]) = match version {
        HopVersion::Http1 => ("haproxy-h1", &[(9002, 9442, BACKEND_PORT, Entry::Http1)]),
        HopVersion::Http2 => (
            "haproxy-h2",
            &[(9003, 9443, BACKEND_PORT, Entry::Http1), (9013, 9453, HTTP2_PORT, Entry::Http2)],
        ),
    };
    let alpn = format!(" alpn {}", version.alpn());
    let (mut client, mut server) = (String::new(), String::new());
    for (client_port, server_port, backend, entry) in lines {
        let proto = if *entry == Entry::Http2 { " proto h2" } else { "" };
        let hop = hop(bare, *server_port, &alpn);
        client += &format!(
            "frontend in{client_port}\n bind 127.0.0.1:{client_port}{proto}\n \
             use_backend new{client_port} if {{ req.hdr(version) -m str new }}\n \
             default_backend old{client_port}\n\
             backend old{client_port}\n {hop}backend new{client_port}\n {hop}"
        );
        server += &format!(
            "frontend in{server_port}\n {}default_backend app{server_port}\n\
             backend app{server_port}\n server s 127.0.0.1:{backend}{proto}\n",
            bind(bare, *server_port, &alpn)
        );
    }
    let mut contender = start(bare, name, "http", [server, client]);
    contender.entries = entries(lines);
    // What takes HTTP/2 takes gRPC.
    let calls = contender.address(Entry::Http2).map(|address| (Entry::Grpc, address.to_owned()));
    contender.entries.extend(calls);
    contender
}

/// A pair for plain connections, with mTLS between.
pub(crate) fn contend_with_connections(bare: &Bare) -> Contender {
    const LINES: [Line; 2] =
        [(9021, 9461, BACKEND_PORT, Entry::Opaque), (9022, 9462, BULK_PORT, Entry::Bulk)];
    let (mut client, mut server) = (String::new(), String::new());
    for (client_port, server_port, backend, _) in LINES {
        client += &format!(
            "listen in{client_port}\n bind 127.0.0.1:{client_port}\n {}",
            hop(bare, server_port, "")
        );
        server += &format!(
            "listen in{server_port}\n {}server s 127.0.0.1:{backend}\n",
            bind(bare, server_port, "")
        );
    }
    let mut contender = start(bare, "haproxy-tcp", "tcp", [server, client]);
    contender.entries = entries(&LINES);
    contender
}

fn entries(lines: &[Line]) -> Vec<(Entry, String)> {
    lines.iter().map(|(port, .., entry)| (*entry, format!("127.0.0.1:{port}"))).collect()
}

/// Starts the server's side, then the client's.
fn start(bare: &Bare, name: &'static str, mode: &str, [server, client]: [String; 2]) -> Contender {
    let sides = [(PEER_SERVER, "server", server), (PEER_CLIENT, "client", client)];
    let running = sides.map(|(pod, side, text)| {
        let name = format!("{name}-{side}");
        let config = bare.write(&format!("{name}.cfg"), preamble(bare, mode) + &text);
        bare.world.spawn(pod, &name, &["haproxy", "-db", "-f", &config]).unwrap()
    });
    Contender {
        name,
        version: bare.version(&["haproxy", "-v"]),
        client: PEER_CLIENT,
        flooder: PEER_CLIENT,
        entries: Vec::new(),
        processes: running.iter().rev().map(Process::id).collect(),
        _running: running.into(),
    }
}
