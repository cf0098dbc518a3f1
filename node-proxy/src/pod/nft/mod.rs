//! nf_tables in the kernel's own words: tables, chains and rules as one netlink transaction.
//!
//! Knows nothing of the mesh: what the rules say is `redirect`'s. A [`Batch`] holds completely or not at all.

mod expression;

pub(super) use expression::*;

use std::io;

use nix::libc;
use nix::sys::socket::SockProtocol;

use super::netlink::{Answer, Attributes, Conversation, Message, Refused, attribute};

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6 in one table.
    Inet,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Family {
    /// `NFPROTO_*` of linux/netfilter.h.
    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// The name that `nft` prints.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }
}

/// A base chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// Its name.
    pub(super) name: &'static str,
    /// `filter` or `nat`.
    pub(super) kind: &'static str,
    /// Where packets meet it.
    pub(super) hook: Hook,
    /// When, among the chains of that hook.
    pub(super) priority: i32,
}

/// Where a base chain sits: `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum Hook {
    /// Every packet that arrives.
    Prerouting = 0,
    /// Packets for this host.
    Input = 1,
    /// Packets of this host.
    Output = 3,
}

/// A rule: expressions, and a comment by which it is known again.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// The chain it is in.
    pub(super) chain: &'static str,
    /// What `nft list` shows as its comment.
    pub(super) comment: String,
    /// What it does.
    pub(super) expressions: Vec<Expression>,
}

/// A rule that the kernel has, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExistingRule {
    /// The chain it is in.
    pub(super) chain: String,
    /// Its comment, when it has one.
    pub(super) comment: Option<String>,
    /// Its expressions: the name of each, and its attributes.
    pub(super) expressions: Vec<(String, Vec<u8>)>,
}

// linux/netfilter/nf_tables.h, enum nf_tables_msg_types.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const GET_TABLE: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
// The batch's own messages are no part of a subsystem: NFNL_MSG_BATCH_BEGIN and _END.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

// enum nft_table_attributes, nft_chain_attributes, nft_hook_attributes, nft_rule_attributes.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// A transaction on one table.
#[derive(Debug)]
pub(super) struct Batch {
    family: Family,
    table: &'static str,
    messages: Vec<Message>,
}

impl Batch {
    /// A transaction that changes nothing yet.
    pub(super) fn new(family: Family, table: &'static str) -> Self {
        Self { family, table, messages: vec![boundary(BATCH_BEGIN)] }
    }

    /// Makes the table unless it is there.
    pub(super) fn table(mut self) -> Self {
        let attributes = Attributes::new().put_text(TABLE_NAME, self.table);
        self.push(NEW_TABLE, libc::NLM_F_CREATE, "make the table", attributes);
        self
    }

    /// Takes the table away with everything in it.
    pub(super) fn delete_table(mut self) -> Self {
        let attributes = Attributes::new().put_text(TABLE_NAME, self.table);
        self.push(DELETE_TABLE, 0, "delete the table", attributes);
        self
    }

    /// Makes a base chain unless it is there.
    pub(super) fn chain(mut self, chain: &Chain) -> Self {
        let hook = Attributes::new()
            .put_be32(HOOK_NUMBER, chain.hook as u32)
            .put(HOOK_PRIORITY, &chain.priority.to_be_bytes());
        let attributes = Attributes::new()
            .put_text(CHAIN_TABLE, self.table)
            .put_text(CHAIN_NAME, chain.name)
            .nest(CHAIN_HOOK, &hook)
            .put_text(CHAIN_TYPE, chain.kind);
        self.push(NEW_CHAIN, libc::NLM_F_CREATE, &format!("make the chain {}", chain.name), attributes);
        self
    }

    /// Takes every rule of the table away; its chains stay, and with them what they keep loaded.
    pub(super) fn flush(mut self) -> Self {
        let attributes = Attributes::new().put_text(RULE_TABLE, self.table);
        self.push(DELETE_RULE, 0, "flush the table", attributes);
        self
    }

