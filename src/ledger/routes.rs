//! `GET /v1/reports/polling-avoided`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use tracing::warn;

use super::{Ledger, Report};
use crate::domain::{Caller, Refusal, Scope, TenantId, Timestamp};

/// The period of a report that names none.
const DEFAULT_PERIOD_MS: u64 = 24 * 3_600_000;

/// The route, to be mounted behind the auth layer.
pub fn routes(ledger: Arc<Ledger>) -> Router {
    Router::new()
        .route("/v1/reports/polling-avoided", get(polling_avoided))
        .with_state(ledger)
}

async fn polling_avoided(
    State(ledger): State<Arc<Ledger>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Report>, Refusal> {
    if !caller.scope.covers(Scope::Read) {
        return Err(Refusal::Forbidden {
            key: caller.key_name.to_string(),
            needed: Scope::Read,
        });
    }
    // The minutes are those of all tenants together: of them the default tenant reads, whose operator runs the service.
    if caller.tenant != TenantId::default() {
        return Err(Refusal::Forbidden {
            key: caller.key_name.to_string(),
            needed: Scope::Operator,
        });
    }
    let Query(parameters) = query.map_err(|rejection| invalid("from", rejection.body_text()))?;
    let (from, to) = period(&parameters, ledger.clock.now(), ledger.config.report_max_days)?;
    ledger.report(from, to).await.map(Json).map_err(|error| {
        warn!(%error, "the ledger's minutes cannot be read");
        Refusal::Unavailable {
            retry_after: Duration::from_secs(5),
        }
    })
}

/// The period that the query names: by default the last 24 hours, up to now.
fn period(parameters: &[(String, String)], now: Timestamp, max_days: u32) -> Result<(Timestamp, Timestamp), Refusal> {
    let (mut from, mut to) = (None, None);
    for (name, value) in parameters {
        let place = match name.as_str() {
            "from" => &mut from,
            "to" => &mut to,
            _ => return Err(invalid(name, "it is not known here; from and to are")),
        };
        let time: Timestamp = value.parse().map_err(|error| {
            invalid(
                name,
                format!("it is no RFC 3339 time ({error}); write 2026-11-22T01:30:00Z, and + as %2B"),
            )
        })?;
        if place.replace(time).is_some() {
            return Err(invalid(name, "it is given twice"));
        }
    }
    let to = to.unwrap_or(now);
    let from = from.unwrap_or(Timestamp(to.0.saturating_sub(DEFAULT_PERIOD_MS)));
    if from >= to {
        return Err(invalid("from", format!("{from} is not before {to}")));
    }
    if to.0 - from.0 > u64::from(max_days) * 86_400_000 {
        return Err(invalid("from", format!("the period is longer than {max_days} days")));
    }
    Ok((from, to))
}

fn invalid(name: &str, why: impl Into<String>) -> Refusal {
    Refusal::InvalidParameter {
        name: name.to_owned(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_period_is_checked_and_has_a_default() {
        let now = time("2026-11-22T12:00:00Z");
        let check = |query: &[(&str, &str)]| {
            let query: Vec<_> = query
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            period(&query, now, 400)
        };
        assert_eq!(check(&[]), Ok((time("2026-11-21T12:00:00Z"), now)));
        assert_eq!(
            check(&[("from", "2026-11-22T13:00:00+02:00")]),
            Ok((time("2026-11-22T11:00:00Z"), now))
        );
        assert_eq!(
            check(&[("to", "2026-11-20T00:00:00Z")]),
            Ok((time("2026-11-19T00:00:00Z"), time("2026-11-20T00:00:00Z")))
        );
        let refused = |query: &[(&str, &str)], name: &str, why: &str| match check(query) {
            Err(Refusal::InvalidParameter { name: found, why: text }) => {
                assert_eq!(found, name);
                assert!(text.contains(why), "{text}");
            }
            other => panic!("{query:?}: {other:?}"),
        };
        refused(&[("from", "yesterday")], "from", "RFC 3339");
        refused(&[("to", "2026-11-22T13:00:00 02:00")], "to", "%2B");
        refused(&[("since", "2026-11-22T13:00:00Z")], "since", "not known");
        refused(&[("from", "2026-11-22T12:00:00Z")], "from", "not before");
        refused(&[("from", "2020-01-01T00:00:00Z")], "from", "400 days");
        refused(&[("to", "2026-11-22T00:00:00Z"), ("to", "2026-11-22T01:00:00Z")], "to", "twice");
    }
}
