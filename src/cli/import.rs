//! `unpoll import`: an export into a new server.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, stream};
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_util::io::ReaderStream;

use super::{
    Failure, Outcome,
    client::{Client, ServerArguments},
    device::refused,
    export::{TAIL, is_whole},
    say,
};

/// The longest first line, in bytes.
const FIRST_MAX: u64 = 64 * 1024;
/// Bytes that are read and sent at once.
const PIECE: usize = 64 * 1024;

/// Whereto, and from where.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// What `unpoll export` wrote [default: '-', stdin]. A file that is cut is refused before anything is stored.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Takes what there is of an export that was cut.
    #[arg(long)]
    partial: bool,
}

/// Sends it; prints what became of its lines as one JSON line.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    let shown = arguments.file.display().to_string();
    let unreadable = |error: std::io::Error| Failure::Failed(format!("{shown} cannot be read: {error}"));
    if arguments.file.as_os_str() == "-" {
        return send(&client, BufReader::new(tokio::io::stdin()), arguments.partial, &unreadable).await;
    }
    let file = std::fs::File::open(&arguments.file).map_err(unreadable)?;
    let file = check_tail(file, &arguments.file, arguments.partial).map_err(unreadable)??;
    send(
        &client,
        BufReader::new(tokio::fs::File::from_std(file)),
        arguments.partial,
        &unreadable,
    )
    .await
}

/// Looks for the last line of a file. A pipe is looked at by the server when it ends.
fn check_tail(mut file: std::fs::File, path: &Path, partial: bool) -> std::io::Result<Result<std::fs::File, Failure>> {
    let about = file.metadata()?;
    if partial || !about.is_file() {
        return Ok(Ok(file));
    }
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(about.len().saturating_sub(TAIL as u64)))?;
    file.read_to_end(&mut tail)?;
    file.rewind()?;
    if is_whole(&tail) {
        return Ok(Ok(file));
    }
    Ok(Err(Failure::Failed(format!(
        "{} is cut: its last line is missing. Nothing was sent; --partial takes what there is",
        path.display()
    ))))
}

async fn send<R>(client: &Client, mut lines: R, partial: bool, unreadable: &impl Fn(std::io::Error) -> Failure) -> Outcome
where
    R: AsyncBufRead + Unpin + Send + 'static,
{
    let mut first = Vec::new();
    (&mut lines)
        .take(FIRST_MAX)
        .read_until(b'\n', &mut first)
        .await
        .map_err(unreadable)?;
    // The first line goes alone: a server that takes no import says so before the rest is under way.
    let path = "/v1/import?begin_only=true";
    client.stream(Method::POST, path, Some(Body::from(first.clone()))).await?;
    let rest = ReaderStream::with_capacity(lines, PIECE);
    let whole = stream::once(async move { Ok(first.into()) }).chain(rest);
    let path = format!("/v1/import?partial={partial}");
    let answer = client.stream(Method::POST, &path, Some(Body::wrap_stream(whole))).await?;
    let answer: Value = answer.json().await.map_err(|error| client.unreachable(&error))?;
    say(&answer)?;
    match (refused(&answer), answer.get("complete").and_then(Value::as_bool)) {
        (0, Some(true)) => Ok(()),
        (0, _) => Err(Failure::failed("the import is not complete")),
        (lines, _) => Err(Failure::Failed(format!(
            "{lines} lines were refused; the answer on stdout names them. What was stored stays; correct the file and import all of it again"
        ))),
    }
}
