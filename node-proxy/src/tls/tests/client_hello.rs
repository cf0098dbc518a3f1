//! ClientHellos of real libraries, in any fragmentation, and bytes that nobody should send.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{DB, Pki, WEB, id};
use crate::tls::client_hello::{
    ClientHello, ClientHelloPeek, HelloPeek, MAX_CLIENT_HELLO, find_hello, inspect,
};

fn hello(config: Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("Shop.Example").unwrap();
    let mut connection = ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// What rustls sends for these protocols.
fn rustls_hello(alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    hello(Arc::new(config))
}

fn hop_hello() -> Vec<u8> {
    hello(Pki::new().workload(DB).client_config(&id(WEB)).unwrap())
}

/// What openssl's client sends.
fn openssl_hello(more: &[&str]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program openssl is needed");
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    while inspect(&bytes) == ClientHelloPeek::Incomplete {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "openssl left in the middle: {bytes:?}");
        bytes.extend_from_slice(&buffer[..read]);
    }
    drop(stream);
    child.wait().unwrap();
    bytes
}

/// The same message, in records of `size` bytes.
fn in_records_of(size: usize, bytes: &[u8]) -> Vec<u8> {
    let head = [bytes[0], bytes[1], bytes[2]];
    let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let mut out = Vec::new();
    for piece in bytes[5..5 + length].chunks(size) {
        out.extend_from_slice(&head);
        out.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

fn other(sni: Option<&str>, alpn: &[&str]) -> ClientHelloPeek {
    ClientHelloPeek::OtherTls {
        sni: sni.map(str::to_owned),
        alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
    }
}

#[track_caller]
fn check(bytes: &[u8], expected: &ClientHelloPeek) {
    assert_eq!(inspect(bytes), *expected);
    for end in 0..bytes.len() {
        assert_eq!(inspect(&bytes[..end]), ClientHelloPeek::Incomplete, "the first {end} bytes");
    }
    let mut followed = bytes.to_vec();
    followed.extend_from_slice(b"\x14\x03\x03\x00\x01\x01GET / HTTP/1.1\r\n");
    assert_eq!(inspect(&followed), *expected, "what follows does not matter");
}

#[test]
fn a_hello_is_found_whoever_is_meant_by_it() {
    for alpn in [&["gammarus/1"][..], &["gammarus/9"], &["h2"]] {
        let bytes = rustls_hello(alpn);
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let whole = HelloPeek::Whole(ClientHello { sni: Some("shop.example".to_owned()), alpn });
        assert_eq!(find_hello(&bytes), whole);
        assert_eq!(find_hello(&in_records_of(7, &bytes)), whole);
        assert_eq!(find_hello(&bytes[..bytes.len() - 1]), HelloPeek::Incomplete);
    }
    assert_eq!(find_hello(b"GET / HTTP/1.1\r\n"), HelloPeek::NotTls);
}

#[test]
fn client_hellos_of_real_libraries_are_told_apart_in_any_fragmentation() {
    let unknown = |version: &str| ClientHelloPeek::UnknownMeshVersion(version.to_owned());
    let hop = hop_hello();
    assert!(hop.len() > 1200, "a hybrid key share takes more than a small segment");
    for (bytes, expected) in [
        (hop, ClientHelloPeek::Mesh),
        (rustls_hello(&["gammarus/1"]), ClientHelloPeek::Mesh),
        (rustls_hello(&["gammarus/2", "gammarus/1"]), ClientHelloPeek::Mesh),
        (rustls_hello(&["gammarus/2"]), unknown("gammarus/2")),
        (rustls_hello(&["h2", "gammarus/10"]), unknown("gammarus/10")),
        (rustls_hello(&["gammarus/"]), unknown("gammarus/")),
        (rustls_hello(&["gammarus", "h2"]), other(Some("shop.example"), &["gammarus", "h2"])),
        (rustls_hello(&["Gammarus/1"]), other(Some("shop.example"), &["Gammarus/1"])),
        (rustls_hello(&[]), other(Some("shop.example"), &[])),
        (openssl_hello(&["-servername", "db.test"]), other(Some("db.test"), &[])),
        (openssl_hello(&["-noservername", "-alpn", "gammarus/1"]), ClientHelloPeek::Mesh),
        (
            openssl_hello(&["-noservername", "-tls1_2", "-alpn", "h2,http/1.1"]),
            other(None, &["h2", "http/1.1"]),
        ),
    ] {
        check(&bytes, &expected);
        for size in [1, 2, 3, 5, 100, 511] {
            check(&in_records_of(size, &bytes), &expected);
        }
    }
}

#[test]
fn bytes_that_are_no_client_hello_are_known_at_once() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0",
        b"\x17\x03\x03",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x16\x02",
        b"\x16\x03\x07",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x16\x03\x01\x00\x20\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        b"\x80\x2e\x01\x00\x02",
    ] {
        assert_eq!(inspect(bytes), ClientHelloPeek::NotTls, "{}", bytes.escape_ascii());
    }
    assert_eq!(inspect(b""), ClientHelloPeek::Incomplete);
}

#[test]
fn a_hello_that_never_ends_is_given_up() {
    let mut endless = b"\x16\x03\x01\x00\x04\x01\x00\xff\xff".to_vec();
    while endless.len() < MAX_CLIENT_HELLO {
        assert_eq!(inspect(&endless), ClientHelloPeek::Incomplete);
        endless.extend_from_slice(b"\x16\x03\x01\x00\x40");
        endless.extend_from_slice(&[7; 64]);
    }
    assert_eq!(inspect(&endless), ClientHelloPeek::NotTls);
}

#[test]
fn no_mutation_of_a_hello_breaks_the_parser() {
    let hop = hop_hello();
    // A small generator with a fixed seed: a failure can be played again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20_000 {
        let mut bytes = if next(2) == 0 { in_records_of(1 + next(400), &hop) } else { hop.clone() };
        for _ in 0..=next(6) {
            let reach = if next(2) == 0 { 120 } else { usize::MAX };
            let at = next(bytes.len().min(reach));
            match next(3) {
                0 => bytes[at] = u8::try_from(next(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, u8::try_from(next(256)).unwrap()),
            }
        }
        bytes.truncate(1 + next(bytes.len() * 2));
        seen.insert(std::mem::discriminant(&inspect(&bytes)));
    }
    assert!(seen.len() >= 3, "the mutations reach several outcomes, not {}", seen.len());
}
