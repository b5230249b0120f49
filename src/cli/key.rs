//! `unpoll key`: the API keys of the tenant.

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::json;

use super::{
    Outcome,
    client::{ServerArguments, segment},
    say,
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
        Action::Create { name, scope } => {
            let scope = match scope {
                ScopeWord::Push => "push",
                ScopeWord::Read => "read",
                ScopeWord::Admin => "admin",
                ScopeWord::Operator => "operator",
            };
            say(client
                .ask_json(Method::POST, "/v1/keys", &json!({"name": name, "scope": scope}))
                .await?)
        }
        Action::List => client.each("/v1/keys", |key| say(key)).await,
        Action::Revoke { id } => {
            client.ask(Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
            say(json!({"id": id, "revoked": true}))
        }
    }
}
