//! What the registry says of itself.

use serde_json::json;

use super::{
    credentials,
    keys::{GRACE_MAX_SECS, KEYS_MAX, LIFE_MAX_SECS},
    rates,
};
use crate::{
    domain::{Cohort, Limits, Scope},
    http::openapi::{Access, Answer, Operation, READS_JSON, READS_LINES, Schema, device_id},
};

/// Why a change of the store may not be made.
const STORES: [&str; 3] = ["conflict", "no-space", "unavailable"];

/// Devices, keys and limits.
pub fn operations(limits: &Limits) -> Vec<Operation> {
    let mut all = devices(limits);
    all.extend(keys(limits));
    all.extend(tenants(limits));
    all.push(
        Operation::new("get", "/v1/limits", "getLimits", "limits", Access::Key(Vec::new()))
            .summary("The bounds of the service.")
            .text("With any key. So that nobody has to find them by hitting them. `rate_limits` are the caller's own.")
            .answer(Answer::json(
                200,
                "All of them. Sizes in bytes, times in seconds.",
                published(limits),
            )),
    );
    all
}

fn devices(limits: &Limits) -> Vec<Operation> {
    let (readers, writers) = (|| Access::Key(vec![Scope::Read]), || Access::Key(vec![Scope::Admin]));
    let example = json!({"user": "ann", "attributes": {"model": "stb-7"}, "password": "correct-horse"});
    vec![
        Operation::new("put", "/v1/devices/{id}", "putDevice", "devices", writers())
            .summary("Add a device, or put it anew.")
            .text("What is left out goes back to its default; credentials that are left out stay.")
            .device()
            .body("application/json", device_body(limits))
            .example("a device", example)
            .answer(Answer::json(200, "It was there.", device()))
            .answer(Answer::json(201, "It is new.", device()).header("Location", Schema::text().with("format", "uri-reference")))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type"]),
        Operation::new("get", "/v1/devices/{id}", "getDevice", "devices", readers())
            .summary("A device: what you set, and what it reports of itself.")
            .device()
            .answer(Answer::json(200, "It.", device()))
            .refuses(["unknown-device", "removed-device", "unavailable"]),
        Operation::new("patch", "/v1/devices/{id}", "patchDevice", "devices", writers())
            .summary("Change a device (JSON merge patch, RFC 7396).")
            .device()
            .body("application/merge-patch+json", device_body(limits))
            .example("an attribute", json!({"attributes": {"channel": "beta", "model": null}}))
            .answer(Answer::json(200, "It, as it is now.", device()))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type", "unknown-device", "removed-device"]),
        Operation::new("delete", "/v1/devices/{id}", "removeDevice", "devices", writers())
            .summary("Remove a device.")
            .text("What waits for it fails, its session ends, and senders are answered `410` for a while.")
            .device()
            .answer(Answer::empty(204, "It is removed."))
            .refuses(STORES)
            .refuses(["unknown-device", "removed-device"]),
        Operation::new("get", "/v1/devices", "listDevices", "devices", readers())
            .summary("All devices, in order of their ids.")
            .paged(limits)
            .query("filter", Schema::text(), "Those that it fits alone: a subset of AIP-160.")
            .query("user", user(), "Those of this user alone.")
            .refuses(["invalid-filter"])
            .answer(Answer::json(200, "A page of them.", Schema::page(device()).named("Devices")))
            .refuses(["unavailable"]),
        Operation::new("post", "/v1/devices", "postDevices", "devices", writers())
            .summary("Add many devices: one JSON object a line.")
            .text(format!(
                "Each line is a device with its `id`, and stands alone: one that is refused spoils no other. At most {} lines.",
                limits.bulk_max_devices
            ))
            .body(
                "application/x-ndjson",
                Schema::anything().about("Lines, each as the body of `PUT /v1/devices/{id}` with the `id` in it."),
            )
            .example(
                "two devices",
                "{\"id\":\"tsn-747\",\"user\":\"ann\"}\n{\"id\":\"tsn-748\",\"password\":\"battery-staple\"}\n",
            )
            .answer(Answer::json(200, "What became of each line.", bulk()))
            .refuses(READS_LINES),
    ]
}

