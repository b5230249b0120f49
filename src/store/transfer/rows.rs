//! The rows of an export, one a line: what each engine keeps in its own form, in one that both read.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    DeliveryRow, GroupRow, NUMBER_MAX, NUMBERS_LEFT_OUT, WebhookRow,
    forms::{hex, text, text_or_none},
};
use crate::{
    domain::{
        AuditEntry, Cohort, Credential, DeliveryState, DeviceId, Epoch, EventId, FastTokens, RateLimit, Reason, Reported, Scope, TenantId,
        Timestamp, Told, UserId,
    },
    store::{ApiKey, Device, DeviceKey, Receipt, StoreError, Tenant, codec::damaged},
};

/// The largest position in an audit log: a double holds it exactly.
const AUDIT_POSITION_MAX: u64 = (1 << 53) - 1;

/// One row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Row {
    /// The first one: whose export it is.
    Export(Header),
    /// A tenant.
    Tenant(TenantRow),
    /// An API key, by its hash.
    Key(KeyRow),
    /// A webhook.
    Webhook(Box<WebhookRow>),
    /// An entry of the audit log.
    Audit(AuditRow),
    /// A receipt.
    Receipt(ReceiptRow),
    /// A minute of the ledger.
    Minute(MinuteRow),
    /// A group: an event to several devices.
    Group(Box<GroupRow>),
    /// A device; its deliveries follow.
    Device(Box<DeviceRow>),
    /// A delivery of the device before it.
    Delivery(Box<DeliveryRow>),
    /// The last one: how many there were.
    End(Counts),
}

/// Whose export it is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The layout of the rows: [`super::FORMAT`].
    pub format: u32,
    /// A name of this export that no other has.
    pub id: String,
    /// The version of the program that wrote it.
    pub version: String,
    /// When it began.
    pub exported_at: Timestamp,
    /// The XMPP domain of the default tenant.
    pub domain: String,
    /// The generation of the exported store.
    pub generation: u32,
    /// No seat of the exported store had a higher epoch.
    pub epoch: Epoch,
    /// The key that makes and opens its ids. A secret.
    #[serde(with = "hex")]
    pub id_key: [u8; 32],
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}, {}, ***)", self.id, self.exported_at)
    }
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRow {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its XMPP domain.
    pub domain: String,
    /// The last ordinal that a device of it was given.
    pub last_ordinal: u32,
    /// How much it may post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RateLimit>,
    /// It was removed, and when: its number is not given again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
}

impl TenantRow {
    pub(in crate::store) fn tenant(&self) -> Tenant {
        Tenant {
            id: self.id,
            name: self.name.clone(),
            domain: self.domain.clone(),
            limits: self.limits,
            removed_at: self.removed_at,
        }
    }

    pub(in crate::store) fn of(tenant: &Tenant, last_ordinal: u32) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.clone(),
            domain: tenant.domain.clone(),
            last_ordinal,
            limits: tenant.limits,
            removed_at: tenant.removed_at,
        }
    }
}

/// An API key, by its hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRow {
    /// SHA-256 of the key.
    #[serde(with = "hex")]
    pub hash: [u8; 32],
    /// Its public id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: u16,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// How much may be posted with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RateLimit>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When this secret of it ends, because the key has a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires_at: Option<Timestamp>,
    /// When the key was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl KeyRow {
    /// The row of a secret of a key that was last used then.
    pub(in crate::store) fn of(hash: [u8; 32], key: &ApiKey, last_used_at: Option<Timestamp>) -> Self {
        Self {
            hash,
            id: key.id.clone(),
            name: key.name.clone(),
            tenant: key.tenant,
            scope: key.scope,
            created_at: key.created_at,
            limits: key.limits,
            expires_at: key.expires_at,
            retires_at: key.retires_at,
            last_used_at,
        }
    }

    /// The secret as the registry keeps it.
    pub(in crate::store) fn key(&self) -> ApiKey {
        ApiKey {
            id: self.id.clone(),
            name: self.name.clone(),
            tenant: self.tenant,
            scope: self.scope,
            created_at: self.created_at,
            limits: self.limits,
            expires_at: self.expires_at,
            retires_at: self.retires_at,
        }
    }
}

/// An entry of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRow {
    /// Whose log it is in.
    pub tenant: u16,
    /// Its position there.
    pub position: u64,
    /// The entry.
    pub entry: AuditEntry,
}

