//! The rows that the records of a device become.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::value::RawValue;

use super::{
    Shared,
    device::{Head, Row as DeviceRecord},
    keys::{self, Slot},
    record::{self, Ending, Owner},
    registry::{read_reported, read_tokens},
    reply::{self, Pairs, Reply},
    script,
    seat::Record,
    shards::Route,
};
use crate::{
    domain::{Clock as _, Cohort, Queue, TenantId},
    store::{
        DeviceKey, StoreError,
        codec::damaged,
        transfer::{DeliveryRow, DeviceRow, Ended, IdempotencyRow, Row, Waits},
    },
};

/// Everything of one device, as it is stored.
struct Snapshot {
    row: Vec<u8>,
    seat: Vec<u8>,
    queue: Pairs,
    states: Pairs,
    tokens: Vec<u8>,
    reported: Vec<u8>,
}

impl Shared {
    /// A device and its deliveries. `None`: that ordinal is not the device's any more.
    pub(super) async fn read_device(&self, tenant: TenantId, ordinal: u32, id: String) -> Result<Option<Vec<Row>>, StoreError> {
        let device = DeviceKey {
            tenant,
            device: id.parse().map_err(|_| damaged("the name of a device"))?,
        };
        let keys = ['d', 'p', 'q', 's', 'f', 'e'].map(|kind| self.keys.device(kind, &device));
        let make = |_| script::SNAPSHOT.call(&keys);
        let value = self.shards.ask(Route::read(Slot::of_bucket(device.bucket())), make).await?;
        let mut reply = Reply::new(value, "a device")?;
        let snapshot = Snapshot {
            row: reply.bytes()?,
            seat: reply.bytes()?,
            queue: reply::hash(reply.next()?, "a queue")?,
            states: reply::hash(reply.next()?, "the states of a device")?,
            tokens: reply.bytes()?,
            reported: reply.bytes()?,
        };
        if snapshot.row.is_empty() || Head::read(&snapshot.row)?.ordinal != ordinal {
            return Ok(None);
        }
        self.rows_of(&device, &snapshot).map(Some)
    }

    fn rows_of(&self, device: &DeviceKey, snapshot: &Snapshot) -> Result<Vec<Row>, StoreError> {
        let head = Head::read(&snapshot.row)?;
        let known = DeviceRecord::decode(device.device.clone(), &snapshot.row)?;
        let seat = Some(snapshot.seat.as_slice()).filter(|seat| !seat.is_empty());
        let seat = Record::read(seat).ok_or_else(|| damaged("the seat of a device"))?;
        let begins_behind = known.as_ref().map_or(0, |row| row.begins_behind);
        let known = known.map(|row| row.device);
        let mut rows = vec![Row::Device(Box::new(DeviceRow {
            tenant: device.tenant.0,
            id: device.device.clone(),
            ordinal: head.ordinal,
            removed: head.removed,
            user: known.as_ref().and_then(|known| known.user.clone()),
            attributes: known.as_ref().map(|known| known.attributes.clone()).unwrap_or_default(),
            cohort: known.as_ref().map_or(Cohort::default(), |known| known.cohort),
            credentials: known.map(|known| known.credentials).unwrap_or_default(),
            credential_generation: head.credential_generation,
            created_at: head.created_at,
            updated_at: head.updated_at,
            number: seat.number,
            seqs: seat.seqs,
            epoch: seat.epoch,
            last_seen_at: seat.last_seen_at,
            tokens: Some(read_tokens(&snapshot.tokens)?).filter(|tokens| !tokens.is_empty()),
            reported: read_reported(&snapshot.reported)?,
        }))];
        let states: BTreeMap<&[u8], &[u8]> = snapshot
            .states
            .iter()
            .map(|(field, value)| (field.as_slice(), value.as_slice()))
            .collect();
        let owner = self.owner(device, head.ordinal);
        let fields = snapshot.queue.iter().map(|(field, value)| (field.as_slice(), value.as_slice()));
        let fields: BTreeMap<&[u8], &[u8]> = fields.collect();
        let mut waiting = BTreeMap::new();
        for (field, record) in &fields {
            // Collapse keys and counts are made anew.
            if let Some((queue, number)) = keys::read_field(field) {
                let (head, _) = record::split(record)?;
                let json = fields.get(&keys::data_field(queue, head.born)[..]).copied().unwrap_or_default();
                waiting.insert((queue, number), (head, json));
            }
        }
        let mut born_of_waiting = BTreeSet::new();
        for ((queue, number), (head, json)) in &waiting {
            let born = keys::field(*queue, head.born);
            born_of_waiting.insert(born);
            let ending = states.get(&born[..]).map(|row| Ending::decode(record::split(row)?.1)).transpose()?;
            let waits = Waits {
                number: (*number != head.born).then_some(*number),
                due: head.due,
                at_next_session: head.at_next_session(),
                data: data(json)?,
            };
            rows.push(delivery_row(&owner, *queue, head, &states, ending, Some(waits))?);
        }
        let kept = Duration::from_secs(self.limits.state_kept_secs);
        for (field, row) in &states {
            let Some((queue, number)) = keys::read_field(field) else { continue };
            let (head, ending) = record::split(row)?;
            let ending = Ending::decode(ending)?;
            let ours = number > begins_behind && !born_of_waiting.contains(&keys::field(queue, number)) && ending.waits_at.is_none();
            if ours && self.clock.now() < ending.at.plus(kept) {
                rows.push(delivery_row(&owner, queue, &head, &states, Some(ending), None)?);
            }
        }
        Ok(rows)
    }
}

fn delivery_row(
    owner: &Owner<'_>,
    queue: Queue,
    head: &record::Head<'_>,
    states: &BTreeMap<&[u8], &[u8]>,
    ending: Option<Ending>,
    waits: Option<Waits>,
) -> Result<Row, StoreError> {
    let born = keys::field(queue, head.born);
    let idempotency = head.idempotency.map(|key| {
        let kept = states.get([b"i", &key[..]].concat().as_slice());
        let body = kept
            .and_then(|kept| kept.strip_prefix(&born))
            .and_then(|rest| rest.get(..16))
            .and_then(|body| body.try_into().ok());
        IdempotencyRow {
            key,
            body,
            is_copy: head.is_copy(),
        }
    });
    Ok(Row::Delivery(Box::new(DeliveryRow {
        id: owner.id(queue, head.born),
        device: owner.device.clone(),
        accepted_at: head.accepted_at,
        deliver_at: head.deliver_at,
        expires_at: head.expires_at,
        urgency: head.urgency()?,
        require: head.require()?,
        seq: head.seq,
        attempt: head.attempt,
        collapse_key: head.collapse_key.map(Into::into),
        idempotency,
        ended: ending.map(|ending| Ended {
            state: ending.state,
            reason: ending.reason,
            at: ending.at,
            session_epoch: ending.epoch,
            replaced_by: ending.replaced_by.map(|by| owner.replacement(by)),
            late_ack: ending.late_ack,
            told: ending.told.map(|told| (*told).clone()),
        }),
        waits,
    })))
}

fn data(stored: &[u8]) -> Result<Box<RawValue>, StoreError> {
    RawValue::from_string(record::unpack_data(stored)?).map_err(|_| damaged("the JSON of an event"))
}