fn keys(limits: &Limits) -> Vec<Operation> {
    let admins = || Access::Key(vec![Scope::Admin]);
    vec![
        Operation::new("post", "/v1/keys", "postKey", "keys", admins())
            .summary("Make a key.")
            .text(format!(
                "The answer is the only place where it is ever shown. Nobody makes a key above his own scope. At most {KEYS_MAX} keys."
            ))
            .body(
                "application/json",
                Schema::object([
                    ("name", Schema::text().long(1, 64)),
                    ("scope", scope()),
                    (
                        "tenant?",
                        Schema::text().about("For a key of the scope `operator`: whose the new one is to be."),
                    ),
                    ("limits?", rate_given().or_null()),
                    ("expires_at?", Schema::time().about("When it ends. Default: never.")),
                    (
                        "expires_in_secs?",
                        Schema::count()
                            .between(1, LIFE_MAX_SECS)
                            .about("The same, from now. Not both."),
                    ),
                ])
                .with("not", json!({"required": ["expires_at", "expires_in_secs"]})),
            )
            .example("for a program that only posts", json!({"name": "scheduler", "scope": "push"}))
            .answer(Answer::json(201, "The key.", key(true)).header("Location", Schema::text().with("format", "uri-reference")))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type", "unknown-tenant"]),
        Operation::new("get", "/v1/keys", "listKeys", "keys", admins())
            .summary("All keys, without the keys themselves.")
            .paged(limits)
            .answer(Answer::json(200, "A page of them.", Schema::page(key(false)).named("Keys")))
            .refuses(["unavailable"]),
        Operation::new("post", "/v1/keys/{id}", "rotateKey", "keys", admins())
            .summary("`:rotate`, behind the id: give a key another secret.")
            .text("The answer is the only place where it is ever shown. The secret before it is good for `grace_secs`; a key has two at most.")
            .segment("id", Schema::text(), "The id of the key, and `:rotate`.", "mfrggzdfmztwq2lk:rotate")
            .body(
                "application/json",
                Schema::object([("grace_secs?", Schema::count().between(0, GRACE_MAX_SECS))]),
            )
            .body_optional()
            .example("it leaked", json!({"grace_secs": 0}))
            .answer(Answer::json(200, "The key, with its new secret.", key(true)))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type", "unknown-key", "method-not-allowed"]),
        Operation::new("get", "/v1/audit", "listAudit", "audit", admins())
            .summary("Who changed what, the oldest first.")
            .paged(limits)
            .query("from", Schema::time(), "Those of that time and later.")
            .query("to", Schema::time(), "Those before that time.")
            .answer(Answer::json(200, "A page of entries.", Schema::page(audit_entry()).named("Audit")))
            .refuses(["unavailable"]),
        Operation::new("delete", "/v1/keys/{id}", "revokeKey", "keys", admins())
            .summary("Revoke a key.")
            .segment("id", Schema::text(), "The id of the key, not the key.", "mfrggzdfmztwq2lk")
            .answer(Answer::empty(204, "It is worthless from now on."))
            .refuses(STORES)
            .refuses(["unknown-key"]),
    ]
}

fn tenants(limits: &Limits) -> Vec<Operation> {
    let operation = |method, path, id| Operation::new(method, path, id, "tenants", Access::Key(vec![Scope::Operator]));
    let one = |method, id| {
        operation(method, "/v1/tenants/{name}", id)
            .segment("name", device_id(), "Its name.", "tv")
            .refuses(["invalid-field"])
    };
    let body = Schema::object([
        ("domain?", Schema::text().about("Its XMPP domain. Needed for a new one, and stays.")),
        ("limits?", rate_given().or_null()),
    ]);
    vec![
        one("put", "putTenant")
            .summary("Add a tenant, or change its limits.")
            .body("application/json", body)
            .example(
                "a tenant",
                json!({"domain": "tv.example.org", "limits": {"deliveries_per_second": 1_000, "burst": 5_000}}),
            )
            .answer(Answer::json(200, "It was there.", tenant()))
            .answer(Answer::json(201, "It is new.", tenant()).header("Location", Schema::text().with("format", "uri-reference")))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type"]),
        one("get", "getTenant")
            .summary("A tenant.")
            .answer(Answer::json(200, "It.", tenant()))
            .refuses(["unknown-tenant", "unavailable"]),
        one("delete", "removeTenant")
            .summary("Remove a tenant that has no devices.")
            .answer(Answer::empty(204, "It is removed, and its keys are worthless."))
            .refuses(STORES)
            .refuses(["unknown-tenant"]),
        operation("get", "/v1/tenants", "listTenants")
            .summary("All tenants, in order of their names.")
            .paged(limits)
            .answer(Answer::json(200, "A page of them.", Schema::page(tenant()).named("Tenants"))),
    ]
}

