//! What is captured, what is not, and whom the application sees.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use node_proxy::pod::redirect::{self, Deviation};
use node_proxy::pod::sockets;

use crate::rig::{APP_PORT, App, Namespace, Pair, Proxy, V4, V6, at, echo, greeting, join};

#[test]
fn an_inbound_connection_is_captured_and_the_application_sees_its_client() {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    for (count, [client, pod]) in [V4, V6].into_iter().enumerate() {
        let mut stream = pair.client.connect(at(pod, APP_PORT)).expect("a connection");
        assert_eq!(greeting(&mut stream).unwrap(), client.parse::<IpAddr>().unwrap());
        echo(&mut stream).unwrap();
        assert_eq!(proxy.seen.counts(), (count + 1, 0));
    }
}

#[test]
fn an_outbound_connection_is_captured_with_its_source_and_destination() {
    let (pair, proxy) = Pair::captured();
    for (count, [client, pod]) in [V4, V6].into_iter().enumerate() {
        let _app = App::start(&pair.client, at(client, 9090));
        let mut stream = pair.pod.connect(at(client, 9090)).expect("a connection");
        assert_eq!(greeting(&mut stream).unwrap(), pod.parse::<IpAddr>().unwrap());
        echo(&mut stream).unwrap();
        assert_eq!(proxy.seen.counts(), (0, count + 1));
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_refused_as_without_a_mesh() {
    let (pair, proxy) = Pair::captured();
    for [_, pod] in [V4, V6] {
        let error = pair.client.connect(at(pod, 8081)).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{pod}: {error}");
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}

#[test]
fn the_proxys_own_ports_are_refused_from_outside() {
    let (pair, proxy) = Pair::captured();
    for [_, pod] in [V4, V6] {
        for port in [redirect::INBOUND_PORT, redirect::OUTBOUND_PORT] {
            let error = pair.client.connect(at(pod, port)).expect_err("no way to the listeners themselves");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{pod} {port}: {error}");
        }
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}

#[test]
fn loopback_and_the_pods_own_addresses_are_not_captured() {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    let _loopback = App::start(&pair.pod, at("::1", 9091));
    for address in [at("127.0.0.1", APP_PORT), at("::1", 9091), at(V4[1], APP_PORT), at(V6[1], APP_PORT)] {
        let mut stream = pair.pod.connect(address).expect("a connection");
        assert_eq!(greeting(&mut stream).unwrap(), address.ip());
        echo(&mut stream).unwrap();
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}

#[test]
fn what_the_proxy_dials_is_not_captured() {
    let (pair, proxy) = Pair::captured();
    for [client, pod] in [V4, V6] {
        let _app = App::start(&pair.client, at(client, 9090));
        let source = Some(pod.parse().unwrap());
        let mut stream = blocking(sockets::dial(pair.pod.fd(), source, at(client, 9090)).expect("a dial"));
        assert_eq!(greeting(&mut stream).unwrap(), pod.parse::<IpAddr>().unwrap());
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}

#[test]
fn a_hop_from_a_pod_to_itself_reaches_the_application() {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    for [_, pod] in [V4, V6] {
        let own = at(pod, APP_PORT);
        let mut stream = blocking(sockets::dial(pair.pod.fd(), Some(own.ip()), own).expect("a dial"));
        assert_eq!(greeting(&mut stream).unwrap(), own.ip());
        echo(&mut stream).unwrap();
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}

#[test]
fn what_a_pod_forwards_for_others_is_not_captured() {
    let (pair, proxy) = Pair::captured();
    let behind = Namespace::new("behind");
    join(&pair.pod, &behind, "eth1", [["10.78.0.1", "10.78.0.2"], ["fd78::1", "fd78::2"]]);
    behind.ip("route add default via 10.78.0.1");
    behind.ip("-6 route add default via fd78::1");
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        pair.pod.exec(&format!("sysctl -qw {setting}"));
    }
    // The pod itself listens on that port, too: only the address tells the two apart.
    let _own = App::both(&pair.pod);
    for (address, client) in [("10.78.0.2", V4[0]), ("fd78::2", V6[0])] {
        let _app = App::start(&behind, at(address, APP_PORT));
        let mut stream = pair.client.connect(at(address, APP_PORT)).expect("a forwarded connection");
        assert_eq!(greeting(&mut stream).unwrap(), client.parse::<IpAddr>().unwrap());
        echo(&mut stream).unwrap();
    }
    assert_eq!(proxy.seen.counts(), (0, 0));
}

#[test]
fn without_a_proxy_connections_are_refused_and_never_pass_in_plain_text() {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    let _outside = [V4, V6].map(|[client, _]| App::start(&pair.client, at(client, 9090)));
    drop(proxy);
    for [client, pod] in [V4, V6] {
        for outcome in [pair.client.connect(at(pod, APP_PORT)), pair.pod.connect(at(client, 9090))] {
            let error = outcome.expect_err("nobody accepts for the proxy");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{client} {pod}: {error}");
        }
    }
}

#[test]
fn ipv6_switched_off_leaves_ipv4_captured() {
    let pair = Pair::new();
    pair.pod.exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    redirect::install(pair.pod.fd()).expect("rules");
    let proxy = Proxy::start(&pair.pod);
    let _app = App::start(&pair.pod, at(V4[1], APP_PORT));
    let mut stream = pair.client.connect(at(V4[1], APP_PORT)).expect("a connection");
    greeting(&mut stream).unwrap();
    assert_eq!(proxy.seen.counts(), (1, 0));
    assert_eq!(redirect::inspect(pair.pod.fd()).unwrap(), []);
}

#[test]
fn what_differs_is_found_and_installing_again_repairs_it() {
    let (pair, proxy) = Pair::captured();
    let _apps = App::both(&pair.pod);
    assert_eq!(redirect::inspect(pair.pod.fd()).unwrap(), []);
    let to_pod = Deviation::Rule("inbound", "gammarus 1: connections to the pod".to_owned());
    let of_pod = Deviation::Rule("outbound", "gammarus 1: connections of the pod".to_owned());
    let setting = "/proc/sys/net/ipv4/tcp_fwmark_accept";
    let loose = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
    for (breakage, expected) in [
        ("nft delete table inet gammarus", to_pod),
        ("nft flush chain inet gammarus outbound", of_pod),
        ("nft add rule inet gammarus closed accept", Deviation::ForeignRule("closed".to_owned())),
        ("ip rule del priority 100", Deviation::Routing("IPv4")),
        ("ip -6 route flush table 26465", Deviation::Routing("IPv6")),
        ("sysctl -qw net.ipv4.tcp_fwmark_accept=0", Deviation::Setting(setting.into(), "1")),
        ("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=1", Deviation::Setting(loose.into(), "0")),
    ] {
        pair.pod.exec(breakage);
        let found = redirect::inspect(pair.pod.fd()).unwrap();
        assert!(found.contains(&expected), "{breakage}: {found:?}");
        redirect::install(pair.pod.fd()).expect("a repair");
        assert_eq!(redirect::inspect(pair.pod.fd()).unwrap(), [], "{breakage}");
    }
    greeting(&mut pair.client.connect(at(V4[1], APP_PORT)).unwrap()).unwrap();
    assert_eq!(proxy.seen.counts(), (1, 0));
}

#[test]
fn removing_leaves_nothing_and_may_be_repeated() {
    let (pair, _proxy) = Pair::captured();
    for _ in 0..2 {
        redirect::remove(pair.pod.fd()).expect("a removal");
        assert_eq!(pair.pod.exec("nft list ruleset").trim(), "");
        assert!(!pair.pod.ip("rule list").contains("0x6761"));
        assert!(!pair.pod.ip("-6 rule list").contains("0x6761"));
        assert_eq!(pair.pod.ip("route show table all").matches("table 26465").count(), 0);
    }
    redirect::retire(pair.pod.fd()).expect("nothing to retire is no error");
}

/// Makes a socket that is still connecting an ordinary one.
fn blocking(stream: TcpStream) -> TcpStream {
    std::thread::sleep(Duration::from_millis(100));
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}
