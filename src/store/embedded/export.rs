//! Reading everything out: rows of one moment, made of the records.

use std::time::Duration;

use serde_json::value::RawValue;

use super::{
    Shared, audit, born,
    engine::{Engine, Space, View},
    fast, groups, key_uses,
    keys::{self, Place},
    positions::position_of,
    receipt::Packed,
    record::{Ending, Facts, Kept, decode_end, decode_event, device_id},
    reported,
    rows::{self, DeviceHead, Identity, Numbers},
};
use crate::{
    domain::{Cohort, Epoch, TenantId},
    store::{
        DeviceKey, StoreError, Tenant,
        codec::damaged,
        figures,
        transfer::{
            AuditRow, DeliveryRow, DeviceRow, Ended, GroupRow, Header, IdempotencyRow, KeyRow, MinuteRow, Part, ReceiptRow, Row, RowPage,
            TenantRow, Waits,
        },
    },
};

/// Rows of a page, at most; a device with its deliveries goes beyond it.
const ROWS_MAX: usize = 1_000;
/// Bytes of records after which a page ends.
const BYTES_MAX: usize = 1024 * 1024;

impl Shared {
    pub(super) fn exported_header(&self, engine: &Engine) -> Result<Header, StoreError> {
        let row = engine
            .get(Space::Rows, keys::IDENTITY)?
            .ok_or_else(|| damaged("the identity of the store"))?;
        let identity = Identity::decode(&row)?;
        let domain = self.tenants.read().get(&0).map(|tenant| tenant.domain.clone());
        Ok(Header {
            format: crate::store::transfer::FORMAT,
            id: uuid::Uuid::new_v4().simple().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exported_at: self.clock.now(),
            domain: domain.unwrap_or_default(),
            generation: identity.generation,
            epoch: Epoch((u64::from(identity.boot) + 1) << 32),
            id_key: identity.id_secret,
        })
    }

    pub(super) fn exported_rows(&self, engine: &Engine, part: Part, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let view = engine.view();
        let prefix: &[u8] = match part {
            Part::Tenants => b"t",
            Part::Keys => b"k",
            // They are asked of the whole store.
            Part::Webhooks => return Ok(RowPage::default()),
            Part::Audit => b"a",
            Part::Receipts => b"r",
            Part::Minutes => b"m",
            Part::Devices => b"d",
            Part::Groups => keys::GROUPS,
        };
        let space = match part {
            Part::Audit | Part::Receipts | Part::Minutes => Space::Log,
            Part::Groups => Space::Ends,
            _ => Space::Rows,
        };
        let from = after.map_or_else(|| prefix.to_vec(), |after| [after.as_slice(), &[0]].concat());
        let (mut page, mut bytes) = (RowPage::default(), 0);
        for row in view.from(space, from, prefix) {
            let (key, value) = row?;
            bytes += value.len();
            match part {
                Part::Webhooks => {}
                Part::Tenants => page.rows.push(Row::Tenant(tenant(&view, &value)?)),
                Part::Keys => page.rows.push(Row::Key(api_key(&view, &key, &value)?)),
                Part::Audit => page.rows.push(Row::Audit(audited(&key, &value)?)),
                Part::Receipts => receipts(&key, &value, &mut page.rows)?,
                Part::Minutes => page.rows.push(Row::Minute(minute(&key, &value)?)),
                Part::Groups => page.rows.push(Row::Group(Box::new(group(&key, &value)?))),
                Part::Devices => bytes += self.device(&view, &key, &value, &mut page.rows)?,
            }
            if page.rows.len() >= ROWS_MAX || bytes >= BYTES_MAX {
                page.next = Some(key.to_vec());
                break;
            }
        }
        Ok(page)
    }