fn tenant() -> Schema {
    Schema::object([
        ("name", device_id()),
        ("domain", Schema::text()),
        ("limits", rate().or_null()),
        (
            "certificate?",
            Schema::flag().about("Whether a certificate of this node names its domain."),
        ),
    ])
    .named("Tenant")
}

/// A limit as answers show it.
fn rate() -> Schema {
    Schema::object([("deliveries_per_second", Schema::count()), ("burst", Schema::count())])
        .named("RateLimit")
        .about("How much may be posted.")
}

/// A limit as a request brings it.
fn rate_given() -> Schema {
    let number = || Schema::count().between(1, rates::MOST.into());
    Schema::object([
        ("deliveries_per_second", number()),
        ("burst?", number().about("Default: as many as a second has.")),
    ])
    .named("RateLimitBody")
    .about("How much may be posted. Default: no limit.")
}

fn cohort() -> Schema {
    let words = [Cohort::Push, Cohort::Poll, Cohort::Control].map(|cohort| json!(cohort));
    Schema::text().with("enum", words.to_vec()).named("Cohort")
}

fn scope() -> Schema {
    Schema::word([Scope::Push, Scope::Read, Scope::Admin, Scope::Operator].map(Scope::as_str)).named("Scope")
}

fn user() -> Schema {
    Schema::text()
        .long(1, 128)
        .about("The owner, a household: without spaces and control characters.")
}

fn device_body(limits: &Limits) -> Schema {
    let most = 2 * limits.credentials_max;
    let credential = Schema::any_of([
        Schema::object([("type", Schema::word(["password"])), ("value", password())]),
        Schema::object([("type", Schema::word(["scram"])), ("sha256", verifier()), ("sha1?", verifier())]),
        Schema::object([
            ("type", Schema::word(["certificate"])),
            ("sha256", Schema::text().about("Of the certificate's DER, in hexadecimal.")),
        ]),
    ]);
    let credentials = Schema::list(credential.named("Credential")).with("maxItems", most);
    Schema::object([
        ("id?", device_id().about("Must be that of the path; may be left out.")),
        ("user?", user().or_null()),
        (
            "attributes?",
            Schema::map(Schema::anything()).about("Facts that you keep about it. One that is `null` is taken away."),
        ),
        ("cohort?", cohort().or_null()),
        ("password?", password().about("Short for one credential.")),
        (
            "credentials?",
            credentials.or_null().about("At most two live ones of a type. Never shown again."),
        ),
    ])
    .with("not", json!({"required": ["password", "credentials"]}))
    .named("DeviceBody")
    .about("A field that is `null` goes back to its default.")
}

fn password() -> Schema {
    Schema::text().long(1, credentials::PASSWORD_MAX)
}

fn verifier() -> Schema {
    let bytes = || Schema::text().with("contentEncoding", "base64");
    Schema::object([
        ("salt", bytes()),
        (
            "iterations",
            Schema::count().between(credentials::ITERATIONS_MIN.into(), credentials::ITERATIONS_MAX.into()),
        ),
        ("stored_key", bytes()),
        ("server_key", bytes()),
    ])
    .named("ScramVerifier")
    .about("As in RFC 5803.")
}

