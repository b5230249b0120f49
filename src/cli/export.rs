//! `unpoll export`: everything that a server keeps, as lines.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use reqwest::Method;

use super::{Failure, Outcome, client::ServerArguments};

/// How the last line of an export begins.
pub(super) const END: &[u8] = b"{\"end\":";
/// Bytes from the end of an export in which its last line is.
pub(super) const TAIL: usize = 4 * 1024;

/// Whose, and where to.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The file to write, readable by its owner alone [default: stdout]. It is there when it is whole, or not at all.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Reads and writes.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    let mut answer = client.stream(Method::GET, "/v1/export", None).await?;
    let target = arguments.output.as_deref();
    let mut to = Target::open(target)?;
    let mut tail = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(lines)) => {
                to.write(&lines)?;
                keep_tail(&mut tail, &lines);
            }
            Ok(None) => break,
            Err(error) => {
                to.give_up();
                return Err(Failure::Failed(format!("the export was cut, {}", client.unreachable(&error))));
            }
        }
    }
    if !is_whole(&tail) {
        to.give_up();
        return Err(Failure::failed(
            "the export was cut: its last line is missing; the log of the server says why",
        ));
    }
    to.finish()
}

fn keep_tail(tail: &mut Vec<u8>, lines: &[u8]) {
    tail.extend_from_slice(lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default());
    tail.drain(..tail.len().saturating_sub(TAIL));
}

/// Whether an export that ends so has its last line.
pub(super) fn is_whole(tail: &[u8]) -> bool {
    let tail = tail.trim_ascii_end();
    let last = tail.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    last.starts_with(END) && serde_json::from_slice::<serde_json::Value>(last).is_ok()
}

/// Stdout, or a file that gets its name when it is whole.
enum Target<'a> {
    Stdout,
    File(File, PathBuf, &'a Path),
}

impl<'a> Target<'a> {
    fn open(path: Option<&'a Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        // One that is left of an earlier try may have another mode.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(&part, &error)),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&part);
        Ok(Self::File(file.map_err(|error| unwritable(&part, &error))?, part, path))
    }

    fn write(&mut self, lines: &[u8]) -> Outcome {
        match self {
            Self::Stdout => io::stdout().lock().write_all(lines).map_err(stdout),
            Self::File(file, part, _) => file.write_all(lines).map_err(|error| {
                let _ = fs::remove_file(&*part);
                unwritable(part, &error)
            }),
        }
    }

    fn finish(self) -> Outcome {
        match self {
            Self::Stdout => io::stdout().lock().flush().map_err(stdout),
            Self::File(file, part, path) => file
                .sync_all()
                .and_then(|()| fs::rename(&part, path))
                .map_err(|error| unwritable(path, &error)),
        }
    }

    /// What is there is not whole: it goes.
    fn give_up(self) {
        if let Self::File(_, part, _) = self
            && let Err(error) = fs::remove_file(&part)
        {
            eprintln!("unpoll: {} is not whole and could not be removed: {error}", part.display());
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{} cannot be written: {error}", path.display()))
}

fn stdout(error: io::Error) -> Failure {
    Failure::Failed(format!("stdout cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_whole_with_its_last_line() {
        assert!(is_whole(b"{\"key\":{}}\n{\"end\":{\"keys\":1}}\n"));
        assert!(!is_whole(b"{\"key\":{}}\n{\"end\":{\"keys\":"));
        assert!(!is_whole(b"{\"end\":{}}\n{\"key\":{}}\n"));
        assert!(!is_whole(b""));
        let mut tail = Vec::new();
        for _ in 0..10 {
            keep_tail(&mut tail, &[b'x'; 3 * 1024]);
        }
        assert_eq!(tail.len(), TAIL);
    }
}
