//! `POST /v1/devices/{id}/acks`: what a device has applied leaves its queue.

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap};
use serde::Serialize;

use super::{
    Door, Shared,
    cursor::Vector,
    events::{Known, refusal},
    tab::Tab,
};
use crate::{
    domain::{DeviceSignal, EventId, Exchange, Located, Outcome, Poller, Refusal, Timestamp},
    http::{Parameters, Segment, Wire, json::Fields, read},
    store::{Cursor, Settle, Settled},
};

/// Deliveries that are ended in one step of the store.
const BATCH: usize = 100;
/// The longest text that is repeated as an unknown id.
const UNKNOWN_MAX: usize = 64;
/// An id with its quotes, comma and a space, and the frame around them.
const ID_BYTES: usize = 40;
const FRAME_BYTES: usize = 4_096;

/// What the acknowledgement did, once it is durable.
#[derive(Debug, Default, Serialize)]
pub(super) struct Acknowledged {
    /// Deliveries that it ended.
    acknowledged: u64,
    /// Deliveries that had ended before, by an earlier acknowledgement or otherwise.
    ended_before: u64,
    /// Ids that are no events of this device, or ended longer ago than states are kept.
    unknown: Vec<String>,
}

/// What a device acknowledges.
enum Asked<'a> {
    Ids(Vec<std::borrow::Cow<'a, str>>),
    /// `None`: a vector of another life of the store, which covers nothing here.
    UpTo(Option<Vector>),
}

/// The handler.
pub(super) async fn acknowledge(
    State(door): State<Door>,
    wire: Option<Extension<Wire>>,
    id: Segment,
    parameters: Result<Parameters, Refusal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Acknowledged>, Refusal> {
    let door = &*door.0;
    let mut tab = Tab::open(door, wire.map(|wire| wire.0), Exchange::Acks);
    let known = door.log_in(&headers, &id, &mut tab).await?;
    parameters?.finish()?;
    let body = read(body, FRAME_BYTES + ID_BYTES * door.config.acks_max).await?;
    let asked = door.asked(&body, &known)?;
    let mut done = Acknowledged::default();
    let ends = Ends {
        door,
        known: &known,
        poller: tab.poller.as_ref(),
    };
    match asked {
        Asked::Ids(ids) => ends.by_id(&ids, &mut done).await?,
        Asked::UpTo(Some(vector)) => ends.up_to(vector.cursor(), &mut done).await?,
        Asked::UpTo(None) => {}
    }
    Ok(Json(done))
}

impl Shared {
    fn asked<'a>(&self, body: &'a [u8], known: &Known) -> Result<Asked<'a>, Refusal> {
        let mut fields = Fields::parse(body)?;
        let (ids, upto) = (fields.take("ids"), fields.take("upto"));
        fields.finish()?;
        match (ids, upto) {
            (Some(ids), None) => {
                let ids = ids.array(self.config.acks_max)?;
                Ok(Asked::Ids(ids.iter().map(|id| id.text()).collect::<Result<_, _>>()?))
            }
            (None, Some(upto)) => {
                let opened = Vector::open(&upto.text()?, &*self.parts.store, &known.key, known.device.ordinal);
                Ok(Asked::UpTo(
                    opened.map_err(|_| upto.invalid("it is no \"next\" of an earlier answer"))?,
                ))
            }
            (Some(_), Some(upto)) => Err(upto.invalid("ids is given, too; give one of them")),
            (None, None) => Err(Refusal::MissingField("ids or upto".into())),
        }
    }
}

/// Ends deliveries of one device.
struct Ends<'a> {
    door: &'a Shared,
    known: &'a Known,
    poller: Option<&'a Poller>,
}

impl Ends<'_> {
    async fn by_id(&self, ids: &[std::borrow::Cow<'_, str>], done: &mut Acknowledged) -> Result<(), Refusal> {
        let tenant = self.known.key.tenant;
        for batch in ids.chunks(BATCH) {
            let mut ends = Vec::with_capacity(batch.len());
            for text in batch {
                let id = text.parse::<EventId>().ok();
                match id.and_then(|id| Some((id, self.door.parts.store.locate(tenant, id)?))) {
                    Some(end) => ends.push(end),
                    None => done.unknown.push(text.chars().take(UNKNOWN_MAX).collect()),
                }
            }
            self.settle(ends, done).await?;
        }
        Ok(())
    }

    /// All that waits and is covered by the cursor. The store numbers rise, so what it covers was shown: by the answer that the
    /// vector is from, or by those before it.
    async fn up_to(&self, cursor: Cursor, done: &mut Acknowledged) -> Result<(), Refusal> {
        let mut read = Cursor::default();
        loop {
            let page = self.door.parts.store.pending(&self.known.key, read, BATCH).await.map_err(refusal)?;
            let mut ends = Vec::with_capacity(page.events.len());
            for event in &page.events {
                let Some(queue) = event.located.queue else { continue };
                if cursor.covers(queue, event.located.number) {
                    ends.push((event.id, event.located));
                    read.advance(queue, event.located.number);
                } else {
                    // Nor is anything behind it in this queue.
                    read.advance(queue, u64::MAX);
                }
            }
            self.settle(ends, done).await?;
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn settle(&self, ends: Vec<(EventId, Located)>, done: &mut Acknowledged) -> Result<(), Refusal> {
        let parts = &self.door.parts;
        let at = parts.clock.now();
        let settles = ends.iter().map(|(id, located)| Settle {
            device: self.known.key.clone(),
            id: *id,
            located: *located,
            outcome: Outcome::Delivered,
            at,
            epoch: None,
        });
        let answers = parts.store.settle(settles.collect()).await;
        let (mut ended, mut failed) = (Vec::with_capacity(ends.len()), None);
        for ((id, _), answer) in ends.into_iter().zip(answers) {
            match answer {
                Ok(Settled::Now {
                    waited,
                    urgency,
                    expires_at,
                }) => {
                    done.acknowledged += 1;
                    ended.push(id);
                    (parts.delivered)(urgency, waited);
                    if let Some(poller) = self.poller {
                        let accepted_at = Timestamp(at.0.saturating_sub(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)));
                        parts.meter.poll_delivered(poller, accepted_at, expires_at, at);
                    }
                }
                Ok(Settled::Before(_)) => {
                    done.ended_before += 1;
                    ended.push(id);
                }
                Ok(Settled::Unknown) => done.unknown.push(id.to_string()),
                Err(error) => failed = Some(error),
            }
        }
        self.tell_session(&ended);
        // What did end is durable; the device asks again for the rest, and repeats do no harm.
        failed.map_or(Ok(()), |error| Err(refusal(error)))
    }

    /// The device's session, if it has one, does not wait for these any more.
    fn tell_session(&self, ended: &[EventId]) {
        let (parts, key) = (&self.door.parts, &self.known.key);
        let Some(link) = parts.links.link(key.tenant, &key.device) else {
            return;
        };
        let held: Vec<EventId> = ended.iter().copied().filter(|id| link.holds(*id)).collect();
        if held.is_empty() {
            return;
        }
        held.into_iter().for_each(|id| link.give_up(id));
        // Its window may have room again. Should the channel be full, the resync finds what waits.
        let _ = parts.signals.try_send(DeviceSignal::Ready {
            tenant: key.tenant,
            device: key.device.clone(),
            epoch: link.epoch(),
        });
    }
}
