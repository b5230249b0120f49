//! One header of the PROXY protocol, version 2: bytes in, the client's address out. Pure.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length of the rest.
pub(super) const PREFIX_BYTES: usize = 16;
/// The longest rest that is read. Addresses take 216 bytes at most; the rest are TLVs, of which the largest known one names a
/// client certificate's subject.
const REST_MAX: usize = 4 * 1024;
/// The checksum's TLV (§2.2.4).
const PP2_TYPE_CRC32C: u8 = 0x03;

/// Why it is no header that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else than a header.
    #[error("it does not begin with the signature of version 2")]
    Signature,
    /// Another version, or a command that this one does not know.
    #[error("version and command are {0:#04x}; 0x20 and 0x21 are known")]
    Version(u8),
    /// A family or a protocol that is not one of a TCP connection.
    #[error("family and protocol are {0:#04x}, which is no stream")]
    Family(u8),
    /// More than a header needs.
    #[error("it says that {0} bytes follow; at most {REST_MAX} are read")]
    Long(usize),
    /// Addresses or TLVs that end behind the header.
    #[error("its parts do not fit its length")]
    Length,
    /// The checksum is wrong.
    #[error("its checksum (CRC-32C) is wrong")]
    Checksum,
}

/// The fixed part of a header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    rest: usize,
    address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    /// `LOCAL`: the balancer speaks for itself, such as for a health check. Whatever follows is not looked at.
    Local,
    /// Another than of a TCP connection over IP (unspecified, or a Unix socket), of so many bytes.
    Other(usize),
    V4,
    V6,
}

impl Address {
    fn bytes(self) -> usize {
        match self {
            Self::Local => 0,
            Self::Other(bytes) => bytes,
            Self::V4 => 12,
            Self::V6 => 36,
        }
    }
}

impl Prefix {
    /// Reads the first bytes of a connection; `None` when more are needed.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        if bytes.iter().zip(SIGNATURE).any(|(byte, expected)| *byte != expected) {
            return Err(HeaderError::Signature);
        }
        let Some(&[version, family, high, low]) = bytes.get(SIGNATURE.len()..PREFIX_BYTES) else {
            return Ok(None);
        };
        let rest = usize::from(u16::from_be_bytes([high, low]));
        if rest > REST_MAX {
            return Err(HeaderError::Long(rest));
        }
        let address = match (version, family) {
            (0x20, _) => Address::Local,
            (0x21, 0x00) => Address::Other(0),
            (0x21, 0x11) => Address::V4,
            (0x21, 0x21) => Address::V6,
            (0x21, 0x31) => Address::Other(216),
            (0x21, family) => return Err(HeaderError::Family(family)),
            (version, _) => return Err(HeaderError::Version(version)),
        };
        if rest < address.bytes() {
            return Err(HeaderError::Length);
        }
        Ok(Some(Self { rest, address }))
    }

    /// How many bytes follow the fixed part.
    pub(super) fn rest(&self) -> usize {
        self.rest
    }

    /// The client that the whole header names; `None` when it names none, and the balancer itself is meant.
    pub(super) fn client(&self, header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
        if self.address == Address::Local {
            return Ok(None);
        }
        let tlvs = PREFIX_BYTES + self.address.bytes();
        let end = PREFIX_BYTES + self.rest;
        check(header.get(..end).ok_or(HeaderError::Length)?, tlvs)?;
        let mut fields = Fields(header.get(PREFIX_BYTES..end).ok_or(HeaderError::Length)?);
        match self.address {
            Address::Local | Address::Other(_) => Ok(None),
            Address::V4 => {
                let (source, _) = (Ipv4Addr::from(fields.take::<4>()?), fields.take::<4>()?);
                Ok(Some(SocketAddr::from((source, u16::from_be_bytes(fields.take()?)))))
            }
            Address::V6 => {
                let (source, _) = (Ipv6Addr::from(fields.take::<16>()?), fields.take::<16>()?);
                Ok(Some(SocketAddr::from((source, u16::from_be_bytes(fields.take()?)))))
            }
        }
    }
}

/// Walks the TLVs from `at` to the end, and checks the checksum if one is there: of the whole header, its own four bytes zero.
fn check(header: &[u8], mut at: usize) -> Result<(), HeaderError> {
    while at < header.len() {
        let mut fields = Fields(header.get(at..).ok_or(HeaderError::Length)?);
        let [kind] = fields.take()?;
        let length = usize::from(u16::from_be_bytes(fields.take()?));
        let value = at + 3;
        let found = header.get(value..value + length).ok_or(HeaderError::Length)?;
        if kind == PP2_TYPE_CRC32C {
            let expected: [u8; 4] = found.try_into().map_err(|_| HeaderError::Length)?;
            let sum = crc32c::crc32c(header.get(..value).unwrap_or_default());
            let sum = crc32c::crc32c_append(sum, &[0; 4]);
            let sum = crc32c::crc32c_append(sum, header.get(value + 4..).unwrap_or_default());
            if sum != u32::from_be_bytes(expected) {
                return Err(HeaderError::Checksum);
            }
        }
        at = value + length;
    }
    Ok(())
}

