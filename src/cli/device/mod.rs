//! `unpoll device`: the devices of the key's tenant.

mod show;

use std::{io::Read, path::PathBuf};

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Failure, Outcome,
    client::{Client, ServerArguments, segment},
    fate::text,
    say, secret,
    table::{Table, clip},
};

/// The largest file that is imported at once, in bytes.
const IMPORT_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What to do with which device.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Prints JSON, for programs: one value a line (`show`: one value).
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Adds a device, or changes it; a password that is made for it is printed this once.
    Add {
        /// Its id: a-z, 0-9, '.', '_' and '-', up to 64 characters.
        id: String,
        /// Its owner.
        #[arg(long, value_name = "U")]
        user: Option<String>,
        /// A fact about it; a value that is JSON (a number, true) is taken as such. May be repeated.
        #[arg(long = "attr", value_name = "K=V", value_parser = attribute)]
        attributes: Vec<(String, Value)>,
        /// Reads its password from the first line of stdin; else one is made.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Adds many devices from a file of JSON lines ('-' is stdin): {"id":…,"password":…,"user":…,"attributes":{…}}.
    Import {
        /// The file.
        file: PathBuf,
    },
    /// Lists devices in order of their ids.
    List {
        /// Only those that fit, such as 'attributes.model = "stb-7" AND reported.fw = 7.*'.
        #[arg(long, value_name = "EXPR")]
        filter: Option<String>,
        /// Only those of this owner.
        #[arg(long, value_name = "U")]
        user: Option<String>,
    },
    /// Shows one device: its row, its presence, and what became of what was sent to it last, with the reason.
    Show {
        /// Its id.
        id: String,
        /// How many deliveries, newest first; up to 1000.
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        deliveries: u16,
    },
    /// Removes a device, its queue and its session.
    Remove {
        /// Its id.
        id: String,
    },
}

/// Does it.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    let json = arguments.json;
    match arguments.action {
        Action::Add {
            id,
            user,
            attributes,
            password_stdin,
        } => {
            let device = add(&client, &id, user, attributes, password_stdin).await?;
            if json { say(device) } else { say(added(&device)) }
        }
        Action::Import { file } => import(&client, &file, json).await,
        Action::List { filter, user } => list(&client, filter.as_deref(), user.as_deref(), json).await,
        Action::Show { id, deliveries } => show::run(&client, &id, deliveries.into(), json).await,
        Action::Remove { id } => {
            client.ask(Method::DELETE, &path(&id), None).await?;
            if json {
                say(json!({"id": id, "removed": true}))
            } else {
                say(format!("{id} is removed"))
            }
        }
    }
}

async fn list(client: &Client, filter: Option<&str>, user: Option<&str>, json: bool) -> Outcome {
    let parameters = [("filter", filter), ("user", user)];
    let query: String = parameters
        .into_iter()
        .filter_map(|(name, value)| Some(format!("&{name}={}", segment(value?))))
        .collect();
    if json {
        return client.each_of("/v1/devices", &query, |device| say(device)).await;
    }
    let mut table = Table::new(&["ID", "USER", "COHORT", "ATTRIBUTES", "REPORTED"]);
    let object = |device: &Value, name: &str| match device.get(name) {
        Some(Value::Object(map)) if !map.is_empty() => clip(&Value::Object(map.clone()).to_string(), 60),
        _ => String::new(),
    };
    let listed = client.each_of("/v1/devices", &query, |device| {
        table.row(&[
            text(device, "id").unwrap_or_default(),
            text(device, "user").unwrap_or("-"),
            text(device, "cohort").unwrap_or_default(),
            &object(device, "attributes"),
            &object(device, "reported"),
        ])
    });
    listed.await?;
    table.print()
}

/// A device that was added, in words. A password in it is one that was made.
fn added(device: &Value) -> String {
    let mut lines = vec![format!("device    {}", text(device, "jid").unwrap_or_default())];
    if let Some(password) = text(device, "password") {
        lines.push(format!("password  {password}   (made for it, and shown this once)"));
    }
    lines.join("\n")
}

