//! `unpoll listen`: a reference device in the terminal.
//!
//! Each event is one line of JSON on stdout: `id`, `lane`, `seq`, `attempt`, `event` (the CloudEvent), `delayed`. It is
//! acknowledged when the line is written and the command, if there is one, has ended: a line that nobody can read, or a
//! command that could not run, leaves the event in the queue.

mod exec;

use std::{path::PathBuf, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, Outcome,
    client::ready,
    reference_device::{Account, Backoff, Delivered, Endpoint, Journal, Memory, News, ReferenceDevice, tls_trusting},
    say, secret,
};
use crate::{certificate::CA_FILE, domain::DeviceId};
use exec::Exec;

/// Which device it is, and where it connects.
#[derive(clap::Args)]
pub struct Arguments {
    /// The device's id.
    #[arg(long, value_name = "ID")]
    device: String,
    /// Reads its password from the first line of stdin; else it is in UNPOLL_PASSWORD.
    #[arg(long)]
    password_stdin: bool,
    /// Host and port of XMPP over TLS [default: the one that the data directory names, or 127.0.0.1:5223].
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    /// A file with the certificates to trust, in PEM [default: ca.pem in the data directory].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The XMPP domain of the device [default: the one that the data directory names, or localhost].
    #[arg(long, value_name = "D")]
    domain: Option<String>,
    /// The data directory of a server on this machine.
    #[arg(long, value_name = "DIR", default_value = "unpoll-data", env = "UNPOLL_DATA_DIR")]
    data_dir: PathBuf,
    /// A file that remembers the last number of each lane and a token instead of the password; for its owner only.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Runs this by `sh -c` for each event, with its line on stdin and UNPOLL_EVENT_ID, _LANE, _SEQ, _ATTEMPT in the environment.
    ///
    /// Its exit status is the outcome: 0 is done, 75 is to be tried again, anything else has failed. What it prints goes to stderr.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// After how many seconds the command is killed; the event has then failed. More than 30 risks a reconnection meanwhile.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=86_400), requires = "exec")]
    exec_timeout: u64,
    /// After how many seconds an event is given again whose command ended with 75.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400), requires = "exec")]
    exec_retry: u32,
    /// Ends after this many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after one event.
    #[arg(long, conflicts_with = "count")]
    once: bool,
}

impl Arguments {
    fn password(&self) -> Result<String, Failure> {
        if self.password_stdin {
            return secret::password_from_stdin();
        }
        std::env::var("UNPOLL_PASSWORD")
            .map_err(|_| Failure::Usage("no password: pipe it in with --password-stdin, or set UNPOLL_PASSWORD".into()))
    }

    fn device(&self) -> Result<(Account, Endpoint), Failure> {
        let device: DeviceId = self
            .device
            .parse()
            .map_err(|error| Failure::Usage(format!("{:?} is no device id: {error}", self.device)))?;
        let ready = ready(&self.data_dir);
        let told = |field: &str| Some(ready.as_ref()?.get(field)?.as_str()?.to_owned());
        let ca = self.ca.clone().unwrap_or_else(|| self.data_dir.join(CA_FILE));
        let account = Account {
            device: device.to_string(),
            domain: self.domain.clone().or_else(|| told("domain")).unwrap_or_else(|| "localhost".into()),
            password: self.password()?,
        };
        let endpoint = Endpoint {
            address: self
                .server
                .clone()
                .or_else(|| told("xmpps"))
                .unwrap_or_else(|| "127.0.0.1:5223".into()),
            others: Vec::new(),
            tls: tls_trusting(&ca)?,
            backoff: Backoff::default(),
        };
        Ok((account, endpoint))
    }
}

impl Arguments {
    fn journal(&self, jid: &str) -> Result<Journal, Failure> {
        match &self.journal {
            Some(path) => Ok(Journal::open(path, jid)?),
            None => Ok(Memory::default().into()),
        }
    }

    fn exec(&self) -> Option<Exec> {
        self.exec.clone().map(|command| Exec {
            command,
            timeout: Duration::from_secs(self.exec_timeout),
            retry_seconds: self.exec_retry,
        })
    }
}

/// Listens until a signal, the count, or a failure that coming back would not mend.
pub async fn run(arguments: Arguments) -> Outcome {
    let (account, endpoint) = arguments.device()?;
    let handler = |kind| signal(kind).map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let jid = account.jid();
    let journal = arguments.journal(&jid)?;
    let (exec, count) = (arguments.exec(), if arguments.once { Some(1) } else { arguments.count });
    let mut device = ReferenceDevice::start(account, endpoint, journal);
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        outcome = take_events(&mut device, &jid, exec.as_ref(), count) => outcome,
    };
    device.close().await;
    outcome
}

async fn take_events(device: &mut ReferenceDevice, jid: &str, exec: Option<&Exec>, count: Option<u64>) -> Outcome {
    let mut taken = 0;
    while count.is_none_or(|count| taken < count) {
        match device.next().await {
            Ok(News::Event(event)) => {
                take(device, &event, exec).await?;
                taken += 1;
            }
            Ok(News::Online { resumed: false }) => tell(format_args!("{jid} is online")),
            Ok(News::Online { resumed: true }) => tell(format_args!("{jid} is online again; the session goes on")),
            Ok(News::Away) => tell(format_args!("{jid} lost the connection")),
            Ok(News::Retrying { why, pause }) => tell(format_args!("{why}; trying again in {:.1} s", pause.as_secs_f64())),
            Ok(News::OutcomeRefused { event }) => tell(format_args!("the service does not take the outcome of {event}")),
            Err(error) => return Err(Failure::failed(error)),
        }
    }
    Ok(())
}

/// Prints an event, runs the command, and only then acknowledges.
async fn take(device: &mut ReferenceDevice, event: &Delivered, exec: Option<&Exec>) -> Outcome {
    let line = serde_json::to_string(event).map_err(Failure::failed)?;
    say(&line)?;
    let settled = match exec {
        Some(exec) => {
            let outcome = exec.run(event, &line).await;
            let outcome = outcome.map_err(|error| Failure::Failed(format!("the command cannot be run: {error}")))?;
            device.settle(event, Some(outcome))
        }
        None => device.confirm(event),
    };
    settled.map_err(Failure::failed)
}

/// A line for the person who watches. Nobody watching is no failure.
fn tell(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
