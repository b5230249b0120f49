//! What a stanza from the server means to a device.

use crate::{
    Error,
    frame::Frame,
    xml::{Element, shorten},
};

/// Namespace of the event wrapper.
pub const NS_EVENT: &str = "urn:unpoll:event:1";
/// XEP-0335.
pub const NS_JSON: &str = "urn:xmpp:json:0";
/// XEP-0198.
pub const NS_SM: &str = "urn:xmpp:sm:3";
/// RFC 6120 §4.9.3.
pub const NS_STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// RFC 6120 §4.8.2.
pub const NS_STREAMS: &str = "http://etherx.jabber.org/streams";
/// Content namespace of a client's stream.
pub const NS_CLIENT: &str = "jabber:client";

/// How thoroughly messages are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Every stanza through the XML parser.
    #[default]
    Full,
    /// Events and ack requests by looking for their bytes; everything else through the parser. For load runs, where the driver
    /// shares the machine with what it measures.
    Light,
}

/// One pushed event as it came over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The stable event id.
    pub id: String,
    /// The lane that orders it.
    pub lane: String,
    /// Its number in that lane.
    pub seq: u64,
    /// How many times the service has begun to deliver it, from 1.
    pub attempt: Option<u32>,
    /// What makes it delivered, when it is not the default.
    pub require: Option<String>,
    /// The CloudEvents JSON, byte for byte.
    pub json: String,
    /// XEP-0203: the time of acceptance, when the event had to wait.
    pub delayed: Option<String>,
    /// The sender asks for a receipt (XEP-0184).
    pub wants_receipt: bool,
    /// All attributes of `<event/>`.
    pub attributes: Vec<(String, String)>,
}

/// What came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// An event for the device to apply.
    Event(Box<Pushed>),
    /// `<r/>`: the server wants to know what was handled.
    AckRequested,
    /// `<a h=…/>`: what the server handled.
    Acked(u32),
    /// A ping (XEP-0199): its id and sender.
    Ping {
        /// Id of the IQ.
        id: String,
        /// Who asks; absent for the server itself.
        from: Option<String>,
    },
    /// Any other stanza or nonza.
    Other(Box<Element>),
}

impl Incoming {
    /// Whether it is a stanza, and thus counted by XEP-0198 (§4: message, presence and IQ only).
    pub fn is_stanza(&self) -> bool {
        match self {
            Self::Event(_) | Self::Ping { .. } => true,
            Self::AckRequested | Self::Acked(_) => false,
            Self::Other(element) => element.ns == NS_CLIENT && matches!(element.name.as_str(), "message" | "presence" | "iq"),
        }
    }
}

/// Reads one frame of an established stream that `header` opened.
///
/// # Errors
/// [`Error::Ended`], [`Error::Stream`], or XML that does not parse.
pub fn understand(header: &[u8], frame: &Frame, reading: Reading) -> Result<Incoming, Error> {
    let stanza = match frame {
        Frame::End => return Err(Error::Ended),
        Frame::Header(bytes) => {
            return Err(Error::Unexpected {
                wanted: "a stanza",
                got: shorten(bytes),
            });
        }
        Frame::Stanza(stanza) => stanza,
    };
    if reading == Reading::Light {
        if stanza.starts_with(b"<r ") {
            return Ok(Incoming::AckRequested);
        }
        if let Some(event) = glance(stanza) {
            return Ok(Incoming::Event(Box::new(event)));
        }
    }
    let element = Element::parse(header, stanza)?;
    if let Some(error) = stream_error(&element) {
        return Err(error);
    }
    if element.is("r", NS_SM) {
        return Ok(Incoming::AckRequested);
    }
    if element.is("a", NS_SM) {
        let h = element.attribute("h").and_then(|h| h.parse().ok());
        return h.map(Incoming::Acked).ok_or_else(|| Error::Unexpected {
            wanted: "<a h='number'/>",
            got: shorten(stanza),
        });
    }
    if element.is("iq", NS_CLIENT) && element.attribute("type") == Some("get") && element.child("ping", "urn:xmpp:ping").is_some() {
        let id = element.attribute("id").unwrap_or_default().to_owned();
        return Ok(Incoming::Ping {
            id,
            from: element.attribute("from").map(str::to_owned),
        });
    }
    let message = element.is("message", NS_CLIENT) && element.attribute("type") != Some("error");
    if message && let Some(event) = pushed(&element)? {
        return Ok(Incoming::Event(Box::new(event)));
    }
    Ok(Incoming::Other(Box::new(element)))
}

/// The stream error that `element` is, if it is one.
pub fn stream_error(element: &Element) -> Option<Error> {
    if !element.is("error", NS_STREAMS) {
        return None;
    }
    let defined = |child: &&Element| child.ns == NS_STREAM_ERRORS && child.name != "text";
    let text = element
        .child("text", NS_STREAM_ERRORS)
        .map(|text| text.text.clone())
        .unwrap_or_default();
    Some(Error::Stream {
        condition: element
            .children
            .iter()
            .find(defined)
            .map(|child| child.name.clone())
            .unwrap_or_default(),
        text,
        specific: element
            .children
            .iter()
            .filter(|child| child.ns != NS_STREAM_ERRORS)
            .map(|child| child.name.clone())
            .collect(),
    })
}

