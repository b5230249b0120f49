//! The backend of the demo: posts CloudEvents over HTTP, as any would.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::now_us;
use crate::{
    cli::{
        client::{Client, problem},
        secret::{generate_password, random_below},
    },
    crew::Crew,
};

/// Requests on the way at the same time; above it the backend waits for the server.
const POSTS_AT_ONCE: usize = 64;
/// Each box gets an event every so many seconds, on average.
const SECS_BETWEEN_EVENTS: u64 = 8;
/// Events a second, at least and at most.
const PACE: (u64, u64) = (5, 500);

/// What became of one POST.
#[derive(Debug)]
pub enum Posted {
    /// The server has it: a 2xx answer.
    Accepted {
        /// The event's id.
        event: String,
        /// When the request was sent, in microseconds since 1970.
        sent_us: u64,
        /// How durable it is, in the server's word.
        durability: String,
    },
    /// The server did not take it, or could not be asked.
    Refused {
        /// Why.
        why: String,
    },
}

/// Posts to devices at random.
pub struct Backend {
    /// One for each server.
    clients: Arc<[Client]>,
    devices: Vec<String>,
    answers: mpsc::Sender<Posted>,
    room: Arc<Semaphore>,
    crew: Crew,
    /// Makes the ids of this run's events its own.
    run: String,
    number: u64,
}

impl Backend {
    /// A backend that posts to all servers by turns, knows these devices, and tells what became of its events.
    pub fn new(clients: Vec<Client>, devices: Vec<String>, answers: mpsc::Sender<Posted>) -> Self {
        Self {
            clients: clients.into(),
            devices,
            answers,
            room: Arc::new(Semaphore::new(POSTS_AT_ONCE)),
            crew: Crew::default(),
            run: generate_password().unwrap_or_default(),
            number: 0,
        }
    }

    /// The time between two events.
    pub fn pace(&self) -> Duration {
        let a_second = (self.devices.len() as u64 / SECS_BETWEEN_EVENTS).clamp(PACE.0, PACE.1);
        Duration::from_micros(1_000_000 / a_second)
    }

    /// Posts the next event, unless too many are on their way.
    pub fn post(&mut self) {
        let Ok(room) = self.room.clone().try_acquire_owned() else { return };
        let chosen = usize::try_from(random_below(self.devices.len() as u64))
            .ok()
            .and_then(|at| self.devices.get(at));
        let Some(device) = chosen else { return };
        self.number += 1;
        let event = cloud_event(&self.run, self.number, device);
        let (clients, answers, turn) = (self.clients.clone(), self.answers.clone(), self.number);
        self.crew.spawn(async move {
            let posted = send(&clients, turn, &event).await;
            drop(room);
            // Nobody listens any more only when the demo is over.
            let _ = answers.send(posted).await;
        });
    }

    /// Whether every POST was answered.
    pub fn is_idle(&self) -> bool {
        self.room.available_permits() == POSTS_AT_ONCE
    }
}

/// A CloudEvent in structured mode. `pushrequire`: delivered means that the box says so after it applied the event.
fn cloud_event(run: &str, number: u64, device: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": format!("{run}-{number}"),
        "source": "/demo/scheduler",
        "type": "com.example.recording.scheduled",
        "subject": device,
        "pushrequire": "received",
        "data": {"program": format!("EP{number:08}"), "title": "Жалюзи & 電視", "channel": number % 900},
    })
}

/// Posts to one server after the other, beginning with that one, until one takes it or refuses it for good: a balancer would do no less
/// when a node is gone. The event keeps its id, so that one that was stored before its answer was lost is not stored twice.
async fn send(clients: &[Client], turn: u64, event: &Value) -> Posted {
    let sent_us = now_us();
    let first = usize::try_from(turn).unwrap_or_default() % clients.len().max(1);
    let mut why = "there is no server".to_owned();
    for client in clients.iter().cycle().skip(first).take(clients.len()) {
        let body = Some(("application/cloudevents+json", event.to_string().into_bytes()));
        match client.exchange(Method::POST, "/v1/events", body).await {
            Ok((status, body)) if status.is_success() => return accepted(&body, sent_us),
            Ok((status, body)) => {
                why = problem(status, &body);
                if status != StatusCode::SERVICE_UNAVAILABLE {
                    break;
                }
            }
            Err(error) => why = error.to_string(),
        }
    }
    Posted::Refused { why }
}

fn accepted(body: &[u8], sent_us: u64) -> Posted {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| answer.get(field).and_then(Value::as_str).map(str::to_owned);
    match text("id") {
        Some(event) => Posted::Accepted {
            event,
            sent_us,
            durability: text("durability").unwrap_or_default(),
        },
        None => Posted::Refused {
            why: format!("the answer has no id: {answer}"),
        },
    }
}
