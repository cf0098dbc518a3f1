//! Both ends of the protocol against each other, and the server's end against whatever bytes may come.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use super::frame::{decode, encode};
use super::{
    Command, MAX_FRAME, Outcome, ProtocolError, Reply, Request, call, code, read_request, write_reply,
};
use crate::attachment::{Attachment, AttachmentId};

const SECOND: Duration = Duration::from_secs(1);

fn attachment() -> Attachment {
    serde_json::from_value(serde_json::json!({
        "id": {"containerId": "c1", "ifname": "eth0"}, "network": "podnet", "netns": "/run/netns/x",
        "pod": {"namespace": "shop", "name": "web-0", "uid": "u-1"}, "addresses": ["10.0.0.2"],
    }))
    .unwrap()
}

fn framed(text: &str) -> Vec<u8> {
    let mut frame = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(text.as_bytes());
    frame
}

/// What the server makes of bytes after which the client sends no more.
fn read_bytes(bytes: &[u8]) -> Result<Request, ProtocolError> {
    read_request(&after(bytes), SECOND).map(|(request, _)| request)
}

/// The server's end of a connection on which `bytes` have come, and no more will.
fn after(bytes: &[u8]) -> UnixStream {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(bytes).unwrap();
    server
}

#[track_caller]
fn check_round_trip(command: Command, outcome: Outcome) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answer = outcome.clone();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (request, netns) = read_request(&stream, SECOND).unwrap();
        write_reply(&stream, &request.reply(answer), SECOND).unwrap();
        (request, netns.is_some())
    });
    let netns = File::open("/proc/self/ns/net").unwrap();
    let with_netns = matches!(command, Command::Enrol(_));
    let request = Request::new(command);
    let reply = call(&path, &request, with_netns.then(|| netns.as_fd()), SECOND).unwrap();
    assert_eq!(reply, Reply { version: 1, outcome });
    assert_eq!(server.join().unwrap(), (request, with_netns));
}

#[test]
fn every_command_and_outcome_survives_the_way() {
    let valid: Vec<AttachmentId> = vec![attachment().id; 1500];
    check_round_trip(Command::Enrol(attachment()), Outcome::Enrolled);
    check_round_trip(Command::Check(attachment()), Outcome::NotEnrolled);
    check_round_trip(Command::Withdraw(attachment().id), Outcome::Done);
    check_round_trip(Command::Gc { network: "podnet".to_owned(), valid }, Outcome::Done);
    let failed = Outcome::Failed { code: 102, msg: "no".to_owned(), details: "\u{1f419}\n".to_owned() };
    check_round_trip(Command::Status, failed);
}

