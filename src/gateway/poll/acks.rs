//! `POST /v1/devices/{id}/acks`: what a device has applied leaves its queue.

use std::sync::Arc;

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap};
use serde::Serialize;

use super::{
    Door, Shared,
    cursor::Vector,
    events::{Known, refusal},
    tab::Tab,
};
use crate::{
    domain::{DeviceSignal, EventId, Exchange, Located, Outcome, OutcomeFields, Poller, Refusal, Timestamp, Told},
    http::{
        Parameters, Segment, Wire,
        json::{Field, Fields},
        read,
    },
    store::{Cursor, Settle, Settled},
};

/// Deliveries that are ended in one step of the store.
const BATCH: usize = 100;
/// The longest text that is repeated as an unknown id.
const UNKNOWN_MAX: usize = 64;
/// An id with its quotes, comma and a space, and the frame around them.
const ID_BYTES: usize = 40;
const FRAME_BYTES: usize = 4_096;
/// Outcomes of one request, and the bytes of one with text and JSON of its own.
pub(in crate::gateway) const OUTCOMES_MAX: usize = 100;
const OUTCOME_BYTES: usize = 6 * 1024;

/// What the acknowledgement did, once it is durable.
#[derive(Debug, Default, Serialize)]
pub(super) struct Acknowledged {
    /// Deliveries that it ended.
    acknowledged: u64,
    /// Deliveries that had ended before, by an earlier acknowledgement or otherwise.
    ended_before: u64,
    /// Events that wait once more, because their outcome was `later`, or `failed` with `retry`.
    #[serde(skip_serializing_if = "is_zero")]
    put_off: u64,
    /// Events that require an outcome: an acknowledgement alone changes nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outcome_wanted: Vec<String>,
    /// Ids that are no events of this device, or ended longer ago than states are kept.
    unknown: Vec<String>,
}

/// Only what happened is said of what few devices ask for.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What a device acknowledges.
enum Asked<'a> {
    Ids(Vec<std::borrow::Cow<'a, str>>),
    /// What the device says of each.
    Outcomes(Vec<(std::borrow::Cow<'a, str>, Arc<Told>)>),
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
    let body = read(body, FRAME_BYTES + ID_BYTES * door.config.acks_max + OUTCOMES_MAX * OUTCOME_BYTES).await?;
    let asked = door.asked(&body, &known)?;
    let mut done = Acknowledged::default();
    let ends = Ends {
        door,
        known: &known,
        poller: tab.poller.as_ref(),
    };
    match asked {
        Asked::Ids(ids) => {
            let ends_of: Vec<_> = ids.into_iter().map(|id| (id, None)).collect();
            ends.by_id(&ends_of, &mut done).await?;
        }
        Asked::Outcomes(outcomes) => {
            let ends_of: Vec<_> = outcomes.into_iter().map(|(id, told)| (id, Some(told))).collect();
            ends.by_id(&ends_of, &mut done).await?;
        }
        Asked::UpTo(Some(vector)) => ends.up_to(vector.cursor(), &mut done).await?,
        Asked::UpTo(None) => {}
    }
    Ok(Json(done))
}

impl Shared {
    fn asked<'a>(&self, body: &'a [u8], known: &Known) -> Result<Asked<'a>, Refusal> {
        let mut fields = Fields::parse(body)?;
        let (ids, upto, outcomes) = (fields.take("ids"), fields.take("upto"), fields.take("outcomes"));
        fields.finish()?;
        match (ids, upto, outcomes) {
            (None, None, Some(outcomes)) => {
                let outcomes = outcomes.array(OUTCOMES_MAX)?;
                Ok(Asked::Outcomes(outcomes.into_iter().map(outcome).collect::<Result<_, _>>()?))
            }
            (Some(ids), None, None) => {
                let ids = ids.array(self.config.acks_max)?;
                Ok(Asked::Ids(ids.iter().map(|id| id.text()).collect::<Result<_, _>>()?))
            }
            (None, Some(upto), None) => {
                let opened = Vector::open(&upto.text()?, &*self.parts.store, &known.key, known.device.ordinal);
                Ok(Asked::UpTo(
                    opened.map_err(|_| upto.invalid("it is no \"next\" of an earlier answer"))?,
                ))
            }
            (None, None, None) => Err(Refusal::MissingField("ids, upto or outcomes".into())),
            (ids, upto, outcomes) => {
                let several = [ids, upto, outcomes].into_iter().flatten().last();
                Err(several.map_or_else(
                    || Refusal::MissingField("ids".into()),
                    |field| field.invalid("another of ids, upto and outcomes is given, too; give one of them"),
                ))
            }
        }
    }
}

