//! The way of many events into the store: side by side where their devices differ, one after the other where they do not.
//!
//! A device has its events in one **strand**, and a strand has one round of events at the store at a time, so the order of a
//! device is that of the request, whatever the engine. While a round is at the store, the next one gathers. An event to several devices
//! belongs to no strand: from it on, events gather in a line of their own, which goes to the store once the strands are empty. What
//! became of the events leaves in the order of the request. The window bounds what is between the two.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    super::{IngressState, accept::New, cloudevents, draft::Ids, native, options::Common},
    Form,
    answer::Results,
    outcome::Outcome,
    round::{self, Done, Waiting},
    source::{Item, Source},
};
use crate::{
    domain::{Caller, Refusal},
    http::json::Fields,
    store::{DeviceKey, NewEvent},
};

/// Rounds of one request that may be at the store at once.
const STRANDS: usize = 4;
/// Deliveries of a round, at most: what the store puts into one commit, or one pipeline.
const ROUND: usize = 128;
/// Events of a request that were read and are not answered yet, at most, and their bytes (one event may exceed them by itself).
const WINDOW_EVENTS: usize = 1_024;
pub(super) const WINDOW_BYTES: usize = 1024 * 1024;
/// Events that are parsed before other tasks have their turn.
const TURN: usize = 128;
/// How long a request is read on while the service stops: each event that still comes is refused by its own line.
const READ_ON: Duration = Duration::from_secs(5);

/// What is read, and what waits, of one request.
pub(super) struct Flow {
    state: IngressState,
    caller: Caller,
    form: Form,
    common: Common,
    ids: Ids,
    validate_only: bool,
    round_max: usize,
    strands: [Strand; STRANDS],
    /// From the first event to several devices on: what no strand has.
    line: Strand,
    at_store: FuturesUnordered<BoxFuture<'static, (usize, Vec<Done>)>>,
    /// From the first event that was not taken out yet: its bytes, and what became of it once that is known.
    window: VecDeque<(usize, Option<Outcome>)>,
    first: usize,
    bytes: usize,
    draining_since: Option<Instant>,
}

#[derive(Default)]
struct Strand {
    gathers: VecDeque<Waiting>,
    is_at_store: bool,
}

impl Strand {
    /// Whether nothing gathers, and nothing is at the store.
    fn is_empty(&self) -> bool {
        self.gathers.is_empty() && !self.is_at_store
    }

    /// What goes to the store next, unless something is there: at most so many deliveries, and at least one event.
    fn next(&mut self, deliveries_max: usize) -> Option<Vec<Waiting>> {
        if self.is_at_store || self.gathers.is_empty() {
            return None;
        }
        let (mut deliveries, mut count) = (0, 0);
        for waiting in &self.gathers {
            deliveries += waiting.new.deliveries();
            if count > 0 && deliveries > deliveries_max {
                break;
            }
            count += 1;
        }
        self.is_at_store = true;
        Some(self.gathers.drain(..count).collect())
    }
}

impl Flow {
    pub fn new(state: IngressState, caller: Caller, form: Form, common: Common, validate_only: bool) -> Self {
        Self {
            round_max: state.0.admission.several_max().min(ROUND),
            state,
            caller,
            form,
            common,
            ids: Ids::default(),
            validate_only,
            strands: Default::default(),
            line: Strand::default(),
            at_store: FuturesUnordered::new(),
            window: VecDeque::new(),
            first: 0,
            bytes: 0,
            draining_since: None,
        }
    }

    /// Takes in the next event.
    fn put(&mut self, item: Item) {
        let (index, bytes) = (self.first + self.window.len(), item.as_ref().map_or(0, Bytes::len));
        let known = match self.parse(item, index) {
            Ok(new) => {
                let strand = match &new {
                    New::One(one) if self.line.is_empty() => self.strands.get_mut(usize::from(device_of(one).bucket()) % STRANDS),
                    _ => None,
                };
                strand.unwrap_or(&mut self.line).gathers.push_back(Waiting { index, new });
                None
            }
            Err(refusal) => Some(Outcome::Refused(refusal)),
        };
        self.window.push_back((bytes, known));
        self.bytes += bytes;
    }

    /// Takes in an event that did not come whole.
    fn refuse(&mut self, refusal: Refusal) {
        self.window.push_back((0, Some(Outcome::Refused(refusal))));
    }

    fn parse(&mut self, item: Item, index: usize) -> Result<New, Refusal> {
        let parts = &*self.state.0;
        if let Some(refusal) = parts.draining() {
            return Err(refusal);
        }
        let limit = parts.limits.request_max_bytes;
        let bytes = item.filter(|bytes| bytes.len() <= limit);
        let bytes = bytes.ok_or(Refusal::ItemTooLarge { limit })?;
        let fields = Fields::parse(&bytes)?;
        let mut draft = if self.form == Form::Batch || fields.has("specversion") {
            cloudevents::structured(fields, &parts.limits)?
        } else {
            native::event(fields, &parts.limits)?
        };
        draft.options.merge(&self.common)?;
        let (key, now) = (self.common.key_of(index), parts.clock.now());
        let new = draft.into_new(key, &mut self.ids, &self.caller, now, &parts.limits)?;
        // What goes to several devices is counted when they are known.
        if !self.validate_only && matches!(new, New::One(_)) {
            parts.throttle.rates.take(&self.caller, 1, std::time::Instant::now())?;
        }
        Ok(new)
    }