impl AuditRow {
    /// Whether it can be stored.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        if self.position > AUDIT_POSITION_MAX {
            return Err(("audit.position".into(), format!("it must be 0 to {AUDIT_POSITION_MAX}")));
        }
        Ok(())
    }
}

/// A receipt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptRow {
    /// Whose log it is in.
    pub tenant: u16,
    /// Its position there.
    pub position: u64,
    /// The event, or its copy for the device.
    #[serde(with = "text")]
    pub event: EventId,
    /// The group that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text_or_none")]
    pub group: Option<EventId>,
    /// The device.
    #[serde(with = "text")]
    pub device: DeviceId,
    /// The new state.
    pub state: DeliveryState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When.
    pub at: Timestamp,
    /// The seat that reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_epoch: Option<Epoch>,
    /// From acceptance to that state, in milliseconds.
    pub latency_ms: u64,
    /// Which delivery of the event it tells of.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub attempt: u32,
    /// The event that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text_or_none")]
    pub replaced_by: Option<EventId>,
    /// What the device says of it, without its JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

fn first() -> u32 {
    1
}

fn is_first(attempt: &u32) -> bool {
    *attempt == first()
}

impl ReceiptRow {
    /// Whether it can be stored.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        if !(1..=NUMBER_MAX).contains(&self.position) {
            return Err(("receipt.position".into(), format!("it must be 1 to {NUMBER_MAX}")));
        }
        Ok(())
    }

    /// The row of a receipt.
    pub(in crate::store) fn of(tenant: TenantId, receipt: &Receipt) -> Result<Self, StoreError> {
        Ok(Self {
            tenant: tenant.0,
            position: receipt.position,
            event: receipt.event.parse().map_err(|_| damaged("a receipt"))?,
            group: receipt.group,
            device: receipt.device.parse().map_err(|_| damaged("a receipt"))?,
            state: receipt.state,
            reason: receipt.reason,
            at: receipt.at,
            session_epoch: receipt.session_epoch,
            latency_ms: receipt.latency_ms,
            attempt: receipt.attempt,
            replaced_by: receipt.replaced_by,
            told: receipt.told.clone(),
        })
    }
}

/// A minute of the ledger, of one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinuteRow {
    /// Minutes since 1970.
    pub minute: u64,
    /// The node.
    pub node: String,
    /// What it counted.
    pub figures: BTreeMap<String, f64>,
}

impl MinuteRow {
    /// Whether it can be stored.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        if self.node.len() > 64 || self.minute > NUMBER_MAX {
            return Err(("minute".into(), "no node has a name so long, or no minute such a number".into()));
        }
        Ok(())
    }

    /// The name under which it is imported: no node of the new store has it, so that none adds to that row.
    pub(in crate::store) fn imported_node(&self) -> String {
        format!("~{}", self.node)
    }
}

/// A device, or what is left of one that was removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRow {
    /// Whose it is.
    pub tenant: u16,
    /// Its id.
    #[serde(with = "text")]
    pub id: DeviceId,
    /// Its number within the tenant.
    pub ordinal: u32,
    /// It was removed, at `updated_at`: only ordinal, generation, times and numbers count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// Its owner.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text_or_none")]
    pub user: Option<UserId>,
    /// Facts of the backend about it.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// How it learns of events.
    pub cohort: Cohort,
    /// Verifiers of its passwords, and its certificates. Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// Rises with every change of the credentials.
    pub credential_generation: u32,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The last storage number that it was given.
    pub number: u64,
    /// The last number of each lane, in the order very-low, low, normal, high.
    pub seqs: [u64; 4],
    /// The last epoch of its seat.
    pub epoch: Epoch,
    /// The last proof of life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// Its FAST tokens. Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<FastTokens>,
    /// What it reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
}

