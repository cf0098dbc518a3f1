//! Netlink messages of our own: written, sent, and their answers read.
//!
//! Used for nf_tables batches, policy routing and socket lookups, so that nothing depends on a program on
//! the node. One socket per conversation: an error ends it, and late answers die with the socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The bit that says that an attribute holds attributes.
const NESTED: u16 = 0x8000;

/// A list of attributes (`struct nlattr`), each padded to four bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// No attributes yet.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an attribute with these bytes.
    pub(super) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes written here are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a string with its final NUL.
    pub(super) fn put_text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds a number in network byte order, as netfilter wants them.
    pub(super) fn put_be32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a number in host byte order, as routing wants them.
    pub(super) fn put_u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a list of attributes as one attribute.
    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.put(kind | NESTED, &inner.0)
    }

    /// Whether each of these attributes is among `others`, with the same value.
    pub(super) fn are_within(&self, others: &[u8]) -> bool {
        is_within(&self.0, others)
    }
}

/// One message: a kind, flags, the fixed header of that kind, attributes.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// What it does, for the error when it is refused.
    pub(super) purpose: String,
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// `nlmsg_flags`, without `NLM_F_REQUEST`, which every message gets.
    pub(super) flags: libc::c_int,
    /// The fixed header after `struct nlmsghdr`.
    pub(super) header: Vec<u8>,
    /// The attributes.
    pub(super) attributes: Attributes,
}

impl Message {
    fn write(&self, sequence: u32, into: &mut Vec<u8>) {
        let padded = self.header.len().next_multiple_of(4);
        let length = HEADER + padded + self.attributes.0.len();
        let length = u32::try_from(length).expect("messages written here are short");
        let flags = u16::try_from(self.flags | libc::NLM_F_REQUEST).expect("netlink flags have 16 bits");
        into.extend_from_slice(&length.to_ne_bytes());
        into.extend_from_slice(&self.kind.to_ne_bytes());
        into.extend_from_slice(&flags.to_ne_bytes());
        into.extend_from_slice(&sequence.to_ne_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&self.header);
        into.resize(into.len() + padded - self.header.len(), 0);
        into.extend_from_slice(&self.attributes.0);
    }
}

/// A message that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to {purpose}")]
pub struct Refused {
    /// What was asked.
    pub purpose: String,
    /// Why not.
    pub source: io::Error,
}

impl Refused {
    /// The kernel's error number, when it gave one.
    pub(super) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// One message of the kernel's: its kind and what follows `struct nlmsghdr`.
pub(super) struct Answer {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// The fixed header and the attributes.
    pub(super) body: Vec<u8>,
}

/// A netlink socket of the namespace that the thread was in when it was opened.
pub(super) struct Conversation {
    socket: OwnedFd,
}

impl Conversation {
    /// Opens a socket to one of the kernel's netlink families.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
        Ok(Self { socket })
    }

    /// Sends all messages at once, and waits until each that asked for an acknowledgement has it.
    pub(super) fn apply(&self, messages: &[Message]) -> Result<(), Refused> {
        let broken = |source| Refused { purpose: "take netlink messages".to_owned(), source };
        self.send(messages).map_err(broken)?;
        let mut waiting = messages.iter().filter(|m| m.flags & libc::NLM_F_ACK != 0).count();
        while waiting > 0 {
            for (sequence, answer) in self.receive().map_err(broken)? {
                if i32::from(answer.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                match error_of(&answer) {
                    None => waiting -= 1,
                    Some(source) => {
                        let purpose = usize::try_from(sequence)
                            .ok()
                            .and_then(|index| messages.get(index))
                            .map_or_else(|| "take a batch".to_owned(), |message| message.purpose.clone());
                        return Err(Refused { purpose, source });
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends one message and collects its answers: all of a dump's, or the first.
    pub(super) fn ask(&self, message: Message) -> Result<Vec<Answer>, Refused> {
        let dump = message.flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        let purpose = message.purpose.clone();
        let refused = |source| Refused { purpose: purpose.clone(), source };
        self.send(&[message]).map_err(refused)?;
        let mut answers = Vec::new();
        loop {
            for (_, answer) in self.receive().map_err(refused)? {
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => match error_of(&answer) {
                        None => return Ok(answers),
                        Some(source) => return Err(refused(source)),
                    },
                    _ => answers.push(answer),
                }
            }
            if !dump && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    fn send(&self, messages: &[Message]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (sequence, message) in (0..).zip(messages) {
            message.write(sequence, &mut bytes);
        }
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// One datagram of the kernel's, as sequence numbers and answers.
    fn receive(&self) -> io::Result<Vec<(u32, Answer)>> {
        let mut buffer = vec![0; 64 * 1024];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        let mut answers = Vec::new();
        let mut rest = buffer.as_slice();
        while rest.len() >= HEADER {
            let length = usize::try_from(u32_at(rest, 0)).unwrap_or(usize::MAX);
            let (Some(kind), Some(body)) = (u16_at(rest, 4), rest.get(HEADER..length)) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink answer is cut short"));
            };
            answers.push((u32_at(rest, 8), Answer { kind, body: body.to_vec() }));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}

/// The error in an `NLMSG_ERROR`, or `None` for an acknowledgement.
fn error_of(answer: &Answer) -> Option<io::Error> {
    let code = answer.body.first_chunk().copied().map_or(-libc::EBADMSG, i32::from_ne_bytes);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

fn is_within(wanted: &[u8], others: &[u8]) -> bool {
    flagged(wanted).all(|(kind, value)| {
        let other = attribute(others, kind & !NESTED);
        other.is_some_and(|other| if kind & NESTED == 0 { value == other } else { is_within(value, other) })
    })
}

/// The attributes in `bytes`, by kind; ends at the first that is malformed.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    flagged(bytes).map(|(kind, value)| (kind & !NESTED, value))
}

/// As [`attributes`], each kind with its flag.
fn flagged(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_padded_and_its_length_is_not() {
        let written = Attributes::new().put(7, &[1, 2, 3, 4, 5]).put_be32(9, 0x0102_0304);
        assert_eq!(written.0.len(), 12 + 8);
        let read: Vec<_> = attributes(&written.0).collect();
        assert_eq!(read, [(7, [1, 2, 3, 4, 5].as_slice()), (9, [1, 2, 3, 4].as_slice())]);
    }

    #[test]
    fn a_nested_list_is_read_without_its_flag() {
        let inner = Attributes::new().put_text(1, "ab");
        let written = Attributes::new().nest(4, &inner);
        let list = attribute(&written.0, 4).expect("the list");
        assert_eq!(attribute(list, 1), Some(b"ab\0".as_slice()));
    }

    #[test]
    fn what_was_asked_for_is_found_in_an_answer_that_says_more() {
        let wanted = Attributes::new().put_be32(1, 7).nest(4, &Attributes::new().put(1, &[9]));
        let answer = |value: u8| {
            let inner = Attributes::new().put(1, &[value]).put(2, &[0]);
            Attributes::new().put_be32(3, 0).nest(4, &inner).put_be32(1, 7)
        };
        assert!(wanted.are_within(&answer(9).0));
        assert!(!wanted.are_within(&answer(8).0));
        assert!(!wanted.are_within(&Attributes::new().put_be32(1, 7).0));
        assert!(!answer(9).are_within(&wanted.0));
    }

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }
}
