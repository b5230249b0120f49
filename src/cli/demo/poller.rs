//! A box of the demo's control cohort: it asks over HTTPS every few seconds, as a box without push does.

use std::{path::Path, time::Duration};

use reqwest::{Certificate, Client, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    boxes::{Order, Report},
    now_us,
};
use crate::cli::{
    Failure,
    client::segment,
    reference_device::{Account, Lanes},
    secret::random_below,
};

/// Polls that may fail one after the other before the box is at its end.
const FAILURES_MAX: u32 = 5;
/// How long one request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// By how much a box misses its time, at most, in hundredths of the interval: clocks of boxes are not exact.
const JITTER_PERCENT: u64 = 10;

/// Where the boxes ask, and whom they trust.
#[derive(Clone)]
pub struct Door {
    servers: Vec<String>,
    /// Which of them is asked.
    at: usize,
    authorities: Vec<Certificate>,
}

impl Door {
    /// The HTTPS listeners at `addresses`; `ca` is the file with the authority to trust.
    pub fn new(addresses: &[String], ca: &Path) -> Result<Self, Failure> {
        let pem = std::fs::read(ca).map_err(|error| Failure::Failed(format!("{} cannot be read: {error}", ca.display())))?;
        Ok(Self {
            servers: addresses.iter().map(|address| format!("https://{address}")).collect(),
            at: 0,
            authorities: Certificate::from_pem_bundle(&pem).map_err(Failure::failed)?,
        })
    }

    /// The same, asking that server first.
    pub fn beginning_with(&self, at: usize) -> Self {
        Self { at, ..self.clone() }
    }
}

/// What the door answers.
#[derive(Deserialize)]
struct Page {
    events: Vec<Pulled>,
    next: String,
    poll_after_seconds: u64,
}

#[derive(Deserialize)]
struct Pulled {
    id: String,
    lane: String,
    seq: u64,
}

struct Poller {
    http: Client,
    servers: Vec<String>,
    at: usize,
    account: Account,
    lanes: Lanes,
    next: Option<String>,
    etag: Option<header::HeaderValue>,
}

/// Polls until the orders end.
pub async fn live(account: Account, door: Door, mut orders: mpsc::Receiver<Order>, report: mpsc::Sender<Report>) {
    let id = account.device.clone();
    let http = Client::builder()
        .timeout(ANSWER_WITHIN)
        .no_proxy()
        .tls_certs_only(door.authorities)
        .pool_max_idle_per_host(1)
        .build();
    let http = match http {
        Ok(http) => http,
        Err(error) => return fail(&report, id, error.to_string()).await,
    };
    let mut poller = Poller {
        http,
        servers: door.servers,
        at: door.at,
        account,
        lanes: Lanes::default(),
        next: None,
        etag: None,
    };
    let (mut failures, mut online) = (0, false);
    loop {
        let pause = match poller.poll(&report).await {
            Ok(pause) => {
                failures = 0;
                if !std::mem::replace(&mut online, true) {
                    // The writer ends only when stdout is gone, and with it the demo.
                    let _ = report
                        .send(Report::Online {
                            device: id.clone(),
                            resumed: false,
                        })
                        .await;
                }
                pause
            }
            Err(why) if failures + 1 >= FAILURES_MAX => return fail(&report, id, why).await,
            Err(_) => {
                failures += 1;
                poller.at += 1;
                Duration::from_secs(1)
            }
        };
        let away = tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => None,
            order = orders.recv() => match order {
                Some(Order::Cut { away_ms, .. } | Order::PowerLoss { away_ms, .. }) => Some(Duration::from_millis(away_ms)),
                None => return,
            },
        };
        if let Some(away) = away {
            online = false;
            let _ = report.send(Report::Away { device: id.clone() }).await;
            tokio::time::sleep(away).await;
        }
    }
}

async fn fail(report: &mpsc::Sender<Report>, device: String, why: String) {
    let _ = report.send(Report::Failed { device, why }).await;
}

/// The pause, a little shorter or longer.
fn jittered(pause: Duration) -> Duration {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 200);
    let play = ms * JITTER_PERCENT / 100;
    Duration::from_millis(ms - play + random_below(2 * play + 1))
}

impl Poller {
    /// Its own address at the server that it asks.
    fn url(&self) -> String {
        let server = self.servers.iter().cycle().nth(self.at % self.servers.len().max(1));
        format!("{}/v1/devices/{}", server.map_or("", String::as_str), self.account.device)
    }

    /// Asks once, applies and acknowledges what comes. When to ask again.
    async fn poll(&mut self, report: &mpsc::Sender<Report>) -> Result<Duration, String> {
        let after = self.next.as_deref().map(|next| format!("?after={}", segment(next)));
        let url = self.url();
        let mut request = self.http.get(format!("{url}/events{}", after.unwrap_or_default()));
        if let Some(etag) = &self.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let response = self.send(request).await?;
        let told = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(Duration::from_secs(told.unwrap_or(1))),
            StatusCode::OK => {
                let etag = response.headers().get(header::ETAG).cloned();
                let page: Page = response.json().await.map_err(|error| error.to_string())?;
                self.apply(page.events, &page.next, report).await?;
                (self.next, self.etag) = (Some(page.next), etag);
                Ok(Duration::from_secs(page.poll_after_seconds))
            }
            status => Err(format!("a poll was answered with HTTP {status}")),
        }
    }

    async fn apply(&mut self, events: Vec<Pulled>, next: &str, report: &mpsc::Sender<Report>) -> Result<(), String> {
        if events.is_empty() {
            return Ok(());
        }
        for event in events {
            if self.lanes.is_news(&event.lane, event.seq) {
                let applied = Report::Applied {
                    device: self.account.device.clone(),
                    event: event.id,
                    at_us: now_us(),
                };
                report.send(applied).await.map_err(|_| "stdout is gone".to_owned())?;
            }
        }
        let body = json!({ "upto": next });
        let response = self.send(self.http.post(format!("{}/acks", self.url())).json(&body)).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("an acknowledgement was answered with HTTP {status}")),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, String> {
        let request = request.basic_auth(self.account.jid(), Some(&self.account.password));
        request.send().await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_missed_by_a_tenth_at_most() {
        for _ in 0..1_000 {
            let pause = jittered(Duration::from_secs(2));
            assert!((1_800..=2_200).contains(&pause.as_millis()), "{pause:?}");
        }
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
    }
}
