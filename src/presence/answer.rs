//! What is answered of devices, wherever their sessions are: here, on another node, or nowhere.
//!
//! The seat in the store says where to ask. It is read before anybody is asked, so that an answer is never older than one that was given
//! before by whichever node.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{DevicePresence, Found, Presence, State};
use crate::store::{DeviceKey, Registered, Seat, SeatView, StoreError};

/// A seat whose node knows no session of it after so long is what a fault left behind. Before it, the session is being made.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// What the node of a seat says.
enum Said {
    /// Of the session.
    Session(DevicePresence),
    /// That there is none.
    Nothing,
    /// It does not answer.
    Silence,
}

impl Presence {
    /// Presence of one device.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn of(&self, key: &DeviceKey) -> Result<Found, StoreError> {
        match self.inner.store.device(key).await? {
            Registered::Present(_) => {}
            Registered::Removed(_) => return Ok(Found::Removed),
            Registered::Unknown => return Ok(Found::Unknown),
        }
        match self.of_all(std::slice::from_ref(key)).await.pop() {
            Some(Ok(presence)) => Ok(Found::Device(presence)),
            Some(Err(StoreError::UnknownDevice)) | None => Ok(Found::Unknown),
            Some(Err(StoreError::RemovedDevice)) => Ok(Found::Removed),
            Some(Err(error)) => Err(error),
        }
    }

    /// Presence of many devices that are registered, one answer each, in order. Every other node is asked once.
    pub async fn of_all(&self, keys: &[DeviceKey]) -> Vec<Result<DevicePresence, StoreError>> {
        let told: Vec<Option<DevicePresence>> = keys.iter().map(|key| self.told(key)).collect();
        // Alone, a session here is the newest there is.
        let alone = self.inner.elsewhere.is_none();
        let known = |told: &Option<DevicePresence>| alone && told.as_ref().is_some_and(|told| told.state != State::Offline);
        let asked: Vec<DeviceKey> = keys
            .iter()
            .zip(&told)
            .filter(|(_, told)| !known(told))
            .map(|(key, _)| key.clone())
            .collect();
        let mut views = self.inner.store.seats(&asked).await.into_iter();
        let mut answers: Vec<Result<DevicePresence, StoreError>> = Vec::with_capacity(keys.len());
        // Where to go on asking: the place among the answers, and the seat.
        let mut away: HashMap<Arc<str>, Vec<(usize, DeviceKey, Seat)>> = HashMap::new();
        for (index, (key, told)) in keys.iter().zip(told).enumerate() {
            let told = match told {
                Some(told) if alone && told.state != State::Offline => {
                    answers.push(Ok(told));
                    continue;
                }
                told => told,
            };
            let view = match views.next() {
                Some(Ok(view)) => view,
                Some(Err(error)) => {
                    answers.push(Err(error));
                    continue;
                }
                None => {
                    answers.push(Err(StoreError::Unavailable("an answer is missing".into())));
                    continue;
                }
            };
            let newest = told.as_ref().and_then(|told| told.session_epoch) >= Some(view.last_epoch);
            let told = match told {
                Some(told) if newest && told.state != State::Offline => {
                    answers.push(Ok(told));
                    continue;
                }
                told => told,
            };
            answers.push(Ok(self.nowhere(key, told, &view)));
            // A seat of this node without a session is what it left behind when it was killed: nobody sits on it.
            if let Some(seat) = view.seat.filter(|seat| !alone && *seat.node != *self.inner.node) {
                away.entry(seat.node.clone()).or_default().push((index, key.clone(), seat));
            }
        }
        for (index, seat, said) in self.ask(away).await {
            let Some(Ok(answer)) = answers.get_mut(index) else { continue };
            match said {
                // An older session there than the seat tells of is on its way out.
                Said::Session(session) if session.session_epoch >= Some(seat.epoch) => *answer = session,
                Said::Nothing if self.inner.clock.now() >= seat.connected_at.plus(MADE_WITHIN) => {}
                // The seat is all that is known.
                Said::Session(_) | Said::Nothing | Said::Silence => {
                    answer.state = State::Online;
                    answer.session_epoch = Some(seat.epoch);
                    answer.connected_at = Some(seat.connected_at);
                    answer.last_seen_at = answer.last_seen_at.max(Some(seat.connected_at));
                    answer.node = Some(seat.node.to_string());
                    answer.transport = Some(seat.transport);
                }
            }
        }
        answers
    }

    /// Asks every node about the devices whose seats it has, all at once.
    async fn ask(&self, away: HashMap<Arc<str>, Vec<(usize, DeviceKey, Seat)>>) -> Vec<(usize, Seat, Said)> {
        let Some(elsewhere) = &self.inner.elsewhere else {
            return Vec::new();
        };
        let questions = away.into_iter().map(|(node, asked)| async move {
            let devices: Vec<DeviceKey> = asked.iter().map(|(_, device, _)| device.clone()).collect();
            let said = elsewhere.presences(&node, &devices).await;
            let mut said = said.map(Vec::into_iter);
            let told: Vec<(usize, Seat, Said)> = asked
                .into_iter()
                .map(|(index, _, seat)| {
                    let said = match said.as_mut().and_then(Iterator::next) {
                        Some(Some(session)) => Said::Session(session),
                        Some(None) => Said::Nothing,
                        None => Said::Silence,
                    };
                    (index, seat, said)
                })
                .collect();
            told
        });
        join_all(questions).await.into_iter().flatten().collect()
    }

    /// Presence of a device that has no session that is known here.
    fn nowhere(&self, key: &DeviceKey, told: Option<DevicePresence>, view: &SeatView) -> DevicePresence {
        let incidents = self.incidents(key);
        let left_at = view.seat.as_ref().map(|seat| seat.connected_at);
        let last_heard = told.and_then(|told| told.last_seen_at);
        DevicePresence {
            device: key.device.to_string(),
            state: State::Offline,
            session_epoch: Some(view.last_epoch).filter(|epoch| epoch.0 > 0),
            connected_at: None,
            last_seen_at: last_heard.max(view.last_seen_at).max(left_at),
            node: None,
            transport: None,
            slow_since: None,
            flooding: false,
            last_close: incidents.last_close,
            seat_changes: incidents.seat_changes,
        }
    }
}
