//! Headers by table, in pieces, and spoilt.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, duplex};
use tokio::time::Instant;

use super::{Beginning, HeaderError, SIGNATURE, parse, read_header};
use crate::error::FailureReason;
use crate::http1::ReadBuffer;

/// A header of version 2.
fn version2(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("short").to_be_bytes();
    [&SIGNATURE[..], &[command, kind], &length, block].concat()
}

/// 192.0.2.1:56324 to 198.51.100.1:443.
const OF_IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

/// 2001:db8::1 to 2001:db8::2, the same ports.
fn of_ipv6() -> Vec<u8> {
    let address = |last| [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[last]].concat();
    [address(1), address(2), vec![0xdc, 0x04, 0x01, 0xbb]].concat()
}

/// Addresses of IPv4 and extensions: a name, padding, and the checksum of the whole.
fn with_extensions() -> Vec<u8> {
    let extensions = [&[2, 0, 4][..], b"shop", &[4, 0, 0], &[3, 0, 4, 0xa2, 0x77, 0x5c, 0x1a], &[4, 0, 1, 9]];
    version2(0x21, 0x11, &[&OF_IPV4[..], &extensions.concat()].concat())
}

#[track_caller]
fn check(bytes: &[u8], client: Option<&str>) {
    let client = client.map(|client| client.parse::<SocketAddr>().expect("an address"));
    let header = Ok(Beginning::Header { length: bytes.len(), client });
    assert_eq!(parse(bytes), header, "{:?}", bytes.escape_ascii().to_string());
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]), Ok(Beginning::Incomplete), "{end} bytes");
    }
    for behind in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY UNKNOWN\r\n", &[22, 3, 1], b"\n"] {
        assert_eq!(parse(&[bytes, behind].concat()), header, "before {behind:?}");
    }
}

#[track_caller]
fn check_wrong(bytes: &[u8], error: HeaderError) {
    assert_eq!(parse(bytes), Err(error), "{:?}", bytes.escape_ascii().to_string());
}

