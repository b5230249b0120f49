//! Outcomes: what a device says became of an event, and that it hears that this is kept (design §4.3). An IQ, because an IQ is answered:
//! `<outcome xmlns='urn:unpoll:event:1' event='…' status='done'/>`.

use std::sync::Arc;

use crate::domain::{EventId, OutcomeFields, Told};

use super::{
    action::{Action, Telling},
    element::Tag,
    error::{Refused, write_refusal, write_result},
    ns,
    session::Session,
    stream::{ServerStream, Stage},
    traffic::LifeSign,
};

/// Outcomes of one session that may wait to be kept.
const WAITING_MAX: usize = 64;

/// An outcome that is not answered yet.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: u32,
    event: EventId,
    told: Arc<Told>,
    /// The `id` and the `to` of its IQ.
    id: Box<str>,
    to: Option<Box<str>>,
}

/// The outcomes of a session that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    waiting: Vec<Waiting>,
    last: u32,
}

/// Why an outcome is not taken.
pub(super) enum Untold {
    Refused(Refused),
    /// `bad-request`, and why.
    Bad(String),
}

/// Reads an outcome.
fn read(outcome: Tag<'_>) -> Result<(EventId, Told), Untold> {
    let bad = |field: &str, why: &str| Untold::Bad(format!("outcome: {field}: {why}"));
    let json = outcome.child("json", ns::JSON).or_else(|| outcome.child("json", ns::EVENT));
    let json = json.map(Tag::text);
    let text = outcome.child("text", ns::EVENT).map(Tag::text);
    let told = Told::new(OutcomeFields {
        status: outcome.attribute("status"),
        retry: outcome.attribute("retry"),
        code: outcome.attribute("code"),
        text: text.as_deref(),
        data: json.as_deref(),
    });
    let told = told.map_err(|(field, why)| bad(field, &why))?;
    let event = outcome
        .attribute("event")
        .ok_or_else(|| bad("event", "it is missing; say which event"))?;
    let event = event.parse().map_err(|_| Untold::Refused(Refused::ItemNotFound))?;
    Ok((event, told))
}

impl Waiting {
    fn write(&self, out: &mut Vec<u8>, to: &str, known: bool) {
        if !known {
            return write_refusal(out, "iq", Some(&self.id), self.to.as_deref(), to, Refused::ItemNotFound, None);
        }
        write_result(out, Some(&self.id), self.to.as_deref(), to);
        out.extend_from_slice(b"/>");
    }

    fn telling(&self) -> Action {
        Action::Told(Box::new(Telling {
            event: self.event,
            told: self.told.clone(),
            ticket: self.ticket,
        }))
    }
}

impl Outcomes {
    fn take(&mut self, ticket: u32) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.ticket == ticket)?;
        Some(self.waiting.swap_remove(at))
    }

    /// Bytes of memory behind this.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.waiting.capacity() * size_of::<Waiting>()
    }
}

impl ServerStream {
    /// An IQ of type `set` with an outcome. It is answered once what it says is kept.
    pub(super) fn outcome(&mut self, id: &str, to: Option<&str>, outcome: Tag<'_>) -> Result<(), Untold> {
        let (event, told) = read(outcome)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let outcomes = session.outcomes.get_or_insert_default();
        if outcomes.waiting.len() >= WAITING_MAX {
            return Err(Untold::Refused(Refused::ResourceConstraint));
        }
        outcomes.last = outcomes.last.wrapping_add(1);
        let waiting = Waiting {
            ticket: outcomes.last,
            event,
            told: Arc::new(told),
            id: id.into(),
            to: to.map(Box::from),
        };
        // From here on no acknowledgement ends it, and no end of the session returns it.
        let ends = session.window.settle(event, waiting.told.outcome()).is_some();
        let telling = waiting.telling();
        session.outcomes.get_or_insert_default().waiting.push(waiting);
        self.actions.push_back(telling);
        if ends {
            self.flood.ended(1);
            self.ended(Vec::new());
        }
        Ok(())
    }

    /// Answers `Told`: what the device said is kept, or no such event of its is known.
    pub fn told(&mut self, ticket: u32, known: bool) {
        let Some(session) = self.session.as_mut().filter(|_| self.stage == Stage::Bound) else {
            return;
        };
        let Some(waiting) = session.outcomes.as_mut().and_then(|outcomes| outcomes.take(ticket)) else {
            return;
        };
        let full = session.jid.full().to_owned();
        self.write(LifeSign::Acknowledgement, |out| waiting.write(out, &full, known));
    }

    /// After a resumption: whoever had to answer may have looked for the session in vain.
    pub(super) fn tell_again(&mut self) {
        let waiting = self.session.as_ref().and_then(|session| session.outcomes.as_ref());
        let tellings = waiting.into_iter().flat_map(|outcomes| &outcomes.waiting).map(Waiting::telling);
        self.actions.extend(tellings);
    }
}

impl Session {
    /// Without a connection: the answer waits for the resumption.
    pub fn told(&mut self, ticket: u32, known: bool) {
        if let Some(waiting) = self.outcomes.as_mut().and_then(|outcomes| outcomes.take(ticket)) {
            let mut answer = Vec::new();
            waiting.write(&mut answer, self.jid.full(), known);
            // At most as many as may wait, which is below the bound of the window.
            _ = self.window.other(&answer);
        }
    }
}
