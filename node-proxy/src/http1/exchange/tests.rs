//! One exchange over streams in memory: what each side sees, and how ends and faults travel.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

struct Rig {
    client: DuplexStream,
    server: DuplexStream,
    proxy: tokio::task::JoinHandle<(Result<Outcome, ExchangeError>, u64, u64)>,
}

/// Starts one exchange of `head`, which the client has sent already; `early` came with it.
fn start(head: &'static str, early: &'static [u8]) -> Rig {
    let (client, mut proxy_client) = duplex(1024);
    let (mut proxy_server, server) = duplex(1024);
    let proxy = tokio::task::spawn_local(async move {
        let mut request = RequestHead1::default();
        request.parse(head.as_bytes()).expect("a good request");
        let mut answer = ResponseHead1::default();
        let mut message = message(&mut request, None);
        let mut exchange = Exchange::new((&request, &mut message), &mut answer, None);
        let mut client_buffer = ReadBuffer::with_bytes(early.to_vec());
        let mut server_buffer = ReadBuffer::default();
        let outcome = exchange
            .run((&mut proxy_client, &mut client_buffer), (&mut proxy_server, &mut server_buffer))
            .await;
        (outcome, exchange.bytes_sent(), exchange.bytes_received())
    });
    Rig { client, server, proxy }
}

async fn read_exactly(stream: &mut DuplexStream, expected: &str) {
    let mut found = vec![0; expected.len()];
    stream.read_exact(&mut found).await.expect("as many bytes as expected");
    assert_eq!(String::from_utf8_lossy(&found), expected);
}

#[tokio::test(flavor = "local")]
async fn an_answer_with_a_length_keeps_both_connections() {
    let mut rig = start("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    read_exactly(&mut rig.server, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    rig.server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.expect("written");
    read_exactly(&mut rig.client, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    let (outcome, sent, received) = rig.proxy.await.expect("joined");
    let outcome = outcome.expect("complete");
    assert_eq!((outcome.status, sent, received), (200, 0, 5));
    assert_eq!((outcome.client, outcome.upstream), (Persistence::KeepAlive, Persistence::KeepAlive));
}

#[tokio::test(flavor = "local")]
async fn a_body_streams_both_ways_and_trailers_pass() {
    let mut rig = start("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n");
    read_exactly(
        &mut rig.server,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    )
    .await;
    // The answer begins before the request has ended.
    rig.server
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        .await
        .expect("written");
    read_exactly(
        &mut rig.client,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\nx\r\n",
    )
    .await;
    rig.client.write_all(b"1\r\nc\r\n0\r\nt: 1\r\n\r\n").await.expect("written");
    read_exactly(&mut rig.server, "1\r\nc\r\n0\r\nt: 1\r\n\r\n").await;
    rig.server.write_all(b"0\r\nu: 2\r\n\r\n").await.expect("written");
    read_exactly(&mut rig.client, "0\r\nu: 2\r\n\r\n").await;
    let (outcome, ..) = rig.proxy.await.expect("joined");
    assert_eq!(outcome.expect("complete").upstream, Persistence::KeepAlive);
}

#[tokio::test(flavor = "local")]
async fn interim_answers_are_passed_on() {
    let mut rig =
        start("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"");
    read_exactly(
        &mut rig.server,
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    )
    .await;
    rig.server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("written");
    read_exactly(&mut rig.client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    rig.client.write_all(b"ab").await.expect("written");
    read_exactly(&mut rig.server, "ab").await;
    rig.server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
    read_exactly(&mut rig.client, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(rig.proxy.await.expect("joined").0.expect("complete").status, 204);
}

#[tokio::test(flavor = "local")]
async fn a_server_that_closes_without_a_word_gave_no_answer() {
    let mut rig = start("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    read_exactly(&mut rig.server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    drop(rig.server);
    assert!(matches!(rig.proxy.await.expect("joined").0, Err(ExchangeError::NoAnswer(_))));
}

#[tokio::test(flavor = "local")]
async fn a_truncated_answer_is_never_taken_for_the_whole() {
    for part in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\ncontent-le",
    ] {
        let mut rig = start("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
        read_exactly(&mut rig.server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        rig.server.write_all(part.as_bytes()).await.expect("written");
        drop(rig.server);
        assert!(matches!(rig.proxy.await.expect("joined").0, Err(ExchangeError::Upstream(_))), "{part:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn an_answer_that_ends_with_its_connection_ends_the_clients_too() {
    let mut rig = start("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    read_exactly(&mut rig.server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    rig.server.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.expect("written");
    drop(rig.server);
    read_exactly(&mut rig.client, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello").await;
    let outcome = rig.proxy.await.expect("joined").0.expect("complete");
    assert_eq!((outcome.client, outcome.upstream), (Persistence::Close, Persistence::Close));
}

#[tokio::test(flavor = "local")]
async fn an_ambiguous_answer_is_refused() {
    for fields in
        ["content-length: 1\r\ntransfer-encoding: chunked\r\n", "content-length: 1\r\ncontent-length: 2\r\n"]
    {
        let mut rig = start("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
        read_exactly(&mut rig.server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\nx");
        rig.server.write_all(answer.as_bytes()).await.expect("written");
        let outcome = rig.proxy.await.expect("joined").0;
        assert!(matches!(outcome, Err(ExchangeError::Answer(HeadError::Malformed(_)))), "{outcome:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_switch_of_protocols_is_offered_and_taken() {
    let mut rig = start(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket, h2c\r\nConnection: keep-alive, upgrade\r\n\r\n",
        b"",
    );
    // `h2c` would be requests, which have rules.
    read_exactly(
        &mut rig.server,
        "GET / HTTP/1.1\r\nHost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    rig.server.write_all(switch.as_bytes()).await.expect("written");
    read_exactly(&mut rig.client, switch).await;
    let outcome = rig.proxy.await.expect("joined").0.expect("complete");
    assert!(outcome.is_upgrade, "{outcome:?}");
}

#[tokio::test(flavor = "local")]
async fn a_switch_of_protocols_that_was_not_offered_is_refused() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut rig = start(request, b"");
        read_exactly(&mut rig.server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        rig.server.write_all(switch.as_bytes()).await.expect("written");
        let outcome = rig.proxy.await.expect("joined").0;
        assert!(matches!(outcome, Err(ExchangeError::SwitchedProtocols)), "{request}: {outcome:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn the_end_of_a_clients_half_is_passed_on_and_its_answer_comes() {
    let mut rig = start("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    rig.client.shutdown().await.expect("shut down");
    let mut request = String::new();
    rig.server.read_to_string(&mut request).await.expect("the request, and its end");
    assert_eq!(request, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx").await.expect("written");
    read_exactly(&mut rig.client, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx").await;
    let outcome = rig.proxy.await.expect("joined").0.expect("complete");
    assert_eq!((outcome.client, outcome.upstream), (Persistence::Close, Persistence::Close));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_client_that_has_ended_its_half_is_not_waited_for_without_end() {
    let mut rig = start("GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    rig.client.shutdown().await.expect("shut down");
    assert!(matches!(rig.proxy.await.expect("joined").0, Err(ExchangeError::Client(_))));
}
