//! Two ends of a hop over a real connection with real TLS.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::frame::{FrameHead, Kind};
use super::lane::INITIAL_WINDOW;
use super::switch::Side;
use super::{Hop, HopStream, OpenError};
use crate::forward::{Reset as _, Socket};

const PATIENCE: Duration = Duration::from_secs(20);

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let signed = rcgen::generate_simple_self_signed(["hop".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let chain = vec![signed.cert.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    (Arc::new(client), Arc::new(server))
}

/// The client's end before it is a hop, and the server's end.
async fn half_joined() -> (client::TlsStream<Socket>, Hop) {
    let (client, server) = configs();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let name = ServerName::try_from("hop").unwrap();
    let connecting = TlsConnector::from(client).connect(name, Socket::from(stream));
    let accepting = TlsAcceptor::from(server).accept(Socket::from(accepted));
    let (client, server) = tokio::try_join!(connecting, accepting).unwrap();
    let (socket, connection) = server.into_inner();
    let (hop, driver) = Hop::new(Side::Server, socket, connection.into());
    spawn_local(driver.run());
    (client, hop)
}

pub(super) async fn joined() -> (Hop, Hop) {
    let (client, server) = half_joined().await;
    let (socket, connection) = client.into_inner();
    let (hop, driver) = Hop::new(Side::Client, socket, Connection::from(connection));
    spawn_local(driver.run());
    (hop, server)
}

/// Runs a test on a thread like those of the data path.
pub(super) fn on_a_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
}

/// A stream with both of its ends.
pub(super) async fn stream(client: &Hop, server: &Hop) -> (HopStream, HopStream) {
    let (here, there) = tokio::join!(client.open(), async { server.arrival().await.unwrap().accept() });
    (here.unwrap(), there)
}

#[test]
fn many_streams_carry_their_own_bytes_both_ways_at_once() {
    on_a_thread(async {
        let (client, server) = joined().await;
        let server = Rc::new(server);
        let echo = Rc::clone(&server);
        spawn_local(async move {
            while let Some(arrival) = echo.arrival().await {
                let (mut reader, mut writer) = tokio::io::split(arrival.accept());
                spawn_local(async move {
                    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                    writer.shutdown().await.unwrap();
                });
            }
        });
        let mut tasks = Vec::new();
        for number in 0..40_usize {
            let client = client.clone();
            tasks.push(spawn_local(async move {
                // From nothing to some MiB: beyond every window and every buffer on the way.
                let length = [0, 1, 100, 5_000, 20_000, 300_000, 3_000_000][number % 7];
                let sent: Vec<u8> = (0..length).map(|index| ((index * 31 + number) % 251) as u8).collect();
                let (mut reader, mut writer) = tokio::io::split(client.open().await.unwrap());
                let mut received = Vec::new();
                let (written, read) = tokio::join!(
                    async {
                        writer.write_all(&sent).await?;
                        writer.shutdown().await
                    },
                    reader.read_to_end(&mut received)
                );
                written.unwrap();
                read.unwrap();
                assert!(received == sent, "stream {number} of {length} bytes");
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(client.streams(), 0);
        client.close();
        assert!(server.arrival().await.is_none(), "the end is passed on");
    });
}

#[test]
fn a_hop_that_is_sent_away_serves_its_streams_to_their_ends_and_takes_no_others() {
    on_a_thread(async {
        let (client, server) = joined().await;
        let (mut near, mut far) = stream(&client, &server).await;
        // One is on its way as the other side is told.
        let (late, arrival) = tokio::join!(client.open(), async {
            server.go_away();
            server.arrival().await.unwrap().accept()
        });
        drop((late.unwrap(), arrival));
        while client.is_open() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.open().await.unwrap_err(), OpenError::SentAway);
        near.write_all(b"to the end").await.unwrap();
        near.shutdown().await.unwrap();
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"to the end");
        far.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        drop((near, far));
        assert!(server.arrival().await.is_none(), "and then the hop ends by itself");
    });
}

#[test]
fn a_reader_that_rests_holds_back_its_own_stream_and_no_other() {
    on_a_thread(async {
        let (client, server) = joined().await;
        let (mut slow, unread) = stream(&client, &server).await;
        let (mut quick, mut read) = stream(&client, &server).await;
        let much = vec![1; 8 << 20];
        let blocked = tokio::time::timeout(Duration::from_millis(300), slow.write_all(&much));
        assert!(blocked.await.is_err(), "nobody reads, and it was all taken");
        let bytes = vec![2; 8 << 20];
        let mut received = vec![0; bytes.len()];
        let (written, _) = tokio::join!(quick.write_all(&bytes), read.read_exact(&mut received));
        written.unwrap();
        assert!(received == bytes);
        // What waits for the slow reader is bounded by what was granted.
        let mut unread = unread;
        drop(slow);
        let mut waiting = Vec::new();
        let error = unread.read_to_end(&mut waiting).await.unwrap_err();
        assert_eq!((waiting.len(), error.kind()), (INITIAL_WINDOW as usize, io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn ends_stay_ends_and_breaks_stay_breaks() {
    on_a_thread(async {
        let (client, server) = joined().await;
        let mut text = String::new();

        let (mut here, mut there) = stream(&client, &server).await;
        here.write_all(b"question").await.unwrap();
        here.shutdown().await.unwrap();
        assert_eq!(here.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        there.read_to_string(&mut text).await.unwrap();
        there.write_all(b" and answer").await.unwrap();
        there.shutdown().await.unwrap();
        drop(there);
        here.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question and answer");
        drop(here);

        let (mut here, mut there) = stream(&client, &server).await;
        there.write_all(b"part").await.unwrap();
        drop(there);
        let mut part = Vec::new();
        let error = here.read_to_end(&mut part).await.unwrap_err();
        assert_eq!((part.as_slice(), error.kind()), (&b"part"[..], io::ErrorKind::ConnectionReset));

        let (here, mut there) = stream(&client, &server).await;
        here.reset();
        assert_eq!(there.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let (opened, ()) = tokio::join!(client.open(), async { server.arrival().await.unwrap().refuse() });
        assert_eq!(opened.unwrap_err(), OpenError::Refused);

        // The hop takes no new streams once it closes, and carries those that it has.
        let (mut here, mut there) = stream(&client, &server).await;
        client.close();
        assert!(matches!(client.open().await, Err(OpenError::Ended(_))));
        here.write_all(b"late").await.unwrap();
        here.shutdown().await.unwrap();
        let mut late = String::new();
        there.read_to_string(&mut late).await.unwrap();
        assert_eq!(late, "late");
    });
}

#[test]
fn the_end_of_a_hop_breaks_its_streams() {
    on_a_thread(async {
        let (client, server) = joined().await;
        let (mut here, mut there) = stream(&client, &server).await;
        let waiting = spawn_local(async move { there.read(&mut [0]).await });
        client.reset();
        assert_eq!(here.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(here.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(server.arrival().await.is_none());
        assert!(matches!(server.open().await, Err(OpenError::Ended(_))));
    });
}

/// What the server's end does to a peer that says this.
async fn check_violation(frames: &[&[u8]], name: &str) {
    let (mut peer, server) = half_joined().await;
    peer.write_all(&frames.concat()).await.unwrap();
    peer.flush().await.unwrap();
    let mut answer = Vec::new();
    assert!(peer.read_to_end(&mut answer).await.is_err(), "{name}: it was ended in order");
    while let Some(arrival) = server.arrival().await {
        let error = arrival.accept().read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{name}");
    }
}

#[test]
fn a_peer_that_breaks_the_rules_loses_its_hop() {
    on_a_thread(async {
        let open = |stream| FrameHead::new(stream, Kind::Open).encode();
        let head = |stream, length| FrameHead::data(stream, length).encode();
        check_violation(&[&[0, 0, 0, 1, 99, 0, 0, 0]], "an unknown kind").await;
        check_violation(&[&open(1), &open(1)], "a number that was used").await;
        check_violation(&[&open(0)], "the number 0").await;
        let again = FrameHead::new(1, Kind::Continue).encode();
        check_violation(&[&open(1), &again], "a number that was used, to continue another hop").await;
        check_violation(&[&open(u32::MAX)], "the last number").await;
        let much = vec![0; INITIAL_WINDOW as usize + 1];
        check_violation(&[&open(1), &head(1, INITIAL_WINDOW + 1), &much], "more than was granted").await;
    });
}

#[test]
fn frames_of_streams_that_are_gone_are_passed_over() {
    on_a_thread(async {
        let (mut peer, server) = half_joined().await;
        let frames = [
            &FrameHead::data(7, 3).encode()[..],
            b"abc",
            &FrameHead::new(7, Kind::End).encode(),
            &FrameHead::window(7, 10).encode(),
            &FrameHead::new(8, Kind::Open).encode(),
            &FrameHead::data(8, 2).encode(),
            b"ok",
        ];
        peer.write_all(&frames.concat()).await.unwrap();
        peer.flush().await.unwrap();
        let mut stream = server.arrival().await.unwrap().accept();
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ok");
    });
}
