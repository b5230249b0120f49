//! A receipt as a server-sent event, and which of them a consumer wants.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use super::cursor::Cursor;
use crate::{
    domain::{DeliveryState, DeviceId, Epoch, EventId, Generation, Reason, Refusal, Timestamp},
    http::{Parameters, Positioned},
    store::{Receipt, StoreError},
};

/// Words of one filter, at most.
const WORDS_MAX: usize = 64;

/// What `data` of an event holds, in the words of a delivery.
#[derive(Serialize)]
struct Data<'a> {
    event: Cow<'a, str>,
    /// Under which its device knows it: another id where the event went to several devices.
    delivery: &'a str,
    device: &'a str,
    state: DeliveryState,
    reason: Option<Reason>,
    /// What the device says: `done`, `failed`, `rejected` or `later`, with its own code and text.
    outcome: Option<&'static str>,
    code: Option<&'a str>,
    text: Option<&'a str>,
    replaced_by: Option<EventId>,
    attempt: u32,
    at: Timestamp,
    session_epoch: Option<Epoch>,
    latency_ms: u64,
}

/// A receipt, rendered.
#[derive(Clone, Debug)]
pub(super) struct Row {
    position: u64,
    event: Box<str>,
    group: Option<Box<str>>,
    device: Box<str>,
    state: DeliveryState,
    pub(super) text: Bytes,
}

impl Positioned for Row {
    fn position(&self) -> u64 {
        self.position
    }
}

impl Row {
    pub(super) fn of(receipt: Receipt, generation: Generation) -> Result<Self, StoreError> {
        let told = receipt.told.as_ref();
        let data = Data {
            event: receipt.posted(),
            delivery: &receipt.event,
            device: &receipt.device,
            state: receipt.state,
            reason: receipt.reason,
            outcome: told.map(|told| told.status.as_str()),
            code: told.and_then(|told| told.code.as_deref()),
            text: told.and_then(|told| told.text.as_deref()),
            replaced_by: receipt.replaced_by,
            attempt: receipt.attempt,
            at: receipt.at,
            session_epoch: receipt.session_epoch,
            latency_ms: receipt.latency_ms,
        };
        // JSON has no line break outside of its texts, and inside them it is escaped.
        let data = serde_json::to_string(&data).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
        let position = receipt.position;
        Ok(Self {
            text: format!("id: {}\nevent: receipt\ndata: {data}\n\n", Cursor { position, generation }).into(),
            position,
            group: receipt.group.map(|group| group.to_string().into()),
            event: receipt.event.into(),
            device: receipt.device.into(),
            state: receipt.state,
        })
    }
}

/// Which receipts a consumer wants; an empty list is any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    devices: Vec<String>,
    events: Vec<String>,
    states: Vec<DeliveryState>,
}

