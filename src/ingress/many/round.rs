//! Events that go to the store together.

use futures_util::future::join_all;

use super::{
    super::{
        Parts,
        accept::{New, RequestOf},
    },
    outcome::Outcome,
};
use crate::domain::{Caller, Refusal};

/// An event that waits for the store.
pub(super) struct Waiting {
    pub index: usize,
    pub new: New,
}

/// What became of it.
pub(super) struct Done {
    pub index: usize,
    pub outcome: Outcome,
}

/// Stores them in order, or with `validate_only` looks whether they could be. One answer each, in order.
pub(super) async fn store(parts: &Parts, caller: &Caller, round: Vec<Waiting>, validate_only: bool) -> Vec<Done> {
    let indexes: Vec<usize> = round.iter().map(|waiting| waiting.index).collect();
    let news: Vec<New> = round.into_iter().map(|waiting| waiting.new).collect();
    let deliveries = news.iter().map(New::deliveries).sum::<usize>();
    let room = parts.admission.several(deliveries).await;
    // What stops meanwhile takes nothing more.
    let room = room.and_then(|room| parts.draining().map_or(Ok(room), Err));
    let outcomes: Vec<Outcome> = match room {
        Err(refusal) => vec![Outcome::Refused(refusal); news.len()],
        Ok(_room) if validate_only => join_all(news.iter().map(|new| valid(parts, new))).await,
        Ok(_room) => parts
            .accept(caller, news, RequestOf::Many)
            .await
            .into_iter()
            .map(Outcome::of)
            .collect(),
    };
    let missing = || Outcome::Refused(Refusal::Internal("the store gave no answer".into()));
    let outcomes = outcomes.into_iter().chain(std::iter::repeat_with(missing));
    let done = |(index, outcome)| Done { index, outcome };
    indexes.into_iter().zip(outcomes).map(done).collect()
}

async fn valid(parts: &Parts, new: &New) -> Outcome {
    match parts.look(new).await {
        Ok(targets) => Outcome::Valid { targets },
        Err(refusal) => Outcome::Refused(refusal),
    }
}
