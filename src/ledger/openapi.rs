//! What the ledger says of itself.

use crate::{
    domain::Scope,
    http::openapi::{Access, Answer, Operation, Schema},
};

/// The report.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "get",
            "/v1/reports/polling-avoided",
            "getPollingAvoided",
            "reports",
            Access::Key(vec![Scope::Read]),
        )
        .summary("Polls avoided, and what push cost.")
        .query("from", Schema::time(), "The start of the period. Default: 24 hours before its end.")
        .query("to", Schema::time(), "Its end. Default: now.")
        .answer(Answer::json(200, "The report.", report()))
        .refuses(["unavailable"]),
    ]
}

fn amount() -> Schema {
    Schema::number()
}

fn perhaps() -> Schema {
    Schema::number().or_null()
}

fn bytes() -> Schema {
    Schema::object([("in", amount()), ("out", amount())])
        .named("Bytes")
        .about("From devices and to them, seen from the service.")
}

fn report() -> Schema {
    Schema::object([
        ("from", Schema::time()),
        ("to", Schema::time()),
        ("poll_interval_seconds", Schema::count().about("Declared.")),
        ("credited_seconds", amount().about("Connected time that earned.")),
        (
            "uncredited_seconds",
            Schema::map(amount()).about("Connected time that did not, by reason."),
        ),
        ("coverage", perhaps().about("Credited part of all connected time.")),
        (
            "baselines",
            Schema::map(baseline().or_null())
                .about("What push is compared with, by name. `measured` is `null` until a control cohort polls."),
        ),
        ("residual_polls", amount()),
        ("cohorts", Schema::map(cohort())),
        ("control", control().or_null()),
        (
            "calibration",
            Schema::object(["requests", "bytes", "empty", "latency"].map(|name| (name, ratio().or_null()))),
        ),
        ("overhead_bytes", Schema::map(bytes())),
        ("overhead_packets", amount()),
        ("overhead_cpu_seconds", amount()),
        ("connection_memory_bytes", perhaps()),
        ("latency_saved", latency(&["p50_seconds", "p95_seconds", "p99_seconds"])),
        ("virtual_wait", latency(&[])),
        ("events_saved_from_expiry", amount()),
        ("validated", Schema::flag().about("Whether a control cohort confirms the figures.")),
        ("validation", Schema::text()),
        ("assumptions", Schema::list(Schema::text())),
    ])
    .named("Report")
}

fn baseline() -> Schema {
    Schema::object([
        ("credited_seconds", amount()),
        ("requests_avoided", amount()),
        ("requests_avoided_per_second", amount()),
        ("requests_with_events", amount()),
        ("gross_bytes", bytes()),
        ("overhead_bytes", amount()),
        ("net_bytes", amount().about("Negative when push cost more.")),
        ("break_even_keepalive_seconds", perhaps()),
        ("cpu_seconds", amount()),
    ])
    .named("Baseline")
}

fn cohort() -> Schema {
    Schema::object([("devices", Schema::count()), ("polls", Schema::map(amount())), ("bytes", bytes())]).named("CohortReport")
}

fn control() -> Schema {
    Schema::object([
        ("devices", amount()),
        (
            "poll_interval_seconds",
            Schema::object([("mean", amount()), ("variation", amount())]),
        ),
        ("empty_poll_bytes", bytes().or_null()),
        ("empty_ratio", amount()),
        ("latency_seconds", perhaps()),
    ])
    .named("ControlReport")
}

fn ratio() -> Schema {
    Schema::object([("ratio", amount()), ("low", amount()), ("high", amount())])
        .named("Ratio")
        .about("Predicted / observed, with its 95 % interval.")
}

fn latency(quantiles: &[&'static str]) -> Schema {
    let more = quantiles.iter().map(|name| (*name, perhaps()));
    let all = [("deliveries", amount()), ("sum_seconds", amount()), ("mean_seconds", perhaps())];
    Schema::object(all.into_iter().chain(more))
}
