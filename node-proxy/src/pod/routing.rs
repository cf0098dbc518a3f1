//! Policy routing of local legs: what carries their mark goes to `lo`, replies to foreign addresses included.
//!
//! Every function works on the namespace that the calling thread is in.

use std::fs;
use std::path::Path;

use nix::libc;
use nix::sys::socket::SockProtocol;

use super::netlink::{Attributes, Conversation, Message, Refused, attribute};
use super::redirect::LOCAL_MARK;

/// The routing table that has one route: everything is local.
const TABLE: u32 = 0x6761;
/// Before the main table's rule (32766), after that of local addresses (0).
const PRIORITY: u32 = 100;
/// `lo` is the first interface of every namespace.
const LOOPBACK_INDEX: u32 = 1;

// linux/fib_rules.h: attributes of a rule, and the action "look up a table".
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const TO_TABLE: u8 = 1;
// linux/rtnetlink.h: attributes and fields of a route.
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_TABLE: u16 = 15;
const ROUTE_STATIC: u8 = 4;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;

/// An address family of routing.
#[derive(Clone, Copy)]
struct RouteFamily {
    number: u8,
    name: &'static str,
}

const IPV4: RouteFamily = RouteFamily { number: 2, name: "IPv4" };
const IPV6: RouteFamily = RouteFamily { number: 10, name: "IPv6" };

/// Whether the namespace has IPv6 on loopback; an interface with it switched off takes no routes.
pub(super) fn has_ipv6() -> bool {
    let setting = Path::new("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    fs::read_to_string(setting).is_ok_and(|value| value.trim() == "0")
}

fn families() -> Vec<RouteFamily> {
    if has_ipv6() { vec![IPV4, IPV6] } else { vec![IPV4] }
}

/// Sets `lo` up: without it nothing can be redirected. A runtime has done so; a bare namespace has not.
pub(super) fn bring_up_loopback() -> Result<(), Refused> {
    let flag = libc::IFF_UP.cast_unsigned().to_ne_bytes();
    let mut header = vec![0; 4];
    header.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    header.extend_from_slice(&flag);
    header.extend_from_slice(&flag);
    converse()?.apply(&[Message {
        purpose: "set lo up".to_owned(),
        kind: libc::RTM_NEWLINK,
        flags: libc::NLM_F_ACK,
        header,
        attributes: Attributes::new(),
    }])
}

/// Makes rule and route of each family that the namespace has.
pub(super) fn install() -> Result<(), Refused> {
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    for family in families() {
        unless(libc::EEXIST, converse()?.apply(&[route(family, libc::RTM_NEWROUTE, create)]))?;
        unless(libc::EEXIST, converse()?.apply(&[rule(family, libc::RTM_NEWRULE, create)]))?;
    }
    Ok(())
}

/// Takes rules and routes away.
pub(super) fn remove() -> Result<(), Refused> {
    for family in families() {
        unless(libc::ENOENT, converse()?.apply(&[rule(family, libc::RTM_DELRULE, 0)]))?;
        unless(libc::ESRCH, converse()?.apply(&[route(family, libc::RTM_DELROUTE, 0)]))?;
    }
    Ok(())
}

/// The rules and routes that are not there.
pub(super) fn missing() -> Result<Vec<&'static str>, Refused> {
    let mut missing = Vec::new();
    for family in families() {
        let rules = dump(family, libc::RTM_GETRULE)?;
        let has_rule = rules.iter().any(|attributes| {
            number(attributes, RULE_MARK) == Some(LOCAL_MARK) && number(attributes, RULE_TABLE) == Some(TABLE)
        });
        let routes = dump(family, libc::RTM_GETROUTE)?;
        let has_route = routes.iter().any(|attributes| number(attributes, ROUTE_TABLE) == Some(TABLE));
        if !has_rule || !has_route {
            missing.push(family.name);
        }
    }
    Ok(missing)
}

fn rule(family: RouteFamily, kind: u16, flags: libc::c_int) -> Message {
    // struct fib_rule_hdr: family, lengths, tos, table (too big for it), reserved, action, flags.
    let header = vec![family.number, 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let attributes = Attributes::new()
        .put_u32(RULE_PRIORITY, PRIORITY)
        .put_u32(RULE_MARK, LOCAL_MARK)
        .put_u32(RULE_MASK, u32::MAX)
        .put_u32(RULE_TABLE, TABLE);
    message(kind, flags, header, attributes, &format!("change the {} rule of local legs", family.name))
}

fn route(family: RouteFamily, kind: u16, flags: libc::c_int) -> Message {
    // struct rtmsg: family, lengths, tos, table (too big for it), protocol, scope, type, flags.
    let header = vec![family.number, 0, 0, 0, 0, ROUTE_STATIC, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    let attributes = Attributes::new().put_u32(ROUTE_TABLE, TABLE).put_u32(ROUTE_INTERFACE, LOOPBACK_INDEX);
    message(kind, flags, header, attributes, &format!("change the {} route of local legs", family.name))
}

fn message(kind: u16, flags: libc::c_int, header: Vec<u8>, attributes: Attributes, purpose: &str) -> Message {
    Message { purpose: purpose.to_owned(), kind, flags: flags | libc::NLM_F_ACK, header, attributes }
}

/// The attributes of all rules or routes of a family.
fn dump(family: RouteFamily, kind: u16) -> Result<Vec<Vec<u8>>, Refused> {
    /// `struct fib_rule_hdr` and `struct rtmsg` are of one length.
    const HEADER: usize = 12;
    let mut header = vec![0; HEADER];
    header[0] = family.number;
    let answers = converse()?.ask(Message {
        purpose: format!("list {} routing", family.name),
        kind,
        flags: libc::NLM_F_DUMP,
        header,
        attributes: Attributes::new(),
    })?;
    Ok(answers.iter().filter_map(|answer| answer.body.get(HEADER..).map(<[u8]>::to_vec)).collect())
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    attribute(attributes, kind)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn unless(tolerated: i32, outcome: Result<(), Refused>) -> Result<(), Refused> {
    match outcome {
        Err(refused) if refused.errno() == Some(tolerated) => Ok(()),
        outcome => outcome,
    }
}

fn converse() -> Result<Conversation, Refused> {
    Conversation::open(SockProtocol::NetlinkRoute)
        .map_err(|source| Refused { purpose: "open a routing socket".to_owned(), source })
}