async fn add(
    client: &Client,
    id: &str,
    user: Option<String>,
    attributes: Vec<(String, Value)>,
    password_stdin: bool,
) -> Result<Value, Failure> {
    let (password, generated) = if password_stdin {
        (secret::password_from_stdin()?, false)
    } else {
        (secret::generate_password()?, true)
    };
    let mut body = Map::new();
    body.insert("password".into(), password.clone().into());
    if let Some(user) = user {
        body.insert("user".into(), user.into());
    }
    if !attributes.is_empty() {
        body.insert("attributes".into(), Value::Object(attributes.into_iter().collect()));
    }
    let mut device = client.ask_json(Method::PUT, &path(id), &Value::Object(body)).await?;
    if let (true, Value::Object(device)) = (generated, &mut device) {
        device.insert("password".into(), password.into());
    }
    Ok(device)
}

async fn import(client: &Client, file: &std::path::Path, json: bool) -> Outcome {
    let shown = file.display();
    let unreadable = |error: std::io::Error| Failure::Failed(format!("{shown} cannot be read: {error}"));
    let mut lines = Vec::new();
    let source: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(unreadable)?)
    };
    source.take(IMPORT_MAX_BYTES + 1).read_to_end(&mut lines).map_err(unreadable)?;
    if lines.len() as u64 > IMPORT_MAX_BYTES {
        return Err(Failure::Failed(format!("{shown} has more than {IMPORT_MAX_BYTES} bytes; split it")));
    }
    let answer = client
        .ask(Method::POST, "/v1/devices", Some(("application/x-ndjson", lines)))
        .await?;
    if json {
        say(&answer)?;
    } else {
        say(format!(
            "{} devices were taken",
            answer.get("accepted").and_then(Value::as_u64).unwrap_or(0)
        ))?;
        say_refused(&answer)?;
    }
    match refused(&answer) {
        0 => Ok(()),
        refused => Err(Failure::Failed(format!(
            "{refused} lines of {shown} were refused; the answer on stdout names them"
        ))),
    }
}

/// The lines of a bulk request that were refused, each with the reason.
fn say_refused(answer: &Value) -> Outcome {
    let items = answer.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut refused = items
        .iter()
        .filter(|item| item.get("problem").is_some_and(Value::is_object))
        .peekable();
    if refused.peek().is_none() {
        return Ok(());
    }
    let mut table = Table::new(&["LINE", "ID", "WHY"]);
    for item in refused {
        let line = item.get("line").map(Value::to_string).unwrap_or_default();
        let why = item.get("problem").and_then(|problem| text(problem, "detail"));
        table.row(&[&line, text(item, "id").unwrap_or("-"), why.unwrap_or_default()])?;
    }
    table.print()
}

/// How many lines the answer to a bulk request refuses: its list of errors, or its count.
pub(super) fn refused(answer: &Value) -> u64 {
    ["errors", "failed", "refused", "rejected"]
        .iter()
        .filter_map(|field| answer.get(field))
        .map(|found| {
            found
                .as_array()
                .map_or_else(|| found.as_u64().unwrap_or(0), |list| list.len() as u64)
        })
        .max()
        .unwrap_or(0)
}

fn path(id: &str) -> String {
    format!("/v1/devices/{}", segment(id))
}

fn attribute(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((key.to_owned(), value))
        }
        _ => Err("write it as key=value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_json_or_text() {
        let check = |text: &str, expected: Value| assert_eq!(attribute(text).unwrap(), ("k".to_owned(), expected));
        check("k=7", json!(7));
        check("k=true", json!(true));
        check("k=Living room", json!("Living room"));
        check("k=a=b", json!("a=b"));
        assert!(attribute("k").is_err() && attribute("=v").is_err());
    }
}