fn device() -> Schema {
    Schema::object([
        ("id", device_id()),
        ("jid", Schema::text().about("Its address in XMPP.")),
        ("user", user().or_null()),
        ("attributes", Schema::map(Schema::anything())),
        ("reported", Schema::map(Schema::anything()).about("What it reports of itself.")),
        ("reported_at", Schema::time().or_null()),
        ("cohort", cohort()),
        (
            "credentials",
            Schema::list(Schema::object([("type", Schema::word(["scram", "certificate"]))])),
        ),
        ("created_at", Schema::time()),
        ("updated_at", Schema::time()),
    ])
    .named("Device")
}

fn bulk() -> Schema {
    let line = Schema::object([
        ("line", Schema::count().about("From 1.")),
        ("id", device_id().or_null()),
        ("status", Schema::count().about("As the answer would be for this device alone.")),
        ("problem?", Schema::map(Schema::anything()).about("A problem (RFC 9457).")),
    ]);
    Schema::object([
        ("items", Schema::list(line)),
        ("accepted", Schema::count()),
        ("rejected", Schema::count()),
    ])
    .named("Bulk")
}

fn key(shown: bool) -> Schema {
    let mut members = vec![
        ("id", Schema::text()),
        ("name", Schema::text()),
        ("scope", scope()),
        ("created_at", Schema::time()),
        ("limits?", rate()),
        ("expires_at", Schema::time().or_null()),
        (
            "previous_secret_until",
            Schema::time().or_null().about("Until when the secret before the newest is good."),
        ),
        (
            "last_used_at",
            Schema::time()
                .or_null()
                .about("When a request came with it, whichever of its secrets. Of another node up to a minute late. `null`: never."),
        ),
    ];
    if shown {
        members.push(("key", Schema::text().about("The key itself.")));
    }
    Schema::object(members).named(if shown { "NewKey" } else { "Key" })
}

fn audit_entry() -> Schema {
    let actor = Schema::any_of([
        Schema::object([("key", Schema::object([("id", Schema::text()), ("name", Schema::text())]))]),
        Schema::object([("token", Schema::object([("subject", Schema::text())]))]),
    ]);
    let outcome = Schema::object([
        ("at", Schema::time()),
        (
            "status",
            Schema::count().about("Of the answer. 2xx: made. 4xx: refused. 5xx: it may have been made."),
        ),
        ("problem?", Schema::text()),
        ("created?", Schema::text().about("The path of what was made.")),
        ("detail?", Schema::text()),
    ]);
    Schema::object([
        ("id", Schema::text()),
        ("at", Schema::time()),
        ("actor", actor.about("Who asked.")),
        ("scope", scope()),
        ("from?", Schema::text().about("The client's address.")),
        ("method", Schema::text()),
        ("resource", Schema::text()),
        (
            "fields?",
            Schema::list(Schema::text()).about("What was to be changed, not to what."),
        ),
        (
            "outcome?",
            outcome.about("Without it the change is going on, or nobody knows what came of it."),
        ),
    ])
    .named("AuditEntry")
}

/// Every limit by its name, as it is serialized.
fn published(limits: &Limits) -> Schema {
    let limits = json!(limits);
    let named = limits
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| (name.as_str(), Schema::count()));
    let devices = Schema::map(Schema::count()).about("What devices meet.");
    let rates = Schema::list(allowance()).about("Limits in deliveries of the caller's tenant and of its key. Empty: there are none.");
    Schema::object(named.chain([("devices?", devices), ("rate_limits?", rates)])).named("Limits")
}

fn allowance() -> Schema {
    Schema::object([
        (
            "policy",
            Schema::word(["tenant", "key"]).about("Whose: of all keys of the tenant together, or of this one. As in `RateLimit-Policy`."),
        ),
        ("deliveries_per_second", Schema::count().about("Of the service.")),
        ("burst", Schema::count().about("Of the service.")),
        (
            "quota",
            Schema::count().about("Deliveries that this node gives at once: its share of `burst`. `q` of `RateLimit-Policy`."),
        ),
        (
            "window_secs",
            Schema::count().about("Seconds until an empty quota is full. `w` of `RateLimit-Policy`."),
        ),
        (
            "remaining",
            Schema::count().about("Deliveries that are left of it. `r` of `RateLimit`."),
        ),
        ("reset_secs", Schema::count().about("Seconds until it is full. `t` of `RateLimit`.")),
    ])
    .named("Allowance")
}
