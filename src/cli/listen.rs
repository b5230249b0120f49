//! `unpoll listen`: a reference device in the terminal.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, Outcome,
    client::ready,
    reference_device::{Account, Backoff, Delivered, Endpoint, Memory, News, ReferenceDevice, tls_trusting},
    say, secret,
};
use crate::{certificate::CA_FILE, domain::DeviceId};

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
    /// Ends after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
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
            tls: tls_trusting(&ca)?,
            backoff: Backoff::default(),
        };
        Ok((account, endpoint))
    }
}

/// Listens until a signal, the count, or a failure that coming back would not mend.
pub async fn run(arguments: Arguments) -> Outcome {
    let (account, endpoint) = arguments.device()?;
    let handler = |kind| signal(kind).map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let jid = account.jid();
    let mut device = ReferenceDevice::start(account, endpoint, Memory::default());
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        outcome = print_events(&mut device, &jid, arguments.count) => outcome,
    };
    device.close().await;
    outcome
}

async fn print_events(device: &mut ReferenceDevice, jid: &str, count: Option<u64>) -> Outcome {
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        match device.next().await {
            Ok(News::Event(event)) => {
                print(&event)?;
                device.confirm(&event).map_err(Failure::failed)?;
                printed += 1;
            }
            Ok(News::Online { resumed: false }) => eprintln!("{jid} is online"),
            Ok(News::Online { resumed: true }) => eprintln!("{jid} is online again; the session goes on"),
            Ok(News::Away) => eprintln!("{jid} lost the connection"),
            Ok(News::Retrying { why, pause }) => eprintln!("{why}; trying again in {:.1} s", pause.as_secs_f64()),
            Err(error) => return Err(Failure::failed(error)),
        }
    }
    Ok(())
}

fn print(event: &Delivered) -> Outcome {
    say(serde_json::to_string(event).map_err(Failure::failed)?)
}
