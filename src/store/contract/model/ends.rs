//! Ends of deliveries, and events that are put off.

use std::{sync::Arc, time::Duration};

use super::{
    super::{Epoch, Outcome, OutcomeFields, Reason, Settle, Settled, StoreError, Told},
    Difference, World, differ,
    known::Ending,
    run::Run,
    step::{DEVICES, End, What},
};

impl<W: World> Run<W> {
    /// What an end asks for: the device that says so, and the rest of it. `None`: nothing was posted yet.
    pub(super) fn ending(&self, node: usize, end: &End) -> Option<(Ending, Settle)> {
        let back = end.event % self.reference.events.len().clamp(1, 12);
        let index = self.reference.events.len().checked_sub(1 + back)?;
        let event = &self.reference.events[index];
        let at = self.now(node);
        let word = |status, retry| {
            Told::new(OutcomeFields {
                status: Some(status),
                retry,
                ..OutcomeFields::default()
            })
            .ok()
            .map(Arc::new)
        };
        let told = match end.what {
            What::Done => word("done", None),
            What::Later => word("later", None),
            What::Again(secs) => word("failed", Some(secs.to_string()).as_deref()),
            _ => None,
        };
        let outcome = match end.what {
            What::Delivered => Outcome::Delivered,
            What::Processed | What::Done => Outcome::Processed,
            What::Rejected => Outcome::Rejected(Reason::DeviceRejected),
            What::Failed => Outcome::Failed(Reason::DeviceFailed),
            What::Cancelled => Outcome::Cancelled,
            What::Expired => Outcome::Expired,
            What::Again(secs) => Outcome::Again {
                after: Duration::from_secs(u64::from(secs)),
                at_next_session: false,
            },
            What::Later => Outcome::Again {
                after: Duration::from_secs(60),
                at_next_session: true,
            },
        };
        let owner = &self.reference.devices[event.device];
        let epoch = owner.epochs.last().filter(|_| end.by_session).map(|epoch| Epoch(*epoch));
        let mut located = self.world.store(node).locate(owner.key.tenant, event.id)?;
        if !end.born && event.number > 0 {
            located.number = event.number;
        }
        let ending = Ending {
            event: index,
            outcome,
            at,
            epoch,
            told: told.clone(),
        };
        let says = (event.device + if end.wrong_device { 1 + index % 3 } else { 0 }) % DEVICES;
        let settle = Settle {
            device: self.key(says),
            id: event.id,
            located,
            outcome,
            at,
            epoch,
            told,
        };
        Some((ending, settle))
    }

    pub(super) async fn settle(&mut self, node: usize, ends: &[End]) -> Result<(), Difference> {
        let (endings, settles): (Vec<_>, Vec<_>) = ends.iter().filter_map(|end| self.ending(node, end)).unzip();
        let answers = self.calls(node).settle(settles.clone()).await;
        if answers.len() != endings.len() {
            return differ(format!("{} ends have {} answers", endings.len(), answers.len()));
        }
        for ((ending, settle), answer) in endings.iter().zip(settles).zip(answers) {
            self.settled(node, ending, &settle, answer)?;
        }
        Ok(())
    }

    /// An end has its answer.
    pub(super) fn settled(
        &mut self,
        node: usize,
        ending: &Ending,
        settle: &Settle,
        answer: Result<Settled, StoreError>,
    ) -> Result<(), Difference> {
        let event = &self.reference.events[ending.event];
        let is_wrong = self.reference.devices[event.device].key != settle.device;
        let may_be_unknown = is_wrong || (event.may_be_forgotten && !event.waits());
        if may_be_unknown && matches!(answer, Ok(Settled::Unknown)) {
            return Ok(());
        }
        let before = format!("{event:?}");
        let owed = if is_wrong {
            Settled::Unknown
        } else {
            let now = self.now(node);
            self.reference.settle(ending, now)
        };
        match answer {
            Ok(settled) if settled == owed => Ok(()),
            answer => differ(format!(
                "{settle:?} is owed {owed:?}, and was answered with {answer:?}; it was {before}"
            )),
        }
    }
}
