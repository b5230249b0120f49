//! Reading what Redis answers: every step is checked.

use redis::Value;

use crate::store::{StoreError, codec::damaged};

/// Names and values, or fields and records.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The parts of an answer, one after the other.
pub(super) struct Reply {
    parts: std::vec::IntoIter<Value>,
    what: &'static str,
}

impl Reply {
    /// `what` names the answer in errors.
    pub(super) fn new(value: Value, what: &'static str) -> Result<Self, StoreError> {
        match value {
            Value::Array(parts) => Ok(Self {
                parts: parts.into_iter(),
                what,
            }),
            _ => Err(damaged(what)),
        }
    }

    pub(super) fn next(&mut self) -> Result<Value, StoreError> {
        self.parts.next().ok_or_else(|| damaged(self.what))
    }

    pub(super) fn int(&mut self) -> Result<i64, StoreError> {
        let what = self.what;
        int(&self.next()?).ok_or_else(|| damaged(what))
    }

    pub(super) fn count(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.int()?).map_err(|_| damaged(self.what))
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        let what = self.what;
        bytes(self.next()?).ok_or_else(|| damaged(what))
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        let what = self.what;
        String::from_utf8(self.bytes()?).map_err(|_| damaged(what))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let what = self.what;
        self.bytes()?.try_into().map_err(|_| damaged(what))
    }

    /// The rest, in pairs.
    pub(super) fn pairs(mut self) -> Result<Pairs, StoreError> {
        let mut pairs = Vec::with_capacity(self.parts.len() / 2);
        while self.parts.len() > 0 {
            pairs.push((self.bytes()?, self.bytes()?));
        }
        Ok(pairs)
    }

    /// The rest, in rows of so many parts.
    pub(super) fn rows<const N: usize>(mut self) -> Result<Vec<[Vec<u8>; N]>, StoreError> {
        let mut rows = Vec::with_capacity(self.parts.len() / N);
        while self.parts.len() > 0 {
            let mut row = [const { Vec::new() }; N];
            for part in &mut row {
                *part = self.bytes()?;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    pub(super) fn damaged(&self) -> StoreError {
        damaged(self.what)
    }
}

/// An answer that is one text: its parts have fixed places, because a script makes one text sooner than a list.
pub(super) struct Packed<'a> {
    left: &'a [u8],
    what: &'static str,
}

impl<'a> Packed<'a> {
    /// `what` names the answer in errors.
    pub(super) fn new(value: &'a Value, what: &'static str) -> Result<Self, StoreError> {
        match value {
            Value::BulkString(left) => Ok(Self { left, what }),
            _ => Err(damaged(what)),
        }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, left) = self.left.split_at_checked(count).ok_or_else(|| damaged(self.what))?;
        self.left = left;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, StoreError> {
        let what = self.what;
        self.bytes(1)?.first().copied().ok_or_else(|| damaged(what))
    }

    pub(super) fn u32(&mut self) -> Result<u32, StoreError> {
        let what = self.what;
        let bytes = self.bytes(4)?.try_into().map_err(|_| damaged(what))?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn u48(&mut self) -> Result<u64, StoreError> {
        let what = self.what;
        u48(self.bytes(6)?).ok_or_else(|| damaged(what))
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.left
    }

    pub(super) fn damaged(&self) -> StoreError {
        damaged(self.what)
    }
}

/// A text or bytes; `None` for nothing.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        Value::Okay => Some(b"OK".to_vec()),
        _ => None,
    }
}

/// A whole number, as such or as its text.
pub(super) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Value::Boolean(truth) => Some(i64::from(*truth)),
        Value::Nil => None,
        _ => None,
    }
}

/// Pairs of a hash.
pub(super) fn hash(value: Value, what: &'static str) -> Result<Pairs, StoreError> {
    match value {
        Value::Map(pairs) => pairs
            .into_iter()
            .map(|(name, value)| Some((bytes(name)?, bytes(value)?)))
            .collect::<Option<_>>()
            .ok_or_else(|| damaged(what)),
        Value::Nil => Ok(Vec::new()),
        other => Reply::new(other, what)?.pairs(),
    }
}

/// A number of 48 bits.
pub(super) fn u48(bytes: &[u8]) -> Option<u64> {
    let mut wide = [0; 8];
    wide[2..].copy_from_slice(bytes.get(..6)?);
    Some(u64::from_be_bytes(wide))
}

/// Six bytes of a number below 2^48; a larger one is the largest.
pub(super) fn p48(number: u64) -> [u8; 6] {
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&number.min((1 << 48) - 1).to_be_bytes()[2..]);
    bytes
}
