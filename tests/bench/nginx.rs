//! nginx, as the servers behind every contender and as a contender itself, of HTTP and of plain connections.

use node_proxy::demo::command::Process;

use crate::bare::{BACKEND_PORT, BULK_PORT, Bare, HTTP2_PORT, Logs, OTHER_PORT, PEER_CLIENT, PEER_SERVER};
use crate::contender::{Contender, Entry};
use crate::http2::{MESSAGE, METHOD};

/// Where the client's side listens, and the server's.
const CLIENT_PORT: u16 = 9001;
const SERVER_PORT: u16 = 9441;
/// The same of plain connections, for requests and for bulk.
const STREAM_PORTS: [(u16, u16, u16, Entry); 2] =
    [(9011, 9451, BACKEND_PORT, Entry::Opaque), (9012, 9452, BULK_PORT, Entry::Bulk)];
/// Where Debian has its module for plain connections.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What every configuration begins with: one process and no limits in the way.
fn preamble(bare: &Bare, name: &str) -> String {
    let pid = bare.file(&format!("{name}.pid"));
    format!(
        "worker_processes 1; master_process off; daemon off; pid {pid}; error_log stderr;\n\
         events {{ worker_connections 19000; }}\n"
    )
}

/// The directives of HTTP that every configuration has.
const HTTP: &str = "keepalive_requests 1000000000; keepalive_timeout 1h;\n";

fn log(bare: &Bare, name: &str, format: &str) -> String {
    match bare.logs {
        Logs::On => format!("access_log {} {format} buffer=64k;\n", bare.file(&format!("{name}.access"))),
        Logs::Off => "access_log off;\n".to_owned(),
    }
}

/// The servers that answer for everybody.
pub(crate) fn start_backend(bare: &Bare, pod: &str) -> Process {
    let name = format!("backend-{pod}");
    for (path, bytes) in [("100", 100), ("10k", 10_240)] {
        bare.write(path, "x".repeat(bytes));
    }
    let (message, content) = MESSAGE;
    bare.write(message, content);
    let server = format!(
        "http {{ access_log off; {HTTP}\
         sendfile on; tcp_nopush on; open_file_cache max=8; open_file_cache_valid 1h; root {root};\n\
         server {{ listen {BACKEND_PORT}; add_header served-by {BACKEND_PORT}; listen [::]:{BACKEND_PORT}; }}\n\
         server {{ listen {OTHER_PORT}; add_header served-by {OTHER_PORT}; listen [::]:{OTHER_PORT}; }}\n\
         server {{ listen {HTTP2_PORT} http2; listen [::]:{HTTP2_PORT} http2; \
         http2_max_concurrent_streams 1024;\n\
         location = {METHOD} {{ error_page 405 =200 /{message}; return 405; }}\n\
         location = /{message} {{ default_type application/grpc; add_trailer grpc-status 0; }} }}\n}}\n",
        root = bare.file("")
    );
    let config = bare.write(&format!("{name}.conf"), preamble(bare, &name) + &server);
    bare.world.spawn(pod, &name, &["nice", "-n", "-10", "nginx", "-c", &config]).unwrap()
}

/// A pair that routes by header on the client's side, with an HTTP/1.1 hop over mTLS. It cannot check a URI name in
/// a certificate: what it checks is less than what the mesh checks.
pub(crate) fn contend(bare: &Bare) -> Contender {
    let upstream = |name: &str, place: &str| {
        format!("upstream {name} {{ server {place}; keepalive 256; keepalive_requests 1000000000; }}\n")
    };
    let plain = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let place = format!("{}:{SERVER_PORT}", bare.server_address());
    let client = format!(
        "map $http_version $up {{ default old; new new; }}\n{old}{new}\
         server {{ listen 127.0.0.1:{CLIENT_PORT}; location / {{ proxy_pass https://$up; {plain}\n{tls} }} }}\n}}\n",
        old = upstream("old", &place),
        new = upstream("new", &place),
        tls = client_tls(bare),
    );
    let server = format!(
        "{app}server {{ listen {SERVER_PORT} ssl; {tls}\
         location / {{ proxy_pass http://app; {plain} }} }}\n}}\n",
        app = upstream("app", &format!("127.0.0.1:{BACKEND_PORT}")),
        tls = server_tls(bare),
    );
    let begin = |name: &str| format!("http {{ {}{HTTP}", log(bare, name, "combined"));
    let running = start(bare, "nginx", |name| begin(name), [&server, &client]);
    Contender {
        name: "nginx",
        version: bare.version(&["nginx", "-v"]),
        client: PEER_CLIENT,
        flooder: PEER_CLIENT,
        entries: vec![(Entry::Http1, format!("127.0.0.1:{CLIENT_PORT}"))],
        processes: running.iter().rev().map(Process::id).collect(),
        _running: running,
    }
}