#[test]
fn a_line_says_whose_the_connection_is() {
    check(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some("192.0.2.1:56324"));
    check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535"));
    check(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0:0"));
    check(b"PROXY TCP6 2001:db8::1 2001:DB8::2 56324 443\r\n", Some("[2001:db8::1]:56324"));
    check(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 443\r\n", Some("192.0.2.1:56324"));
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
    check(line.as_bytes(), Some(&format!("[{longest}]:65535")));
}

#[test]
fn an_unknown_connection_is_its_openers() {
    check(b"PROXY UNKNOWN\r\n", None);
    check(b"PROXY UNKNOWN \xff whatever it may be\r\n", None);
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!(line.len(), 107);
    check(line.as_bytes(), None);
}

#[test]
fn a_line_is_exactly_as_it_has_to_be() {
    let line = |text: &str| format!("PROXY {text}\r\n").into_bytes();
    for text in [
        "TCP4 192.0.2.1 198.51.100.1 56324",
        "TCP4 192.0.2.1 198.51.100.1 56324 443 ",
        "TCP4 192.0.2.1 198.51.100.1 56324 443 1",
        "TCP4",
    ] {
        check_wrong(&line(text), HeaderError::Line);
    }
    for text in [
        "TCP4  192.0.2.1 198.51.100.1 56324",
        "TCP4  192.0.2.1 198.51.100.1 56324 443",
        "TCP4 192.0.2.01 198.51.100.1 56324 443",
        "TCP4 192.0.2.1 198.51.100.256 56324 443",
        "TCP4 192.0.2.1 2001:db8::1 56324 443",
        "TCP6 192.0.2.1 198.51.100.1 56324 443",
        "TCP6 [2001:db8::1] [2001:db8::2] 56324 443",
        "TCP6 fe80::1%eth0 fe80::2 56324 443",
        "TCP4 192.0.2.1 198.51.100.1 65536 443",
        "TCP4 192.0.2.1 198.51.100.1 056324 443",
        "TCP4 192.0.2.1 198.51.100.1 +1 443",
        "TCP4 192.0.2.1 198.51.100.1 1 ",
        "TCP4 192.0.2.1 198.51.100.1 1 00",
    ] {
        let error = parse(&line(text)).expect_err(text);
        assert!(matches!(error, HeaderError::Address | HeaderError::Line), "{text}: {error:?}");
    }
    for text in
        ["TCP5 192.0.2.1 198.51.100.1 1 2", "tcp4 192.0.2.1 198.51.100.1 1 2", "UDP4 1 2 3 4", " TCP4", ""]
    {
        check_wrong(&line(text), HeaderError::Kind);
    }
    check_wrong(b"PROXY UNKNOWN\n", HeaderError::Line);
    check_wrong(b"PROXY UNKNOWN\rX", HeaderError::Line);
    check_wrong(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\nGET / HTTP/1.1\r\n", HeaderError::Line);
    check_wrong(b"PROXY TCP4 \xff 198.51.100.1 56324 443\r\n", HeaderError::Line);
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    assert_eq!(parse(&endless[..106]), Ok(Beginning::Incomplete));
    check_wrong(&endless[..107], HeaderError::TooLong);
    check_wrong(&[&endless[..106], b"\r\n"].concat(), HeaderError::TooLong);
}

#[test]
fn what_begins_otherwise_has_no_header() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"proxy TCP4",
        b"PROXY\tTCP4",
        b"PROXX",
        b" PROXY UNKNOWN\r\n",
        &[22, 3, 1, 0, 5],
        b"\r\nPROXY",
        b"\r\n\r\n\0\r\nQUIX",
        b"\0",
    ] {
        check_wrong(bytes, HeaderError::Missing);
    }
}

#[test]
fn a_block_says_whose_the_connection_is() {
    check(&version2(0x21, 0x11, &OF_IPV4), Some("192.0.2.1:56324"));
    check(&version2(0x21, 0x21, &of_ipv6()), Some("[2001:db8::1]:56324"));
    let mapped = [&[0; 10][..], &[255, 255, 192, 0, 2, 1], &[0; 16], &[0xdc, 0x04, 0, 0]].concat();
    check(&version2(0x21, 0x21, &mapped), Some("192.0.2.1:56324"));
    check(&with_extensions(), Some("192.0.2.1:56324"));
}

#[test]
fn what_is_local_or_of_no_tcp_is_its_openers() {
    // Whatever is in the block of a command LOCAL, its family included, is passed over.
    for (kind, block) in [(0x00, &[][..]), (0x11, &OF_IPV4), (0x11, &[1, 2, 3]), (0xff, &[3, 0, 4])] {
        check(&version2(0x20, kind, block), None);
    }
    for kind in [0x00, 0x01, 0x10, 0x12, 0x22, 0x31, 0x32] {
        check(&version2(0x21, kind, &OF_IPV4), None);
    }
}

#[test]
fn a_block_is_exactly_as_it_has_to_be() {
    check_wrong(&version2(0x11, 0x11, &OF_IPV4), HeaderError::Version);
    check_wrong(&[&SIGNATURE[..], &[0x31]].concat(), HeaderError::Version);
    for (command, kind) in [(0x22, 0x11), (0x2f, 0x00), (0x21, 0x41), (0x21, 0x13), (0x21, 0xf0)] {
        check_wrong(&version2(command, kind, &OF_IPV4), HeaderError::Kind);
    }
    check_wrong(&version2(0x21, 0x11, &OF_IPV4[..11]), HeaderError::Length);
    for end in [0, 15, 16, 31, 32, 35] {
        check_wrong(&version2(0x21, 0x21, &of_ipv6()[..end]), HeaderError::Length);
    }
    for extensions in [&[2][..], &[2, 0], &[2, 0, 1], &[2, 255, 255, 0], &[4, 0, 0, 2, 0]] {
        let block = [&OF_IPV4[..], extensions].concat();
        check_wrong(&version2(0x21, 0x11, &block), HeaderError::Length);
    }
    let long = u16::try_from(16 * 1024 - 15).expect("short").to_be_bytes();
    check_wrong(&[&SIGNATURE[..], &[0x21, 0x11], &long].concat(), HeaderError::TooLong);
}

#[test]
fn a_checksum_that_is_there_is_checked() {
    let good = with_extensions();
    // Where the checksum is said to be one: without that there is none.
    let kind = good.len() - 11;
    assert_eq!(good[kind], 3);
    for place in (16..good.len()).filter(|place| *place != kind) {
        let mut spoilt = good.clone();
        spoilt[place] ^= 0x10;
        assert!(parse(&spoilt).is_err(), "the byte at {place}");
    }
    for checksum in [&[3, 0, 3, 1, 2, 3][..], &[3, 0, 0], &[3, 0, 5, 1, 2, 3, 4, 5]] {
        let block = [&OF_IPV4[..], checksum].concat();
        check_wrong(&version2(0x21, 0x11, &block), HeaderError::Checksum);
    }
}

/// Bytes that are different each time, and the same in each run (SplitMix64).
struct Bytes(u64);

impl Bytes {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((number ^ (number >> 31)) >> 33).expect("31 bits") % below
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next(256)).expect("below 256")
    }
}

