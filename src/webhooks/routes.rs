//! `/v1/webhooks`.

use std::time::{Duration, Instant};

use axum::{Extension, Json, Router, body::Body, extract::State, http::HeaderMap, http::StatusCode, response::IntoResponse, routing::get};
use data_encoding::BASE32_NOPAD;
use serde_json::{Value, json};

use super::{
    Webhooks,
    form::{self, Form},
    message::Message,
    sender::Verdict,
    signature, url_in_logs, view,
};
use crate::{
    domain::{Caller, Refusal, Scope},
    http::{Paged, Parameters, Segment, json::Fields, read, require_json},
    store::{StoreError, Unsent, Webhook, WebhookDisabled, WebhookEnd, WebhookSecret},
};

/// The largest body of a request, in bytes.
const BODY_MAX: usize = 8 * 1024;
/// How often a change is tried that others make, too.
const TRIES: usize = 10;
/// Dead letters that one request puts back.
const REDRIVEN_MAX: usize = 500;
/// The longest time that an old secret may sign, in seconds: 30 days.
const GRACE_MAX: i64 = 30 * 86_400;

/// The routes. The layer around them provides [`Caller`].
pub(super) fn router(state: Webhooks) -> Router {
    Router::new()
        .route("/v1/webhooks", get(list).post(create))
        .route("/v1/webhooks/{id}", get(show).patch(change).delete(remove).post(act))
        .route("/v1/webhooks/{id}/dead-letters", get(dead_letters))
        .with_state(state)
}

/// `POST /v1/webhooks`: the answer is the only place where the secret is shown.
async fn create(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    require_json(&headers)?;
    let body = read(body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let form = Form::parse(&mut fields, state.0.sender.reach())?;
    fields.finish()?;
    let url = form.url.ok_or_else(|| Refusal::MissingField("url".into()))?;
    let (store, most) = (&state.0.store, state.0.config.webhooks_max);
    if store.webhooks(Some(caller.tenant)).await.map_err(StoreError::refusal_of_all)?.len() >= most {
        return Err(Refusal::Conflict(format!("the tenant has {most} webhooks; remove one first")));
    }
    let secret = form.secret.map_or_else(new_secret, Ok)?;
    let now = state.0.clock.now();
    let webhook = Webhook {
        id: new_id()?,
        tenant: caller.tenant.0,
        url,
        states: form.states.unwrap_or_default(),
        secrets: vec![WebhookSecret {
            text: secret.clone(),
            until: None,
        }],
        disabled: (form.enabled == Some(false)).then_some(WebhookDisabled {
            reason: WebhookEnd::Request,
            since: now,
        }),
        begins_behind: store.newest_receipt(caller.tenant).await.map_err(StoreError::refusal_of_all)?,
        created_at: now,
        updated_at: now,
        enabled_at: now,
        revision: 1,
    };
    let added = store.change_webhook(&webhook.id, None, Some(webhook.clone())).await;
    if !added.map_err(StoreError::refusal_of_all)? {
        return Err(Refusal::Conflict(
            "the webhook was not made, because its tenant is being removed".into(),
        ));
    }
    state.changed(&caller, &webhook, "made");
    Ok((StatusCode::CREATED, Json(view::with_secret(view::shown(&webhook), &secret))))
}

/// `GET /v1/webhooks`
async fn list(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Admin)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<String> = page.after()?;
    parameters.finish()?;
    let mut webhooks = state
        .0
        .store
        .webhooks(Some(caller.tenant))
        .await
        .map_err(StoreError::refusal_of_all)?;
    webhooks.retain(|webhook| after.as_ref().is_none_or(|after| webhook.id > *after));
    Ok(Json(
        page.page(webhooks, |webhook| webhook.id.clone())
            .map(|webhook| view::shown(&webhook)),
    ))
}

/// `GET /v1/webhooks/{id}`
async fn show(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    let webhook = state.find(&caller, &id.0).await?;
    state.shown_alone(&webhook).await.map(Json)
}