impl DeviceRow {
    /// The device as the registry keeps it.
    pub(in crate::store) fn device(&self) -> Device {
        Device {
            id: self.id.clone(),
            ordinal: self.ordinal,
            user: self.user.clone(),
            attributes: self.attributes.clone(),
            cohort: self.cohort,
            credentials: self.credentials.clone(),
            credential_generation: self.credential_generation,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    /// Whether it can be stored.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        for (field, number) in [("number", self.number), ("epoch", self.epoch.0)]
            .into_iter()
            .chain(self.seqs.map(|seq| ("seqs", seq)))
        {
            if number > NUMBER_MAX - NUMBERS_LEFT_OUT {
                return Err((format!("device.{field}"), format!("it is above {}", NUMBER_MAX - NUMBERS_LEFT_OUT)));
            }
        }
        Ok(())
    }

    /// Its address.
    pub fn key(&self) -> DeviceKey {
        DeviceKey {
            tenant: TenantId(self.tenant),
            device: self.id.clone(),
        }
    }
}

/// How many rows an export has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// Tenants.
    pub tenants: u64,
    /// API keys, one for each secret.
    pub keys: u64,
    /// Webhooks.
    #[serde(default)]
    pub webhooks: u64,
    /// Entries of the audit log.
    pub audit: u64,
    /// Receipts.
    pub receipts: u64,
    /// Minutes of the ledger.
    pub minutes: u64,
    /// Devices, also those that were removed.
    pub devices: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Groups.
    #[serde(default)]
    pub groups: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tenants, {} keys, {} webhooks, {} entries of the audit log, {} receipts, {} minutes, {} devices, {} deliveries and {} groups",
            self.tenants, self.keys, self.webhooks, self.audit, self.receipts, self.minutes, self.devices, self.deliveries, self.groups
        )
    }
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, others: Self) {
        self.tenants += others.tenants;
        self.keys += others.keys;
        self.webhooks += others.webhooks;
        self.audit += others.audit;
        self.receipts += others.receipts;
        self.minutes += others.minutes;
        self.devices += others.devices;
        self.deliveries += others.deliveries;
        self.groups += others.groups;
    }

    /// Counts a row in.
    pub fn count(&mut self, row: &Row) {
        let place = match row {
            Row::Export(_) | Row::End(_) => return,
            Row::Tenant(_) => &mut self.tenants,
            Row::Key(_) => &mut self.keys,
            Row::Webhook(_) => &mut self.webhooks,
            Row::Audit(_) => &mut self.audit,
            Row::Receipt(_) => &mut self.receipts,
            Row::Minute(_) => &mut self.minutes,
            Row::Device(_) => &mut self.devices,
            Row::Delivery(_) => &mut self.deliveries,
            Row::Group(_) => &mut self.groups,
        };
        *place += 1;
    }
}

impl Row {
    /// Reads a line.
    ///
    /// # Errors
    /// The path of the field that is wrong (empty: the line itself), and what is wrong with it.
    pub fn read(line: &[u8]) -> Result<Self, (String, String)> {
        let mut from = serde_json::Deserializer::from_slice(line);
        let row = serde_path_to_error::deserialize(&mut from).map_err(|error| {
            let path = error.path().to_string();
            (if path == "." { String::new() } else { path }, error.into_inner().to_string())
        })?;
        from.end().map_err(|error| (String::new(), error.to_string()))?;
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_names_its_field() {
        let check = |line: &str, field: &str, why: &str| {
            let (path, detail) = Row::read(line.as_bytes()).unwrap_err();
            assert_eq!(path, field, "{line}: {detail}");
            assert!(detail.contains(why), "{line}: {detail}");
        };
        check("{", "", "EOF");
        check(r#"{"devise":{}}"#, "", "unknown variant `devise`");
        check(r#"{"tenant":{"id":70000}}"#, "tenant.id", "70000");
        check(r#"{"tenant":{"id":0,"nme":"x"}}"#, "tenant.nme", "unknown field `nme`");
        check(r#"{"end":{}} x"#, "", "trailing");
        let key = r#"{"key":{"hash":"00","id":"a","name":"n","tenant":0,"scope":"push","created_at":"2027-01-15T08:00:00Z"}}"#;
        check(key, "key.hash", "64 hexadecimal digits");
        let delivery = r#"{"delivery":{"id":"x"}}"#;
        check(delivery, "delivery.id", "an event id has 32 characters");
    }

    #[test]
    fn data_keeps_its_bytes() {
        let id = EventId([7; 20]);
        let line = format!(
            r#"{{"delivery":{{"id":"{id}","device":"box","accepted_at":"2027-01-15T08:00:00.001Z","expires_at":"2027-01-15T08:00:01.001Z","urgency":"high","require":"acknowledged","seq":1,"attempt":1,"waits":{{"data":{{"a" : 1.50}}}}}}}}"#
        );
        let row = Row::read(line.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&row).unwrap(), line);
    }
}