#[test]
fn the_wire_form_of_version_1_stays_what_it_is() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes[4..].to_vec()).unwrap();
    let id = r#"{"containerId":"c1","ifname":"eth0"}"#;
    let pod = r#"{"namespace":"shop","name":"web-0","uid":"u-1"}"#;
    let whole = format!(
        r#"{{"id":{id},"network":"podnet","netns":"/run/netns/x","pod":{pod},"addresses":["10.0.0.2"]}}"#
    );
    for (command, expected) in [
        (Command::Enrol(attachment()), format!(r#"{{"enrol":{whole}}}"#)),
        (Command::Check(attachment()), format!(r#"{{"check":{whole}}}"#)),
        (Command::Withdraw(attachment().id), format!(r#"{{"withdraw":{id}}}"#)),
        (Command::Status, r#""status""#.to_owned()),
        (
            Command::Gc { network: "podnet".to_owned(), valid: vec![attachment().id] },
            format!(r#"{{"gc":{{"network":"podnet","valid":[{id}]}}}}"#),
        ),
    ] {
        let expected = format!(r#"{{"version":1,"command":{expected}}}"#);
        assert_eq!(text(encode(&Request::new(command.clone())).unwrap()), expected);
        assert_eq!(decode::<Request>(expected.as_bytes()).unwrap().command, command);
    }
    let failed = Outcome::Failed { code: 11, msg: "m".to_owned(), details: "d".to_owned() };
    let reply = Request::new(Command::Status).reply(failed);
    let expected = r#"{"version":1,"outcome":{"failed":{"code":11,"msg":"m","details":"d"}}}"#;
    assert_eq!(text(encode(&reply).unwrap()), expected);
    let reply = Request::new(Command::Status).reply(Outcome::NotEnrolled);
    assert_eq!(text(encode(&reply).unwrap()), r#"{"version":1,"outcome":"notEnrolled"}"#);
}

#[test]
fn fields_that_a_later_release_adds_are_ignored() {
    let request = read_bytes(&framed(r#"{"version":1,"command":"status","trace":"x"}"#)).unwrap();
    assert_eq!(request, Request::new(Command::Status));
}

#[test]
fn a_version_that_is_not_understood_is_refused_by_its_number() {
    for version in [0, 2, u32::MAX] {
        let text = format!(r#"{{"version":{version},"command":{{"somethingNew":[]}}}}"#);
        let error = read_bytes(&framed(&text)).unwrap_err();
        assert!(matches!(error, ProtocolError::UnsupportedVersion { version: v } if v == version), "{error}");
        let Outcome::Failed { code, msg, .. } = Reply::refusing(&error).outcome else {
            panic!("not a refusal")
        };
        assert_eq!(code, code::UNSUPPORTED_VERSION);
        assert!(msg.contains(&version.to_string()), "{msg}");
    }
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let enrol =
        format!(r#"{{"version":1,"command":{{"enrol":{}}}}}"#, serde_json::to_string(&attachment()).unwrap());
    for (bytes, expected) in [
        (vec![], "closed after 0 of 4"),
        (vec![0, 0, 0], "closed after 3 of 4"),
        (vec![0, 0, 0, 9, b'{'], "closed after 1 of 9"),
        (vec![0, 0, 0, 0], "could not be understood"),
        (vec![255; 8], "4294967295 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "bytes is longer than"),
        (framed("{}"), "missing field `version`"),
        (framed(r#"{"version":1}"#), "missing field `command`"),
        (framed(r#"{"version":-1,"command":"status"}"#), "could not be understood"),
        (framed(r#"{"version":1,"command":"reboot"}"#), "unknown variant `reboot`"),
        (framed(&enrol.replace("c1", "../c1")), "is not a container id"),
        (framed(&enrol.replace("eth0", "a/b")), "is not an interface name"),
        (framed(&enrol), "without a network namespace"),
    ] {
        let message = read_bytes(&bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{bytes:?}: {message}");
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_by_its_sender_and_by_its_length_alone() {
    let long = Command::Gc { network: "n".repeat(MAX_FRAME), valid: vec![] };
    assert!(matches!(encode(&Request::new(long)), Err(ProtocolError::FrameTooLong { .. })));
    let head = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    assert!(matches!(read_bytes(&head), Err(ProtocolError::FrameTooLong { .. })));
}

#[test]
fn descriptors_beyond_the_one_are_refused_and_closed() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (client, server) = UnixStream::pair().unwrap();
    let file = File::open("/dev/null").unwrap();
    let raw = vec![std::os::fd::AsRawFd::as_raw_fd(&file); 200];
    let frame = framed(r#"{"version":1,"command":"status"}"#);
    nix::sys::socket::sendmsg::<()>(
        std::os::fd::AsRawFd::as_raw_fd(&client),
        &[std::io::IoSlice::new(&frame)],
        &[nix::sys::socket::ControlMessage::ScmRights(&raw)],
        nix::sys::socket::MsgFlags::empty(),
        None,
    )
    .unwrap();
    let before = open();
    let error = read_request(&server, SECOND).unwrap_err();
    assert!(matches!(error, ProtocolError::TooManyDescriptors { count: 200 }), "{error}");
    // Other tests of this process open a few files meanwhile, never as many as were passed.
    assert!(open() < before + 150, "{before} before, {} after", open());
}

#[test]
fn a_client_that_sends_byte_by_byte_is_cut_off_at_the_deadline() {
    let (mut client, server) = UnixStream::pair().unwrap();
    let slow = thread::spawn(move || {
        for byte in framed(&" ".repeat(1000)) {
            if client.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let start = Instant::now();
    let error = read_request(&server, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, ProtocolError::Timeout(_)), "{error}");
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    drop(server);
    slow.join().unwrap();
}

#[test]
fn a_server_with_a_full_backlog_does_not_hold_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let waiting = UnixStream::connect(&path).unwrap();
    let start = Instant::now();
    let request = Request::new(Command::Status);
    let error = call(&path, &request, None, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, ProtocolError::Timeout(_)), "{error}");
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    drop(waiting);
}

#[test]
fn a_reply_that_comes_before_the_request_was_read_is_still_understood() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut one = [0; 1];
        stream.read_exact(&mut one).unwrap();
        let error = ProtocolError::UnsupportedVersion { version: 1 };
        write_reply(&stream, &Reply::refusing(&error), SECOND).unwrap();
    });
    let long = Command::Gc { network: "n".repeat(MAX_FRAME - 100), valid: vec![] };
    let reply = call(&path, &Request::new(long), None, SECOND).unwrap();
    assert!(matches!(reply.outcome, Outcome::Failed { code: code::UNSUPPORTED_VERSION, .. }), "{reply:?}");
    server.join().unwrap();
}

/// A small generator (xorshift): the same bytes in every run, so that a failure can be repeated.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below).unwrap()).unwrap()
    }
}

#[test]
fn truncated_and_mutated_frames_are_answered_or_refused_and_never_panic() {
    let commands = [
        Command::Check(attachment()),
        Command::Withdraw(attachment().id),
        Command::Gc { network: "podnet".to_owned(), valid: vec![attachment().id; 3] },
        Command::Status,
    ];
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut understood, mut refused) = (0, 0);
    for round in 0..8000 {
        let mut bytes = encode(&Request::new(commands[round % commands.len()].clone())).unwrap();
        match round % 3 {
            0 => bytes.truncate(noise.next(bytes.len())),
            1 => {
                for _ in 0..=noise.next(4) {
                    let at = noise.next(bytes.len());
                    bytes[at] = u8::try_from(noise.next(256)).unwrap();
                }
            }
            _ => {
                // A right length before wrong text, so that the parser sees all of it.
                let at = 4 + noise.next(bytes.len() - 4);
                bytes[at] ^= 1 << noise.next(8);
            }
        }
        match read_bytes(&bytes) {
            Ok(request) => {
                understood += 1;
                assert_eq!(decode::<Request>(&encode(&request).unwrap()[4..]).unwrap(), request);
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(Reply::refusing(&error).outcome, Outcome::Failed { .. }));
            }
        }
    }
    assert!(understood > 100 && refused > 3000, "{understood} understood, {refused} refused");
}
