//! Successors that do not come to serve: the old proxy goes on as if they had never been.

use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use node_proxy::holder::protocol::{self, MAX_PACKET, Note, Role, VERSION};
use socket2::{Domain, SockAddr, Socket, Type};

use super::rig::{Held, PATIENCE, ends_well, settle, stage};

/// A proxy as the holder sees it, which takes over and then does no more.
struct StandIn {
    socket: Socket,
    told: Vec<Note>,
    _given: Vec<OwnedFd>,
}

impl StandIn {
    #[track_caller]
    fn take_over(world: &World, node: &str) -> Self {
        let socket = connect(&world.running_node(node).unwrap().holder_socket());
        let hello = Note::Hello { version: VERSION, role: Role::Starting, since: 0 };
        protocol::send(&socket, &hello, &[], &[]).unwrap();
        let (mut told, mut given, mut buffer) = (Vec::new(), Vec::new(), vec![0; MAX_PACKET]);
        while !matches!(told.last(), Some(Note::Complete | Note::Refused { .. })) {
            let packet = protocol::receive(&socket, &mut buffer).unwrap().expect("the holder is there");
            told.push(packet.note);
            given.extend(packet.fds);
        }
        Self { socket, told, _given: given }
    }
}

#[track_caller]
fn connect(holder: &Path) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.connect(&SockAddr::unix(holder).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Stands between one proxy and the holder, and ends at what [`Note::Accepting`] begins: the proxy has said it, and the
/// holder has not heard it, as when the holder ends at that moment.
fn end_at_accepting(path: &Path, holder: &Path) -> JoinHandle<()> {
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    listener.bind(&SockAddr::unix(path).unwrap()).unwrap();
    listener.listen(1).unwrap();
    let holder = connect(holder);
    thread::spawn(move || {
        let (proxy, _) = listener.accept().unwrap();
        proxy.set_read_timeout(Some(PATIENCE)).unwrap();
        let pass = |from: &Socket, to: &Socket| {
            let mut buffer = vec![0; MAX_PACKET];
            while let Some(packet) = protocol::receive(from, &mut buffer).unwrap() {
                if matches!(packet.note, Note::Accepting { .. }) {
                    break;
                }
                let fds: Vec<_> = packet.fds.iter().map(OwnedFd::as_fd).collect();
                protocol::send(to, &packet.note, packet.secret, &fds).unwrap();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| pass(&holder, &proxy));
            pass(&proxy, &holder);
            for side in [&holder, &proxy] {
                side.shutdown(Shutdown::Both).unwrap();
            }
        });
    })
}

#[track_caller]
fn serves(world: &mut World, node: &str, held: &mut Held) {
    held.speak();
    settle(world, "client");
    assert!(world.proxy(node).unwrap().is_running());
    assert!(!world.proxy(node).unwrap().log().contains("superseded"));
}

#[test]
fn a_successor_that_fails_or_is_killed_leaves_the_old_one_serving() {
    let mut world = stage();
    let node = "node-b";
    let mut held = Held::open(&world);
    let no_socket = world.objects_dir().join("no-socket");
    fs::write(&no_socket, "").unwrap();
    for (argument, code, why) in [
        ("--drain-seconds=0", 2, "--drain-seconds \"0\": is not a number in range"),
        ("--health-listen=192.0.2.1:15021", 1, "cannot listen on 192.0.2.1:15021"),
        // Found out only when everything has been taken over.
        (&format!("--socket={}", no_socket.display()), 1, "is there and no socket"),
    ] {
        let mut successor = world.successor(node, &[argument]).unwrap();
        assert!(until(PATIENCE, || !successor.is_running()), "{argument}");
        let status = successor.stop(Signal::SIGKILL, PATIENCE).unwrap();
        assert_eq!(status.code(), Some(code), "{argument}: {}", successor.last_words());
        assert!(successor.log().contains(why), "{argument}: {}", successor.last_words());
        serves(&mut world, node, &mut held);
    }

    let stand_in = StandIn::take_over(&world, node);
    let has = |wanted: fn(&Note) -> bool| stand_in.told.iter().any(wanted);
    assert!(
        has(|note| matches!(note, Note::Pod { listeners, .. } if listeners.len() >= 2)),
        "{:?}",
        stand_in.told
    );
    assert!(has(|note| matches!(note, Note::Leaf { identity, .. } if identity.ends_with("/sa/server"))));
    assert!(has(|note| matches!(note, Note::Socket { name } if name.starts_with("enrol "))));
    // While one takes over, no other one may.
    let refused = StandIn::take_over(&world, node);
    assert!(matches!(&refused.told[..], [Note::Refused { why }] if why.contains("another proxy")));
    serves(&mut world, node, &mut held);
    // In the middle of it, it is gone.
    drop(stand_in.socket);
    serves(&mut world, node, &mut held);

    let mut old = world.hand_over(node).unwrap();
    held.speak();
    held.end();
    ends_well(&mut old);
    settle(&world, "client");
}

#[test]
fn a_successor_whose_word_the_holder_missed_serves_all_the_same() {
    let mut world = stage();
    let node = "node-b";
    let mut held = Held::open(&world);
    let holder = world.running_node(node).unwrap().holder_socket();
    let [between, way] = ["between.sock", "way.sock"].map(|name| holder.with_file_name(name));
    let ends = end_at_accepting(&between, &holder);
    symlink(&between, &way).unwrap();
    let mut successor = world.successor(node, &[&format!("--holder={}", way.display())]).unwrap();
    assert!(until(PATIENCE, || ends.is_finished()), "{}", successor.last_words());
    ends.join().unwrap();
    // Both serve, and neither knows better, until the later one finds the holder again.
    held.speak();
    assert!(!world.proxy(node).unwrap().log().contains("superseded"));
    fs::remove_file(&way).unwrap();
    symlink(&holder, &way).unwrap();
    let superseded = |world: &mut World| world.proxy(node).unwrap().log().contains("superseded by another");
    assert!(until(PATIENCE, || superseded(&mut world)), "{}", successor.last_words());
    held.speak();
    settle(&world, "client");
    held.end();
    ends_well(world.proxy(node).unwrap());
    settle(&world, "client");
    assert!(successor.is_running() && !successor.log().contains("superseded"), "{}", successor.last_words());
    // The pod was joined once, and stayed.
    assert_eq!(successor.log().matches("pod joined").count(), 1, "{}", successor.last_words());
}
