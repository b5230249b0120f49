//! One event as it came over the wire.

use serde::Serialize;
use serde_json::value::RawValue;
use xmpp_parsers::{jid::Jid, message::Message, ns};

/// The namespace of the element around an event's JSON.
pub const EVENT_NS: &str = "urn:unpoll:event:1";

/// An event that a device was given. As JSON it is the line that `unpoll listen` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Delivered {
    /// The event's id, as the backend got it.
    pub id: String,
    /// Its lane.
    pub lane: String,
    /// Its number in the lane.
    pub seq: u64,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The event itself: CloudEvents 1.0 in JSON, byte for byte, but for line breaks between its parts.
    pub event: Box<RawValue>,
    /// Whether it waited for the device (XEP-0203).
    pub delayed: bool,
    /// Whether the server asked for a receipt (XEP-0184).
    #[serde(skip)]
    pub receipt_wanted: bool,
    /// Whether the server wants to know the outcome (`require='processed'`).
    #[serde(skip)]
    pub outcome_wanted: bool,
    /// Who sent it.
    #[serde(skip)]
    pub from: Option<Jid>,
    /// As which stanza it came.
    #[serde(skip)]
    pub place: Place,
}

/// Which stanza of which connection it is, counted as XEP-0198 counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The connection, from 1.
    pub connection: u64,
    /// The stanza in its session.
    pub number: u32,
}

impl Delivered {
    /// Reads an event. `None`: the message carries none, or not in the form of the profile.
    pub fn read(message: &Message) -> Option<Self> {
        let payload = |name: &str, namespace: &str| message.payloads.iter().find(|payload| payload.is(name, namespace));
        let event = payload("event", EVENT_NS)?;
        let json = event.get_child("json", ns::JSON_CONTAINERS)?.text();
        // Line breaks in JSON stand between its parts only; a line of output must have none.
        let json = json.replace(['\n', '\r'], " ");
        Some(Self {
            id: event.attr("id")?.to_owned(),
            lane: event.attr("lane")?.to_owned(),
            seq: event.attr("seq")?.parse().ok()?,
            attempt: event.attr("attempt").map_or(Some(1), |attempt| attempt.parse().ok())?,
            event: RawValue::from_string(json).ok()?,
            delayed: payload("delay", ns::DELAY).is_some(),
            receipt_wanted: payload("request", ns::RECEIPTS).is_some(),
            outcome_wanted: event.attr("require") == Some("processed"),
            from: message.from.clone(),
            place: Place::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use xmpp_parsers::minidom::Element;

    use super::*;

    fn read(inner: &str) -> Option<Delivered> {
        let xml = format!("<message xmlns='jabber:client' from='localhost' id='e1'>{inner}</message>");
        Delivered::read(&Message::try_from(xml.parse::<Element>().unwrap()).unwrap())
    }

    #[test]
    fn an_event_becomes_the_line_that_listen_prints() {
        let event = read(
            "<event xmlns='urn:unpoll:event:1' id='e1' lane='normal.3f' seq='7' attempt='2'>\
             <json xmlns='urn:xmpp:json:0'>{\"a\": 1.0,\n\"t\":\"Жалюзи &amp; 電視 &lt;\"}</json></event>\
             <request xmlns='urn:xmpp:receipts'/><delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-11-21T22:10:03Z'/>",
        )
        .unwrap();
        assert!(event.receipt_wanted);
        let expected = r#"{"id":"e1","lane":"normal.3f","seq":7,"attempt":2,"event":{"a": 1.0, "t":"Жалюзи & 電視 <"},"delayed":true}"#;
        assert_eq!(serde_json::to_string(&event).unwrap(), expected);
    }

    #[test]
    fn what_is_no_event_is_left_alone() {
        assert!(read("<body>hello</body>").is_none());
        assert!(
            read("<event xmlns='urn:unpoll:event:1' id='e1' lane='n' seq='x'><json xmlns='urn:xmpp:json:0'>1</json></event>").is_none()
        );
        assert!(
            read("<event xmlns='urn:unpoll:event:1' id='e1' lane='n' seq='1'><json xmlns='urn:xmpp:json:0'>{</json></event>").is_none()
        );
    }
}
