//! A device that follows the guide, written from the RFCs: login by PLAIN, bind, XEP-0198, presence.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Element, SOON, Service, Wire, wire::STREAM_HEADER};

/// An event as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub id: String,
    pub lane: String,
    pub seq: u64,
    /// The CloudEvents JSON.
    pub json: String,
    /// It carries XEP-0203 delay.
    pub delayed: bool,
    /// It asks for a XEP-0184 receipt.
    pub wants_receipt: bool,
    pub raw: String,
}

impl Pushed {
    /// The `data` of the event.
    pub fn data(&self) -> serde_json::Value {
        let event: serde_json::Value = serde_json::from_str(&self.json).expect("CloudEvents JSON");
        event["data"].clone()
    }
}

/// What the device keeps over restarts: the last number of each lane.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    last: HashMap<String, u64>,
    pub events: Vec<Pushed>,
}

impl Applied {
    /// Applies an event unless it is a repeat, as the guide says.
    pub fn apply(&mut self, event: Pushed) -> bool {
        let last = self.last.entry(event.lane.clone()).or_default();
        if event.seq <= *last {
            return false;
        }
        *last = event.seq;
        self.events.push(event);
        true
    }
}

pub struct Device {
    wire: Wire,
    pub jid: String,
    pub sm_id: Option<String>,
    /// Stanzas handled since `<enabled/>` (XEP-0198).
    handled: u32,
    /// Answer `<r/>`.
    pub answers: bool,
}

impl Device {
    /// Logs in over direct TLS, binds, enables resumption and sends presence.
    #[track_caller]
    pub fn online(service: &Service, id: &str, password: &str) -> Self {
        let mut device = Self::bound(service, id, password);
        device.enable();
        device.present();
        device
    }

    /// Logs in and binds, without presence.
    #[track_caller]
    pub fn bound(service: &Service, id: &str, password: &str) -> Self {
        let mut wire = Self::login(service, id, password);
        wire.send("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
        let bound = wire.expect("iq");
        assert_eq!(bound.attribute("type").as_deref(), Some("result"), "{bound:?}");
        let jid = bound.find("jid").expect("a JID").text();
        Self {
            wire,
            jid,
            sm_id: None,
            handled: 0,
            answers: true,
        }
    }

    /// Logs in and takes up the session of `previous`, which handled `handled` stanzas. `Err` is the server's refusal.
    #[track_caller]
    pub fn resumed(service: &Service, id: &str, password: &str, sm_id: &str, handled: u32) -> Result<Self, Element> {
        let mut wire = Self::login(service, id, password);
        wire.send(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{sm_id}' h='{handled}'/>"));
        let answer = wire.element(SOON).expect("an answer to <resume/>");
        if answer.name() != "resumed" {
            return Err(answer);
        }
        Ok(Self {
            wire,
            jid: format!("{id}@localhost"),
            sm_id: Some(sm_id.to_owned()),
            handled,
            answers: true,
        })
    }

    /// A connection that is logged in and has the features of the new stream behind it.
    #[track_caller]
    pub fn login(service: &Service, id: &str, password: &str) -> Wire {
        let mut wire = service.connect();
        wire.send(STREAM_HEADER);
        wire.expect("stream:stream");
        wire.expect("stream:features");
        let plain = BASE64_STANDARD.encode(format!("\0{id}\0{password}"));
        wire.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"
        ));
        wire.expect("success");
        wire.send(STREAM_HEADER);
        wire.expect("stream:stream");
        wire.expect("stream:features");
        wire
    }

    #[track_caller]
    pub fn enable(&mut self) {
        self.wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        let enabled = self.wire.expect("enabled");
        self.sm_id = enabled.attribute("id");
        self.handled = 0;
    }

    /// Says that it can take events. The server echoes the presence (RFC 6121 §4.2.2), maybe behind the first events,
    /// so the echo is not awaited here.
    pub fn present(&mut self) {
        self.wire.send("<presence/>");
    }

    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    pub fn handled(&self) -> u32 {
        self.handled
    }

    /// The next event within that time; answers `<r/>` and pings on the way. `None` also when the server closed.
    pub fn event(&mut self, within: Duration) -> Option<Pushed> {
        let deadline = Instant::now() + within;
        while let Some(element) = self.wire.element(deadline.saturating_duration_since(Instant::now())) {
            if let Some(event) = self.take(&element) {
                return Some(event);
            }
        }
        None
    }

    /// The next event, which must come.
    #[track_caller]
    pub fn expect_event(&mut self) -> Pushed {
        self.event(SOON).expect("an event")
    }

    /// Sends `<a/>`.
    pub fn acknowledge(&mut self) {
        let handled = self.handled;
        self.wire.send(&format!("<a xmlns='urn:xmpp:sm:3' h='{handled}'/>"));
    }

    /// Sends the receipt of XEP-0184.
    pub fn received(&mut self, event: &Pushed) {
        let id = &event.id;
        self.wire.send(&format!(
            "<message to='localhost' id='r-{id}'><received xmlns='urn:xmpp:receipts' id='{id}'/></message>"
        ));
    }

    /// Ends the stream in good order.
    pub fn close(mut self) {
        self.wire.send("</stream:stream>");
        self.wire.to_end(SOON);
    }

    fn take(&mut self, element: &Element) -> Option<Pushed> {
        match element.name() {
            "r" if self.answers => {
                let handled = self.handled;
                // The answer may meet a closed socket; the next read tells.
                let _ = self.wire.try_send(format!("<a xmlns='urn:xmpp:sm:3' h='{handled}'/>").as_bytes());
            }
            "iq" | "presence" => {
                self.handled += 1;
                if self.answers && element.attribute("type").as_deref() == Some("get") {
                    let id = element.attribute("id").unwrap_or_default();
                    let _ = self
                        .wire
                        .try_send(format!("<iq type='result' id='{id}' to='localhost'/>").as_bytes());
                }
            }
            "message" => {
                self.handled += 1;
                return pushed(element);
            }
            _ => {}
        }
        None
    }
}

fn pushed(message: &Element) -> Option<Pushed> {
    let event = message.find("event")?;
    Some(Pushed {
        id: event.attribute("id")?,
        lane: event.attribute("lane")?,
        seq: event.attribute("seq")?.parse().ok()?,
        json: event.find("json")?.text(),
        delayed: message.find("delay").is_some(),
        wants_receipt: message.find("request").is_some(),
        raw: message.raw.clone(),
    })
}