/// One of `outcomes`: `{"id":…,"status":"failed","retry":30,"code":"disk-full","text":…,"data":{…}}`.
fn outcome(item: Field<'_>) -> Result<(std::borrow::Cow<'_, str>, Arc<Told>), Refusal> {
    let path = item.path.clone();
    let mut fields = item.object()?;
    let id = fields.need("id")?.text()?;
    let text = |field: Option<Field<'_>>| field.map(|field| field.text().map(std::borrow::Cow::into_owned)).transpose();
    let (status, code, words) = (text(fields.take("status"))?, text(fields.take("code"))?, text(fields.take("text"))?);
    let retry = fields
        .take("retry")
        .map(|field| field.integer())
        .transpose()?
        .map(|seconds| seconds.to_string());
    let data = fields.take("data");
    fields.finish()?;
    let told = Told::new(OutcomeFields {
        status: status.as_deref(),
        retry: retry.as_deref(),
        code: code.as_deref(),
        text: words.as_deref(),
        data: data.as_ref().map(|field| field.raw),
    });
    let told = told.map_err(|(field, why)| Refusal::InvalidField {
        field: format!("{path}.{}", if field == "json" { "data" } else { field }),
        why,
    })?;
    Ok((id, Arc::new(told)))
}

/// One end that is asked for.
struct Asking {
    id: EventId,
    located: Located,
    told: Option<Arc<Told>>,
}

/// Ends deliveries of one device.
struct Ends<'a> {
    door: &'a Shared,
    known: &'a Known,
    poller: Option<&'a Poller>,
}

impl Ends<'_> {
    async fn by_id(&self, ids: &[(std::borrow::Cow<'_, str>, Option<Arc<Told>>)], done: &mut Acknowledged) -> Result<(), Refusal> {
        let tenant = self.known.key.tenant;
        for batch in ids.chunks(BATCH) {
            let mut ends = Vec::with_capacity(batch.len());
            for (text, told) in batch {
                let id = text.parse::<EventId>().ok();
                match id.and_then(|id| Some((id, self.door.parts.store.locate(tenant, id)?))) {
                    Some((id, located)) => ends.push(Asking {
                        id,
                        located,
                        told: told.clone(),
                    }),
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
                    ends.push(Asking {
                        id: event.id,
                        located: event.located,
                        told: None,
                    });
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

    async fn settle(&self, ends: Vec<Asking>, done: &mut Acknowledged) -> Result<(), Refusal> {
        let parts = &self.door.parts;
        let at = parts.clock.now();
        let settles = ends.iter().map(|end| Settle {
            device: self.known.key.clone(),
            id: end.id,
            located: end.located,
            outcome: end.told.as_ref().map_or(Outcome::Delivered, |told| told.outcome()),
            at,
            epoch: None,
            told: end.told.clone(),
        });
        let answers = parts.store.settle(settles.collect()).await;
        let (mut ended, mut failed) = (Vec::with_capacity(ends.len()), None);
        for (Asking { id, .. }, answer) in ends.into_iter().zip(answers) {
            match answer {
                Ok(Settled::Now {
                    outcome,
                    waited,
                    urgency,
                    expires_at,
                }) => {
                    done.acknowledged += 1;
                    ended.push(id);
                    (parts.ended)(outcome, urgency, waited);
                    if let Some(poller) = self.poller
                        && matches!(outcome, Outcome::Delivered | Outcome::Processed)
                    {
                        let accepted_at = Timestamp(at.0.saturating_sub(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)));
                        parts.meter.poll_delivered(poller, accepted_at, expires_at, at);
                    }
                }
                Ok(Settled::Again) => {
                    done.put_off += 1;
                    ended.push(id);
                }
                Ok(Settled::OutcomeWanted) => done.outcome_wanted.push(id.to_string()),
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