/// A pair for plain connections, with mTLS between.
pub(crate) fn contend_with_streams(bare: &Bare) -> Contender {
    let (mut client, mut server) = (String::new(), String::new());
    for (client_port, server_port, backend, _) in STREAM_PORTS {
        client += &format!(
            "server {{ listen 127.0.0.1:{client_port}; proxy_pass {}:{server_port}; proxy_ssl on;\n{} }}\n",
            bare.server_address(),
            client_tls(bare)
        );
        server += &format!(
            "server {{ listen {server_port} ssl; {}proxy_pass 127.0.0.1:{backend}; }}\n",
            server_tls(bare)
        );
    }
    let begin = |name: &str| {
        let format = "log_format line '$remote_addr [$time_local] $protocol $status $bytes_sent \
                      $bytes_received $session_time';\n";
        format!(
            "load_module {STREAM_MODULE};\nstream {{ {format}{} tcp_nodelay on; proxy_timeout 1h;\n",
            log(bare, name, "line")
        )
    };
    let running = start(bare, "nginx-stream", begin, [&(server + "}\n"), &(client + "}\n")]);
    Contender {
        name: "nginx-stream",
        version: bare.version(&["nginx", "-v"]),
        client: PEER_CLIENT,
        flooder: PEER_CLIENT,
        entries: STREAM_PORTS.iter().map(|(port, .., entry)| (*entry, format!("127.0.0.1:{port}"))).collect(),
        processes: running.iter().rev().map(Process::id).collect(),
        _running: running,
    }
}

fn client_tls(bare: &Bare) -> String {
    format!(
        "proxy_ssl_certificate {crt}; proxy_ssl_certificate_key {key}; proxy_ssl_trusted_certificate {ca};\n\
         proxy_ssl_verify on; proxy_ssl_name server; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off;",
        crt = bare.pki.file("client.crt"),
        key = bare.pki.file("client.key"),
        ca = bare.pki.file("ca.crt"),
    )
}

fn server_tls(bare: &Bare) -> String {
    format!(
        "ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets off;\n\
         ssl_certificate {crt}; ssl_certificate_key {key}; ssl_client_certificate {ca}; ssl_verify_client on;\n",
        crt = bare.pki.file("server.crt"),
        key = bare.pki.file("server.key"),
        ca = bare.pki.file("ca.crt"),
    )
}

/// Starts the server's side, then the client's.
fn start(
    bare: &Bare,
    name: &str,
    begin: impl Fn(&str) -> String,
    [server, client]: [&String; 2],
) -> Vec<Process> {
    let sides = [(PEER_SERVER, "server", server), (PEER_CLIENT, "client", client)];
    let spawn = |(pod, side, text): (&str, &str, &String)| {
        let name = format!("{name}-{side}");
        let begin = begin(&name);
        // A module is loaded before anything else is said.
        let (module, begin) = begin.split_at(if begin.starts_with("load_module") {
            begin.find('\n').map_or(0, |end| end + 1)
        } else {
            0
        });
        let text = format!("{module}{}{begin}{text}", preamble(bare, &name));
        let config = bare.write(&format!("{name}.conf"), text);
        bare.world.spawn(pod, &name, &["nginx", "-c", &config]).unwrap()
    };
    sides.map(spawn).into()
}
