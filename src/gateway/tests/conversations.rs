//! The transcripts of `tests/conversations/gateway`: what only the gateway says, over real sockets, to two connections of one
//! device.
//!
//! `A: comes` is a new connection by TLS, `A: logs in` one that did, `A: is online` one with a session (XEP-0198, presence).
//! `A>` is what it says, `A<` all that it hears, where `…` stands for anything and `{A}` for the id of A's session; `A: hears the end`
//! says that the connection closes behind that. `+` is something else that happens, `!` a setting of this transcript.

use std::{collections::HashMap, fs, time::Duration};

use tokio::time::Instant;

use super::{Device, Offer, OfferOne, Service, TENANT, event, id, now};
use crate::{domain::Epoch, gateway::Config};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversations/gateway");

fn set(config: &mut Config, setting: &str) {
    let (name, value) = setting.split_once(" = ").unwrap();
    match name {
        "keepalive_secs" => config.keepalive_secs = value.parse().unwrap(),
        "overdue_secs" => config.overdue_secs = value.parse().unwrap(),
        "login_within_secs" => config.login_within_secs = value.parse().unwrap(),
        "session_lifetime_secs" => config.session_lifetime_secs = value.parse().unwrap(),
        _ => panic!("{name:?} is no setting here"),
    }
}

/// Listens until `expected` was said, `…` standing for anything, and nothing behind it has come.
async fn hear(device: &mut Device, expected: &str) {
    let mut heard = String::new();
    for piece in expected.split('…').filter(|piece| !piece.is_empty()) {
        let said = device.hear(piece).await;
        let open = expected.starts_with('…') || !heard.is_empty();
        assert!(open || said == piece, "expected {expected}\n     got {said}");
        heard += &said;
    }
}

struct Run {
    service: Service,
    devices: HashMap<String, Device>,
    sessions: HashMap<String, String>,
}

impl Run {
    async fn comes(&mut self, who: &str, how: &str) {
        let mut device = Device::tls(&self.service).await;
        match how {
            "comes" => {}
            "logs in" => device.login("box").await,
            "is online" => {
                device.login("box").await;
                device.bind().await;
                self.sessions.insert(who.to_owned(), device.enable().await);
                device.present().await;
                self.service.ready("box").await;
                device.acknowledge(1).await;
            }
            _ => panic!("{how:?} is no way to come or go"),
        }
        self.devices.insert(who.to_owned(), device);
    }

    async fn comes_or_goes(&mut self, who: &str, how: &str) {
        match how {
            "is lost" => {
                self.devices.remove(who);
                let away = async |service: &Service| service.state("box").await == "away";
                self.service.until("away", away).await;
            }
            "hears the end" => {
                let rest = self.devices.get_mut(who).unwrap().hear_the_end().await;
                assert_eq!(rest, "", "{who} hears more");
            }
            _ => self.comes(who, how).await,
        }
    }

    async fn happens(&mut self, what: &str) {
        match what {
            "event" => {
                let offered = self.service.link("box").unwrap().offer(&event("box", 1, "{}"), now());
                assert_eq!(offered, Offer::Taken);
            }
            "the device is removed" => self.service.gateway.links().dismiss(TENANT, &id("box"), Epoch(1)),
            "the node stops" => {
                let crew = self.service.links.clone();
                tokio::spawn(async move { crew.dismiss(Instant::now() + Duration::from_secs(20)).await });
            }
            "the store is down" => *self.service.store.down.lock() = true,
            _ => panic!("{what:?} does not happen"),
        }
    }
}

#[tokio::test]
async fn every_transcript_of_two_connections_is_what_is_said() {
    let mut files: Vec<_> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let settings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("! ")).collect();
        let service = Service::with(|config| settings.iter().for_each(|setting| set(config, setting))).await;
        let mut run = Run {
            service,
            devices: HashMap::new(),
            sessions: HashMap::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', '!'])) {
            println!("{}: {line}", file.display());
            let (who, rest) = line.split_at(1);
            let mut said = rest.get(2..).unwrap_or_default().to_owned();
            for (name, session) in &run.sessions {
                said = said.replace(&format!("{{{name}}}"), session);
            }
            match rest.get(..1) {
                Some(":") => run.comes_or_goes(who, &said).await,
                Some(">") => run.devices.get_mut(who).unwrap().send(&said).await,
                Some("<") => hear(run.devices.get_mut(who).unwrap(), &said).await,
                _ if who == "+" => run.happens(rest.trim()).await,
                _ => panic!("{line:?} is no step"),
            }
        }
    }
}
