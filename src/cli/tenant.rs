//! `unpoll tenant`: the tenants of the service.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Outcome,
    client::{ServerArguments, segment},
    say,
};

/// What to do with which tenant.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Adds a tenant, or sets the limits of one that is there, and prints it as one JSON line. Its first key: `unpoll key create --tenant`.
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
    /// Prints each tenant as one JSON line.
    List,
    /// Prints one tenant as one JSON line.
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
    let client = arguments.server.client()?;
    let path = |name: &str| format!("/v1/tenants/{}", segment(name));
    match arguments.action {
        Action::Add {
            name,
            domain,
            deliveries_per_second,
            burst,
        } => {
            let body = json!({"domain": domain, "limits": limits(deliveries_per_second, burst)});
            say(client.ask_json(Method::PUT, &path(&name), &body).await?)
        }
        Action::List => client.each("/v1/tenants", |tenant| say(tenant)).await,
        Action::Show { name } => say(client.ask(Method::GET, &path(&name), None).await?),
        Action::Remove { name } => {
            client.ask(Method::DELETE, &path(&name), None).await?;
            say(json!({"name": name, "removed": true}))
        }
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
