//! The boxes of the demo, in a process of their own: reference devices, or boxes that poll. They are told on stdin what happens
//! to them, and report on stdout what they see.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
    time::Instant,
};

use crate::{
    cli::{
        Failure, Outcome,
        reference_device::{Account, Backoff, Endpoint, Memory, News, ReferenceDevice, tls_trusting},
        secret::random_below,
    },
    crew::Crew,
};

use super::{now_us, poller};

/// The boxes connect spread over this many milliseconds a hundred of them, as they would come to life one after the other.
const START_SPREAD_MS_A_HUNDRED: u64 = 500;
/// Orders and reports that may wait.
const WAITING_MAX: usize = 4_096;
/// How long the goodbyes may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(10);

/// How boxes learn of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Connected by XMPP.
    Push,
    /// By asking over HTTPS.
    Poll,
}

/// The first line on stdin.
#[derive(Serialize, Deserialize)]
pub struct Script {
    /// How these boxes learn of events.
    pub way: Way,
    /// Host and port of each server: of XMPP over TLS, or of HTTPS. A box goes to the next when one cannot be reached.
    pub addresses: Vec<String>,
    /// The XMPP domain.
    pub domain: String,
    /// The file with the authority to trust.
    pub ca: PathBuf,
    /// Ids and passwords.
    pub boxes: Vec<(String, String)>,
}

/// Each other line: something happens to a box. The end of stdin: all say goodbye.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Its connection is cut, and cannot be made anew for a while.
    Cut {
        /// Which box.
        device: String,
        /// For how long.
        away_ms: u64,
    },
    /// It loses its power for a while. It remembers the last number of each lane, as the device guide says.
    PowerLoss {
        /// Which box.
        device: String,
        /// For how long.
        away_ms: u64,
    },
}

/// Each line on stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// A box is connected.
    Online {
        /// Which.
        device: String,
        /// Whether its session went on.
        resumed: bool,
    },
    /// A box lost its connection.
    Away {
        /// Which.
        device: String,
    },
    /// A box applied an event.
    Applied {
        /// Which.
        device: String,
        /// The event's id.
        event: String,
        /// When, in microseconds since 1970.
        at_us: u64,
    },
    /// A box is at its end.
    Failed {
        /// Which.
        device: String,
        /// Why.
        why: String,
    },
}

/// Runs the boxes until stdin ends.
pub async fn run() -> Outcome {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let unreadable = |error: &dyn std::fmt::Display| Failure::Usage(format!("stdin has no script: {error}; `unpoll demo` starts this"));
    let first = lines.next_line().await.map_err(|error| unreadable(&error))?.unwrap_or_default();
    let script: Script = serde_json::from_str(&first).map_err(|error| unreadable(&error))?;
    let door = poller::Door::new(&script.addresses, &script.ca)?;
    let tls = tls_trusting(&script.ca)?;
    let (report, reports) = mpsc::channel(WAITING_MAX);
    let (crew, writer) = (Crew::default(), Crew::default());
    writer.spawn(write(reports));
    let spread = START_SPREAD_MS_A_HUNDRED * script.boxes.len() as u64 / 100;
    let mut orders = HashMap::new();
    for (number, (device, password)) in script.boxes.into_iter().enumerate() {
        let (order, ordered) = mpsc::channel(WAITING_MAX);
        orders.insert(device.clone(), order);
        let account = Account {
            device,
            domain: script.domain.clone(),
            password,
        };
        // They begin spread over all servers.
        let mut addresses = script
            .addresses
            .iter()
            .cycle()
            .skip(number % script.addresses.len().max(1))
            .cloned();
        let endpoint = Endpoint {
            address: addresses.next().unwrap_or_default(),
            others: addresses.take(script.addresses.len().saturating_sub(1)).collect(),
            tls: tls.clone(),
            backoff: Backoff {
                first: Duration::from_millis(500),
                longest: Duration::from_secs(4),
            },
        };
        let (door, report) = (door.beginning_with(number), report.clone());
        crew.spawn(async move {
            tokio::time::sleep(Duration::from_millis(random_below(spread + 1))).await;
            match script.way {
                Way::Push => live(account, endpoint, ordered, report).await,
                Way::Poll => poller::live(account, door, ordered, report).await,
            }
        });
    }
    drop(report);
    while let Ok(Some(line)) = lines.next_line().await {
        let order: Order = serde_json::from_str(&line).map_err(|error| Failure::Usage(format!("{line:?} is no order: {error}")))?;
        let (Order::Cut { device, .. } | Order::PowerLoss { device, .. }) = &order;
        if let Some(to) = orders.get(device) {
            // A box that is at its end has reported so.
            let _ = to.send(order).await;
        }
    }
    drop(orders);
    let by = Instant::now() + GOODBYE_WITHIN;
    crew.dismiss(by).await;
    writer.dismiss(by).await;
    Ok(())
}

/// What ended one life of a box.
enum End {
    PowerLoss(Duration),
    Goodbye,
}

async fn live(account: Account, endpoint: Endpoint, mut orders: mpsc::Receiver<Order>, report: mpsc::Sender<Report>) {
    let mut memory = Memory::default();
    loop {
        let mut device = ReferenceDevice::start(account.clone(), endpoint.clone(), memory);
        let switch = device.switch();
        let end = tokio::select! {
            () = apply(&mut device, &account.device, &report) => return,
            end = async {
                loop {
                    match orders.recv().await {
                        Some(Order::Cut { away_ms, .. }) => switch.cut(Duration::from_millis(away_ms)),
                        Some(Order::PowerLoss { away_ms, .. }) => return End::PowerLoss(Duration::from_millis(away_ms)),
                        None => return End::Goodbye,
                    }
                }
            } => end,
        };
        match end {
            End::Goodbye => return device.close().await,
            End::PowerLoss(away) => {
                memory = device.lose_power();
                // The writer ends only when stdout is gone, and with it the demo.
                let _ = report
                    .send(Report::Away {
                        device: account.device.clone(),
                    })
                    .await;
                tokio::time::sleep(away).await;
            }
        }
    }
}

/// Applies events until the box is at its end.
async fn apply(device: &mut ReferenceDevice, id: &str, report: &mpsc::Sender<Report>) {
    let device_id = || id.to_owned();
    // Room for the report comes first: nothing may come between applying an event and reporting it.
    while let Ok(room) = report.reserve().await {
        match device.next().await {
            Ok(News::Event(event)) => {
                let (event_id, at_us) = (event.id.clone(), now_us());
                room.send(Report::Applied {
                    device: device_id(),
                    event: event_id,
                    at_us,
                });
                if let Err(error) = device.confirm(&event) {
                    return tracing::error!("{error}");
                }
            }
            Ok(News::Online { resumed }) => room.send(Report::Online {
                device: device_id(),
                resumed,
            }),
            Ok(News::Away) => room.send(Report::Away { device: device_id() }),
            Ok(News::Retrying { .. } | News::OutcomeRefused { .. }) => {}
            Err(error) => {
                return room.send(Report::Failed {
                    device: device_id(),
                    why: error.to_string(),
                });
            }
        }
    }
}

async fn write(mut reports: mpsc::Receiver<Report>) {
    let mut out = tokio::io::stdout();
    let mut some = Vec::new();
    while reports.recv_many(&mut some, WAITING_MAX).await > 0 {
        let mut text = Vec::new();
        for report in some.drain(..) {
            if serde_json::to_writer(&mut text, &report).is_ok() {
                text.push(b'\n');
            }
        }
        let written = async {
            out.write_all(&text).await?;
            out.flush().await
        };
        if written.await.is_err() {
            return;
        }
    }
}
