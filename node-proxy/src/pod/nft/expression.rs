//! The few expressions of nf_tables that the mesh's rules are made of.
//!
//! All of them use the one register [`REGISTER`]: a rule loads a value, compares it, and loads the next.

use super::super::netlink::Attributes;

/// `NFT_REG_1`, 16 bytes wide.
const REGISTER: u32 = 1;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
const VERDICT: u16 = 2;
/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// The TCP flags that tell a first SYN from all other segments, and how they are set in it.
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// One expression of a rule.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Expression {
    /// The kernel's name of it.
    pub(in crate::pod) name: &'static str,
    data: Attributes,
}

/// How a register is compared: `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(in crate::pod) enum Comparison {
    /// Equal.
    Equal = 0,
    /// Not equal.
    Differs = 1,
    /// Less or equal.
    AtMost = 3,
}

/// A property of the packet outside its bytes: `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(in crate::pod) enum Meta {
    /// The mark.
    Mark = 3,
    /// The name of the interface it arrived on.
    InputInterface = 6,
    /// The name of the interface it leaves by.
    OutputInterface = 7,
    /// IPv4 or IPv6, in a table of both.
    NetworkProtocol = 15,
    /// TCP, UDP and so on.
    TransportProtocol = 16,
}

impl Expression {
    /// Whether the kernel's account of an expression is of this one. The kernel may say more than it was told.
    pub(in crate::pod) fn is_same_as(&self, (name, data): &(String, Vec<u8>)) -> bool {
        self.name == name && self.data.are_within(data)
    }

    /// The attributes of a list element.
    pub(super) fn attributes(&self) -> Attributes {
        Attributes::new().put_text(NAME, self.name).nest(DATA, &self.data)
    }
}

/// Loads a property of the packet.
pub(in crate::pod) fn meta(key: Meta) -> Expression {
    Expression { name: "meta", data: Attributes::new().put_be32(1, REGISTER).put_be32(2, key as u32) }
}

/// Compares what was loaded; the rule ends here for packets that differ.
pub(in crate::pod) fn compare(comparison: Comparison, value: &[u8]) -> Expression {
    let data = Attributes::new()
        .put_be32(1, REGISTER)
        .put_be32(2, comparison as u32)
        .nest(3, &Attributes::new().put(VALUE, value));
    Expression { name: "cmp", data }
}

/// The interface's name is (or is not) `lo`.
pub(in crate::pod) fn loopback(interface: Meta, comparison: Comparison) -> [Expression; 2] {
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    [meta(interface), compare(comparison, &name)]
}

/// The packet's mark is (or is not) this.
pub(in crate::pod) fn mark(comparison: Comparison, mark: u32) -> [Expression; 2] {
    [meta(Meta::Mark), compare(comparison, &mark.to_ne_bytes())]
}

/// The packet is TCP.
pub(in crate::pod) fn tcp() -> [Expression; 2] {
    [meta(Meta::TransportProtocol), compare(Comparison::Equal, &[6])]
}

/// The TCP segment is the first SYN of a connection. Follows [`tcp`].
pub(in crate::pod) fn first_syn() -> [Expression; 3] {
    [payload(PayloadBase::Transport, 13, 1), bitwise(&[FIN_SYN_RST_ACK]), compare(Comparison::Equal, &[SYN])]
}

/// The destination port is not this. Follows [`tcp`].
pub(in crate::pod) fn not_to_port(port: u16) -> [Expression; 2] {
    [payload(PayloadBase::Transport, 2, 2), compare(Comparison::Differs, &port.to_be_bytes())]
}

/// The packet is IPv6, to a link-local address (fe80::/10).
pub(in crate::pod) fn to_ipv6_link_local() -> [Expression; 5] {
    [
        meta(Meta::NetworkProtocol),
        compare(Comparison::Equal, &[10]),
        payload(PayloadBase::Network, 24, 2),
        bitwise(&[0xff, 0xc0]),
        compare(Comparison::Equal, &[0xfe, 0x80]),
    ]
}

/// The destination is (or is not) one of the namespace's own addresses.
pub(in crate::pod) fn destination_is_local(comparison: Comparison) -> [Expression; 2] {
    /// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`, `RTN_LOCAL`.
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 2;
    const LOCAL: u32 = 2;
    let data = Attributes::new().put_be32(1, REGISTER).put_be32(2, ADDRESS_TYPE).put_be32(3, OF_DESTINATION);
    [Expression { name: "fib", data }, compare(comparison, &LOCAL.to_ne_bytes())]
}

