//! Compact binary: how records are put into bytes and taken out again.

use std::sync::Arc;

use crate::store::StoreError;

/// Writes fields one after the other.
#[derive(Default)]
pub(in crate::store) struct Encoder(Vec<u8>);

impl Encoder {
    pub(in crate::store) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(in crate::store) fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    pub(in crate::store) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// LEB128: one byte for each 7 bits.
    pub(in crate::store) fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    pub(in crate::store) fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).raw(text.as_bytes())
    }

    pub(in crate::store) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes fields out of bytes that come from the disk: every step is checked.
pub(in crate::store) struct Decoder<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Decoder<'a> {
    /// `what` names the record in errors.
    pub(in crate::store) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(in crate::store) fn damaged(&self) -> StoreError {
        damaged(self.what)
    }

    pub(in crate::store) fn byte(&mut self) -> Result<u8, StoreError> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(|| damaged(self.what))?;
        self.rest = rest;
        Ok(byte)
    }

    pub(in crate::store) fn raw(&mut self, length: usize) -> Result<&'a [u8], StoreError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(|| damaged(self.what))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(in crate::store) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| damaged(self.what))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(in crate::store) fn number(&mut self) -> Result<u64, StoreError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.damaged())
    }

    pub(in crate::store) fn number32(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.number()?).map_err(|_| self.damaged())
    }

    pub(in crate::store) fn text(&mut self) -> Result<&'a str, StoreError> {
        let length = usize::try_from(self.number()?).map_err(|_| self.damaged())?;
        let bytes = self.raw(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged())
    }

    /// Refuses a record of a later format.
    pub(in crate::store) fn version(&mut self, known: u8) -> Result<(), StoreError> {
        if self.byte()? == known { Ok(()) } else { Err(self.damaged()) }
    }

    pub(in crate::store) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// The error for a record that cannot be read.
pub(in crate::store) fn damaged(what: &'static str) -> StoreError {
    StoreError::Corrupt(Arc::from(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut encoder = Encoder::default();
            encoder.number(number);
            let bytes = encoder.finish();
            assert_eq!(Decoder::new(&bytes, "number").number().unwrap(), number);
            assert!(Decoder::new(&bytes[..bytes.len() - 1], "number").number().is_err());
        }
    }

    #[test]
    fn a_text_longer_than_its_record_is_an_error() {
        let mut encoder = Encoder::default();
        encoder.number(9).raw(b"short");
        assert!(matches!(
            Decoder::new(&encoder.finish(), "text").text(),
            Err(StoreError::Corrupt(_))
        ));
    }
}