fn pushed(message: &Element) -> Result<Option<Pushed>, Error> {
    let Some(event) = message.child("event", NS_EVENT) else {
        return Ok(None);
    };
    let lacks = |what: &'static str| Error::Unexpected {
        wanted: what,
        got: format!("{:?}", event.attributes),
    };
    let json = event.child("json", NS_JSON).ok_or_else(|| lacks("<json/> inside <event/>"))?;
    let attribute = |name: &str| event.attribute(name).map(str::to_owned);
    Ok(Some(Pushed {
        id: attribute("id").ok_or_else(|| lacks("an id on <event/>"))?,
        lane: attribute("lane").ok_or_else(|| lacks("a lane on <event/>"))?,
        seq: event
            .attribute("seq")
            .and_then(|seq| seq.parse().ok())
            .ok_or_else(|| lacks("a seq on <event/>"))?,
        attempt: event.attribute("attempt").and_then(|attempt| attempt.parse().ok()),
        require: attribute("require"),
        json: json.text.clone(),
        delayed: message
            .child("delay", "urn:xmpp:delay")
            .and_then(|delay| delay.attribute("stamp"))
            .map(str::to_owned),
        wants_receipt: message.child("request", "urn:xmpp:receipts").is_some(),
        attributes: event
            .attributes
            .iter()
            .map(|(_, name, value)| (name.clone(), value.clone()))
            .collect(),
    }))
}

/// Finds the event by its bytes. Good for messages as our own server writes them; anything unusual is left to the parser.
fn glance(stanza: &[u8]) -> Option<Pushed> {
    let text = std::str::from_utf8(stanza).ok()?;
    let event = text.strip_prefix("<message")?.split_once("<event ")?.1;
    let (tag, inside) = event.split_once('>')?;
    let json = inside.strip_prefix("<json")?.split_once('>')?.1.split_once("</json>")?.0;
    let attribute = |name: &str| {
        let start = tag.find(name)? + name.len();
        let value = tag.get(start..)?;
        let quote = value.chars().next()?;
        value.get(1..)?.split(quote).next()
    };
    Some(Pushed {
        id: attribute("id=")?.to_owned(),
        lane: attribute("lane=")?.to_owned(),
        seq: attribute("seq=")?.parse().ok()?,
        json: json.to_owned(),
        wants_receipt: inside.contains("urn:xmpp:receipts"),
        ..Pushed::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
    const MESSAGE: &str = "<message type='normal' id='e1' from='d' to='b@d'><event xmlns='urn:unpoll:event:1' id='e1' lane='normal.3f' \
        seq='1187' accepted='2026-11-22T01:40:00.123Z' attempt='2' require='received'><json xmlns='urn:xmpp:json:0'>{\"a\":1}</json>\
        </event><request xmlns='urn:xmpp:receipts'/><delay xmlns='urn:xmpp:delay' from='d' stamp='2026-11-22T01:40:00Z'/></message>";

    fn check(stanza: &str, reading: Reading) -> Result<Incoming, Error> {
        understand(HEADER, &Frame::Stanza(stanza.to_owned().into()), reading)
    }

    #[test]
    fn an_event_is_read_alike_in_full_and_at_a_glance() {
        let Ok(Incoming::Event(full)) = check(MESSAGE, Reading::Full) else {
            panic!("no event")
        };
        let Ok(Incoming::Event(light)) = check(MESSAGE, Reading::Light) else {
            panic!("no event")
        };
        assert_eq!(
            (full.id.as_str(), full.lane.as_str(), full.seq, full.json.as_str()),
            ("e1", "normal.3f", 1187, "{\"a\":1}")
        );
        assert_eq!(
            (&full.id, &full.lane, full.seq, &full.json),
            (&light.id, &light.lane, light.seq, &light.json)
        );
        assert_eq!(
            (full.attempt, full.require.as_deref(), full.wants_receipt),
            (Some(2), Some("received"), true)
        );
        assert_eq!((full.delayed.as_deref(), light.wants_receipt), (Some("2026-11-22T01:40:00Z"), true));
    }

    #[test]
    fn only_stanzas_are_counted() {
        for (stanza, counted) in [
            (MESSAGE, true),
            ("<presence from='a'/>", true),
            ("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>", true),
            ("<iq type='result' id='p'/>", true),
            ("<r xmlns='urn:xmpp:sm:3'/>", false),
            ("<a xmlns='urn:xmpp:sm:3' h='4294967295'/>", false),
            ("<x xmlns='urn:other'/>", false),
        ] {
            assert_eq!(check(stanza, Reading::Full).unwrap().is_stanza(), counted, "{stanza}");
        }
    }

    #[test]
    fn a_stream_error_names_its_condition_and_text() {
        let stanza = "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
            <text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>why</text><handled-count-too-high xmlns='urn:xmpp:sm:3'/></stream:error>";
        let error = check(stanza, Reading::Light).unwrap_err();
        assert_eq!(error.stream_condition(), Some("undefined-condition"));
        assert!(matches!(error, Error::Stream { text, specific, .. } if text == "why" && specific == ["handled-count-too-high"]));
    }

    #[test]
    fn an_event_without_its_numbers_is_an_error() {
        assert!(check(&MESSAGE.replace("seq='1187'", "seq='x'"), Reading::Light).is_err());
        assert!(check(&MESSAGE.replace("lane='normal.3f'", ""), Reading::Light).is_err());
    }
}
