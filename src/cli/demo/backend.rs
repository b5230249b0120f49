//! The backend of the demo: posts CloudEvents over HTTP, as any would.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::now_us;
use crate::{
    cli::{
        client::Client,
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
    },
    /// The server did not take it, or could not be asked.
    Refused {
        /// Why.
        why: String,
    },
}

/// Posts to devices at random.
pub struct Backend {
    client: Client,
    devices: Vec<String>,
    answers: mpsc::Sender<Posted>,
    room: Arc<Semaphore>,
    crew: Crew,
    /// Makes the ids of this run's events its own.
    run: String,
    number: u64,
}

impl Backend {
    /// A backend that knows these devices and tells what became of its events.
    pub fn new(client: Client, devices: Vec<String>, answers: mpsc::Sender<Posted>) -> Self {
        Self {
            client,
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
        let (client, answers) = (self.client.clone(), self.answers.clone());
        self.crew.spawn(async move {
            let posted = send(&client, &event).await;
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

async fn send(client: &Client, event: &Value) -> Posted {
    let sent_us = now_us();
    let body = Some(("application/cloudevents+json", event.to_string().into_bytes()));
    match client.ask(Method::POST, "/v1/events", body).await {
        Ok(answer) => match answer.get("id").and_then(Value::as_str) {
            Some(id) => Posted::Accepted {
                event: id.to_owned(),
                sent_us,
            },
            None => Posted::Refused {
                why: format!("the answer has no id: {answer}"),
            },
        },
        Err(error) => Posted::Refused { why: error.to_string() },
    }
}
