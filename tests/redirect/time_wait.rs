//! Both ports of a connection are used again that is over, and that the pod's kernel still remembers: in a socket in
//! TIME_WAIT, or in conntrack.

use std::io::{self, Read};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::pod::redirect;
use socket2::{Domain, Protocol, Socket, Type};

use crate::live::checksum;
use crate::rig::{APP_PORT, App, Ending, Namespace, Pair, Proxy, V4, V6, at, greeting};

const CLIENT_PORT: u16 = 45000;
/// Where a server outside the pod is.
const SERVER_PORT: u16 = 9090;
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection from `own` to `to`.
fn connect_from(namespace: &Namespace, own: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket =
        namespace.fd().run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))?;
    socket.set_reuse_address(true)?;
    socket.bind(&own.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A connection of the client's to the application, always from the same port.
fn connect(pair: &Pair, [client, pod]: [&str; 2]) -> io::Result<TcpStream> {
    connect_from(&pair.client, at(client, CLIENT_PORT), at(pod, APP_PORT))
}

/// Reads to the end that the application makes, and returns once that side waits; `port` is where it does.
#[track_caller]
fn is_ended_by_pod(pair: &Pair, addresses: [&str; 2], mut stream: TcpStream, port: u16) {
    stream.read_to_end(&mut Vec::new()).expect("an end in order");
    drop(stream);
    let ends = [at(addresses[1], port), at(addresses[0], CLIENT_PORT)].map(|end| end.to_string());
    let waits = || {
        let sockets = pair.pod.exec("ss -Htn state time-wait");
        sockets.lines().any(|line| ends.iter().all(|end| line.split_whitespace().any(|word| word == end)))
    };
    assert!(until(PATIENCE, waits), "{ends:?}: {}", pair.pod.exec("ss -tan"));
}

/// An exchange that the application ends first.
#[track_caller]
fn exchange(pair: &Pair, addresses: [&str; 2], port: u16) {
    let mut stream = connect(pair, addresses).expect("a connection");
    greeting(&mut stream).expect("the application");
    is_ended_by_pod(pair, addresses, stream, port);
}

#[test]
fn ports_of_a_connection_that_ended_before_the_rules_came_are_redirected() {
    for addresses in [V4, V6] {
        let pair = Pair::new();
        let _app = App::with(&pair.pod, at(addresses[1], APP_PORT), Ending::ByApp);
        exchange(&pair, addresses, APP_PORT);
        redirect::install(pair.pod.fd()).expect("rules");
        let proxy = Proxy::start(&pair.pod);
        exchange(&pair, addresses, 15006);
        assert_eq!(proxy.seen.counts(), (1, 0));
    }
}

#[test]
fn ports_of_a_connection_that_is_older_than_the_rules_and_ended_under_them_are_redirected() {
    for addresses in [V4, V6] {
        let pair = Pair::new();
        let listener = pair.pod.listen(at(addresses[1], APP_PORT));
        let stream = connect(&pair, addresses).expect("a connection");
        let (server, _) = listener.accept().expect("the connection");
        redirect::install(pair.pod.fd()).expect("rules");
        let proxy = Proxy::start(&pair.pod);
        drop((server, listener));
        is_ended_by_pod(&pair, addresses, stream, APP_PORT);
        let _app = App::with(&pair.pod, at(addresses[1], APP_PORT), Ending::ByApp);
        exchange(&pair, addresses, 15006);
        assert_eq!(proxy.seen.counts(), (1, 0));
    }
}

#[test]
fn where_nobody_listens_any_more_such_a_connection_is_reset() {
    for addresses in [V4, V6] {
        let pair = Pair::new();
        let app = App::with(&pair.pod, at(addresses[1], APP_PORT), Ending::ByApp);
        exchange(&pair, addresses, APP_PORT);
        redirect::install(pair.pod.fd()).expect("rules");
        let _proxy = Proxy::start(&pair.pod);
        drop(app);
        let outcome = connect(&pair, addresses).and_then(|mut stream| greeting(&mut stream));
        let error = outcome.expect_err("there is no application").kind();
        assert!(
            matches!(error, io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused),
            "{error:?}"
        );
    }
}

#[test]
fn ports_of_a_redirected_connection_lead_to_the_application_once_the_rules_are_retired_or_gone() {
    for addresses in [V4, V6] {
        let (pair, proxy) = Pair::captured();
        let _app = App::with(&pair.pod, at(addresses[1], APP_PORT), Ending::ByApp);
        exchange(&pair, addresses, 15006);
        redirect::retire(pair.pod.fd()).expect("retired rules");
        exchange(&pair, addresses, APP_PORT);
        redirect::remove(pair.pod.fd()).expect("no rules");
        exchange(&pair, addresses, APP_PORT);
        assert_eq!(proxy.seen.counts(), (1, 0));
    }
}

/// A connection of the pod's that is older than the rules, and that the server has ended under them.
#[track_caller]
fn end_under_rules(pair: &Pair, [client, pod]: [&str; 2]) -> Proxy {
    let listener = pair.client.listen(at(client, SERVER_PORT));
    let own = at(pod, CLIENT_PORT);
    let mut stream = connect_from(&pair.pod, own, at(client, SERVER_PORT)).expect("a connection");
    let (server, _) = listener.accept().expect("the connection");
    redirect::install(pair.pod.fd()).expect("rules");
    let proxy = Proxy::start(&pair.pod);
    drop((server, listener));
    stream.read_to_end(&mut Vec::new()).expect("an end in order");
    drop(stream);
    let own = own.to_string();
    let is_over = || !pair.pod.exec("ss -Htan").contains(&own);
    assert!(until(PATIENCE, is_over), "{}", pair.pod.exec("ss -tan"));
    proxy
}

#[test]
fn ports_of_a_connection_of_the_pods_that_ended_under_the_rules_are_redirected() {
    for addresses in [V4, V6] {
        let pair = Pair::new();
        let proxy = end_under_rules(&pair, addresses);
        let _app = App::with(&pair.client, at(addresses[0], SERVER_PORT), Ending::ByApp);
        let [own, to] = [at(addresses[1], CLIENT_PORT), at(addresses[0], SERVER_PORT)];
        let mut stream = connect_from(&pair.pod, own, to).expect("a connection");
        greeting(&mut stream).expect("the application");
        assert_eq!(proxy.seen.counts(), (0, 1));
    }
}

/// Sends a segment of no connection.
fn acknowledge(namespace: &Namespace, from: SocketAddrV4, to: SocketAddrV4) {
    let socket = namespace.fd().run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)));
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
    let sum = checksum(*from.ip(), *to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    socket.expect("a raw socket").send_to(&segment, &SocketAddr::V4(to).into()).expect("a segment");
}

