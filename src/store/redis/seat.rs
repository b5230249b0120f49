//! The seat record of a device: its last numbers, and who holds its seat. Scripts read and write it; here it is only read.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | version, 1 |
//! | 1..7 | last storage number |
//! | 7..31 | last number of each lane, in the order of `Urgency::ALL` |
//! | 31..37 | last epoch |
//! | 37..43 | last stored proof of life |
//! | 43..49 | when housekeeping looks next; 0: never |
//! | 49..51 | events that wait for the next session |
//! | 51..57 | last number of the lane of events with a TTL of 0 |
//! | 57..61 | the device's ordinal, once an event was stored for it; 0: its row tells whether there is such a device |
//! | 61.. | while the seat is held: node 2, incarnation 4, transport 1, session 16, claimed at 6; `L` when it was lost with its node |
//!
//! Numbers of six bytes are big-endian; times are milliseconds.

use std::sync::Arc;

use super::reply::{p48, u48};
use crate::{
    domain::{Epoch, SessionId, Timestamp},
    store::{
        NewSeat, Seat, Transport,
        codes::{self, transport_code},
    },
};

/// Who holds a seat, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) epoch: Epoch,
    pub(super) node: u16,
    pub(super) incarnation: u32,
    transport: Transport,
    session: SessionId,
    connected_at: Timestamp,
}

/// Writes another node and life of it into the bytes of a seat.
pub(super) fn put_node(seat: &mut [u8], node: u16, incarnation: u32) {
    if let Some(place) = seat.first_chunk_mut::<6>() {
        let [n0, n1] = node.to_be_bytes();
        let [i0, i1, i2, i3] = incarnation.to_be_bytes();
        *place = [n0, n1, i0, i1, i2, i3];
    }
}

/// A seat record as presence needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) number: u64,
    /// The last number of each lane.
    pub(super) seqs: [u64; 4],
    pub(super) epoch: Epoch,
    pub(super) last_seen_at: Option<Timestamp>,
    pub(super) holder: Option<Holder>,
}

/// Where scripts find the last number of a lane, counted from 1 as they do.
pub(super) fn lane_at(urgency: u8) -> u8 {
    8 + 6 * urgency
}

impl Holder {
    /// The bytes of a seat, and what reads them back.
    pub(super) fn encode(seat: &NewSeat, node: u16, incarnation: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(29);
        bytes.extend_from_slice(&node.to_be_bytes());
        bytes.extend_from_slice(&incarnation.to_be_bytes());
        bytes.push(transport_code(seat.transport));
        bytes.extend_from_slice(&seat.session.0.to_be_bytes());
        bytes.extend_from_slice(&p48(seat.at.0));
        bytes
    }

    /// Reads an epoch and the seat behind it. `None`: nobody holds it (or it cannot be read).
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (epoch, rest) = bytes.split_at_checked(6)?;
        let (node, rest) = rest.split_first_chunk()?;
        let (incarnation, rest) = rest.split_first_chunk()?;
        let (transport, rest) = rest.split_first()?;
        let (session, rest) = rest.split_first_chunk()?;
        Some(Self {
            epoch: Epoch(u48(epoch)?),
            node: u16::from_be_bytes(*node),
            incarnation: u32::from_be_bytes(*incarnation),
            transport: codes::transport(*transport)?,
            session: SessionId(u128::from_be_bytes(*session)),
            connected_at: Timestamp(u48(rest)?),
        })
    }

    pub(super) fn seat(&self) -> Seat {
        Seat {
            epoch: self.epoch,
            session: self.session,
            node: Arc::from(format!("n{}", self.node)),
            transport: self.transport,
            connected_at: self.connected_at,
        }
    }
}

impl Record {
    /// Reads one. An absent record is that of a device that never had a session or an event.
    pub(super) fn read(bytes: Option<&[u8]>) -> Option<Self> {
        let Some(bytes) = bytes else { return Some(Self::default()) };
        let at = |range: std::ops::Range<usize>| bytes.get(range).and_then(u48);
        let holder = [bytes.get(31..37)?, bytes.get(61..)?].concat();
        Some(Self {
            number: at(1..7)?,
            seqs: [at(7..13)?, at(13..19)?, at(19..25)?, at(25..31)?],
            epoch: Epoch(at(31..37)?),
            last_seen_at: Some(Timestamp(at(37..43)?)).filter(|at| at.0 > 0),
            holder: Holder::read(&holder),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_reads_back() {
        let seat = NewSeat {
            session: SessionId(u128::MAX - 1),
            node: "n7".into(),
            transport: Transport::WebSocket,
            at: Timestamp(1_800_000_000_000),
            credential_generation: 0,
            fast: None,
        };
        let bytes = [&p48(77)[..], &Holder::encode(&seat, 7, 3)].concat();
        let holder = Holder::read(&bytes).unwrap();
        assert_eq!((holder.node, holder.incarnation), (7, 3));
        let found = holder.seat();
        assert_eq!((found.epoch, found.session, &*found.node), (Epoch(77), seat.session, "n7"));
        assert_eq!((found.transport, found.connected_at), (seat.transport, seat.at));
        assert_eq!(Holder::read(&bytes[..6]), None);
        let record = [&[1][..], &p48(9), &[0; 24], &p48(77), &[0; 24], &bytes[6..]].concat();
        let record = Record::read(Some(&record)).unwrap();
        assert_eq!((record.number, record.epoch, record.last_seen_at), (9, Epoch(77), None));
        assert_eq!(record.holder, Some(holder));
        assert_eq!(Record::read(Some(b"\x01short")), None);
        assert_eq!(Record::read(None), Some(Record::default()));
    }
}
