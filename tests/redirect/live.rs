//! Connections that are live while others come, go and clash, and while rules come and go.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use node_proxy::pod::redirect;
use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{APP_PORT, App, Ending, Pair, Proxy, V4, V6, at, echo, greeting};

#[track_caller]
fn check_storm(addresses: [&str; 2]) {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    let mut live = Vec::new();
    let mut lost = Vec::new();
    for number in 0..1000 {
        match pair.client.connect(at(addresses[1], APP_PORT)).and_then(|mut stream| {
            greeting(&mut stream)?;
            echo(&mut stream).map(|()| stream)
        }) {
            Ok(stream) => live.push(stream),
            Err(error) => lost.push(format!("connection {number}: {error}")),
        }
    }
    for (number, stream) in live.iter_mut().enumerate() {
        if let Err(error) = echo(stream) {
            lost.push(format!("live connection {number}: {error}"));
        }
    }
    let tracked = pair.pod.exec("cat /proc/sys/net/netfilter/nf_conntrack_count");
    assert_eq!(tracked.trim(), "1000", "conntrack knows the redirected connections and not their local legs");
    assert!(lost.is_empty(), "{} lost, first {:?}", lost.len(), lost.first());
    assert_eq!(proxy.seen.inbound.load(Ordering::SeqCst), 1000);
}

#[test]
fn of_a_thousand_live_ipv4_connections_of_one_client_none_is_lost() {
    check_storm(V4);
}

#[test]
fn of_a_thousand_live_ipv6_connections_of_one_client_none_is_lost() {
    check_storm(V6);
}

#[track_caller]
fn check_short_connections(addresses: [&str; 2]) {
    let (pair, proxy) = Pair::captured();
    // The application ends them: its side of each local leg stays in TIME_WAIT.
    let _app = App::with(&pair.pod, at(addresses[1], APP_PORT), Ending::ByApp);
    // Few ports, so that the client comes upon every port that a local leg might have used just before.
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    pair.client.fd().run(|| std::fs::write(range, "32768 36767")).expect("fewer ports");
    let mut failed = Vec::new();
    for number in 0..3000 {
        let outcome = pair.client.connect(at(addresses[1], APP_PORT)).and_then(|mut stream| {
            greeting(&mut stream)?;
            stream.read_to_end(&mut Vec::new())
        });
        if let Err(error) = outcome {
            failed.push(format!("connection {number}: {error}"));
        }
    }
    assert!(failed.is_empty(), "{} of 3000, first {:?}", failed.len(), failed.first());
    assert_eq!(proxy.seen.inbound.load(Ordering::SeqCst), 3000);
}

#[test]
fn of_three_thousand_short_ipv4_connections_none_goes_past_the_redirect() {
    check_short_connections(V4);
}

#[test]
fn of_three_thousand_short_ipv6_connections_none_goes_past_the_redirect() {
    check_short_connections(V6);
}

#[test]
fn rules_added_under_live_connections_leave_them_alone() {
    let pair = Pair::new();
    let _apps = App::both(&pair.pod);
    let _outside = [V4, V6].map(|[client, _]| App::start(&pair.client, at(client, 9090)));
    let mut live = open_both_ways(&pair);
    redirect::install(pair.pod.fd()).expect("rules");
    let proxy = Proxy::start(&pair.pod);
    live.iter_mut().for_each(|stream| echo(stream).expect("a connection older than the rules"));
    assert_eq!(proxy.seen.counts(), (0, 0));
    open_both_ways(&pair).iter_mut().for_each(|stream| echo(stream).expect("a new connection"));
    assert_eq!(proxy.seen.counts(), (2, 2));
}

