//! HAProxy, with an HTTP/1.1 hop and with one of HTTP/2.

use node_proxy::demo::command::Process;

use crate::contender::{Contender, HopVersion};
use crate::stage::{BACKEND_PORT, Bare, Stage};

/// A pair that routes by header on the client's side, with mTLS between; its log goes to a socket that a process
/// reads, as it has no other.
pub(crate) fn contend(bare: &Bare, version: HopVersion) -> Contender {
    let (name, client_port, server_port) = match version {
        HopVersion::Http1 => ("haproxy-h1", 9002, 9442),
        HopVersion::Http2 => ("haproxy-h2", 9003, 9443),
    };
    let alpn = version.alpn();
    let preamble = "global\n nbthread 1\n maxconn 8192\n log stdout format raw local0\n\
         defaults\n mode http\n log global\n option httplog\n http-reuse always\n\
         timeout connect 5s\n timeout client 60s\n timeout server 60s\n";
    let ca = bare.pki.file("ca.crt");
    let hop = |backend: &str| {
        format!(
            "backend {backend}\n server s {place}:{server_port} ssl crt {crt} ca-file {ca} verify required \
             verifyhost server alpn {alpn} ssl-min-ver TLSv1.3 no-tls-tickets\n",
            place = bare.server_address(),
            crt = bare.pki.file("client.pem"),
        )
    };
    let client = format!(
        "frontend in\n bind 127.0.0.1:{client_port}\n use_backend new if {{ req.hdr(version) -m str new }}\n \
         default_backend old\n{}{}",
        hop("old"),
        hop("new"),
    );
    let server = format!(
        "frontend in\n bind :{server_port} ssl crt {crt} ca-file {ca} verify required alpn {alpn} \
         ssl-min-ver TLSv1.3 no-tls-tickets\n default_backend app\n\
         backend app\n server s 127.0.0.1:{BACKEND_PORT}\n",
        crt = bare.pki.file("server.pem"),
    );
    let mut running = Vec::new();
    for (pod, side, text) in [(Stage::PEER_SERVER, "server", server), (Stage::PEER_CLIENT, "client", client)]
    {
        let name = format!("{name}-{side}");
        let config = bare.write(&format!("{name}.cfg"), &(preamble.to_owned() + &text));
        running.push(bare.world.spawn(pod, &name, &["haproxy", "-db", "-f", &config]).unwrap());
    }
    Contender {
        name,
        version: bare.version(&["haproxy", "-v"]),
        client: Stage::PEER_CLIENT,
        origin: format!("http://127.0.0.1:{client_port}"),
        processes: running.iter().map(Process::id).collect(),
        _running: running,
    }
}