    fn is_full(&self) -> bool {
        self.window.len() >= WINDOW_EVENTS || self.bytes >= WINDOW_BYTES
    }

    /// Gives the store what gathers where nothing of the strand is there, and looks what is done: behind that the next may go at once.
    fn start(&mut self) {
        loop {
            let work = |at: usize, round: Vec<Waiting>| {
                let (state, caller, validate_only) = (self.state.clone(), self.caller.clone(), self.validate_only);
                async move { (at, round::store(&state.0, &caller, round, validate_only).await) }.boxed()
            };
            for (at, strand) in self.strands.iter_mut().enumerate() {
                if let Some(round) = strand.next(self.round_max) {
                    self.at_store.push(work(at, round));
                }
            }
            if self.strands.iter().all(Strand::is_empty)
                && let Some(round) = self.line.next(self.round_max)
            {
                self.at_store.push(work(STRANDS, round));
            }
            // A round is on its way once it was polled.
            if !self.step().now_or_never().is_some_and(|more| more) {
                return;
            }
        }
    }

    /// Waits until a round is done. False: there is none.
    pub async fn step(&mut self) -> bool {
        let Some((at, done)) = self.at_store.next().await else {
            return false;
        };
        self.strands.get_mut(at).unwrap_or(&mut self.line).is_at_store = false;
        for Done { index, outcome } in done {
            if let Some((_, place)) = index.checked_sub(self.first).and_then(|at| self.window.get_mut(at)) {
                *place = Some(outcome);
            }
        }
        true
    }

    /// Whether something is at the store.
    pub fn is_at_store(&self) -> bool {
        !self.at_store.is_empty()
    }

    /// The next event whose outcome is known, when all before it were taken out.
    pub fn take(&mut self) -> Option<(usize, Outcome)> {
        self.window.front()?.1.as_ref()?;
        let (bytes, outcome) = self.window.pop_front()?;
        self.bytes -= bytes;
        self.first += 1;
        Some((self.first - 1, outcome?))
    }

    /// Refuses what the store was not given yet, and waits for the rest.
    async fn give_up(&mut self, refusal: &Refusal) {
        for strand in self.strands.iter_mut().chain([&mut self.line]) {
            for waiting in strand.gathers.drain(..) {
                let place = waiting.index.checked_sub(self.first).and_then(|at| self.window.get_mut(at));
                if let Some((_, place)) = place {
                    *place = Some(Outcome::Refused(refusal.clone()));
                }
            }
        }
        while self.step().await {}
    }

    /// The refusal with which reading ends, when the service has been stopping for a while.
    fn has_stopped(&mut self) -> Option<Refusal> {
        let refusal = self.state.0.draining()?;
        let since = *self.draining_since.get_or_insert_with(Instant::now);
        (since.elapsed() >= READ_ON).then_some(refusal)
    }
}

/// The device of an event: it has its strand.
fn device_of(new: &NewEvent) -> DeviceKey {
    DeviceKey {
        tenant: new.event.tenant,
        device: new.event.device.clone(),
    }
}

/// Reads all events, stores them, and hands on what became of them. Answers why the reading ended early, if it did: then what was
/// read is answered for, and nothing behind it was taken.
pub(super) async fn run(mut source: Source, mut flow: Flow, results: &mut Results) -> Option<Refusal> {
    let mut reading = Reading::Goes;
    let mut look = interval(Duration::from_secs(1));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut turn = 0;
        while turn < TURN && reading.goes_on() && !flow.is_full() {
            let Some(next) = source.next().now_or_never() else { break };
            reading.take(next, &source, &mut flow);
            turn += 1;
        }
        if reading.goes_on()
            && let Some(refusal) = flow.has_stopped()
        {
            reading = Reading::Ended(Some(refusal));
        }
        flow.start();
        while let Some((index, outcome)) = flow.take() {
            results.add(index, &outcome);
        }
        if let Err(refusal) = results.hand_over(&mut flow).await {
            flow.give_up(&refusal).await;
            while let Some((index, outcome)) = flow.take() {
                results.add(index, &outcome);
            }
            return Some(refusal);
        }
        match reading {
            Reading::Ended(end) if flow.window.is_empty() => return end,
            _ if turn == TURN => tokio::task::yield_now().await,
            _ => {
                let (more, at_store) = (reading.goes_on() && !flow.is_full(), flow.is_at_store());
                tokio::select! {
                    next = source.next(), if more => reading.take(next, &source, &mut flow),
                    _ = flow.step(), if at_store => {}
                    _ = look.tick() => {}
                }
            }
        }
    }
}

enum Reading {
    Goes,
    Ended(Option<Refusal>),
}

impl Reading {
    fn goes_on(&self) -> bool {
        matches!(self, Self::Goes)
    }

    fn take(&mut self, next: Result<Option<Item>, Refusal>, source: &Source, flow: &mut Flow) {
        match next {
            Ok(Some(item)) => flow.put(item),
            Ok(None) => *self = Self::Ended(None),
            Err(refusal) => {
                if source.is_unfinished() {
                    flow.refuse(refusal.clone());
                }
                *self = Self::Ended(Some(refusal));
            }
        }
    }
}
