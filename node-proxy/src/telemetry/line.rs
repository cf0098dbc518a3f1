//! One access line: a record as text or JSON, in a buffer that is used again.
//!
//! Bytes from the network end up here, so this file decides that no line can forge another: control characters,
//! quotes, bidirectional overrides and bytes that are not UTF-8 never appear as they are.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::access::{
    ClientAddress, ConnectionRecord, Course, Hop, Journey, Peer, RequestRecord, SessionRecord,
};
use super::log::LogFormat;
use super::text::{push_address, push_display, push_milliseconds, push_number, push_time};
use crate::route::Rule;
use crate::snapshot::service::ServicePortKey;

/// Longer values are cut here: a request line may be as long as a whole head.
const LONGEST_VALUE: usize = 2048;

/// A line under construction.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    format: LogFormat,
    scratch: Vec<u8>,
}

impl<'a> Line<'a> {
    /// Empties `bytes` and begins a line in it.
    pub(crate) fn begin(bytes: &'a mut Vec<u8>, format: LogFormat) -> Self {
        bytes.clear();
        if format == LogFormat::Json {
            bytes.push(b'{');
        }
        Self { bytes, format, scratch: Vec::new() }
    }

    /// Ends the line, with its line feed.
    pub(crate) fn end(self) {
        if self.format == LogFormat::Json {
            self.bytes.push(b'}');
        }
        self.bytes.push(b'\n');
    }

    fn key(&mut self, key: &'static str) {
        match self.format {
            LogFormat::Json => {
                if self.bytes.len() > 1 {
                    self.bytes.push(b',');
                }
                self.bytes.push(b'"');
                self.bytes.extend_from_slice(key.as_bytes());
                self.bytes.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                if !self.bytes.is_empty() {
                    self.bytes.push(b' ');
                }
                self.bytes.extend_from_slice(key.as_bytes());
                self.bytes.push(b'=');
            }
        }
    }

    /// A value of this program's own making that needs no escaping.
    fn plain(&mut self, key: &'static str, push: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        self.quote_json();
        push(self.bytes);
        self.quote_json();
    }

    fn label(&mut self, key: &'static str, label: &'static str) {
        self.plain(key, |bytes| bytes.extend_from_slice(label.as_bytes()));
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.bytes, value);
    }

    /// A value from outside.
    fn escaped(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        let (value, is_cut) = match value.get(..LONGEST_VALUE) {
            Some(cut) if value.len() > LONGEST_VALUE => (cut, true),
            _ => (value, false),
        };
        match self.format {
            LogFormat::Json => {
                self.bytes.push(b'"');
                escape_json(self.bytes, value);
                if is_cut {
                    self.bytes.extend_from_slice(b"...");
                }
                self.bytes.push(b'"');
            }
            LogFormat::Text if is_bare(value) && !is_cut => self.bytes.extend_from_slice(value),
            LogFormat::Text => {
                self.bytes.push(b'"');
                escape_text(self.bytes, value);
                if is_cut {
                    self.bytes.extend_from_slice(b"...");
                }
                self.bytes.push(b'"');
            }
        }
    }

    /// Names from outside, put together.
    fn named(&mut self, key: &'static str, names: &[&str]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        names.iter().for_each(|name| scratch.extend_from_slice(name.as_bytes()));
        self.escaped(key, &scratch);
        self.scratch = scratch;
    }

    fn quote_json(&mut self) {
        if self.format == LogFormat::Json {
            self.bytes.push(b'"');
        }
    }
}

/// Writes the fields of a request.
pub(crate) fn request(line: &mut Line<'_>, record: &RequestRecord) {
    let server_error = record.status.is_some_and(|status| status.is_server_error());
    head(line, &record.journey, server_error);
    line.label("protocol", record.protocol.as_label());
    line.escaped("method", &record.method);
    line.escaped("path", &record.path);
    if let Some(status) = record.status {
        line.number("status", u64::from(status.as_u16()));
    }
    choice(line, record.rule.as_deref(), record.backend.as_ref());
    tail(line, &record.journey);
}

