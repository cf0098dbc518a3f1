//! What is held and who is told what, with pipes in place of sockets.

use std::os::fd::OwnedFd;

use super::super::protocol::{Note, Packet, Role, VERSION};
use super::{Fault, Holdings, ProxyId};
use crate::pod::Direction;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn pipe() -> OwnedFd {
    std::io::pipe().expect("a pipe").0.into()
}

fn hear(holdings: &mut Holdings, id: ProxyId, note: Note) -> Result<(), Fault> {
    let fds = match &note {
        Note::Pod { .. } => 3,
        Note::Socket { .. } => 1,
        _ => 0,
    };
    let secret: &[u8] = if matches!(note, Note::Leaf { .. }) { b"key-chain" } else { b"" };
    holdings.hear(id, Packet { note, secret, fds: (0..fds).map(|_| pipe()).collect() })
}

fn hello(role: Role) -> Note {
    Note::Hello { version: VERSION, role, since: 0 }
}

fn serving_since(since: u64) -> Note {
    Note::Hello { version: VERSION, role: Role::Serving, since }
}

fn accepting(since: u64) -> Note {
    Note::Accepting { since }
}

fn pod(uid: &str) -> Note {
    let listeners = vec![Direction::Outbound, Direction::Inbound];
    Note::Pod { uid: uid.to_owned(), identity: WEB.to_owned(), record: "{}".to_owned(), listeners }
}

fn leaf() -> Note {
    Note::Leaf { identity: WEB.to_owned(), key: 4, chain: vec![5], bundle: vec![] }
}

fn left(uid: &str) -> Note {
    Note::Left { uid: uid.to_owned() }
}

fn socket(name: &str) -> Note {
    Note::Socket { name: name.to_owned() }
}

/// Everything that a proxy is told now.
fn told(holdings: &mut Holdings, id: ProxyId) -> Vec<Note> {
    let mut told = Vec::new();
    while let Some(outgoing) = holdings.outgoing(id) {
        let expected = match &outgoing.note {
            Note::Pod { .. } => (0, 3),
            Note::Socket { .. } => (0, 1),
            Note::Leaf { .. } => (9, 0),
            _ => (0, 0),
        };
        assert_eq!((outgoing.secret.len(), outgoing.fds.len()), expected, "{:?}", outgoing.note);
        told.push(outgoing.note);
        holdings.told(id);
    }
    assert!(!holdings.owes(id));
    told
}

/// A proxy that has joined, at its first word.
#[track_caller]
fn joins(holdings: &mut Holdings, id: ProxyId, role: Role) -> Vec<Note> {
    holdings.welcome(id);
    hear(holdings, id, hello(role)).unwrap();
    told(holdings, id)
}

/// A holder whose first proxy serves one pod.
fn with_one_pod() -> Holdings {
    let mut holdings = Holdings::default();
    assert_eq!(joins(&mut holdings, 1, Role::Starting), [Note::Complete]);
    for note in [accepting(10), socket("enrol"), pod("a"), leaf()] {
        hear(&mut holdings, 1, note).unwrap();
    }
    assert_eq!(told(&mut holdings, 1), []);
    holdings
}

#[test]
fn a_second_proxy_is_given_everything_and_only_then_supersedes_the_first() {
    let mut holdings = with_one_pod();
    let given = joins(&mut holdings, 2, Role::Starting);
    assert_eq!(given, [socket("enrol"), pod("a"), leaf(), Note::Complete]);
    // What changes meanwhile is passed on.
    hear(&mut holdings, 1, pod("b")).unwrap();
    hear(&mut holdings, 1, left("a")).unwrap();
    hear(&mut holdings, 1, leaf()).unwrap();
    assert_eq!(told(&mut holdings, 2), [pod("b"), left("a"), leaf()]);
    assert_eq!(told(&mut holdings, 1), []);
    hear(&mut holdings, 2, accepting(20)).unwrap();
    assert_eq!(told(&mut holdings, 1), [Note::Superseded]);
    // The first one goes on to hear who leaves, and ends what it had begun.
    hear(&mut holdings, 1, pod("late")).unwrap();
    assert_eq!(told(&mut holdings, 2), [pod("late")]);
    hear(&mut holdings, 2, accepting(20)).unwrap();
    hear(&mut holdings, 2, left("b")).unwrap();
    assert_eq!(told(&mut holdings, 1), [Note::Superseded, left("b")]);
    // A leaf of its own is not the node's any more, nor does its end take the sockets along.
    hear(&mut holdings, 1, socket("mine")).unwrap();
    holdings.part(1);
    assert_eq!(
        joins(&mut holdings, 3, Role::Starting),
        [socket("enrol"), pod("late"), leaf(), Note::Complete]
    );
}