/// `PATCH /v1/webhooks/{id}`: `url`, `states`, `enabled`.
async fn change(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    require_json(&headers)?;
    let body = read(body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let form = Form::parse(&mut fields, state.0.sender.reach())?;
    fields.finish()?;
    if form.secret.is_some() {
        return Err(Refusal::InvalidField {
            field: "secret".into(),
            why: format!("a secret is changed by POST /v1/webhooks/{}:rotate", id.0),
        });
    }
    let now = state.0.clock.now();
    let webhook = state
        .update(&caller, &id.0, |webhook| {
            if let Some(url) = &form.url {
                webhook.url.clone_from(url);
            }
            if let Some(states) = &form.states {
                webhook.states.clone_from(states);
            }
            match form.enabled {
                Some(true) if webhook.disabled.is_some() => {
                    webhook.disabled = None;
                    webhook.enabled_at = now;
                }
                Some(false) if webhook.disabled.is_none() => {
                    webhook.disabled = Some(WebhookDisabled {
                        reason: WebhookEnd::Request,
                        since: now,
                    });
                    state.0.metrics.disabled(WebhookEnd::Request);
                }
                _ => {}
            }
        })
        .await?;
    state.shown_alone(&webhook).await.map(Json)
}

/// `DELETE /v1/webhooks/{id}`: 204. What waited for it is gone, too.
async fn remove(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<StatusCode, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    for _ in 0..TRIES {
        let webhook = state.find(&caller, &id.0).await?;
        let removed = state.0.store.change_webhook(&webhook.id, Some(webhook.revision), None).await;
        if removed.map_err(StoreError::refusal_of_all)? {
            state.changed(&caller, &webhook, "removed");
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(changes_too_often())
}

/// `POST /v1/webhooks/{id}:test`, `:rotate` and `:redrive`.
async fn act(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    segment: Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    require_json(&headers)?;
    let Some((id, action)) = segment.0.split_once(':') else {
        return Err(Refusal::MethodNotAllowed("POST".into()));
    };
    let body = read(body, BODY_MAX).await?;
    // An empty body says as much as an empty object.
    let mut fields = Fields::parse(if body.is_empty() { b"{}" } else { &body })?;
    match action {
        "test" => {
            fields.finish()?;
            state.test(&caller, id).await.map(Json)
        }
        "rotate" => {
            let secret = form::secret(&mut fields)?;
            let grace = match fields.take("grace_secs") {
                Some(field) => match field.integer()? {
                    secs @ 0..=GRACE_MAX => secs.unsigned_abs(),
                    secs => return Err(field.invalid(format!("it is {secs}; 0 to {GRACE_MAX} are allowed"))),
                },
                None => state.0.config.secret_grace_secs,
            };
            fields.finish()?;
            state.rotate(&caller, id, secret, Duration::from_secs(grace)).await.map(Json)
        }
        "redrive" => {
            fields.finish()?;
            state.redrive(&caller, id).await.map(Json)
        }
        _ => Err(Refusal::UnknownPath(format!("/v1/webhooks/{}", segment.0))),
    }
}

/// `GET /v1/webhooks/{id}/dead-letters`, oldest receipt first.
async fn dead_letters(
    State(state): State<Webhooks>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Admin)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<u64> = page.after()?;
    parameters.finish()?;
    let webhook = state.find(&caller, &id.0).await?;
    let letters = state.0.store.dead_letters(&webhook.id, after.unwrap_or(0), page.limit + 1).await;
    let page = page.page(letters.map_err(StoreError::refusal_of_all)?, |letter| {
        letter.receipt.position.to_string()
    });
    Ok(Json(page.map(|letter| view::dead_letter(&letter))))
}

impl Webhooks {
    /// One of the caller's. Those of other tenants look like those that are not there.
    async fn find(&self, caller: &Caller, id: &str) -> Result<Webhook, Refusal> {
        let all = self
            .0
            .store
            .webhooks(Some(caller.tenant))
            .await
            .map_err(StoreError::refusal_of_all)?;
        let found = all.into_iter().find(|webhook| webhook.id == id);
        found.ok_or_else(|| Refusal::UnknownWebhook(id.chars().take(64).collect()))
    }

    async fn update(&self, caller: &Caller, id: &str, change: impl Fn(&mut Webhook)) -> Result<Webhook, Refusal> {
        for _ in 0..TRIES {
            let mut webhook = self.find(caller, id).await?;
            let revision = webhook.revision;
            change(&mut webhook);
            webhook.revision += 1;
            webhook.updated_at = self.0.clock.now();
            let changed = self.0.store.change_webhook(id, Some(revision), Some(webhook.clone())).await;
            if changed.map_err(StoreError::refusal_of_all)? {
                self.changed(caller, &webhook, "changed");
                return Ok(webhook);
            }
        }
        Err(changes_too_often())
    }

    /// Somebody changed it: the keeper looks at once.
    fn changed(&self, caller: &Caller, webhook: &Webhook, how: &str) {
        tracing::info!(
            key.name = %caller.key_name, webhook.id = %webhook.id,
            "the key {} {how} the webhook {} to {}", caller.key_name, webhook.id, url_in_logs(&webhook.url)
        );
        self.0.nudge.notify_one();
    }

    async fn shown_alone(&self, webhook: &Webhook) -> Result<Value, Refusal> {
        let work = self.0.store.webhook_work(&webhook.id).await.map_err(StoreError::refusal_of_all)?;
        Ok(view::shown_alone(webhook, &work))
    }

    /// Sends one message that says nothing, now and once; to a webhook that is disabled, too.
    async fn test(&self, caller: &Caller, id: &str) -> Result<Value, Refusal> {
        let webhook = self.find(caller, id).await?;
        let began = Instant::now();
        let attempt = self.0.sender.send(&webhook, &Message::test(&webhook, self.0.clock.now())).await;
        self.0.metrics.attempt(attempt.verdict);
        Ok(json!({
            "delivered": attempt.verdict == Verdict::Delivered,
            "result": attempt.verdict.as_str(),
            "status": attempt.status,
            "error": Some(attempt.error).filter(|error| !error.is_empty()),
            "took_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }))
    }

    /// Another secret signs from now on, and for a while the old one, too. At most two are live.
    async fn rotate(&self, caller: &Caller, id: &str, secret: Option<String>, grace: Duration) -> Result<Value, Refusal> {
        let secret = secret.map_or_else(new_secret, Ok)?;
        let until = self.0.clock.now().plus(grace);
        let webhook = self
            .update(caller, id, |webhook| {
                let new = WebhookSecret {
                    text: secret.clone(),
                    until: None,
                };
                webhook.secrets.truncate(1);
                for old in &mut webhook.secrets {
                    old.until = Some(until);
                }
                webhook.secrets.insert(0, new);
            })
            .await?;
        Ok(view::with_secret(view::shown(&webhook), &secret))
    }

    /// Puts dead letters back among what waits, the oldest first, as if they had never been tried.
    async fn redrive(&self, caller: &Caller, id: &str) -> Result<Value, Refusal> {
        let webhook = self.find(caller, id).await?;
        let (store, now) = (&self.0.store, self.0.clock.now());
        let letters = store.dead_letters(id, 0, REDRIVEN_MAX).await.map_err(StoreError::refusal_of_all)?;
        let fresh = |letter: Unsent| Unsent {
            since: now,
            attempts: 0,
            at: now,
            error: None,
            ..letter
        };
        let letters: Vec<Unsent> = letters.into_iter().map(fresh).collect();
        // What waits is bounded; room for what is put back by hand comes on top once.
        let most = self.0.config.waiting_max.saturating_add(REDRIVEN_MAX) as u64;
        let redriven = store.redrive(id, &letters, most).await.map_err(StoreError::refusal_of_all)?;
        self.changed(caller, &webhook, "put dead letters back to");
        let left = store.webhook_work(id).await.map_err(StoreError::refusal_of_all)?.dead_letters;
        Ok(json!({"redriven": redriven, "dead_letters": left}))
    }
}

fn changes_too_often() -> Refusal {
    Refusal::Overloaded {
        retry_after: Duration::from_secs(1),
    }
}

fn no_random(_: aws_lc_rs::error::Unspecified) -> Refusal {
    Refusal::Internal("no random bytes".into())
}

fn new_secret() -> Result<String, Refusal> {
    signature::new_secret().map_err(no_random)
}

fn new_id() -> Result<String, Refusal> {
    let mut bytes = [0; 10];
    aws_lc_rs::rand::fill(&mut bytes).map_err(no_random)?;
    Ok(format!("wh_{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
}
