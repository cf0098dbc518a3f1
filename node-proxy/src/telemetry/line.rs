//! One access line: a record as text or JSON, in a buffer that is used again.
//!
//! Bytes from the network end up here, so this file decides that no line can forge another: control characters,
//! quotes, bidirectional overrides and bytes that are not UTF-8 never appear as they are.

use std::fmt::Display;
use std::io::Write;

use time::OffsetDateTime;

use super::access::{ConnectionRecord, Hop, Journey, Peer, RequestRecord};
use super::log::LogFormat;
use crate::pod::Direction;
use crate::route::Rule;

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
    fn plain(&mut self, key: &'static str, value: impl Display) {
        self.key(key);
        self.quote_json();
        write_display(self.bytes, value);
        self.quote_json();
    }

    fn number(&mut self, key: &'static str, value: impl Display) {
        self.key(key);
        write_display(self.bytes, value);
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

    /// Something displayed that holds names from outside.
    fn named(&mut self, key: &'static str, value: impl Display) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write_display(&mut scratch, value);
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
    line.plain("protocol", record.protocol.as_label());
    line.escaped("method", &record.method);
    line.escaped("path", &record.path);
    if let Some(status) = record.status {
        line.number("status", status.as_u16());
    }
    if let Some(rule) = &record.rule {
        line.named("route", RouteText(rule));
    }
    if let Some(backend) = &record.backend {
        line.named("backend", format_args!("{}:{}", backend.service, backend.port));
    }
    tail(line, &record.journey);
}

/// Writes the fields of an opaque connection.
pub(crate) fn connection(line: &mut Line<'_>, record: &ConnectionRecord) {
    head(line, &record.journey, false);
    if let Some(protocol) = record.protocol {
        line.plain("protocol", protocol.as_label());
    }
    tail(line, &record.journey);
}

fn head(line: &mut Line<'_>, journey: &Journey, server_error: bool) {
    let now = OffsetDateTime::now_utc();
    line.plain(
        "time",
        format_args!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            now.year(),
            u8::from(now.month()),
            now.day(),
            now.hour(),
            now.minute(),
            now.second(),
            now.millisecond()
        ),
    );
    line.plain("level", if server_error || journey.reason.is_some() { "WARN" } else { "INFO" });
    line.plain("target", "access");
    line.plain("direction", direction_label(journey.direction));
    let proven = journey.hop == Some(Hop::Mutual);
    let source = ["src.addr", "src.workload", "src.namespace", "src.identity"];
    peer(line, source, &journey.source, proven);
    let destination = ["dst.addr", "dst.workload", "dst.namespace", "dst.identity"];
    peer(line, destination, &journey.destination, proven);
    if let Some(service) = &journey.service {
        line.named("dst.service", &service.service);
        line.number("dst.port", service.port);
    }
    match journey.hop {
        Some(Hop::Mutual) => line.plain("mtls", "yes"),
        Some(Hop::Plain(reason)) => {
            line.plain("mtls", "no");
            line.plain("plaintext_reason", reason.as_label());
        }
        None => {}
    }
}

fn peer(line: &mut Line<'_>, keys: [&'static str; 4], peer: &Peer, proven: bool) {
    let [address, workload, namespace, identity] = keys;
    if let Some(value) = peer.address {
        line.plain(address, value);
    }
    if let Some(pod) = &peer.pod {
        line.escaped(workload, pod.name.as_bytes());
        line.escaped(namespace, pod.namespace.as_bytes());
    }
    if let Some(value) = peer.identity.as_ref().filter(|_| proven) {
        line.named(identity, value);
    }
}

fn tail(line: &mut Line<'_>, journey: &Journey) {
    if let Some(reason) = journey.reason {
        line.plain("reason", reason.as_label());
    }
    line.number("bytes_sent", journey.bytes_sent);
    line.number("bytes_recv", journey.bytes_received);
    let micros = journey.duration().as_micros();
    line.number("duration_ms", format_args!("{}.{:03}", micros / 1000, micros % 1000));
    if let Some(error) = &journey.error {
        line.escaped("error", error.as_bytes());
    }
}

/// The text of a direction in logs and labels.
pub(crate) const fn direction_label(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

struct RouteText<'a>(&'a Rule);

impl Display for RouteText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.route.kind.as_label(), self.0.route.key)?;
        match &self.0.name {
            Some(name) => write!(f, "/{name}"),
            None => write!(f, "/{}", self.0.index),
        }
    }
}

fn write_display(bytes: &mut Vec<u8>, value: impl Display) {
    // Writing to a Vec cannot fail, and a Display that fails has nothing to say.
    let _ = write!(bytes, "{value}");
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
                    write_display(bytes, format_args!("\\u{:04x}", u32::from(hostile)));
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
                    write_display(bytes, format_args!("\\u{{{:x}}}", u32::from(hostile)));
                }
                harmless => bytes.extend_from_slice(harmless.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            write_display(bytes, format_args!("\\x{byte:02x}"));
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
