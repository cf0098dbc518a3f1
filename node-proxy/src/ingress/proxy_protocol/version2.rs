//! Version 2: a block of bytes (section 2.2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Beginning, HeaderError, canonical};

/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;
/// The longest header that is waited for. Its length field allows four times as much, and load balancers say some hundred
/// bytes, unless they add their client's certificate.
const LONGEST: usize = 16 * 1024;
/// `PP2_TYPE_CRC32C`, the only extension that is looked at.
const CHECKSUM: u8 = 3;

/// Reads a header that has begun with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Beginning, HeaderError> {
    let Some([_, _, _, _, _, _, _, _, _, _, _, _, command, kind, high, low]) = bytes.first_chunk::<FIXED>()
    else {
        // Whoever speaks another version is told so by its first byte.
        return match bytes.get(12) {
            Some(byte) if byte >> 4 != 2 => Err(HeaderError::Version),
            _ => Ok(Beginning::Incomplete),
        };
    };
    if command >> 4 != 2 {
        return Err(HeaderError::Version);
    }
    let length = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST {
        return Err(HeaderError::TooLong);
    }
    let is_local = match command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(HeaderError::Kind),
    };
    // "Other values ... must be rejected as invalid by receivers."
    if !is_local && (kind >> 4 > 3 || kind & 0xf > 2) {
        return Err(HeaderError::Kind);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Beginning::Incomplete) };
    let block = &header[FIXED..];
    // What is of no TCP has no address that is one here: "the receiver should ignore address information".
    let (client, rest) = match kind {
        _ if is_local => (None, None),
        0x11 => {
            let ([a, b, c, d, _, _, _, _, high, low, _, _], rest) =
                block.split_first_chunk::<12>().ok_or(HeaderError::Length)?;
            let port = u16::from_be_bytes([*high, *low]);
            (Some(SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), port)), Some(rest))
        }
        0x21 => {
            let (source, rest) = block.split_first_chunk::<16>().ok_or(HeaderError::Length)?;
            let (_destination, rest) = rest.split_first_chunk::<16>().ok_or(HeaderError::Length)?;
            let ([high, low, _, _], rest) = rest.split_first_chunk::<4>().ok_or(HeaderError::Length)?;
            let port = u16::from_be_bytes([*high, *low]);
            (Some(SocketAddr::new(Ipv6Addr::from(*source).into(), port)), Some(rest))
        }
        _ => (None, None),
    };
    if let Some(rest) = rest {
        check_extensions(header, length - rest.len())?;
    }
    Ok(Beginning::Header { length, client: client.map(canonical) })
}

/// Goes through the extensions (TLVs), which begin at `at` and fill the rest of the header.
fn check_extensions(header: &[u8], mut at: usize) -> Result<(), HeaderError> {
    let mut has_checksum = false;
    while let Some((kind, behind)) = header.get(at..).and_then(<[u8]>::split_first) {
        let ([high, low], values) = behind.split_first_chunk().ok_or(HeaderError::Length)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = values.get(..length).ok_or(HeaderError::Length)?;
        let place = at + 3;
        if *kind == CHECKSUM {
            let said = value.try_into().map(u32::from_be_bytes).map_err(|_| HeaderError::Checksum)?;
            // Its own place counts as zeros.
            let counted = header[..place].iter().chain(&[0; 4]).chain(&header[place + 4..]);
            if has_checksum || said != crc32c(counted) {
                return Err(HeaderError::Checksum);
            }
            has_checksum = true;
        }
        at = place + length;
    }
    Ok(())
}

/// The checksum of bytes (CRC32C, RFC 9260 appendix A).
fn crc32c<'b>(bytes: impl Iterator<Item = &'b u8>) -> u32 {
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let carry = if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
            (sum >> 1) ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// The check value of CRC-32C, and what RFC 3720 appendix B.4 has.
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789".iter()), 0xE306_9283);
        assert_eq!(crc32c([0; 32].iter()), 0x8A91_36AA);
        assert_eq!(crc32c([255; 32].iter()), 0x62A8_AB43);
    }
}