/// Fields of fixed size, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(HeaderError::Length)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with that rest.
    pub fn header(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[version, family], &length, rest].concat()
    }

    fn read(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
        match Prefix::read(header)? {
            Some(prefix) => prefix.client(header),
            None => Ok(None),
        }
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x14, 0x66];

    fn v6() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        [source.octets().as_slice(), &[0; 15], &[1, 0x30, 0x39, 0x14, 0x66]].concat()
    }

    fn with(address: &[u8], tlvs: &[u8]) -> Vec<u8> {
        [address, tlvs].concat()
    }

    #[test]
    fn a_header_names_the_client_or_nobody_or_is_refused() {
        let check = |version, family, rest: &[u8], expected: Result<Option<&str>, HeaderError>| {
            let expected = expected.map(|address| address.map(|text| text.parse().unwrap()));
            assert_eq!(read(&header(version, family, rest)), expected, "{version:#x} {family:#x} {rest:?}");
        };
        check(0x21, 0x11, &V4, Ok(Some("192.0.2.7:12345")));
        check(0x21, 0x21, &v6(), Ok(Some("[2001:db8::7]:12345")));
        check(0x21, 0x00, &[], Ok(None));
        check(0x21, 0x31, &[0; 216], Ok(None));
        // LOCAL: whatever follows is skipped, its family too (§2.2).
        check(0x20, 0x00, &[], Ok(None));
        check(0x20, 0x11, &V4, Ok(None));
        check(0x20, 0x77, &[1, 2, 3], Ok(None));
        // TLVs are skipped: an authority, and an empty one.
        check(0x21, 0x11, &with(&V4, b"\x02\0\x03abc\x04\0\0"), Ok(Some("192.0.2.7:12345")));
        check(0x21, 0x11, &with(&V4, b"\x02\0\x04abc"), Err(HeaderError::Length));
        check(0x21, 0x11, &with(&V4, b"\x02"), Err(HeaderError::Length));
        check(0x21, 0x11, &V4[..11], Err(HeaderError::Length));
        check(0x21, 0x21, &V4, Err(HeaderError::Length));
        check(0x21, 0x12, &V4, Err(HeaderError::Family(0x12)));
        check(0x21, 0x41, &V4, Err(HeaderError::Family(0x41)));
        check(0x22, 0x11, &V4, Err(HeaderError::Version(0x22)));
        check(0x11, 0x11, &V4, Err(HeaderError::Version(0x11)));
        check(0x21, 0x11, &with(&V4, &[0; REST_MAX]), Err(HeaderError::Long(REST_MAX + 12)));
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 5222\r\n"), Err(HeaderError::Signature));
    }

    #[test]
    fn a_checksum_that_is_there_must_be_right() {
        let mut bytes = header(0x21, 0x11, &with(&V4, b"\x03\0\x04\0\0\0\0\x04\0\x01x"));
        let at = PREFIX_BYTES + 12 + 3;
        let sum = crc32c::crc32c(&bytes);
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        assert!(read(&bytes).unwrap().is_some());
        // Without its kind it is no checksum.
        for place in (0..bytes.len()).filter(|place| *place != at - 3) {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_ne!(read(&changed), read(&bytes), "byte {place}");
        }
        let short = header(0x21, 0x11, &with(&V4, b"\x03\0\x02\0\0"));
        assert_eq!(read(&short), Err(HeaderError::Length));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(version in 0x1f_u8..0x23, family: u8, rest in prop::collection::vec(any::<u8>(), 0..300), cut: usize) {
            let bytes = header(version, family, &rest);
            let _ = read(&bytes[..cut % (bytes.len() + 1)]);
            let mut open = header(0x21, 0x11, &rest);
            let _ = read(&open);
            open.extend(&rest);
            let _ = read(&open);
        }

        #[test]
        fn the_address_is_the_one_that_was_written(address: [u8; 4], port: u16, tlv in prop::collection::vec(any::<u8>(), 0..100)) {
            let length = u16::try_from(tlv.len()).unwrap().to_be_bytes();
            let rest = [&address, &[127, 0, 0, 1], port.to_be_bytes().as_slice(), &[0, 1, 0xea], &length, &tlv].concat();
            prop_assert_eq!(read(&header(0x21, 0x11, &rest)), Ok(Some(SocketAddr::from((address, port)))));
        }
    }
}
