//! The body of a request about a webhook.

use reqwest::Url;

use super::{address::Reach, signature};
use crate::{
    domain::{DeliveryState, Refusal},
    http::{
        json::{Field, Fields},
        text,
    },
};

/// The longest URL, in bytes.
const URL_MAX: usize = 2_048;

/// What a request says. `None`: nothing.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) url: Option<String>,
    pub(super) states: Option<Vec<DeliveryState>>,
    pub(super) enabled: Option<bool>,
    pub(super) secret: Option<String>,
}

impl Form {
    /// Takes `url`, `states`, `enabled` and `secret`.
    pub(super) fn parse(fields: &mut Fields<'_>, reach: &Reach) -> Result<Self, Refusal> {
        Ok(Self {
            url: fields.take("url").map(|field| url(&field, reach)).transpose()?,
            states: fields.take("states").map(|field| states(&field)).transpose()?,
            enabled: fields.take("enabled").map(|field| truth(&field)).transpose()?,
            secret: secret(fields)?,
        })
    }
}

/// Takes `secret`; `null` is none.
pub(super) fn secret(fields: &mut Fields<'_>) -> Result<Option<String>, Refusal> {
    let Some(field) = fields.take("secret").filter(|field| !field.is_null()) else {
        return Ok(None);
    };
    let secret = field.text()?;
    signature::secret_bytes(&secret).map_err(|why| field.invalid(why))?;
    Ok(Some(secret.into_owned()))
}

fn url(field: &Field<'_>, reach: &Reach) -> Result<String, Refusal> {
    let given = field.text()?;
    text::check_plain(&field.path, &given)?;
    if given.len() > URL_MAX {
        return Err(field.invalid(format!("it has {} bytes; at most {URL_MAX} are allowed", given.len())));
    }
    let url = Url::parse(&given).map_err(|error| field.invalid(format!("it is no URL: {error}")))?;
    reach.check(&url).map_err(|why| field.invalid(why))?;
    Ok(url.into())
}

/// States that make receipts; none, or `null`, is all.
fn states(field: &Field<'_>) -> Result<Vec<DeliveryState>, Refusal> {
    if field.is_null() {
        return Ok(Vec::new());
    }
    let mut states = Vec::new();
    for item in field.array(DeliveryState::ALL.len())? {
        let word = item.text()?;
        let state = DeliveryState::ALL.into_iter().find(|state| state.as_str() == word);
        let state = state.ok_or_else(|| {
            let known = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
            item.invalid(format!("{word:?} is none of {known}"))
        })?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    Ok(states)
}

fn truth(field: &Field<'_>) -> Result<bool, Refusal> {
    match field.raw {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(field.invalid("it must be true or false")),
    }
}
