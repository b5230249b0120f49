//! Receipts: those that one commit writes for a tenant are one row of the log.
//!
//! The key of the row has the position of the last of them, so a range that begins at a position finds the row that has it. A row with one
//! receipt has version 1, as has every row of earlier versions of the store.

use fjall::Slice;

use crate::{
    domain::{DeliveryState, Epoch, EventId, Reason, Timestamp, Told},
    store::{
        Receipt, StoreError,
        codec::{Decoder, Encoder, damaged},
        codes::{reason, reason_code, state, state_code},
    },
};

const ONE: u8 = 1;
const SEVERAL: u8 = 2;

/// A receipt before it has its position.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewReceipt<'a> {
    pub(super) event: EventId,
    pub(super) group: Option<EventId>,
    pub(super) device: &'a str,
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) latency_ms: u64,
    pub(super) attempt: u32,
    pub(super) replaced_by: Option<EventId>,
    pub(super) told: Option<&'a Told>,
}

/// What follows the device in a receipt that is more than that of a first delivery.
const REPLACED: u8 = 1;
const TOLD: u8 = 2;
const GROUP: u8 = 4;

impl NewReceipt<'_> {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut into = Encoder::with_capacity(64);
        into.number(self.at.0)
            .raw(&self.event.0)
            .byte(state_code(self.state))
            .byte(reason_code(self.reason))
            .number(self.epoch.map_or(0, |epoch| epoch.0))
            .number(self.latency_ms)
            .text(self.device);
        if self.attempt != 1 || self.replaced_by.is_some() || self.told.is_some() || self.group.is_some() {
            let flags = self.replaced_by.map_or(0, |_| REPLACED) | self.told.map_or(0, |_| TOLD) | self.group.map_or(0, |_| GROUP);
            into.byte(flags).number(u64::from(self.attempt));
            if let Some(event) = &self.replaced_by {
                into.raw(&event.0);
            }
            if let Some(told) = self.told {
                let json = serde_json::to_string(&told.in_words()).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
                into.text(&json);
            }
            if let Some(group) = &self.group {
                into.raw(&group.0);
            }
        }
        Ok(into.finish())
    }
}

fn decode(position: u64, bytes: &[u8]) -> Result<Receipt, StoreError> {
    let mut from = Decoder::new(bytes, "a receipt");
    let at = Timestamp(from.number()?);
    let mut receipt = Receipt {
        position,
        at,
        event: EventId(from.array()?).to_string(),
        group: None,
        state: state(from.byte()?).ok_or_else(|| from.damaged())?,
        reason: reason(from.byte()?).ok_or_else(|| from.damaged())?,
        session_epoch: Some(Epoch(from.number()?)).filter(|epoch| epoch.0 > 0),
        latency_ms: from.number()?,
        device: from.text()?.to_owned(),
        attempt: 1,
        replaced_by: None,
        told: None,
    };
    if !from.rest().is_empty() {
        let flags = from.byte()?;
        receipt.attempt = from.number32()?;
        receipt.replaced_by = if flags & REPLACED == 0 {
            None
        } else {
            Some(EventId(from.array()?))
        };
        if flags & TOLD != 0 {
            receipt.told = Some(serde_json::from_str(from.text()?).map_err(|_| damaged("a receipt"))?);
        }
        if flags & GROUP != 0 {
            receipt.group = Some(EventId(from.array()?));
        }
    }
    Ok(receipt)
}

/// A row in the making: the bytes of each receipt.
#[derive(Default)]
pub(super) struct Pack(Vec<Vec<u8>>);

impl Pack {
    /// # Errors
    /// `Corrupt`: what the device told is no JSON.
    pub(super) fn push(&mut self, receipt: &NewReceipt<'_>) -> Result<(), StoreError> {
        self.0.push(receipt.encode()?);
        Ok(())
    }

    pub(super) fn finish(self) -> Slice {
        let bytes: usize = self.0.iter().map(|receipt| receipt.len() + 2).sum();
        let mut row = Encoder::with_capacity(bytes + 8);
        if let [only] = self.0.as_slice() {
            row.byte(ONE).raw(only);
        } else {
            row.byte(SEVERAL).number(self.0.len() as u64);
            for receipt in &self.0 {
                row.number(receipt.len() as u64).raw(receipt);
            }
        }
        row.finish().into()
    }
}

/// The receipts of a row, in order.
pub(super) struct Packed<'a> {
    left: Decoder<'a>,
    several: bool,
    next: u64,
    last: u64,
}

