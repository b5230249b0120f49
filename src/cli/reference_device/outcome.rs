//! What became of an event on the device, and how the device says so.

use serde::{Deserialize, Serialize};
use xmpp_parsers::{
    message::{Message, MessageType},
    minidom::Element,
    ns,
    receipts::Received,
};

use super::delivered::{Delivered, EVENT_NS};

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is applied.
    Done,
    /// It could not be applied. With `retry_seconds` the service gives it again after that.
    Failed {
        /// Why, in one word.
        code: String,
        /// After how many seconds to try again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_seconds: Option<u32>,
    },
    /// It is not understood.
    Rejected {
        /// Why, in one word.
        code: String,
    },
}

/// An outcome on its way: the service answers it, so it is repeated until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Of which event.
    pub event: String,
    /// To whom: the sender of the event.
    pub to: Option<String>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What begins the id of a request that tells an outcome; the rest is the event's.
const ID_PREFIX: &str = "outcome-";

/// The event whose outcome was told with the request of this id.
pub fn event_of(id: &str) -> Option<&str> {
    id.strip_prefix(ID_PREFIX)
}

/// The receipt for an event (XEP-0184).
pub fn receipt(event: &Delivered) -> Element {
    let mut message = Message::new_with_type(MessageType::Normal, event.from.clone());
    message.payloads.push(Element::from(Received { id: event.id.clone() }));
    message.into()
}

impl Told {
    /// The request that tells it.
    pub fn request(&self) -> Element {
        let mut outcome = Element::bare("outcome", EVENT_NS);
        let mut set = |name: &'static rxml::NcNameStr, value: &str| {
            outcome.set_attr(rxml::Namespace::NONE, name.to_owned(), value);
        };
        set(rxml::xml_ncname!("event"), &self.event);
        match &self.outcome {
            Outcome::Done => set(rxml::xml_ncname!("status"), "done"),
            Outcome::Failed { code, retry_seconds } => {
                set(rxml::xml_ncname!("status"), "failed");
                set(rxml::xml_ncname!("code"), code);
                if let Some(seconds) = retry_seconds {
                    set(rxml::xml_ncname!("retry"), &seconds.to_string());
                }
            }
            Outcome::Rejected { code } => {
                set(rxml::xml_ncname!("status"), "rejected");
                set(rxml::xml_ncname!("code"), code);
            }
        }
        let mut iq = Element::bare("iq", ns::JABBER_CLIENT);
        iq.set_attr(rxml::Namespace::NONE, rxml::xml_ncname!("type").to_owned(), "set");
        iq.set_attr(
            rxml::Namespace::NONE,
            rxml::xml_ncname!("id").to_owned(),
            format!("{ID_PREFIX}{}", self.event),
        );
        if let Some(to) = &self.to {
            iq.set_attr(rxml::Namespace::NONE, rxml::xml_ncname!("to").to_owned(), to.as_str());
        }
        iq.append_child(outcome);
        iq
    }
}

/// Whether a stanza is a request of [`Told::request`].
pub fn is_request(stanza: &Element) -> bool {
    stanza.name() == "iq" && stanza.has_child("outcome", EVENT_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_as_the_profile_shows() {
        let check = |outcome: Outcome, expected: &str| {
            let told = Told {
                event: "e1".into(),
                to: Some("localhost".into()),
                outcome,
            };
            let expected = format!(
                "<iq xmlns='jabber:client' type='set' id='outcome-e1' to='localhost'>\
                 <outcome xmlns='urn:unpoll:event:1' event='e1' {expected}/></iq>"
            );
            assert_eq!(told.request(), expected.parse::<Element>().unwrap());
            assert!(is_request(&told.request()));
            let kept = serde_json::to_string(&told).unwrap();
            assert_eq!(serde_json::from_str::<Told>(&kept).unwrap(), told, "{kept}");
        };
        check(Outcome::Done, "status='done'");
        check(
            Outcome::Failed {
                code: "3".into(),
                retry_seconds: None,
            },
            "status='failed' code='3'",
        );
        check(
            Outcome::Failed {
                code: "75".into(),
                retry_seconds: Some(60),
            },
            "status='failed' code='75' retry='60'",
        );
        check(
            Outcome::Rejected { code: "unreadable".into() },
            "status='rejected' code='unreadable'",
        );
        assert_eq!(event_of("outcome-e1"), Some("e1"));
    }
}
