//! `unpoll key`: the API keys of the tenant.

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Outcome,
    client::{Client, ServerArguments, segment},
    fate::text,
    say,
    table::Table,
    tenant,
};

/// What to do with which key.
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
        /// How long it is good, such as 90d, 12h or 600 (seconds) [default: until it is revoked].
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        expires_in: Option<u64>,
    },
    /// Lists the keys, without their secrets, and when each was last used: one that nobody uses can go.
    List,
    /// Gives a key another secret and prints it, this once, as one JSON line. The one before it goes on for a while.
    Rotate {
        /// Its id, as `list` shows it.
        id: String,
        /// How long the secret before it goes on, such as 24h; 0: it ends at once, and so does the one before it [default: the server's].
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        grace: Option<u64>,
    },
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
            expires_in,
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
            if let Some(members) = body.as_object_mut() {
                members.extend(tenant.map(|tenant| ("tenant".to_owned(), tenant.into())));
                members.extend(expires_in.map(|seconds| ("expires_in_secs".to_owned(), seconds.into())));
            }
            say(client.ask_json(Method::POST, "/v1/keys", &body).await?)
        }
        Action::Rotate { id, grace } => {
            let body = grace.map_or_else(|| json!({}), |seconds| json!({"grace_secs": seconds}));
            say(client
                .ask_json(Method::POST, &format!("/v1/keys/{}:rotate", segment(&id)), &body)
                .await?)
        }
        Action::List => list(&client, arguments.json).await,
        Action::Revoke { id } => {
            client.ask(Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
            if arguments.json {
                say(json!({"id": id, "revoked": true}))
            } else {
                say(format!("the key {id} is revoked"))
            }
        }
    }
}

async fn list(client: &Client, json: bool) -> Outcome {
    if json {
        return client.each("/v1/keys", |key| say(key)).await;
    }
    let mut table = Table::new(&["ID", "NAME", "SCOPE", "CREATED", "USED", "EXPIRES", "LIMIT"]);
    let listed = client.each("/v1/keys", |key| {
        table.row(&[
            text(key, "id").unwrap_or_default(),
            text(key, "name").unwrap_or_default(),
            text(key, "scope").unwrap_or_default(),
            text(key, "created_at").unwrap_or_default(),
            text(key, "last_used_at").unwrap_or("never"),
            text(key, "expires_at").unwrap_or("never"),
            &tenant::limit(key.get("limits").unwrap_or(&Value::Null)),
        ])
    });
    listed.await?;
    table.print()
}

/// A number of seconds, or of minutes, hours or days with `m`, `h` or `d` behind it.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (text.get(..at), 1),
        Some((at, 'm')) => (text.get(..at), 60),
        Some((at, 'h')) => (text.get(..at), 3_600),
        Some((at, 'd')) => (text.get(..at), 86_400),
        _ => (Some(text), 1),
    };
    let seconds = number
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(unit));
    seconds.ok_or_else(|| format!("{text:?} is no time; write such as 90d, 12h, 30m or 600"))
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_have_units() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(seconds(text).ok(), expected, "{text}");
        check("600", Some(600));
        check("30s", Some(30));
        check("5m", Some(300));
        check("12h", Some(43_200));
        check("90d", Some(7_776_000));
        check("0", Some(0));
        check("", None);
        check("d", None);
        check("-1", None);
        check("1w", None);
        check("1é", None);
        check("18446744073709551615d", None);
    }
}
