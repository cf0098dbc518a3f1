//! What a client speaks, by its first bytes (design D4). There is no timer here.

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line that is longer than this is not waited for.
const LINE_LIMIT: usize = 16 * 1024;

/// How much a server of HTTP/2 may say before it has heard anything: its preface, and little besides.
const SERVER_LIMIT: usize = 1024;

/// What the first bytes of a client say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// HTTP/1.0 or HTTP/1.1, a request that can be routed.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// So far they could be HTTP.
    Undecided,
    /// Anything else; passed on as it is.
    Opaque,
}

/// Judges a client's first bytes. Only a whole request line that ends in HTTP/1.x and is neither CONNECT nor
/// in absolute form is HTTP/1.
#[must_use]
pub fn judge(bytes: &[u8]) -> FirstBytes {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { FirstBytes::Http2 } else { FirstBytes::Undecided };
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if is_request_line(bytes[..end].trim_ascii_end()) => FirstBytes::Http1,
        Some(_) => FirstBytes::Opaque,
        None if bytes.len() < LINE_LIMIT && may_begin_request_line(bytes) => FirstBytes::Undecided,
        None => FirstBytes::Opaque,
    }
}

/// Whether what a server has said so far is the preface of an HTTP/2 server: a SETTINGS frame (RFC 9113 section 3.4). It
/// comes without being waited for, as the client's does, and says nothing of who was to speak first.
#[must_use]
pub fn is_http2_server(bytes: &[u8]) -> bool {
    let Some(&[high, middle, low, 4, 0, 0, 0, 0, 0]) = bytes.first_chunk() else { return false };
    let length = u32::from_be_bytes([0, high, middle, low]);
    length.is_multiple_of(6) && bytes.len() <= SERVER_LIMIT
}

/// Whether the first line at least says that it is of HTTP/1, whatever else may be wrong with it.
#[must_use]
pub fn claims_http1(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    line.ends_with(b" HTTP/1.0") || line.ends_with(b" HTTP/1.1")
}

fn is_request_line(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    !method.is_empty()
        && method.iter().all(|byte| is_token_byte(*byte))
        && method != b"CONNECT"
        && (target.first() == Some(&b'/') || (method == b"OPTIONS" && target == b"*"))
        && matches!(version, b"HTTP/1.0" | b"HTTP/1.1")
}

/// Whether a line that has not ended could become a request line: a method, and a target in origin form.
fn may_begin_request_line(bytes: &[u8]) -> bool {
    let mut words = bytes.splitn(2, |byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let method_fits = method.iter().all(|byte| is_token_byte(*byte)) && method.len() <= 32;
    match words.next() {
        None => method_fits,
        Some(target) => {
            let begins = target.is_empty() || matches!(target[0], b'/' | b'*');
            method_fits
                && !method.is_empty()
                && begins
                && target.iter().all(|byte| (b' '..0x7f).contains(byte) || *byte == b'\r')
        }
    }
}

/// A character of a token (RFC 9110 section 5.6.2).
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: FirstBytes) {
        assert_eq!(judge(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn whole_request_lines_and_prefaces_are_http() {
        check(b"GET / HTTP/1.1\r\n", FirstBytes::Http1);
        check(b"GET /a?b=c HTTP/1.0\n", FirstBytes::Http1);
        check(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", FirstBytes::Http1);
        check(b"X-ANY /a HTTP/1.1\r\n", FirstBytes::Http1);
        check(PREFACE, FirstBytes::Http2);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", FirstBytes::Http2);
    }

    #[test]
    fn what_only_begins_like_http_waits() {
        for text in ["", "G", "GET", "GET ", "GET /a", "GET /a HTTP/1.1", "PRI", "PRI * HTTP/2.0\r\n", "P"] {
            check(text.as_bytes(), FirstBytes::Undecided);
        }
    }

    #[test]
    fn a_line_of_http1_is_known_by_its_end() {
        for text in ["GET http://a/ HTTP/1.1\r\n", "CONNECT a:80 HTTP/1.0\nHost: a", "GET  / HTTP/1.1"] {
            assert!(claims_http1(text.as_bytes()), "{text}");
        }
        for text in
            ["", "GET /\r\n HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nXX", "INVALID CONNECTION PREFACE\r\n\r\n"]
        {
            assert!(!claims_http1(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_server_of_http2_is_known_by_its_settings() {
        let empty = b"\0\0\0\x04\0\0\0\0\0";
        let one = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
        for bytes in [&empty[..], one] {
            assert!(is_http2_server(bytes), "{bytes:?}");
        }
        for bytes in [
            &empty[..8],
            b"\0\0\0\x04\x01\0\0\0\0",
            b"\0\0\x05\x04\0\0\0\0\0",
            b"\0\0\0\x04\0\0\0\0\x01",
            b"\x4a\0\0\0\x0a8.0.36\0",
            b"220 mail ESMTP\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            &[&empty[..], &[0; SERVER_LIMIT]].concat(),
        ] {
            assert!(!is_http2_server(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn everything_else_is_opaque_at_once() {
        for text in [
            "\x16\x03\x01",
            "*1\r\n$4\r\nPING\r\n",
            "EHLO a\r\n",
            "CONNECT {\"verbose\":false}\r\n",
            "CONNECT a:80 HTTP/1.1\r\n",
            "GET http://a/ HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "GET /\r\n",
            "GET  / HTTP/1.1\r\n",
            "\0\0\0\x08",
            "MSSG \x01",
            "PRI * HTTP/2.0\r\n\r\nXX",
        ] {
            check(text.as_bytes(), FirstBytes::Opaque);
        }
        check(&[b'A'; 64], FirstBytes::Opaque);
    }
}