#[test]
fn retiring_the_rules_keeps_redirected_connections_and_takes_no_new_ones() {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    let _outside = [V4, V6].map(|[client, _]| App::start(&pair.client, at(client, 9090)));
    let mut live = open_both_ways(&pair);
    assert_eq!(proxy.seen.counts(), (2, 2));
    redirect::retire(pair.pod.fd()).expect("retired rules");
    open_both_ways(&pair).iter_mut().for_each(|stream| echo(stream).expect("a direct connection"));
    assert_eq!(proxy.seen.counts(), (2, 2));
    live.iter_mut().for_each(|stream| echo(stream).expect("a redirected connection"));
    let error = pair.client.connect(at(V4[1], 8081)).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn installing_again_keeps_redirected_connections() {
    let (pair, _proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    let _outside = [V4, V6].map(|[client, _]| App::start(&pair.client, at(client, 9090)));
    let mut live = open_both_ways(&pair);
    redirect::install(pair.pod.fd()).expect("rules once more");
    live.iter_mut().for_each(|stream| echo(stream).expect("a redirected connection"));
}

#[test]
fn a_stray_segment_out_of_the_window_does_not_end_a_redirected_connection() {
    let (pair, _proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    let mut stream = pair.client.connect(at(V4[1], APP_PORT)).unwrap();
    greeting(&mut stream).unwrap();
    send_stray_segment(&pair, &mut stream);
    std::thread::sleep(Duration::from_millis(200));
    echo(&mut stream).expect("the connection lives");

    // The control: without the setting the same segment is fatal, so that it is really out of the window.
    pair.pod.exec("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=0");
    send_stray_segment(&pair, &mut stream);
    std::thread::sleep(Duration::from_millis(200));
    echo(&mut stream).expect_err("the control must fail");
}

/// A connection in and one out, in each family, each past its greeting.
fn open_both_ways(pair: &Pair) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for [client, pod] in [V4, V6] {
        streams.push(pair.client.connect(at(pod, APP_PORT)).expect("an inbound connection"));
        streams.push(pair.pod.connect(at(client, 9090)).expect("an outbound connection"));
    }
    for stream in &mut streams {
        greeting(stream).expect("a greeting");
    }
    streams
}

/// Sends a byte far beyond the window, with the acknowledgement that the client would send: a reset in
/// answer to it would be one that the client believes.
fn send_stray_segment(pair: &Pair, stream: &mut TcpStream) {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) =
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    else {
        panic!("an IPv4 connection");
    };
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP));
    let mut socket = pair.client.fd().run(open).expect("a raw socket");
    echo(stream).expect("a live connection");
    let (sent, next) = sequences(&mut socket, source.port());
    let mut segment = Vec::new();
    segment.extend_from_slice(&source.port().to_be_bytes());
    segment.extend_from_slice(&destination.port().to_be_bytes());
    segment.extend_from_slice(&sent.wrapping_add(1 << 28).to_be_bytes());
    segment.extend_from_slice(&next.to_be_bytes());
    segment.extend_from_slice(&[0x50, 0x18, 0x10, 0, 0, 0, 0, 0, b'x', 0]);
    let sum = checksum(*source.ip(), *destination.ip(), &segment[..21]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    socket.send_to(&segment[..21], &SocketAddr::V4(destination).into()).expect("a stray segment");
}

/// What the client's side has sent, and what it expects next: from the echo's last segment.
fn sequences(socket: &mut Socket, client_port: u16) -> (u32, u32) {
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut packet = [0; 2048];
    loop {
        let length = socket.read(&mut packet).expect("the echo on the wire");
        let segment = &packet[usize::from(packet[0] & 0xf) * 4..length];
        let payload = segment.len() - usize::from(segment[12] >> 4) * 4;
        if segment[2..4] == client_port.to_be_bytes() && payload > 0 {
            let number = |offset: usize| u32::from_be_bytes(segment[offset..offset + 4].try_into().unwrap());
            return (number(8), number(4).wrapping_add(u32::try_from(payload).unwrap()));
        }
    }
}

pub(crate) fn checksum(source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).unwrap();
    let mut bytes = [source.octets(), destination.octets()].concat();
    bytes.extend_from_slice(&[0, 6]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(segment);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