/// The namespace has a socket for the packet: one that listens on its address or on all of them, or one that remembers a
/// connection with the same ports.
pub(in crate::pod) fn has_socket() -> [Expression; 2] {
    /// `NFT_SOCKET_TRANSPARENT`: 0 or 1 where there is a socket; without one the rule ends. Of all that can be asked it
    /// is the only thing that a socket in TIME_WAIT answers, too.
    const TRANSPARENT: u32 = 0;
    let data = Attributes::new().put_be32(1, TRANSPARENT).put_be32(2, REGISTER);
    [Expression { name: "socket", data }, compare(Comparison::AtMost, &[1])]
}

/// The packet belongs to a connection that is established, in conntrack's eyes.
pub(in crate::pod) fn established() -> [Expression; 3] {
    /// The bit of `IP_CT_ESTABLISHED`.
    const ESTABLISHED: u32 = 1 << 1;
    connection_state(ESTABLISHED)
}

/// Conntrack makes nothing of the packet.
pub(in crate::pod) fn invalid() -> [Expression; 3] {
    /// `NF_CT_STATE_INVALID_BIT`.
    const INVALID: u32 = 1;
    connection_state(INVALID)
}

fn connection_state(bit: u32) -> [Expression; 3] {
    /// `NFT_CT_STATE`.
    const STATE: u32 = 0;
    [conntrack(STATE), bitwise(&bit.to_ne_bytes()), compare(Comparison::Differs, &0_u32.to_ne_bytes())]
}

/// Conntrack did not change the packet's destination.
pub(in crate::pod) fn not_redirected() -> [Expression; 3] {
    /// `NFT_CT_STATUS`, and `IPS_DST_NAT`.
    const STATUS: u32 = 2;
    const DESTINATION_NAT: u32 = 1 << 5;
    [
        conntrack(STATUS),
        bitwise(&DESTINATION_NAT.to_ne_bytes()),
        compare(Comparison::Differs, &DESTINATION_NAT.to_ne_bytes()),
    ]
}

/// Redirects the connection to a port of this namespace.
pub(in crate::pod) fn redirect_to(port: u16) -> [Expression; 2] {
    /// `NF_NAT_RANGE_PROTO_SPECIFIED`.
    const PORT_GIVEN: u32 = 2;
    let value = Attributes::new().put(VALUE, &port.to_be_bytes());
    let immediate = Attributes::new().put_be32(1, REGISTER).nest(2, &value);
    let redirect = Attributes::new().put_be32(1, REGISTER).put_be32(3, PORT_GIVEN);
    [Expression { name: "immediate", data: immediate }, Expression { name: "redir", data: redirect }]
}

/// Keeps the packet out of conntrack.
pub(in crate::pod) const fn notrack() -> Expression {
    Expression { name: "notrack", data: Attributes::new() }
}

/// Answers with a TCP reset.
pub(in crate::pod) fn reset() -> Expression {
    /// `NFT_REJECT_TCP_RST`.
    const TCP_RESET: u32 = 1;
    Expression { name: "reject", data: Attributes::new().put_be32(1, TCP_RESET) }
}

/// Lets the packet pass, and asks no later rule of this chain.
pub(in crate::pod) fn accept() -> Expression {
    /// `NF_ACCEPT`.
    const ACCEPT: u32 = 1;
    let verdict = Attributes::new().nest(VERDICT, &Attributes::new().put_be32(1, ACCEPT));
    let data = Attributes::new().put_be32(1, VERDICT_REGISTER).nest(2, &verdict);
    Expression { name: "immediate", data }
}

/// Which header of the packet bytes are counted from: `enum nft_payload_bases`.
#[derive(Clone, Copy)]
#[repr(u32)]
enum PayloadBase {
    Network = 1,
    Transport = 2,
}

fn payload(base: PayloadBase, offset: u32, length: u32) -> Expression {
    let data = Attributes::new()
        .put_be32(1, REGISTER)
        .put_be32(2, base as u32)
        .put_be32(3, offset)
        .put_be32(4, length);
    Expression { name: "payload", data }
}

fn bitwise(mask: &[u8]) -> Expression {
    let zeroes = vec![0; mask.len()];
    let data = Attributes::new()
        .put_be32(1, REGISTER)
        .put_be32(2, REGISTER)
        .put_be32(3, u32::try_from(mask.len()).expect("masks are a few bytes"))
        .nest(4, &Attributes::new().put(VALUE, mask))
        .nest(5, &Attributes::new().put(VALUE, &zeroes));
    Expression { name: "bitwise", data }
}

fn conntrack(key: u32) -> Expression {
    Expression { name: "ct", data: Attributes::new().put_be32(1, REGISTER).put_be32(2, key) }
}