/// A parameter with words between commas.
fn take_words<T>(parameters: &mut Parameters, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Refusal> {
    let Some(text) = parameters.take(name)? else {
        return Ok(Vec::new());
    };
    let refuse = |why| Refusal::InvalidParameter {
        name: name.to_owned(),
        why,
    };
    let words: Vec<T> = text.split(',').map(read).collect::<Result<_, _>>().map_err(refuse)?;
    if words.len() > WORDS_MAX {
        return Err(refuse(format!("it names {}; at most {WORDS_MAX} are taken", words.len())));
    }
    Ok(words)
}

impl Filter {
    /// Reads `device`, `event` and `state`.
    pub(super) fn take(parameters: &mut Parameters) -> Result<Self, Refusal> {
        let device = |word: &str| {
            let id = word.parse::<DeviceId>().map_err(|error| format!("{word:?}: {error}"))?;
            Ok(id.to_string())
        };
        let event = |word: &str| {
            let id = word.parse::<EventId>().map_err(|error| format!("{word:?}: {error}"))?;
            Ok(id.to_string())
        };
        let state = |word: &str| {
            let known = DeliveryState::ALL.into_iter().find(|state| state.as_str() == word);
            known.ok_or_else(|| format!("{word:?} is none of {}", DeliveryState::ALL.map(DeliveryState::as_str).join(", ")))
        };
        Ok(Self {
            devices: take_words(parameters, "device", device)?,
            events: take_words(parameters, "event", event)?,
            states: take_words(parameters, "state", state)?,
        })
    }

    pub(super) fn wants(&self, row: &Row) -> bool {
        (self.states.is_empty() || self.states.contains(&row.state))
            && (self.devices.is_empty() || self.devices.iter().any(|device| **device == *row.device))
            && (self.events.is_empty()
                || self
                    .events
                    .iter()
                    .any(|event| **event == *row.event || Some(&**event) == row.group.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{OutcomeFields, Told};

    fn receipt(device: &str, state: DeliveryState) -> Receipt {
        Receipt {
            position: 5,
            event: EventId([1; 20]).to_string(),
            group: None,
            device: device.into(),
            state,
            reason: None,
            at: Timestamp(0),
            session_epoch: None,
            latency_ms: 7,
            attempt: 1,
            replaced_by: None,
            told: None,
        }
    }

    fn row(receipt: Receipt) -> Row {
        Row::of(receipt, Generation(0x3f)).unwrap()
    }

    #[test]
    fn a_row_is_one_event_of_three_lines() {
        let event = EventId([1; 20]);
        let expected = format!(
            "id: 5.3f\nevent: receipt\ndata: {{\"event\":\"{event}\",\"delivery\":\"{event}\",\"device\":\"box\",\"state\":\"delivered\",\"reason\":null,\
             \"outcome\":null,\"code\":null,\"text\":null,\"replaced_by\":null,\"attempt\":1,\"at\":\"1970-01-01T00:00:00.000Z\",\
             \"session_epoch\":null,\"latency_ms\":7}}\n\n"
        );
        assert_eq!(row(receipt("box", DeliveryState::Delivered)).text, expected);
        let fields = OutcomeFields {
            status: Some("failed"),
            code: Some("disk-full"),
            text: Some("two\nlines\r"),
            ..OutcomeFields::default()
        };
        let of_group = Receipt {
            group: Some(EventId([2; 20])),
            ..receipt("box", DeliveryState::Delivered)
        };
        let of_group = row(of_group);
        let ids = format!("\"event\":\"{}\",\"delivery\":\"{event}\",", EventId([2; 20]));
        assert!(of_group.text.windows(ids.len()).any(|part| part == ids.as_bytes()));
        for known in [event, EventId([2; 20])] {
            let filter = Filter {
                events: vec![known.to_string()],
                ..Filter::default()
            };
            assert!(filter.wants(&of_group), "by either id");
        }
        let told = Receipt {
            told: Some(Told::new(fields).unwrap()),
            ..receipt("box", DeliveryState::Failed)
        };
        let text = row(told).text;
        let text = std::str::from_utf8(&text).unwrap();
        assert_eq!((text.lines().count(), text.contains('\r')), (4, false), "{text}");
        assert!(
            text.contains(r#""outcome":"failed","code":"disk-full","text":"two\nlines\r""#),
            "{text}"
        );
    }

    #[test]
    fn a_filter_wants_what_each_of_its_lists_names() {
        let filter = Filter {
            devices: vec!["box".into(), "tv".into()],
            events: Vec::new(),
            states: vec![DeliveryState::Failed, DeliveryState::Expired],
        };
        let check = |device: &str, state, wanted| {
            assert_eq!(filter.wants(&row(receipt(device, state))), wanted, "{device} {state}");
            assert!(Filter::default().wants(&row(receipt(device, state))));
        };
        check("box", DeliveryState::Failed, true);
        check("tv", DeliveryState::Expired, true);
        check("tv", DeliveryState::Delivered, false);
        check("radio", DeliveryState::Failed, false);
        let of_event = Filter {
            events: vec![EventId([2; 20]).to_string()],
            ..Filter::default()
        };
        assert!(!of_event.wants(&row(receipt("box", DeliveryState::Failed))));
    }
}
