//! What a device reports of itself: attributes in its presence (design §4.2), and where it is (XEP-0080), in its presence, in an IQ
//! to the service, or published at its account as stock libraries do (XEP-0163).

use crate::domain::{Location, Polling, Report, reported_attributes};

use super::{config::StreamConfig, element::Tag, ns};

/// What a presence reports.
///
/// # Errors
/// What is wrong with it, for the device maker.
pub(super) fn of_presence(presence: Tag<'_>, config: &StreamConfig) -> Result<Report, String> {
    let mut report = Report::default();
    if let Some(attributes) = presence.child("attributes", ns::EVENT) {
        let json = attributes.child("json", ns::JSON).or_else(|| attributes.child("json", ns::EVENT));
        let json = json.ok_or("attributes: <json/> is missing; put a JSON object into it")?;
        report.attributes = Some(reported_attributes(&json.text(), config.reported_max_bytes)?);
    }
    if let Some(geoloc) = presence.child("geoloc", ns::GEOLOC).filter(|_| config.location) {
        report.location = Some(location(geoloc)?);
    }
    Ok(report)
}

/// What an IQ of type `set` with that payload reports. `None`: it is about something else, or locations are not taken here.
pub(super) fn of_iq(payload: Tag<'_>, to_account: bool, config: &StreamConfig) -> Option<Result<Published, String>> {
    let (geoloc, published) = if payload.is("geoloc", ns::GEOLOC) {
        (Some(payload), false)
    } else if to_account && payload.is("pubsub", ns::PUBSUB) {
        let publish = payload.child("publish", ns::PUBSUB)?;
        let node = publish.attribute("node").filter(|node| *node == ns::GEOLOC);
        node?;
        let item = publish.child("item", ns::PUBSUB);
        (item.and_then(|item| item.child("geoloc", ns::GEOLOC)), true)
    } else {
        return None;
    };
    if !config.location {
        return None;
    }
    Some(
        geoloc
            .ok_or_else(|| "publish: <item/> with <geoloc/> is missing".to_owned())
            .and_then(location)
            .map(|location| Published {
                report: Report {
                    attributes: None,
                    location: Some(location),
                },
                answer: if published { ANSWER } else { "" },
            }),
    )
}

/// A report that came by IQ, and the payload of its answer.
pub(super) struct Published {
    pub(super) report: Report,
    pub(super) answer: &'static str,
}

/// XEP-0060 §7.1.2: the one item of that node.
const ANSWER: &str = "<pubsub xmlns='http://jabber.org/protocol/pubsub'>\
    <publish node='http://jabber.org/protocol/geoloc'><item id='current'/></publish></pubsub>";

/// XEP-0080 §3. An empty one (§2) takes the location back.
fn location(geoloc: Tag<'_>) -> Result<Option<Location>, String> {
    if geoloc.children().next().is_none() {
        return Ok(None);
    }
    let text = |name: &str| geoloc.child(name, ns::GEOLOC).map(|tag| tag.text().trim().to_owned());
    let number = |name: &str| match text(name) {
        None => Ok(None),
        Some(text) => match text.parse::<f64>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("geoloc: {name} is no decimal number")),
        },
    };
    let need = |name: &str| number(name)?.ok_or_else(|| format!("geoloc: {name} is missing"));
    if text("datum").is_some_and(|datum| datum != "WGS84") {
        return Err("geoloc: datum must be WGS84".into());
    }
    let time = match text("timestamp") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| "geoloc: timestamp is no time as of XEP-0082".to_owned())?),
    };
    Location::new(need("lat")?, need("lon")?, number("accuracy")?, time)
        .map(Some)
        .map_err(|name| format!("geoloc: {name} is out of its range"))
}

/// What the attributes say of polling, for the ledger. Anything but `on` and `off` means that nobody knows.
pub(super) fn polling(report: &Report) -> Option<Polling> {
    Some(match report.attributes.as_ref()?.get("polling")?.as_str() {
        Some("off") => Polling::Off,
        Some("on") => Polling::On,
        _ => Polling::Unknown,
    })
}