/// Writes the fields of an opaque connection.
pub(crate) fn connection(line: &mut Line<'_>, record: &ConnectionRecord) {
    head(line, &record.journey, false);
    if let Some(protocol) = record.protocol {
        line.label("protocol", protocol.as_label());
    }
    choice(line, record.rule.as_deref(), record.backend.as_ref());
    tail(line, &record.journey);
}

/// Writes the fields of a session of datagrams.
pub(crate) fn session(line: &mut Line<'_>, record: &SessionRecord) {
    connection(line, &record.connection);
    line.number("datagrams_sent", record.datagrams_sent);
    line.number("datagrams_recv", record.datagrams_received);
}

/// Which rule has decided, and for what.
fn choice(line: &mut Line<'_>, rule: Option<&Rule>, backend: Option<&ServicePortKey>) {
    if let Some(rule) = rule {
        let mut index = itoa::Buffer::new();
        let rule_name = rule.name.as_deref().unwrap_or_else(|| index.format(rule.index));
        let key = &rule.route.key;
        line.named(
            "route",
            &[rule.route.kind.as_label(), "/", &key.namespace, "/", &key.name, "/", rule_name],
        );
    }
    if let Some(backend) = backend {
        let mut port = itoa::Buffer::new();
        let service = &backend.service;
        line.named("backend", &[&service.namespace, "/", &service.name, ":", port.format(backend.port)]);
    }
}

fn head(line: &mut Line<'_>, journey: &Journey, server_error: bool) {
    line.plain("time", |bytes| push_time(bytes, SystemTime::now()));
    line.label("level", if server_error || journey.reason.is_some() { "WARN" } else { "INFO" });
    line.label("target", "access");
    line.label("direction", direction_label(journey.direction));
    let proven = journey.hop == Some(Hop::Mutual);
    // Who speaks for a client is not taken for it.
    let source = match journey.client {
        Some(client) => {
            line.plain("src.addr", |bytes| push_client(bytes, client));
            ["peer.addr", "peer.workload", "peer.namespace", "peer.identity"]
        }
        None => ["src.addr", "src.workload", "src.namespace", "src.identity"],
    };
    // A Gateway's client has an identity only by the hop that it has come by, whatever the hop behind is.
    peer(line, source, &journey.source, proven || journey.direction == Course::Ingress);
    let destination = ["dst.addr", "dst.workload", "dst.namespace", "dst.identity"];
    peer(line, destination, &journey.destination, proven);
    if let Some(service) = &journey.service {
        line.named("dst.service", &[&service.service.namespace, "/", &service.service.name]);
        line.number("dst.port", u64::from(service.port));
    }
    match journey.hop {
        Some(Hop::Mutual) => line.label("mtls", "yes"),
        Some(Hop::Plain(reason)) => {
            line.label("mtls", "no");
            line.label("plaintext_reason", reason.as_label());
        }
        None => {}
    }
}

fn push_client(bytes: &mut Vec<u8>, client: ClientAddress) {
    match client.port {
        Some(port) => push_address(bytes, SocketAddr::new(client.ip, port)),
        None => push_display(bytes, format_args!("{}", client.ip)),
    }
}

fn peer(line: &mut Line<'_>, keys: [&'static str; 4], peer: &Peer, proven: bool) {
    let [address, workload, namespace, identity] = keys;
    if let Some(value) = peer.address {
        line.plain(address, |bytes| push_address(bytes, value));
    }
    if let Some(pod) = &peer.pod {
        line.escaped(workload, pod.name.as_bytes());
        line.escaped(namespace, pod.namespace.as_bytes());
    }
    if let Some(value) = peer.identity.as_ref().filter(|_| proven) {
        line.escaped(identity, value.as_str().as_bytes());
    }
}

fn tail(line: &mut Line<'_>, journey: &Journey) {
    if let Some(reason) = journey.reason {
        line.label("reason", reason.as_label());
    }
    line.number("bytes_sent", journey.bytes_sent);
    line.number("bytes_recv", journey.bytes_received);
    line.key("duration_ms");
    push_milliseconds(line.bytes, journey.duration());
    if let Some(error) = &journey.error {
        line.escaped("error", error.as_bytes());
    }
}

