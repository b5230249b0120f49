//! `unpoll device`: the devices of the key's tenant.

use std::{io::Read, path::PathBuf};

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Failure, Outcome,
    client::{Client, ServerArguments, segment},
    say, secret,
};

/// The largest file that is imported at once, in bytes.
const IMPORT_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What to do with which device.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Adds a device, or changes it, and prints it as one JSON line; a password that is made for it is printed this once.
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
    /// Prints each device as one JSON line.
    List,
    /// Prints one device, with its presence: whether it reads, why its last connection ended, how often its seat changed hands.
    Show {
        /// Its id.
        id: String,
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
    match arguments.action {
        Action::Add {
            id,
            user,
            attributes,
            password_stdin,
        } => add(&client, &id, user, attributes, password_stdin).await,
        Action::Import { file } => import(&client, &file).await,
        Action::List => client.each("/v1/devices", say_value).await,
        Action::Show { id } => {
            let mut device = client.ask(Method::GET, &path(&id), None).await?;
            let presence = client.ask(Method::GET, &format!("{}/presence", path(&id)), None).await?;
            if let Value::Object(device) = &mut device {
                device.insert("presence".into(), presence);
            }
            say(serde_json::to_string_pretty(&device).map_err(Failure::failed)?)
        }
        Action::Remove { id } => {
            client.ask(Method::DELETE, &path(&id), None).await?;
            say(json!({"id": id, "removed": true}))
        }
    }
}

async fn add(client: &Client, id: &str, user: Option<String>, attributes: Vec<(String, Value)>, password_stdin: bool) -> Outcome {
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
    say(device)
}

async fn import(client: &Client, file: &std::path::Path) -> Outcome {
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
    say(&answer)?;
    match refused(&answer) {
        0 => Ok(()),
        refused => Err(Failure::Failed(format!(
            "{refused} lines of {shown} were refused; the answer on stdout names them"
        ))),
    }
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

fn say_value(value: &Value) -> Outcome {
    say(value)
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
