//! `unpoll tenant`: the tenants of the service.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Outcome,
    client::{Client, ServerArguments, segment},
    fate::text,
    say,
    table::Table,
};

/// What to do with which tenant.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Prints JSON, for programs: one value a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Adds a tenant, or sets the limits of one that is there. Its first key: `unpoll key create --tenant`.
    Add {
        /// Its name: a-z, 0-9, '.', '_' and '-', up to 64 characters.
        name: String,
        /// Its XMPP domain, where its devices log in. It stays.
        #[arg(long, value_name = "D")]
        domain: String,
        /// Deliveries a second that all its keys together may post. Left out: as the settings of the service say.
        #[arg(long, value_name = "N")]
        deliveries_per_second: Option<u32>,
        /// Deliveries that they may post at once after a pause. Left out: as many as a second has.
        #[arg(long, value_name = "N", requires = "deliveries_per_second")]
        burst: Option<u32>,
    },
    /// Lists the tenants.
    List,
    /// Shows one tenant.
    Show {
        /// Its name.
        name: String,
    },
    /// Removes a tenant that has no device, and its keys.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Does it.
pub async fn run(arguments: Arguments) -> Outcome {
    let (client, json) = (arguments.server.client()?, arguments.json);
    let path = |name: &str| format!("/v1/tenants/{}", segment(name));
    match arguments.action {
        Action::Add {
            name,
            domain,
            deliveries_per_second,
            burst,
        } => {
            let body = json!({"domain": domain, "limits": limits(deliveries_per_second, burst)});
            show(&client.ask_json(Method::PUT, &path(&name), &body).await?, json)
        }
        Action::List => list(&client, json).await,
        Action::Show { name } => show(&client.ask(Method::GET, &path(&name), None).await?, json),
        Action::Remove { name } => {
            client.ask(Method::DELETE, &path(&name), None).await?;
            if json {
                say(json!({"name": name, "removed": true}))
            } else {
                say(format!("{name} is removed"))
            }
        }
    }
}

const COLUMNS: [&str; 4] = ["NAME", "DOMAIN", "CERTIFICATE", "LIMIT"];

async fn list(client: &Client, json: bool) -> Outcome {
    if json {
        return client.each("/v1/tenants", |tenant| say(tenant)).await;
    }
    let mut table = Table::new(&COLUMNS);
    client.each("/v1/tenants", |tenant| row(&mut table, tenant)).await?;
    table.print()
}

fn show(tenant: &Value, json: bool) -> Outcome {
    if json {
        return say(tenant);
    }
    let mut table = Table::new(&COLUMNS);
    row(&mut table, tenant)?;
    table.print()
}

fn row(table: &mut Table, tenant: &Value) -> Outcome {
    let certificate = match tenant.get("certificate").and_then(Value::as_bool) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    table.row(&[
        text(tenant, "name").unwrap_or_default(),
        text(tenant, "domain").unwrap_or_default(),
        certificate,
        &limit(tenant.get("limits").unwrap_or(&Value::Null)),
    ])
}

/// The limits of a tenant or a key in words; `-`: as the settings say.
pub(super) fn limit(limits: &Value) -> String {
    let of = |name: &str| limits.get(name).and_then(Value::as_u64);
    match (of("deliveries_per_second"), of("burst")) {
        (Some(rate), Some(burst)) => format!("{rate}/s, {burst} at once"),
        _ => "-".into(),
    }
}

/// The limits of a tenant or a key, as the interface takes them.
pub(super) fn limits(deliveries_per_second: Option<u32>, burst: Option<u32>) -> Value {
    match (deliveries_per_second, burst) {
        (None, _) => Value::Null,
        (Some(rate), None) => json!({"deliveries_per_second": rate}),
        (Some(rate), Some(burst)) => json!({"deliveries_per_second": rate, "burst": burst}),
    }
}