#[test]
fn a_killed_proxy_leaves_pods_and_leaves_and_not_the_nodes_sockets() {
    let mut holdings = with_one_pod();
    holdings.part(1);
    assert_eq!(holdings.counts(), (1, 1));
    assert_eq!(joins(&mut holdings, 2, Role::Starting), [pod("a"), leaf(), Note::Complete]);
}

#[test]
fn one_that_ends_while_it_takes_over_changes_nothing() {
    let mut holdings = with_one_pod();
    joins(&mut holdings, 2, Role::Starting);
    let refused = joins(&mut holdings, 3, Role::Starting);
    assert!(matches!(&refused[..], [Note::Refused { why }] if why.contains("another")), "{refused:?}");
    // Nor does what it says: it may know nothing of the pods.
    hear(&mut holdings, 2, pod("a")).unwrap();
    hear(&mut holdings, 2, left("a")).unwrap();
    holdings.part(2);
    holdings.part(3);
    assert_eq!(told(&mut holdings, 1), []);
    let given = joins(&mut holdings, 4, Role::Starting);
    assert_eq!(given, [socket("enrol"), pod("a"), leaf(), Note::Complete]);
}

#[test]
fn a_key_goes_with_the_last_pod_of_its_identity() {
    let mut holdings = with_one_pod();
    hear(&mut holdings, 1, pod("b")).unwrap();
    hear(&mut holdings, 1, left("a")).unwrap();
    assert_eq!(holdings.counts(), (1, 1));
    hear(&mut holdings, 1, left("b")).unwrap();
    assert_eq!(holdings.counts(), (0, 0));
    hear(&mut holdings, 1, leaf()).unwrap();
    assert_eq!(holdings.counts(), (0, 0), "nobody has that identity");
}

#[test]
fn what_has_gone_before_it_was_sent_is_not_sent() {
    let mut holdings = with_one_pod();
    holdings.welcome(2);
    hear(&mut holdings, 2, hello(Role::Starting)).unwrap();
    hear(&mut holdings, 1, left("a")).unwrap();
    let told = told(&mut holdings, 2);
    assert_eq!(told, [socket("enrol"), Note::Unknown, Note::Unknown, Note::Complete, left("a")]);
}

#[test]
fn a_holder_that_was_started_anew_meets_its_proxies_in_any_order() {
    let mut holdings = Holdings::default();
    assert_eq!(joins(&mut holdings, 1, Role::Draining), []);
    assert_eq!(joins(&mut holdings, 2, Role::Serving), []);
    for note in [socket("enrol"), pod("a"), leaf()] {
        hear(&mut holdings, 2, note).unwrap();
    }
    assert_eq!(holdings.counts(), (1, 1));
    assert_eq!(told(&mut holdings, 1), []);
}

#[test]
fn of_two_that_believe_that_they_serve_the_later_one_does() {
    for later_comes_first in [true, false] {
        let mut holdings = Holdings::default();
        let (early, late) = (1, 2);
        for id in if later_comes_first { [late, early] } else { [early, late] } {
            holdings.welcome(id);
            for note in [serving_since(id * 10), socket("enrol"), pod("a"), leaf()] {
                hear(&mut holdings, id, note).unwrap();
            }
        }
        // The pod is the later one's, and it hears nothing of it from the other.
        assert_eq!(told(&mut holdings, late), [], "later first: {later_comes_first}");
        assert_eq!(told(&mut holdings, early), [Note::Superseded], "later first: {later_comes_first}");
        assert_eq!(holdings.counts(), (1, 1));
        // What the other had begun is passed on all the same.
        hear(&mut holdings, early, pod("b")).unwrap();
        assert_eq!(told(&mut holdings, late), [pod("b")]);
    }
}

#[test]
fn nonsense_is_a_fault() {
    let mut holdings = with_one_pod();
    for note in [hello(Role::Serving), Note::Complete, Note::Superseded] {
        assert!(matches!(hear(&mut holdings, 1, note), Err(Fault::OutOfPlace(_))));
    }
    let packet = |note, secret, fds| Packet { note, secret, fds };
    for packet in [
        packet(pod("b"), &b""[..], vec![pipe()]),
        packet(socket("x"), b"", vec![]),
        packet(leaf(), b"too few", vec![]),
        packet(
            Note::Leaf { identity: WEB.to_owned(), key: usize::MAX, chain: vec![9], bundle: vec![] },
            b"12345678",
            vec![],
        ),
    ] {
        assert!(matches!(holdings.hear(1, packet), Err(Fault::Mismatch(_))));
    }
    holdings.welcome(2);
    assert!(matches!(hear(&mut holdings, 2, accepting(20)), Err(Fault::NoHello)));
    holdings.welcome(3);
    hear(&mut holdings, 3, Note::Hello { version: VERSION + 1, role: Role::Starting, since: 0 }).unwrap();
    assert!(holdings.outgoing(3).is_some_and(|outgoing| outgoing.is_last));
    assert_eq!(holdings.counts(), (1, 1));
}
