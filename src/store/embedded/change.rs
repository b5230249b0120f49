//! Rows of the feed of presence, and of the seats that are held.

use std::sync::Arc;

use crate::{
    domain::{Departure, DeviceId, Epoch, SessionId, Timestamp},
    store::{
        ChangeKind, PresenceChange, Seat, StoreError, Transport,
        codec::{Decoder, Encoder},
        codes::{change, change_code, departure, departure_code, transport, transport_code},
    },
};

const VERSION: u8 = 1;

/// A change before it has its position.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewChange<'a> {
    pub(super) kind: ChangeKind,
    pub(super) device: &'a str,
    pub(super) epoch: Epoch,
    pub(super) node: &'a str,
    pub(super) transport: Transport,
    pub(super) at: Timestamp,
    pub(super) reason: Option<Departure>,
}

impl<'a> NewChange<'a> {
    pub(super) fn connected(device: &'a DeviceId, seat: &'a Seat) -> Self {
        Self {
            kind: ChangeKind::Connected,
            device: device.as_str(),
            epoch: seat.epoch,
            node: &seat.node,
            transport: seat.transport,
            at: seat.connected_at,
            reason: None,
        }
    }

    pub(super) fn disconnected(device: &'a DeviceId, seat: &'a Seat, at: Timestamp, why: Departure) -> Self {
        Self {
            kind: ChangeKind::Disconnected,
            at,
            reason: Some(why),
            ..Self::connected(device, seat)
        }
    }

    /// The node of the last life is lost.
    pub(super) fn node_lost(node: &'a str, at: Timestamp) -> Self {
        Self {
            kind: ChangeKind::NodeLost,
            device: "",
            epoch: Epoch(0),
            node,
            transport: Transport::Xmpp,
            at,
            reason: None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut into = Encoder::with_capacity(32 + self.device.len());
        into.byte(VERSION)
            .number(self.at.0)
            .byte(change_code(self.kind))
            .byte(departure_code(self.reason))
            .number(self.epoch.0)
            .byte(transport_code(self.transport))
            .text(self.node)
            .text(self.device);
        into.finish()
    }
}

/// When a change was written.
pub(super) fn change_time(bytes: &[u8]) -> Result<Timestamp, StoreError> {
    let mut from = Decoder::new(bytes, "a row of the feed of presence");
    from.version(VERSION)?;
    Ok(Timestamp(from.number()?))
}

pub(super) fn decode_change(position: u64, bytes: &[u8]) -> Result<PresenceChange, StoreError> {
    let mut from = Decoder::new(bytes, "a row of the feed of presence");
    from.version(VERSION)?;
    let at = Timestamp(from.number()?);
    let kind = change(from.byte()?).ok_or_else(|| from.damaged())?;
    let of_device = kind != ChangeKind::NodeLost;
    let reason = departure(from.byte()?).ok_or_else(|| from.damaged())?;
    let epoch = Epoch(from.number()?);
    let transport = transport(from.byte()?).ok_or_else(|| from.damaged())?;
    let node = Arc::from(from.text()?);
    let device = match from.text()? {
        "" => None,
        device => Some(device.parse().map_err(|_| from.damaged())?),
    };
    Ok(PresenceChange {
        position,
        kind,
        device,
        session_epoch: of_device.then_some(epoch),
        node,
        transport: of_device.then_some(transport),
        at,
        reason,
    })
}

/// The row of a seat that is held: what a later life needs to tell of it.
pub(super) fn encode_seat(device: &DeviceId, seat: &Seat) -> Vec<u8> {
    let mut into = Encoder::with_capacity(32 + device.as_str().len());
    into.byte(VERSION)
        .number(seat.epoch.0)
        .number(seat.connected_at.0)
        .byte(transport_code(seat.transport))
        .text(&seat.node)
        .text(device.as_str());
    into.finish()
}

/// Reads it. Of the session nothing is known but that it was there.
pub(super) fn decode_seat(bytes: &[u8]) -> Result<(DeviceId, Seat), StoreError> {
    let mut from = Decoder::new(bytes, "a seat");
    from.version(VERSION)?;
    let (epoch, connected_at) = (Epoch(from.number()?), Timestamp(from.number()?));
    let transport = transport(from.byte()?).ok_or_else(|| from.damaged())?;
    let node = Arc::from(from.text()?);
    let device = from.text()?.parse().map_err(|_| from.damaged())?;
    let seat = Seat {
        epoch,
        session: SessionId(0),
        node,
        transport,
        connected_at,
    };
    Ok((device, seat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_seats_read_back() {
        let device: DeviceId = "box".parse().unwrap();
        let seat = Seat {
            epoch: Epoch(3 << 32 | 7),
            session: SessionId(0),
            node: "n1".into(),
            transport: Transport::WebSocket,
            connected_at: Timestamp(5),
        };
        assert_eq!(decode_seat(&encode_seat(&device, &seat)).unwrap(), (device.clone(), seat.clone()));
        let row = NewChange::disconnected(&device, &seat, Timestamp(9), Departure::Stalled).encode();
        let found = decode_change(4, &row).unwrap();
        assert_eq!(
            (found.position, found.at, found.reason),
            (4, Timestamp(9), Some(Departure::Stalled))
        );
        assert_eq!(
            (found.device, found.session_epoch, found.transport),
            (Some(device), Some(seat.epoch), Some(seat.transport))
        );
        assert_eq!(change_time(&row).unwrap(), Timestamp(9));
        let lost = decode_change(5, &NewChange::node_lost("n1", Timestamp(1)).encode()).unwrap();
        assert_eq!(
            (lost.kind, lost.device, lost.session_epoch, lost.transport),
            (ChangeKind::NodeLost, None, None, None)
        );
        assert!(decode_change(4, &row[..row.len() - 1]).is_err());
    }
}
