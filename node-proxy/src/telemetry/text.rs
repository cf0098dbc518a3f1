//! Numbers, times and addresses as text, for lines that are written for every request: formatting by `core::fmt`
//! costs more than sending the line.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Addresses whose text a thread keeps; beyond it, it starts over.
const MOST_ADDRESSES: usize = 1024;

thread_local! {
    static SECOND: RefCell<(u64, Vec<u8>)> = const { RefCell::new((u64::MAX, Vec::new())) };
    static ADDRESSES: RefCell<HashMap<IpAddr, Box<str>, foldhash::fast::RandomState>> = RefCell::default();
}

/// Anything that can be displayed.
pub(super) fn push_display(bytes: &mut Vec<u8>, value: impl Display) {
    // Writing to a Vec cannot fail, and a Display that fails has nothing to say.
    let _ = write!(bytes, "{value}");
}

/// A number in decimal digits.
pub(super) fn push_number(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A full stop and three digits.
fn push_thousandths(bytes: &mut Vec<u8>, value: u64) {
    let digit = |place: u64| b'0' + u8::try_from(value / place % 10).unwrap_or_default();
    bytes.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

/// A duration in milliseconds, down to the microsecond.
pub(super) fn push_milliseconds(bytes: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    push_number(bytes, micros / 1000);
    push_thousandths(bytes, micros % 1000);
}

/// A time as RFC 3339 has it, in UTC, down to the millisecond.
pub(super) fn push_time(bytes: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            text.clear();
            let now = OffsetDateTime::from(SystemTime::UNIX_EPOCH + Duration::from_secs(*second));
            let (year, month, day) = now.to_calendar_date();
            let (hour, minute, second) = now.to_hms();
            let month = u8::from(month);
            push_display(
                text,
                format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"),
            );
        }
        bytes.extend_from_slice(text);
    });
    push_thousandths(bytes, u64::from(since.subsec_millis()));
    bytes.push(b'Z');
}

/// An address with its port, an IPv6 address in brackets.
pub(super) fn push_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    ADDRESSES.with_borrow_mut(|known| {
        if known.len() >= MOST_ADDRESSES {
            known.clear();
        }
        let ip = address.ip();
        let text = known.entry(ip).or_insert_with(|| match ip {
            IpAddr::V4(ip) => ip.to_string().into(),
            IpAddr::V6(ip) => format!("[{ip}]").into(),
        });
        bytes.extend_from_slice(text.as_bytes());
    });
    bytes.push(b':');
    push_number(bytes, u64::from(address.port()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(push: impl Fn(&mut Vec<u8>), expected: &str) {
        let mut bytes = Vec::new();
        // Twice: what is kept must say the same.
        push(&mut bytes);
        push(&mut bytes);
        assert_eq!(String::from_utf8(bytes).unwrap(), expected.repeat(2));
    }

    #[test]
    fn texts_are_those_of_the_standard_library() {
        for text in ["10.0.0.1:80", "[fd00::1]:65535", "[::ffff:1.2.3.4]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            check(|bytes| push_address(bytes, address), &address.to_string());
        }
        for value in [0, 7, 10, 65_535, u64::MAX] {
            check(|bytes| push_number(bytes, value), &value.to_string());
        }
        let milliseconds =
            |micros| move |bytes: &mut Vec<u8>| push_milliseconds(bytes, Duration::from_micros(micros));
        check(milliseconds(0), "0.000");
        check(milliseconds(1_234_007), "1234.007");
    }

    #[test]
    fn times_are_rfc_3339() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        check(|bytes| push_time(bytes, at(0)), "1970-01-01T00:00:00.000Z");
        check(|bytes| push_time(bytes, at(1_795_285_999_042)), "2026-11-21T18:33:19.042Z");
        check(|bytes| push_time(bytes, at(1_795_286_000_999)), "2026-11-21T18:33:20.999Z");
    }
}
