//! Namespaces told apart, and the node's own sockets.

use std::collections::HashSet;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use node_proxy::pod::netns::NetnsFd;
use node_proxy::pod::node_socket::is_socket_of_this_node;
use node_proxy::pod::{redirect, sockets};

use crate::rig::{Namespace, Pair, V4, at, run};

#[test]
fn the_cookie_tells_namespaces_apart_that_come_one_after_another() {
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let mut namespace = Namespace::new("cookie");
        let cookie = namespace.fd().id().expect("a cookie");
        assert_eq!(NetnsFd::open(&namespace.path()).unwrap().id().unwrap(), cookie);
        assert!(seen.insert(cookie), "{cookie:?} was seen before");
        namespace.delete();
    }
}

#[test]
fn a_thread_comes_back_also_from_work_that_fails_or_panics() {
    let namespace = Namespace::new("back");
    let home = || std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let before = home();
    namespace.fd().run(|| Err::<(), _>(std::io::Error::other("no"))).expect_err("the work's own error");
    assert_eq!(home(), before);
    std::panic::catch_unwind(|| namespace.fd().run(|| -> std::io::Result<()> { panic!("in there") }))
        .unwrap_err();
    assert_eq!(home(), before);
    namespace.fd().run(|| namespace.fd().run(|| Ok(()))).expect_err("a second one on the way");
    assert_eq!(home(), before);
    assert_ne!(namespace.fd().run(|| Ok(home())).unwrap(), before);
}

#[test]
fn several_threads_work_in_several_namespaces_at_once() {
    let namespaces: Vec<_> = (0..4).map(|_| Namespace::new("threads")).collect();
    std::thread::scope(|scope| {
        for namespace in &namespaces {
            scope.spawn(move || {
                let own = namespace.fd().id().unwrap();
                for _ in 0..500 {
                    assert_eq!(namespace.fd().id().unwrap(), own);
                }
            });
        }
    });
}

#[test]
fn a_namespace_vanishes_when_everything_of_its_pod_is_closed() {
    let mut pair = Pair::new();
    redirect::install(pair.pod.fd()).expect("rules");
    let listeners = sockets::listen(pair.pod.fd()).expect("listeners");
    pair.pod.delete();
    std::thread::sleep(Duration::from_millis(500));
    assert!(pair.client.ip("link show").contains("eth0"), "the control: one open socket keeps the cable");
    drop(listeners);
    let deadline = Instant::now() + Duration::from_secs(10);
    while pair.client.ip("link show").contains("eth0") {
        assert!(Instant::now() < deadline, "something still holds the namespace");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_process_of_the_node_is_found_by_its_four_tuple_and_nothing_else_is() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(any).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, destination) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        assert!(is_socket_of_this_node(client, destination).unwrap(), "{client} is ours");
        let mut other = client;
        other.set_port(1);
        assert!(!is_socket_of_this_node(other, destination).unwrap(), "no socket has this client");
        let mut elsewhere = destination;
        elsewhere.set_port(1);
        assert!(!is_socket_of_this_node(client, elsewhere).unwrap(), "no socket has this destination");
        // A listener on the client's port is what the kernel falls back to.
        assert!(!is_socket_of_this_node(destination, at("203.0.113.7", 4000)).unwrap_or(false));
    }
}

#[test]
fn a_client_masqueraded_to_the_nodes_address_is_no_process_of_the_node() {
    let pair = Pair::new();
    let outside = Namespace::new("outside");
    crate::rig::join(&outside, &pair.client, "eth1", [["10.79.0.1", "10.79.0.2"], ["fd79::1", "fd79::2"]]);
    outside.ip("route add default via 10.79.0.2");
    // Here the client's namespace is the node: it masquerades what comes from outside.
    let node = &pair.client;
    node.exec("sysctl -qw net.ipv4.ip_forward=1");
    run(&format!("ip netns exec {} nft add table ip nat", node.name));
    node.exec("nft add chain ip nat post { type nat hook postrouting priority 100 ; }");
    node.exec("nft add rule ip nat post oifname eth0 masquerade");
    let listener = pair.pod.listen(at(V4[1], 8080));
    let _masqueraded = outside.connect(at(V4[1], 8080)).expect("through the node");
    let (_, masqueraded) = listener.accept().unwrap();
    let _own = node.connect(at(V4[1], 8080)).expect("from the node");
    let (_, own) = listener.accept().unwrap();
    assert_eq!(masqueraded.ip(), own.ip(), "the address tells nothing");
    let of_node = |client| node.fd().run(|| is_socket_of_this_node(client, at(V4[1], 8080))).unwrap();
    assert!(of_node(own));
    assert!(!of_node(masqueraded));
}