/// The text of a direction in logs and labels.
pub(crate) const fn direction_label(direction: Course) -> &'static str {
    match direction {
        Course::Inbound => "inbound",
        Course::Ingress => "ingress",
        Course::Mirror => "mirror",
        Course::Outbound => "outbound",
    }
}

/// Whether a text value can stand without quotes.
fn is_bare(value: &[u8]) -> bool {
    !value.is_empty()
        && value.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=' | b'\''))
}

/// Characters that could move a terminal's cursor, end a line, or turn its direction.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape_json(bytes: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => bytes.extend_from_slice(b"\\\""),
                '\\' => bytes.extend_from_slice(b"\\\\"),
                // All hostile characters are of the basic plane: four digits hold them.
                hostile if is_hostile(hostile) => {
                    push_display(bytes, format_args!("\\u{:04x}", u32::from(hostile)));
                }
                harmless => bytes.extend_from_slice(harmless.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        // JSON is UTF-8 and has no escape for a byte: what was there is lost, that it was there is not.
        for _ in chunk.invalid() {
            bytes.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_text(bytes: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => bytes.extend_from_slice(b"\\\""),
                '\\' => bytes.extend_from_slice(b"\\\\"),
                '\n' => bytes.extend_from_slice(b"\\n"),
                '\r' => bytes.extend_from_slice(b"\\r"),
                '\t' => bytes.extend_from_slice(b"\\t"),
                hostile if is_hostile(hostile) => {
                    push_display(bytes, format_args!("\\u{{{:x}}}", u32::from(hostile)));
                }
                harmless => bytes.extend_from_slice(harmless.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            push_display(bytes, format_args!("\\x{byte:02x}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &[u8], text: &str, json: &str) {
        for (format, expected) in [(LogFormat::Text, text), (LogFormat::Json, json)] {
            let mut bytes = Vec::new();
            let mut line = Line::begin(&mut bytes, format);
            line.escaped("k", value);
            line.end();
            assert_eq!(String::from_utf8(bytes).unwrap(), expected, "{format:?}");
        }
    }

    #[test]
    fn values_from_outside_cannot_forge_a_line() {
        check(b"/plain?no", "k=/plain?no\n", "{\"k\":\"/plain?no\"}\n");
        check(b"", "k=\"\"\n", "{\"k\":\"\"}\n");
        check(b"a b", "k=\"a b\"\n", "{\"k\":\"a b\"}\n");
        check(b"a=b", "k=\"a=b\"\n", "{\"k\":\"a=b\"}\n");
        check(b"\"\\", "k=\"\\\"\\\\\"\n", "{\"k\":\"\\\"\\\\\"}\n");
        check(b"a\r\nb\tc", "k=\"a\\r\\nb\\tc\"\n", "{\"k\":\"a\\u000d\\u000ab\\u0009c\"}\n");
        check(
            b"\x00\x1b[2J\x7f",
            "k=\"\\u{0}\\u{1b}[2J\\u{7f}\"\n",
            "{\"k\":\"\\u0000\\u001b[2J\\u007f\"}\n",
        );
        check(b"/\xff\xc3(", "k=\"/\\xff\\xc3(\"\n", "{\"k\":\"/\\ufffd\\ufffd(\"}\n");
        check("\u{202e}\u{2028}".as_bytes(), "k=\"\\u{202e}\\u{2028}\"\n", "{\"k\":\"\\u202e\\u2028\"}\n");
        check("grün".as_bytes(), "k=\"grün\"\n", "{\"k\":\"grün\"}\n");
    }

    #[test]
    fn every_single_byte_makes_one_valid_line() {
        for byte in 0..=u8::MAX {
            let mut bytes = Vec::new();
            let mut line = Line::begin(&mut bytes, LogFormat::Json);
            line.escaped("k", &[byte, b'x']);
            line.end();
            let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert!(parsed["k"].as_str().unwrap().ends_with('x'), "{byte}");
            assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1, "{byte}");
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        let mut bytes = Vec::new();
        let mut line = Line::begin(&mut bytes, LogFormat::Text);
        line.escaped("k", &vec![b'a'; LONGEST_VALUE + 1]);
        line.end();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with("aaa...\"\n"));
        assert_eq!(text.len(), "k=\"...\"\n".len() + LONGEST_VALUE);
    }
}