/// Whatever comes, it does not panic, and what was said of the first bytes stays true whatever comes after them.
#[test]
fn more_bytes_never_change_what_was_said() {
    let headers = [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n\r\n".to_vec(),
        b"PROXY UNKNOWN and more\r\n".to_vec(),
        [version2(0x21, 0x21, &of_ipv6()), b"GET".to_vec()].concat(),
        with_extensions(),
        version2(0x20, 0, &[1; 40]),
    ];
    let mut bytes = Bytes(7);
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut text = headers[bytes.next(headers.len())].clone();
        for _ in 0..bytes.next(4) {
            if text.is_empty() {
                break;
            }
            let place = bytes.next(text.len());
            match bytes.next(4) {
                0 => drop(text.remove(place)),
                1 => text.insert(place, bytes.byte()),
                2 => text.truncate(place + 1),
                _ => text[place] = bytes.byte(),
            }
        }
        let whole = parse(&text);
        if let Ok(Beginning::Header { length, .. }) = whole {
            assert!(length <= text.len());
            taken += 1;
        }
        for end in 0..text.len() {
            match parse(&text[..end]) {
                Ok(Beginning::Incomplete) => {}
                Ok(header) => assert_eq!(Ok(header), whole, "{end} of {text:?}"),
                Err(_) => assert!(whole.is_err(), "{end} of {text:?}"),
            }
        }
    }
    assert!((4_000..16_000).contains(&taken), "{taken} of 20000 were headers");
    for _ in 0..20_000 {
        let length = bytes.next(64);
        let text: Vec<u8> = (0..length).map(|_| bytes.byte()).collect();
        let _ = parse(&text);
        let _ = parse(&[&SIGNATURE[..], &text].concat());
        let _ = parse(&[&b"PROXY "[..], &text].concat());
    }
}

/// What is read of a connection on which `pieces` come one after the other.
async fn read(pieces: &[&[u8]]) -> (Result<Option<SocketAddr>, (FailureReason, String)>, Vec<u8>) {
    let (mut client, mut stream) = duplex(16);
    let mut buffer = ReadBuffer::default();
    let write = async {
        for piece in pieces {
            client.write_all(piece).await.expect("the other end is there");
            tokio::task::yield_now().await;
        }
        client
    };
    let reading = read_header((&mut stream, &mut buffer), Instant::now() + Duration::from_secs(10));
    let (outcome, client) = tokio::join!(reading, write);
    drop(client);
    (outcome, buffer.unread().to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_header_may_come_in_pieces_and_what_comes_after_it_is_left() {
    let address = Ok(Some("192.0.2.1:56324".parse().expect("an address")));
    for header in [b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(), with_extensions()] {
        for size in [1, 2, 5, 13, 100] {
            let mut pieces: Vec<&[u8]> = header.chunks(size).collect();
            assert_eq!(read(&pieces).await, (address.clone(), Vec::new()), "pieces of {size}");
            let together = [pieces.pop().expect("a piece"), &b"GET"[..]].concat();
            pieces.push(&together);
            let (outcome, left) = read(&pieces).await;
            assert!(outcome == address && b"GET".starts_with(&left), "{outcome:?} {left:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_header_is_waited_for_for_ever() {
    let (outcome, _) = read(&[b"PROXY TCP4 192.0.2.1"]).await;
    let (reason, error) = outcome.expect_err("it is not whole");
    assert_eq!(reason, FailureReason::MalformedProxyHeader);
    assert!(error.contains("in time"), "{error}");
    let (outcome, _) = read(&[]).await;
    assert_eq!(outcome.expect_err("nothing has come").0, FailureReason::MalformedProxyHeader);
}

#[tokio::test(start_paused = true)]
async fn an_end_within_the_header_is_told_from_one_before_it() {
    for (said, reason) in
        [(&b"PROXY TCP4"[..], FailureReason::MalformedProxyHeader), (&b""[..], FailureReason::ClientClosed)]
    {
        let (mut client, mut stream) = duplex(64);
        client.write_all(said).await.expect("the other end is there");
        drop(client);
        let mut buffer = ReadBuffer::default();
        let outcome = read_header((&mut stream, &mut buffer), Instant::now() + Duration::from_secs(10)).await;
        assert_eq!(outcome.expect_err("it has ended").0, reason, "{said:?}");
    }
}
