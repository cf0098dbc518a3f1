//! nginx, as the servers behind every contender and as a contender itself.

use node_proxy::demo::command::Process;

use crate::contender::Contender;
use crate::stage::{BACKEND_PORT, Bare, Stage};

/// Where the client's side listens, and the server's.
const CLIENT_PORT: u16 = 9001;
const SERVER_PORT: u16 = 9441;

/// What every configuration begins with: one process and no limits in the way.
fn preamble(bare: &Bare, name: &str, log: &str) -> String {
    let pid = bare.file(&format!("{name}.pid"));
    format!(
        "worker_processes 1; master_process off; daemon off; pid {pid}; error_log stderr;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log {log}; keepalive_requests 1000000000;\n"
    )
}

/// The server that answers for everybody.
pub(crate) fn start_backend(bare: &Bare, pod: &str) -> Process {
    let name = format!("backend-{pod}");
    for (path, bytes) in [("100", 100), ("10k", 10_240)] {
        bare.write(path, &"x".repeat(bytes));
    }
    let server = format!(
        "sendfile on; tcp_nopush on; open_file_cache max=8; open_file_cache_valid 1h;\n\
         server {{ listen {BACKEND_PORT}; listen [::]:{BACKEND_PORT}; root {}; }}\n}}\n",
        bare.file("")
    );
    let config = bare.write(&format!("{name}.conf"), &(preamble(bare, &name, "off") + &server));
    bare.world.spawn(pod, &name, &["nginx", "-c", &config]).unwrap()
}

/// A pair that routes by header on the client's side, with an HTTP/1.1 hop over mTLS. It cannot check a URI name in
/// a certificate: what it checks is less than what the mesh checks.
pub(crate) fn contend(bare: &Bare) -> Contender {
    let log = |name: &str| format!("{} combined buffer=64k", bare.file(&format!("{name}.access")));
    let upstream = |name: &str, place: &str| {
        format!("upstream {name} {{ server {place}; keepalive 256; keepalive_requests 1000000000; }}\n")
    };
    let plain = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let place = format!("{}:{SERVER_PORT}", bare.server_address());
    let client = format!(
        "map $http_version $up {{ default old; new new; }}\n{old}{new}\
         server {{ listen 127.0.0.1:{CLIENT_PORT}; location / {{ proxy_pass https://$up; {plain}\n\
         proxy_ssl_certificate {crt}; proxy_ssl_certificate_key {key}; proxy_ssl_trusted_certificate {ca};\n\
         proxy_ssl_verify on; proxy_ssl_name server; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off; }} }}\n}}\n",
        old = upstream("old", &place),
        new = upstream("new", &place),
        crt = bare.pki.file("client.crt"),
        key = bare.pki.file("client.key"),
        ca = bare.pki.file("ca.crt"),
    );
    let server = format!(
        "{app}server {{ listen {SERVER_PORT} ssl; ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;\n\
         ssl_certificate {crt}; ssl_certificate_key {key}; ssl_client_certificate {ca}; ssl_verify_client on;\n\
         location / {{ proxy_pass http://app; {plain} }} }}\n}}\n",
        app = upstream("app", &format!("127.0.0.1:{BACKEND_PORT}")),
        crt = bare.pki.file("server.crt"),
        key = bare.pki.file("server.key"),
        ca = bare.pki.file("ca.crt"),
    );
    let mut running = Vec::new();
    for (pod, name, text) in
        [(Stage::PEER_SERVER, "nginx-server", server), (Stage::PEER_CLIENT, "nginx-client", client)]
    {
        let config = bare.write(&format!("{name}.conf"), &(preamble(bare, name, &log(name)) + &text));
        running.push(bare.world.spawn(pod, name, &["nginx", "-c", &config]).unwrap());
    }
    Contender {
        name: "nginx",
        version: bare.version(&["nginx", "-v"]),
        client: Stage::PEER_CLIENT,
        origin: format!("http://127.0.0.1:{CLIENT_PORT}"),
        processes: running.iter().map(Process::id).collect(),
        _running: running,
    }
}
