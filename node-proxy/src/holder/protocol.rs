//! What a proxy and the holder say to each other: notes on a socket of `SOCK_SEQPACKET`, one packet each.
//!
//! A packet is the length of its note (32 bits, network order), the note as JSON, and for [`Note::Leaf`] the secret
//! bytes that it describes, so that a key is never turned into text. Descriptors come beside the packet
//! (`SCM_RIGHTS`). A note of a kind that is not known is passed over: it is of a later release.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gammarus_cni::fd;
use serde::{Deserialize, Serialize};

use crate::pod::Direction;

/// The version that is spoken here. The holder speaks with proxies of this one.
pub const VERSION: u32 = 1;
/// The longest packet, in bytes.
pub const MAX_PACKET: usize = 128 * 1024;
/// Before the note: its length.
const PREFIX: usize = 4;

/// What a proxy is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It takes everything over, and accepts nothing yet.
    Starting,
    /// It accepts.
    Serving,
    /// It was superseded, and sees to what it has accepted.
    Draining,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Note {
    /// A proxy begins: what it speaks, and what it is doing.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// What it is doing.
        role: Role,
        /// Since when it accepts, in nanoseconds of the node's uptime; 0 before. Of two proxies that both believe that
        /// they serve, the later one does.
        #[serde(default)]
        since: u64,
    },
    /// The holder will not deal with this proxy.
    Refused {
        /// Why not.
        why: String,
    },
    /// A listening socket of the node's own, which comes with this.
    Socket {
        /// What it is for, and its address.
        name: String,
    },
    /// A pod that is enrolled; its namespace and its listening sockets come with this.
    Pod {
        /// The pod's uid.
        uid: String,
        /// Its SPIFFE id.
        identity: String,
        /// All else that the proxy knows of it, which only proxies read.
        record: String,
        /// Which way each of its listening sockets is.
        listeners: Vec<Direction>,
    },
    /// A pod that is not enrolled any more.
    Left {
        /// The pod's uid.
        uid: String,
    },
    /// The leaf of an identity; its bytes follow this.
    Leaf {
        /// The SPIFFE id.
        identity: String,
        /// The bytes of the private key, which come first.
        key: usize,
        /// The bytes of each certificate of the chain.
        chain: Vec<usize>,
        /// The bytes of each root that peers are verified against.
        bundle: Vec<usize>,
    },
    /// Everything that is held has been said.
    Complete,
    /// The proxy accepts on everything that it was given.
    Accepting {
        /// As in [`Note::Hello`].
        #[serde(default)]
        since: u64,
    },
    /// Another proxy accepts: this one is to drain.
    Superseded,
    /// Something that a later release says.
    #[serde(other)]
    Unknown,
}

/// What came in one packet.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The note.
    pub note: Note,
    /// What follows the note.
    pub secret: &'a [u8],
    /// What came beside it.
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet, or nothing of it.
///
/// # Errors
/// What the socket says, `WouldBlock` among it; `InvalidInput` for a packet that is too long.
pub fn send(socket: &impl AsFd, note: &Note, secret: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(note)?;
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    if PREFIX + text.len() + secret.len() > MAX_PACKET {
        let error = format!("a note of more than {MAX_PACKET} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    fd::send_all(socket, &[IoSlice::new(&length), IoSlice::new(&text), IoSlice::new(secret)], fds).map(drop)
}

/// Receives one packet into `buffer`, which has room for [`MAX_PACKET`]. None when the other side has gone.
///
/// # Errors
/// What the socket says, `WouldBlock` among it; `InvalidData` for what is no packet.
pub fn receive<'a>(socket: &impl AsFd, buffer: &'a mut [u8]) -> io::Result<Option<Packet<'a>>> {
    let (count, fds) = match fd::receive(socket, buffer) {
        Ok((0, _)) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        received => received?,
    };
    let (note, secret) = parse(&buffer[..count])?;
    Ok(Some(Packet { note, secret, fds }))
}

/// The note of a packet, and what follows it.
///
/// # Errors
/// `InvalidData` for what is no packet.
pub fn parse(packet: &[u8]) -> io::Result<(Note, &[u8])> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a packet without a note");
    let (prefix, rest) = packet.split_first_chunk::<PREFIX>().ok_or_else(malformed)?;
    let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    let (text, secret) = rest.split_at_checked(length).ok_or_else(malformed)?;
    Ok((serde_json::from_slice(text)?, secret))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    #[test]
    fn a_packet_arrives_whole_with_its_secret_and_its_descriptors() {
        let (one, other) = pair();
        let mut buffer = vec![0; MAX_PACKET];
        let pod = Note::Pod {
            uid: "u".to_owned(),
            identity: "spiffe://a/b".to_owned(),
            record: "{}".to_owned(),
            listeners: vec![Direction::Outbound, Direction::Inbound],
        };
        let leaf = Note::Leaf { identity: "i".to_owned(), key: 3, chain: vec![], bundle: vec![1, 2] };
        send(&one, &pod, &[], &[other.as_fd(), other.as_fd(), other.as_fd()]).unwrap();
        send(&one, &leaf, b"secret", &[]).unwrap();
        let packet = receive(&other, &mut buffer).unwrap().unwrap();
        assert_eq!((packet.note, packet.secret, packet.fds.len()), (pod, &b""[..], 3));
        let packet = receive(&other, &mut buffer).unwrap().unwrap();
        assert_eq!((packet.note, packet.secret, packet.fds.len()), (leaf, &b"secret"[..], 0));
        assert_eq!(receive(&other, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(receive(&other, &mut buffer).unwrap().is_none(), "the end");
    }

    #[test]
    fn what_is_no_packet_is_an_error_and_what_is_unknown_is_not() {
        let (one, other) = pair();
        let mut buffer = vec![0; MAX_PACKET];
        let mut try_bytes = |bytes: &[u8]| {
            fd::send_all(&one, &[IoSlice::new(bytes)], &[]).unwrap();
            receive(&other, &mut buffer).map(|packet| packet.map(|packet| packet.note))
        };
        for bytes in [&b"abc"[..], b"\0\0\0\x09{}", b"\0\0\0\x02{}", b"\xff\xff\xff\xff{}"] {
            assert_eq!(try_bytes(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let later = br#"{"note":"somethingNew","with":[1]}"#;
        let packet = [&u32::try_from(later.len()).unwrap().to_be_bytes()[..], later].concat();
        assert_eq!(try_bytes(&packet).unwrap(), Some(Note::Unknown));
        let too_long = vec![0; MAX_PACKET];
        assert_eq!(
            send(&one, &Note::Complete, &too_long, &[]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
