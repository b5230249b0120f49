//! The limits that backends and devices meet, in one table; `GET /v1/limits` publishes it.

use serde::{Deserialize, Serialize};

/// Bounds and times. Sizes in bytes, times in seconds unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest `data` of an event, in bytes. Default: 65536. It bounds the stanza, too: keep `stanza_max_bytes` four times as large.
    pub event_data_max_bytes: usize,
    /// The largest body of a request with one event, in bytes. Default: 262144.
    pub request_max_bytes: usize,
    /// Events of a CloudEvents batch. Default: 1000. NDJSON has no such limit.
    pub batch_max_events: usize,
    /// The largest body of a CloudEvents batch, in bytes. Default: 4194304. A line of NDJSON, and an event of a batch, may have
    /// `request_max_bytes`.
    pub batch_max_bytes: usize,
    /// Events that may wait for one device. Default: 2000. More are refused with 429 `queue-full`.
    pub queue_max_events: u32,
    /// Bytes of events that may wait for one device. Default: 4194304.
    pub queue_max_bytes: u64,
    /// The TTL of an event that names none, in seconds. Default: 86400.
    pub ttl_default_secs: u64,
    /// The longest TTL, in seconds. Default: 2419200 (28 days).
    pub ttl_max_secs: u64,
    /// How far ahead the `deliver_at` of an event may be, in seconds. Default: 2419200 (28 days). It waits in the queue of its device until then.
    pub deliver_at_max_secs: u64,
    /// The longest collapse key, in bytes. Default: 64.
    pub collapse_key_max_bytes: usize,
    /// The longest idempotency key, in bytes. Default: 255.
    pub idempotency_key_max_bytes: usize,
    /// An idempotency key is kept until its event has ended, and at least this long after acceptance, in seconds. Default: 3600.
    pub idempotency_kept_secs: u64,
    /// Attempts that a device may ask for with `failed` and `retry`, or `later`. Default: 100. Then the delivery has failed.
    pub attempts_max: u32,
    /// How long the state of a delivery is kept after its end, in seconds. Default: 86400.
    pub state_kept_secs: u64,
    /// How long a receipt is kept, in seconds. Default: 604800 (7 days).
    pub receipts_kept_secs: u64,
    /// How many of them a tenant keeps, about 100 bytes each. Default: 10000000.
    pub receipts_max: u64,
    /// How long a connect or disconnect stays in the feed of presence, in seconds. Default: 86400 (1 day).
    pub presence_changes_kept_secs: u64,
    /// How many of them a tenant keeps, about 60 bytes each. Default: 1000000.
    pub presence_changes_max: u64,
    /// How long an entry of the audit log is kept, in seconds. Default: 34560000 (400 days).
    pub audit_kept_secs: u64,
    /// How many of them a tenant keeps, about 300 bytes each. Default: 1000000.
    pub audit_max: u64,
    /// How long a removed device is answered with 410 instead of 404, in seconds. Default: 7776000 (90 days).
    pub tombstone_kept_secs: u64,
    /// Items on a page when the request names no limit. Default: 100.
    pub page_default: usize,
    /// The most items on a page. Default: 1000.
    pub page_max: usize,
    /// The longest filter over devices, in bytes. Default: 2048.
    pub filter_max_bytes: usize,
    /// The most comparisons of a filter. Default: 64.
    pub filter_max_terms: usize,
    /// Devices that one request with a filter looks at; then it answers what it found, and where to go on. Default: 10000.
    pub filter_scan_max_devices: usize,
    /// Lines of one bulk request of devices. Default: 100000.
    pub bulk_max_devices: usize,
    /// The largest `attributes` of a device, in bytes of JSON. Default: 8192.
    pub attributes_max_bytes: usize,
    /// Live credentials of one type a device. Default: 2, so that one can be rotated.
    pub credentials_max: usize,
}

/// What `GET /v1/limits` says of devices: the settings of `[xmpp]` that a device meets. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct DeviceLimits {
    pub keepalive_secs: u64,
    pub keepalive_min_secs: u64,
    pub keepalive_max_secs: u64,
    pub overdue_secs: u64,
    pub idle_secs: u32,
    pub login_within_secs: u64,
    pub resume_within_secs: u64,
    pub write_stalled_secs: u64,
    pub session_lifetime_secs: u64,
    pub stanza_max_bytes_before_login: usize,
    pub stanza_max_bytes: usize,
    pub depth_max: usize,
    pub attributes_max: usize,
    pub window_max_events: usize,
    pub window_max_bytes: usize,
    pub flood_stanzas_per_second: u32,
    pub flood_stanzas_burst: u32,
    pub flood_bytes_per_second: u32,
    pub flood_bytes_burst: u32,
    pub reported_max_bytes: usize,
    pub reported_every_secs: u64,
    pub seat_changes_max: u32,
    pub login_tries_max: u8,
    pub login_failures_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_data_max_bytes: 64 * 1024,
            request_max_bytes: 256 * 1024,
            batch_max_events: 1_000,
            batch_max_bytes: 4 * 1024 * 1024,
            queue_max_events: 2_000,
            queue_max_bytes: 4 * 1024 * 1024,
            ttl_default_secs: 86_400,
            ttl_max_secs: 28 * 86_400,
            deliver_at_max_secs: 28 * 86_400,
            collapse_key_max_bytes: 64,
            idempotency_key_max_bytes: 255,
            idempotency_kept_secs: 3_600,
            attempts_max: 100,
            state_kept_secs: 86_400,
            receipts_kept_secs: 7 * 86_400,
            receipts_max: 10_000_000,
            presence_changes_kept_secs: 86_400,
            presence_changes_max: 1_000_000,
            audit_kept_secs: 400 * 86_400,
            audit_max: 1_000_000,
            tombstone_kept_secs: 90 * 86_400,
            page_default: 100,
            page_max: 1_000,
            filter_max_bytes: 2_048,
            filter_max_terms: 64,
            filter_scan_max_devices: 10_000,
            bulk_max_devices: 100_000,
            attributes_max_bytes: 8 * 1024,
            credentials_max: 2,
        }
    }
}
