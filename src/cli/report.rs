//! `unpoll report`: the polling that was avoided, in words or as JSON.

use reqwest::Method;
use serde_json::Value;

use super::{
    Failure, Outcome,
    client::{ServerArguments, segment},
    say,
};
use crate::ledger;

/// Which period, and how to print it.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The beginning (RFC 3339, such as 2026-11-22T00:00:00Z) [default: 24 hours before the end].
    #[arg(long, value_name = "T")]
    from: Option<String>,
    /// The end [default: now].
    #[arg(long, value_name = "T")]
    to: Option<String>,
    /// Prints the report as the server gave it.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    let query: Vec<String> = [("from", &arguments.from), ("to", &arguments.to)]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_ref()?))))
        .collect();
    let report = client
        .ask(Method::GET, &format!("/v1/reports/polling-avoided?{}", query.join("&")), None)
        .await?;
    if arguments.json {
        return say(serde_json::to_string_pretty(&report).map_err(Failure::failed)?);
    }
    say(words(&report))
}

/// The report in the ledger's words. A report of another version of the server is printed as it is.
pub(super) fn words(report: &Value) -> String {
    match serde_json::from_value::<ledger::Report>(report.clone()) {
        Ok(report) => ledger::words(&report).trim_end().to_owned(),
        Err(_) => format!("{report:#}"),
    }
}