    /// A device and its deliveries. Answers the bytes of their records.
    fn device(&self, view: &View<'_>, key: &[u8], value: &[u8], rows: &mut Vec<Row>) -> Result<usize, StoreError> {
        let named = || {
            let (tenant, id) = key.get(1..)?.split_first_chunk()?;
            Some((TenantId(u16::from_be_bytes(*tenant)), std::str::from_utf8(id).ok()?))
        };
        let (tenant, id) = named().ok_or_else(|| damaged("the key of a device"))?;
        let id = device_id(id)?;
        let head = DeviceHead::decode(value)?;
        let known = rows::decode_device(id.clone(), value)?;
        let numbers = match view.get(Space::Rows, &keys::numbers(tenant, head.ordinal))? {
            Some(row) => Numbers::decode(&row)?,
            None => Numbers::default(),
        };
        let tokens = view.get(Space::Rows, &keys::fast_tokens(tenant, head.ordinal))?;
        let reported = view.get(Space::Rows, &keys::reported(tenant, head.ordinal))?;
        let device = DeviceKey { tenant, device: id };
        let bucket = device.bucket();
        rows.push(Row::Device(Box::new(DeviceRow {
            tenant: tenant.0,
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
            number: numbers.number,
            seqs: numbers.seqs,
            epoch: numbers.epoch,
            last_seen_at: numbers.last_seen_at,
            tokens: tokens.map(|row| fast::decode(Some(&row))).transpose()?,
            reported: reported::decode(reported.as_deref())?,
        })));

        let mut bytes = 0;
        let prefix = keys::device_prefix(tenant, head.ordinal);
        for row in view.from(Space::Events, prefix.to_vec(), &prefix) {
            let (key, value) = row?;
            bytes += value.len();
            let place = Place::read(&key).ok_or_else(|| damaged("the key of an event"))?;
            let (facts, json) = decode_event(&value)?;
            let born = facts.born(place);
            let end = view.get(Space::Ends, &born.end_key())?;
            let ending = end.as_deref().map(|row| decode_end(row).map(|(_, ending)| ending)).transpose()?;
            let waits = Waits {
                number: (place.number != born.number).then_some(place.number),
                due: facts.due,
                at_next_session: facts.at_next_session,
                data: data(json)?,
            };
            rows.push(self.delivery_row(view, &device, bucket, born, &facts, ending, Some(waits))?);
        }
        let kept = Duration::from_secs(self.limits.state_kept_secs);
        let prefix = [b"s".as_slice(), &prefix].concat();
        for row in view.from(Space::Ends, prefix.clone(), &prefix) {
            let (key, value) = row?;
            bytes += value.len();
            let born = key.get(1..).and_then(Place::read).ok_or_else(|| damaged("the key of a state"))?;
            let (facts, ending) = decode_end(&value)?;
            // What waits again was told of above.
            let waits = ending.waits_at.is_some() || born::find(born, |space, key| view.get(space, key))?.is_some();
            if !waits && self.clock.now() < ending.at.plus(kept) {
                rows.push(self.delivery_row(view, &device, bucket, born, &facts, Some(ending), None)?);
            }
        }
        Ok(bytes)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one delivery, from three records")]
    fn delivery_row(
        &self,
        view: &View<'_>,
        device: &DeviceKey,
        bucket: u16,
        born: Place,
        facts: &Facts<'_>,
        ending: Option<Ending>,
        waits: Option<Waits>,
    ) -> Result<Row, StoreError> {
        let body_of = |key: &[u8; 16]| {
            if facts.body.is_some() {
                return Ok(facts.body);
            }
            let kept = view.get(Space::Ends, &keys::idempotency(born.tenant, born.ordinal, key))?;
            let kept = kept.map(|row| Kept::decode(&row)).transpose()?;
            let kept = kept.filter(|kept| (kept.queue, kept.number) == (born.queue, born.number));
            Ok::<_, StoreError>(kept.map(|kept| kept.body))
        };
        let idempotency = facts.idempotency.map(|key| {
            Ok::<_, StoreError>(IdempotencyRow {
                key,
                body: body_of(&key)?,
                is_copy: facts.is_copy,
            })
        });
        Ok(Row::Delivery(Box::new(DeliveryRow {
            id: self.ids.seal(born.located(bucket)),
            device: device.device.clone(),
            accepted_at: facts.accepted_at,
            deliver_at: facts.deliver_at,
            expires_at: facts.expires_at(),
            urgency: facts.urgency,
            require: facts.require,
            seq: facts.seq,
            attempt: facts.attempt,
            collapse_key: facts.collapse_key.map(Into::into),
            idempotency: idempotency.transpose()?,
            ended: ending.map(|ending| Ended {
                state: ending.state,
                reason: ending.reason,
                at: ending.at,
                session_epoch: ending.epoch,
                replaced_by: ending.replaced_by,
                late_ack: ending.late_ack,
                told: ending.told.map(|told| (*told).clone()),
            }),
            waits,
        })))
    }
}

fn data(json: &[u8]) -> Result<Box<RawValue>, StoreError> {
    let json = std::str::from_utf8(json)
        .ok()
        .and_then(|json| RawValue::from_string(json.to_owned()).ok());
    json.ok_or_else(|| damaged("the JSON of an event"))
}

fn group(key: &[u8], value: &[u8]) -> Result<GroupRow, StoreError> {
    let place = keys::read_group(key).ok_or_else(|| damaged("the key of a group"))?;
    Ok(GroupRow::of(groups::decode(place, value)?))
}

fn tenant(view: &View<'_>, value: &[u8]) -> Result<TenantRow, StoreError> {
    let tenant: Tenant = serde_json::from_slice(value).map_err(|_| damaged("a tenant"))?;
    let last = view.get(Space::Rows, &keys::last_ordinal(TenantId(tenant.id)))?;
    let last = last.map(|row| {
        row.as_ref()
            .try_into()
            .map(u32::from_be_bytes)
            .map_err(|_| damaged("the last ordinal"))
    });
    Ok(TenantRow::of(&tenant, last.transpose()?.unwrap_or(0)))
}

fn api_key(view: &View<'_>, key: &[u8], value: &[u8]) -> Result<KeyRow, StoreError> {
    let hash = key.get(1..).and_then(|hash| hash.try_into().ok());
    let key: crate::store::ApiKey = serde_json::from_slice(value).map_err(|_| damaged("an API key"))?;
    let used = view.get(Space::Rows, &keys::key_use(TenantId(key.tenant), &key.id))?;
    let used = used.map(|row| key_uses::decode(&row)).transpose()?;
    Ok(KeyRow::of(hash.ok_or_else(|| damaged("the hash of an API key"))?, &key, used))
}

fn audited(key: &[u8], value: &[u8]) -> Result<AuditRow, StoreError> {
    let tenant = keys::tenant_of(key).ok_or_else(|| damaged("the key of an entry of the audit log"))?;
    Ok(AuditRow {
        tenant: tenant.0,
        position: position_of(key)?,
        entry: audit::decode(value)?,
    })
}

fn receipts(key: &[u8], value: &[u8], rows: &mut Vec<Row>) -> Result<(), StoreError> {
    let tenant = keys::tenant_of(key).ok_or_else(|| damaged("the key of a receipt"))?;
    let mut receipts = Vec::new();
    Packed::of(position_of(key)?, value)?.add_to(&mut receipts, 0, usize::MAX)?;
    for receipt in receipts {
        rows.push(Row::Receipt(ReceiptRow::of(tenant, &receipt)?));
    }
    Ok(())
}

fn minute(key: &[u8], value: &[u8]) -> Result<MinuteRow, StoreError> {
    let read = || {
        let (minute, node) = key.get(1..)?.split_first_chunk()?;
        Some((u64::from_be_bytes(*minute), std::str::from_utf8(node).ok()?.to_owned()))
    };
    let (minute, node) = read().ok_or_else(|| damaged("the key of a minute"))?;
    let mut sum = std::collections::BTreeMap::new();
    figures::add_figures(value, &mut sum)?;
    Ok(MinuteRow {
        minute,
        node,
        figures: sum,
    })
}