impl<'a> Packed<'a> {
    /// Of the row whose key has the position `last`.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn of(last: u64, row: &'a [u8]) -> Result<Self, StoreError> {
        let mut left = Decoder::new(row, "a row of receipts");
        let (several, count) = match left.byte()? {
            ONE => (false, 1),
            SEVERAL => (true, left.number()?),
            _ => return Err(left.damaged()),
        };
        let next = last.checked_sub(count).ok_or_else(|| left.damaged())? + 1;
        Ok(Self { left, several, next, last })
    }

    /// The position of the first that is left.
    pub(super) fn first(&self) -> u64 {
        self.next
    }

    fn take(&mut self) -> Result<Option<(u64, &'a [u8])>, StoreError> {
        if self.next > self.last {
            return Ok(None);
        }
        let length = if self.several {
            usize::try_from(self.left.number()?).map_err(|_| self.left.damaged())?
        } else {
            self.left.rest().len()
        };
        let bytes = self.left.raw(length)?;
        self.next += 1;
        Ok(Some((self.next - 1, bytes)))
    }

    /// Adds those behind `after` to `found`, until it has `limit`.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn add_to(mut self, found: &mut Vec<Receipt>, after: u64, limit: usize) -> Result<(), StoreError> {
        while found.len() < limit
            && let Some((position, bytes)) = self.take()?
        {
            if position > after {
                found.push(decode(position, bytes)?);
            }
        }
        Ok(())
    }

    /// When the last of them was written.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn written_at(mut self) -> Result<Timestamp, StoreError> {
        let mut last = None;
        while let Some((_, bytes)) = self.take()? {
            last = Some(bytes);
        }
        let last = last.ok_or_else(|| self.left.damaged())?;
        Ok(Timestamp(Decoder::new(last, "a receipt").number()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> NewReceipt<'static> {
        NewReceipt {
            event: EventId([3; 20]),
            group: None,
            device: "tsn-1",
            state: DeliveryState::Delivered,
            reason: None,
            at: Timestamp(7),
            epoch: Some(Epoch(9)),
            latency_ms: 2,
            attempt: 1,
            replaced_by: None,
            told: None,
        }
    }

    fn row(receipts: &[NewReceipt<'_>]) -> Slice {
        let mut pack = Pack::default();
        for receipt in receipts {
            pack.push(receipt).unwrap();
        }
        pack.finish()
    }

    fn all(last: u64, row: &[u8], after: u64, limit: usize) -> Vec<Receipt> {
        let mut found = Vec::new();
        Packed::of(last, row).unwrap().add_to(&mut found, after, limit).unwrap();
        found
    }

    #[test]
    fn a_receipt_comes_back_and_a_plain_one_is_short() {
        let told = Told {
            status: crate::domain::Status::Failed,
            retry: None,
            code: Some("disk-full".into()),
            text: Some("no room".into()),
            data: Some(serde_json::json!({"free": 0})),
        };
        let rich = NewReceipt {
            group: Some(EventId([5; 20])),
            attempt: 3,
            replaced_by: Some(EventId([4; 20])),
            told: Some(&told),
            ..plain()
        };
        let bytes = row(&[plain()]);
        assert_eq!(bytes.len(), 32);
        let back = all(5, &bytes, 0, 10).remove(0);
        assert_eq!((back.attempt, back.replaced_by, &back.told), (1, None, &None));
        let back = all(5, &row(&[rich]), 0, 10).remove(0);
        assert_eq!((back.attempt, back.replaced_by), (3, Some(EventId([4; 20]))));
        assert_eq!(back.told, Some(told.in_words()), "its JSON stays with the delivery");
        assert_eq!(
            (back.position, back.device.as_str(), back.session_epoch),
            (5, "tsn-1", Some(Epoch(9)))
        );
    }

    #[test]
    fn those_of_one_commit_are_one_row_and_each_keeps_its_position() {
        let later = NewReceipt {
            at: Timestamp(8),
            device: "tsn-2",
            ..plain()
        };
        let bytes = row(&[plain(), later, plain()]);
        let packed = Packed::of(12, &bytes).unwrap();
        assert_eq!(packed.first(), 10);
        let found = |after, limit| all(12, &bytes, after, limit).iter().map(|r| r.position).collect::<Vec<_>>();
        assert_eq!(found(0, 10), [10, 11, 12]);
        assert_eq!(found(10, 1), [11]);
        assert_eq!(found(11, 10), [12]);
        assert_eq!(all(12, &bytes, 10, 1)[0].device, "tsn-2");
        assert_eq!(Packed::of(12, &row(&[plain(), later])).unwrap().written_at().unwrap(), Timestamp(8));
        for cut in 0..bytes.len() {
            let mut found = Vec::new();
            let read = Packed::of(12, &bytes[..cut]).and_then(|packed| packed.add_to(&mut found, 0, 10));
            assert!(read.is_err(), "cut at {cut}");
        }
        assert!(Packed::of(1, &bytes).is_err(), "more receipts than positions");
    }
}