#[test]
fn where_conntrack_stands_in_the_way_connections_are_refused_and_none_goes_past_the_proxy() {
    let (pair, proxy) = Pair::captured();
    // Somebody lets conntrack take up connections in the middle, and it takes those for live that nobody resets.
    pair.pod.exec("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=1");
    for namespace in [&pair.client, &pair.pod] {
        namespace.exec("nft add table inet mute");
        namespace.exec("nft add chain inet mute resets { type filter hook output priority -400 ; }");
        namespace.exec("nft add rule inet mute resets tcp flags rst drop");
    }
    let place = |address: &str, port| SocketAddrV4::new(address.parse().unwrap(), port);
    let (client, pod) = (|port| place(V4[0], port), |port| place(V4[1], port));
    let cases = [
        (&pair.client, &pair.client, client(CLIENT_PORT), pod(APP_PORT)),
        (&pair.client, &pair.pod, client(CLIENT_PORT + 1), pod(APP_PORT)),
        (&pair.pod, &pair.pod, pod(CLIENT_PORT + 2), client(SERVER_PORT)),
        (&pair.pod, &pair.client, pod(CLIENT_PORT + 3), client(SERVER_PORT)),
    ];
    for (count, (opens, sends, own, to)) in cases.into_iter().enumerate() {
        let (from, towards) = if std::ptr::eq(opens, sends) { (own, to) } else { (to, own) };
        acknowledge(sends, from, towards);
        let known = || pair.pod.exec("cat /proc/net/nf_conntrack").matches("ESTABLISHED").count();
        assert!(until(PATIENCE, || known() > count), "{}", pair.pod.exec("cat /proc/net/nf_conntrack"));
    }
    for namespace in [&pair.client, &pair.pod] {
        namespace.exec("nft delete table inet mute");
    }
    let _servers = [pair.pod.listen(pod(APP_PORT).into()), pair.client.listen(client(SERVER_PORT).into())];
    for (opens, _, own, to) in cases {
        let error = connect_from(opens, own.into(), to.into()).expect_err("neither redirected nor past it");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{own} to {to}: {error}");
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}