    /// Appends a rule to its chain.
    pub(super) fn rule(mut self, rule: &Rule) -> Self {
        let mut list = Attributes::new();
        for expression in &rule.expressions {
            list = list.nest(LIST_ELEMENT, &expression.attributes());
        }
        let attributes = Attributes::new()
            .put_text(RULE_TABLE, self.table)
            .put_text(RULE_CHAIN, rule.chain)
            .nest(RULE_EXPRESSIONS, &list)
            .put(RULE_USERDATA, &comment_bytes(&rule.comment));
        let purpose = format!("add the rule \"{}\" to {}", rule.comment, rule.chain);
        self.push(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &purpose, attributes);
        self
    }

    /// Commits the transaction in the namespace that the calling thread is in.
    pub(super) fn commit(mut self) -> Result<(), Refused> {
        self.messages.push(boundary(BATCH_END));
        converse()?.apply(&self.messages)
    }

    fn push(&mut self, kind: u16, flags: libc::c_int, purpose: &str, attributes: Attributes) {
        self.messages.push(Message {
            purpose: format!("{purpose} (table {} {})", self.family.name(), self.table),
            kind: (SUBSYSTEM << 8) | kind,
            flags: flags | libc::NLM_F_ACK,
            header: header(self.family.number(), 0),
            attributes,
        });
    }
}

/// Whether the namespace that the calling thread is in has this table.
pub(super) fn has_table(family: Family, table: &str) -> Result<bool, Refused> {
    let message = Message {
        purpose: format!("look for the table {} {table}", family.name()),
        kind: (SUBSYSTEM << 8) | GET_TABLE,
        flags: 0,
        header: header(family.number(), 0),
        attributes: Attributes::new().put_text(TABLE_NAME, table),
    };
    match converse()?.ask(message) {
        Ok(_) => Ok(true),
        Err(refused) if refused.errno() == Some(libc::ENOENT) => Ok(false),
        Err(refused) => Err(refused),
    }
}

/// The rules of a table, chain by chain and in their order; empty when there is no such table.
pub(super) fn rules_of(family: Family, table: &str) -> Result<Vec<ExistingRule>, Refused> {
    let message = Message {
        purpose: format!("list the rules of table {} {table}", family.name()),
        kind: (SUBSYSTEM << 8) | GET_RULE,
        flags: libc::NLM_F_DUMP,
        header: header(family.number(), 0),
        attributes: Attributes::new().put_text(RULE_TABLE, table),
    };
    match converse()?.ask(message) {
        Ok(answers) => Ok(answers.iter().filter_map(|answer| existing(answer, table)).collect()),
        Err(refused) if refused.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(refused) => Err(refused),
    }
}

fn existing(answer: &Answer, table: &str) -> Option<ExistingRule> {
    let attributes = answer.body.get(4..)?;
    if text(attribute(attributes, RULE_TABLE)?) != table {
        return None;
    }
    let expressions = super::netlink::attributes(attribute(attributes, RULE_EXPRESSIONS)?)
        .filter_map(|(_, element)| {
            let data = attribute(element, EXPRESSION_DATA).unwrap_or_default();
            Some((text(attribute(element, EXPRESSION_NAME)?), data.to_vec()))
        })
        .collect();
    let comment = attribute(attributes, RULE_USERDATA).and_then(|bytes| {
        let length = usize::from(*bytes.get(1)?);
        Some(text(bytes.get(2..2 + length)?))
    });
    Some(ExistingRule { chain: text(attribute(attributes, RULE_CHAIN)?), comment, expressions })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// A comment in the form of nft's user data: kind 0, length, text, NUL.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).expect("comments are written here and short");
    let mut bytes = vec![0, length];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

fn boundary(kind: u16) -> Message {
    Message {
        purpose: "open or close a batch".to_owned(),
        kind,
        flags: 0,
        header: header(0, SUBSYSTEM),
        attributes: Attributes::new(),
    }
}

fn converse() -> Result<Conversation, Refused> {
    let broken = |source: io::Error| Refused { purpose: "open a netfilter socket".to_owned(), source };
    Conversation::open(SockProtocol::NetlinkNetFilter).map_err(broken)
}
