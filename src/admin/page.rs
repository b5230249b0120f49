//! The page at `/`: the figures that an operator looks for first. Plain HTML, made at each request from the metrics.

use std::fmt::Write as _;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::{AdminState, Check};

/// Nothing from outside, no script.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub async fn page(State(state): State<AdminState>) -> Response {
    let figures = Figures(state.metrics.registry().gather());
    let text = render(&state, &figures, &(state.readiness)());
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

struct Tile {
    label: &'static str,
    value: String,
    note: String,
}

fn render(state: &AdminState, figures: &Figures, checks: &[Check]) -> String {
    let ready = checks.iter().all(|check| check.ok);
    let (class, word) = if ready { ("good", "ready") } else { ("bad", "not ready") };
    let (node, domain) = (escape(&state.node), escape(&state.domain));
    let tiles: String = tiles(figures).iter().map(tile).collect();
    let mut rows = String::new();
    for check in checks {
        let (class, mark) = if check.ok { ("good", "yes") } else { ("bad", "no") };
        // Writing to a String cannot fail.
        let _ = write!(
            rows,
            "<tr><th scope=row>{}</th><td class={class}>{mark}</td><td>{}</td></tr>",
            escape(check.name),
            escape(&check.detail)
        );
    }
    let checks = if rows.is_empty() {
        String::new()
    } else {
        format!("<h2>Checks</h2><table>{rows}</table>")
    };
    let version = escape(env!("CARGO_PKG_VERSION"));
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><meta http-equiv=refresh content=10><title>unpoll: {domain}</title>\
         <style>{STYLE}</style></head><body><header><h1>unpoll</h1><p>{domain} on {node} <strong class={class}>{word}</strong></p></header>\
         <main><div class=tiles>{tiles}</div>{checks}</main>\
         <footer><a href=\"/metrics\">metrics</a> <a href=\"/readyz\">readiness</a> <a href=\"/healthz\">health</a> \
         <span>version {version}; this page reloads every 10 s</span></footer></body></html>\n"
    )
}

fn tiles(figures: &Figures) -> Vec<Tile> {
    let shown = |value: Option<f64>, form: fn(f64) -> String| match value {
        Some(value) if value.is_finite() => form(value),
        _ => "\u{2013}".to_owned(),
    };
    let declared = [("baseline", "declared")];
    let polls = figures.sum("unpoll_polls_avoided_total", &declared);
    let found = figures.sum("unpoll_polls_avoided_total", &[("baseline", "declared"), ("result", "events")]);
    let gross = figures.sum("unpoll_poll_avoided_bytes_total", &declared);
    let cost = figures.sum("unpoll_overhead_bytes_total", &[]);
    let net = gross.zip(cost).map(|(gross, cost)| gross - cost);
    let free = shown(figures.sum("unpoll_store_free_bytes", &[]), size);
    let oldest = shown(figures.sum("unpoll_oldest_queued_seconds", &[]), span);
    let devices = shown(figures.sum("unpoll_devices", &[]), count);
    let accepted = shown(figures.sum("unpoll_events_accepted_total", &[]), count);
    let tile = |label, value, note: String| Tile { label, value, note };
    vec![
        tile(
            "Polls avoided since start",
            shown(polls, count),
            format!(
                "gross, declared; {} with events. Not validated: no control cohort",
                shown(found, count)
            ),
        ),
        tile(
            "Net bytes avoided",
            shown(net, size),
            format!("{} avoided less {} that push cost", shown(gross, size), shown(cost, size)),
        ),
        tile(
            "Sessions",
            shown(figures.sum("unpoll_sessions", &[]), count),
            format!("of {devices} devices"),
        ),
        tile(
            "Events that wait",
            shown(figures.sum("unpoll_queue_depth", &[]), count),
            format!("the oldest for {oldest}"),
        ),
        tile(
            "Delivered since start",
            shown(figures.sum("unpoll_deliveries_total", &[("state", "delivered")]), count),
            format!("{accepted} accepted"),
        ),
        tile(
            "Store",
            shown(figures.sum("unpoll_store_disk_bytes", &[]), size),
            format!("{free} of disk free"),
        ),
    ]
}

fn tile(tile: &Tile) -> String {
    format!(
        "<section><h2>{}</h2><p class=figure>{}</p><p>{}</p></section>",
        escape(tile.label),
        escape(&tile.value),
        escape(&tile.note)
    )
}

struct Figures(Vec<MetricFamily>);

impl Figures {
    /// The sum over all label sets that have these labels. `None`: there is no such metric.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.0.iter().find(|family| family.name() == name)?;
        let has = |metric: &Metric, (name, value): &(&str, &str)| {
            metric.get_label().iter().any(|pair| pair.name() == *name && pair.value() == *value)
        };
        let fitting = family
            .get_metric()
            .iter()
            .filter(|metric| labels.iter().all(|label| has(metric, label)));
        let value = |metric: &Metric| match family.get_field_type() {
            MetricType::GAUGE => metric.get_gauge().get_value(),
            _ => metric.get_counter().get_value(),
        };
        Some(fitting.map(value).sum())
    }
}

fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::from(if number < 0.0 { "\u{2212}" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn size(bytes: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(unit, _)| bytes.abs() >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes:.0} B"),
    }
}

fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    match units.iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", seconds / unit),
        None => format!("{seconds:.0} s"),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--page:#f6f7f9;--card:#fff;--line:#d8dee4;--good:#116329;--bad:#a40e26;--link:#0550ae}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--page:#0e1116;--card:#161b22;--line:#30363d;--good:#5fd37a;--bad:#ff8a8a;--link:#79b8ff}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:64rem;padding:1.5rem 1rem;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
h1{margin:0;font-size:1.5rem}header p{margin:.25rem 0 1.5rem;color:var(--soft)}h2{margin:0;font-size:.9rem;font-weight:600;color:var(--soft)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:1rem;margin-bottom:2rem}\
section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:1rem}section p{margin:0;color:var(--soft);font-size:.875rem}\
section p.figure{color:var(--ink);font-size:2rem;font-variant-numeric:tabular-nums;line-height:1.3}\
table{width:100%;margin:.5rem 0 2rem;border-collapse:collapse}th,td{text-align:left;padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);font-weight:400}\
.good{color:var(--good)}.bad{color:var(--bad)}a{color:var(--link);margin-right:1rem}footer{color:var(--soft);font-size:.875rem}footer span{display:inline-block}";
