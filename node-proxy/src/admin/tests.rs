//! The admin server's answers, first without sockets, then over one.

use super::*;
use crate::telemetry::{LogFormat, log};
use crate::tls::Expiries;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Rig {
    admin: Arc<Admin>,
    /// Keeps the log alive, which a control only refers to.
    _subscriber: Box<dyn std::any::Any>,
}

fn rig() -> Rig {
    let (subscriber, log) = log::build(LogFormat::Text, "info", io::sink).unwrap();
    let admin = Arc::new(Admin {
        metrics: Arc::new(Metrics::new().unwrap()),
        certificates: Arc::new(Expiries::default),
        ready: Ready::new(),
        snapshot: Arc::new(|| json!({"generation": 7})),
        status: Arc::new(|| json!({"routes": []})),
        log,
    });
    Rig { admin, _subscriber: Box::new(subscriber) }
}

async fn answer(admin: &Admin, surface: Surface, method: &str, target: &str) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(target).body(()).unwrap();
    let answer = admin.answer(surface, &request);
    let header = |name| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let note = if answer.headers().contains_key(ALLOW) { header(ALLOW) } else { header(CONTENT_TYPE) };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, note, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn each_surface_has_its_resources_and_methods() {
    let rig = rig();
    let table = [
        (Surface::Loopback, "GET", "/livez", 200, "text/plain; charset=utf-8"),
        (Surface::Loopback, "HEAD", "/livez", 200, "text/plain; charset=utf-8"),
        (Surface::Loopback, "GET", "/readyz", 200, "text/plain; charset=utf-8"),
        (Surface::Loopback, "GET", "/metrics", 200, "text/plain; version=0.0.4"),
        (Surface::Loopback, "GET", "/snapshot", 200, "application/json"),
        (Surface::Loopback, "GET", "/status", 200, "application/json"),
        (Surface::Loopback, "GET", "/log", 200, "text/plain; charset=utf-8"),
        (Surface::Loopback, "GET", "/", 404, "text/plain; charset=utf-8"),
        (Surface::Loopback, "GET", "/livez/", 404, "text/plain; charset=utf-8"),
        (Surface::Loopback, "POST", "/livez", 405, "GET, HEAD"),
        (Surface::Loopback, "DELETE", "/log", 405, "GET, HEAD, POST, PUT"),
        (Surface::Loopback, "POST", "/nothing", 404, "text/plain; charset=utf-8"),
        (Surface::Outside, "GET", "/livez", 200, "text/plain; charset=utf-8"),
        (Surface::Outside, "GET", "/readyz", 200, "text/plain; charset=utf-8"),
        (Surface::Outside, "GET", "/metrics", 200, "text/plain; version=0.0.4"),
        (Surface::Outside, "GET", "/snapshot", 404, "text/plain; charset=utf-8"),
        (Surface::Outside, "GET", "/status", 404, "text/plain; charset=utf-8"),
        (Surface::Outside, "GET", "/log", 404, "text/plain; charset=utf-8"),
        (Surface::Outside, "PUT", "/log?level=trace", 404, "text/plain; charset=utf-8"),
        (Surface::Outside, "POST", "/metrics", 405, "GET, HEAD"),
    ];
    for (surface, method, target, status, note) in table {
        let (is_status, is_note, _) = answer(&rig.admin, surface, method, target).await;
        assert_eq!((is_status, is_note.as_str()), (status, note), "{surface:?} {method} {target}");
    }
    assert_eq!(rig.admin.log.filter().as_deref(), Some("info"));
}

#[tokio::test]
async fn readiness_names_what_blocks_it() {
    let rig = rig();
    let first = rig.admin.ready.block("the first snapshot");
    let second = rig.admin.ready.block("the enrolment socket");
    let (status, _, body) = answer(&rig.admin, Surface::Outside, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body, "not ready, waiting for:\nthe first snapshot\nthe enrolment socket\n");
    drop((first, second));
    assert_eq!(answer(&rig.admin, Surface::Outside, "GET", "/readyz").await.2, "ready\n");
}

#[tokio::test]
async fn the_filter_of_the_log_changes_only_to_a_valid_one() {
    let rig = rig();
    let table = [
        ("PUT", "/log?level=debug", 200, "debug"),
        ("POST", "/log?level=info,node_proxy::tls=trace", 200, "node_proxy::tls=trace,info"),
        ("PUT", "/log?level=warn%2Ch2%3Ddebug", 200, "h2=debug,warn"),
        ("PUT", "/log?level=loud=louder", 400, "h2=debug,warn"),
        ("PUT", "/log?level=%ff", 400, "h2=debug,warn"),
        ("PUT", "/log?level=%6", 400, "h2=debug,warn"),
        ("PUT", "/log?other=1", 400, "h2=debug,warn"),
        ("PUT", "/log", 400, "h2=debug,warn"),
    ];
    for (method, target, status, filter) in table {
        let (is_status, _, body) = answer(&rig.admin, Surface::Loopback, method, target).await;
        assert_eq!(is_status, status, "{method} {target}: {body}");
        let (_, _, now) = answer(&rig.admin, Surface::Loopback, "GET", "/log").await;
        let mut parts = now.trim_end().split(',').collect::<Vec<_>>();
        let mut wanted = filter.split(',').collect::<Vec<_>>();
        parts.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(parts, wanted, "{method} {target}");
    }
}

#[tokio::test]
async fn a_real_client_gets_bodies_for_get_and_none_for_head() {
    let rig = rig();
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, rig.admin.clone(), Surface::Loopback));
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(
            b"HEAD /snapshot HTTP/1.1\r\nhost: x\r\n\r\nGET /snapshot HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await
        .unwrap();
    let mut wire = String::new();
    client.read_to_string(&mut wire).await.unwrap();
    server.abort();
    let body = "{\n  \"generation\": 7\n}\n";
    assert_eq!(wire.matches("HTTP/1.1 200 OK").count(), 2, "{wire}");
    assert_eq!(wire.matches(&format!("content-length: {}", body.len())).count(), 2, "{wire}");
    assert_eq!(wire.matches(body).count(), 1, "{wire}");
    assert!(wire.ends_with(body), "{wire}");
}

#[tokio::test]
async fn the_unspecified_address_of_ipv6_takes_both_families() {
    let listener = listen("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(listener.local_addr().unwrap().is_ipv6(), "this machine has no IPv6, which the test needs");
    for address in ["127.0.0.1", "::1"] {
        let client = TcpStream::connect((address, port)).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
    }
    let taken = listen(listener.local_addr().unwrap()).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
}
