//! `unpoll key`: the API keys of the tenant.

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::json;

use super::{
    Outcome,
    client::{ServerArguments, segment},
    say, tenant,
};

/// What to do with which key.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Makes a key and prints it, this once, as one JSON line.
    Create {
        /// What to call it: the log and the list show this name.
        #[arg(long, value_name = "N")]
        name: String,
        /// What it may do.
        #[arg(long)]
        scope: ScopeWord,
        /// Whose it is to be, when not of the tenant of the key that asks. That takes a key of scope operator.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Deliveries a second that may be posted with it. Left out: as the settings of the service say.
        #[arg(long, value_name = "N")]
        deliveries_per_second: Option<u32>,
        /// Deliveries that may be posted with it at once after a pause. Left out: as many as a second has.
        #[arg(long, value_name = "N", requires = "deliveries_per_second")]
        burst: Option<u32>,
    },
    /// Prints each key, without its secret, as one JSON line.
    List,
    /// Makes a key worthless.
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeWord {
    /// Post and cancel events, and learn what became of them.
    Push,
    /// Read everything.
    Read,
    /// Everything of the tenant.
    Admin,
    /// Tenants too.
    Operator,
}

/// Does it.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    match arguments.action {
        Action::Create {
            name,
            scope,
            tenant,
            deliveries_per_second,
            burst,
        } => {
            let scope = match scope {
                ScopeWord::Push => "push",
                ScopeWord::Read => "read",
                ScopeWord::Admin => "admin",
                ScopeWord::Operator => "operator",
            };
            let mut body = json!({"name": name, "scope": scope, "limits": tenant::limits(deliveries_per_second, burst)});
            if let (Some(tenant), Some(members)) = (tenant, body.as_object_mut()) {
                members.insert("tenant".into(), tenant.into());
            }
            say(client.ask_json(Method::POST, "/v1/keys", &body).await?)
        }
        Action::List => client.each("/v1/keys", |key| say(key)).await,
        Action::Revoke { id } => {
            client.ask(Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
            say(json!({"id": id, "revoked": true}))
        }
    }
}
