//! How a delivery ends, and what the device itself says of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    DeliveryState, Reason,
    reported::{DEPTH_MAX, depth_fits},
};

/// The longest code, in characters.
const CODE_MAX: usize = 64;
/// The longest text, in bytes.
const TEXT_MAX: usize = 1024;
/// The longest JSON, in bytes.
const DATA_MAX: usize = 4096;
/// The longest pause before another attempt, in seconds.
const RETRY_MAX: u64 = 86_400;
/// An event that the device wants later is offered again after this, in the same session.
const LATER: Duration = Duration::from_secs(60);

/// What `settle` is told of a delivery: how it ends, or that it is wanted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Acknowledged as required.
    Delivered,
    /// Done, says the device.
    Processed,
    /// The TTL ended first.
    Expired,
    /// Taken back.
    Cancelled,
    /// Refused by the device.
    Rejected(Reason),
    /// Given up.
    Failed(Reason),
    /// No end: it is wanted again, after so long at the tail of its lane.
    Again {
        /// From now.
        after: Duration,
        /// A new session of the device need not wait for that.
        at_next_session: bool,
    },
}

impl Outcome {
    /// The state it leads to.
    pub fn state(self) -> DeliveryState {
        match self {
            Self::Delivered => DeliveryState::Delivered,
            Self::Processed => DeliveryState::Processed,
            Self::Expired => DeliveryState::Expired,
            Self::Cancelled => DeliveryState::Cancelled,
            Self::Rejected(_) => DeliveryState::Rejected,
            Self::Failed(_) => DeliveryState::Failed,
            Self::Again { .. } => DeliveryState::Queued,
        }
    }

    /// The reason, where there is one.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Rejected(reason) | Self::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

/// The word of a device for what became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It did it.
    Done,
    /// It could not.
    Failed,
    /// It does not understand it.
    Rejected,
    /// It will, but not now.
    Later,
}

impl Status {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::Rejected, Self::Later];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Later => "later",
        }
    }
}

/// What a device says of an event: the outcome, kept with its delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// In one word.
    pub status: Status,
    /// With `failed`: seconds after which it wants the event again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<u32>,
    /// A word of its own for programs, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Box<str>>,
    /// For people, at most 1 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Box<str>>,
    /// JSON of its own, at most 4 KiB and 32 levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

/// [`Told`] as it comes in at a door.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutcomeFields<'a> {
    /// `done`, `failed`, `rejected` or `later`.
    pub status: Option<&'a str>,
    /// Seconds, in digits.
    pub retry: Option<&'a str>,
    /// A word.
    pub code: Option<&'a str>,
    /// A sentence.
    pub text: Option<&'a str>,
    /// JSON.
    pub data: Option<&'a str>,
}

impl Told {
    /// Checks what a device says.
    ///
    /// # Errors
    /// The name of the field, and what is wrong with it.
    pub fn new(telling: OutcomeFields<'_>) -> Result<Self, (&'static str, String)> {
        let word = telling
            .status
            .ok_or(("status", "it is missing; say done, failed, rejected or later".to_owned()))?;
        let status = Status::ALL.into_iter().find(|status| status.as_str() == word);
        let status = status.ok_or_else(|| ("status", format!("{word:?} is none of done, failed, rejected, later")))?;
        let retry = match telling.retry {
            None => None,
            Some(_) if status != Status::Failed => return Err(("retry", "it belongs to the status failed".into())),
            Some(text) => match text.parse::<u32>() {
                Ok(seconds) if u64::from(seconds) <= RETRY_MAX => Some(seconds),
                _ => return Err(("retry", format!("it must be whole seconds, 0 to {RETRY_MAX}"))),
            },
        };
        if telling.code.is_some_and(|code| code.is_empty() || code.chars().count() > CODE_MAX) {
            return Err(("code", format!("1 to {CODE_MAX} characters are allowed")));
        }
        if let Some(text) = telling.text.filter(|text| text.len() > TEXT_MAX) {
            return Err(("text", format!("it has {} bytes; at most {TEXT_MAX} are allowed", text.len())));
        }
        let data = match telling.data {
            Some(json) if json.len() > DATA_MAX => {
                return Err(("json", format!("it has {} bytes; at most {DATA_MAX} are allowed", json.len())));
            }
            Some(json) => {
                let value: serde_json::Value = serde_json::from_str(json).map_err(|error| ("json", error.to_string()))?;
                if !depth_fits(&value, DEPTH_MAX) {
                    return Err(("json", format!("it is nested deeper than {DEPTH_MAX} levels")));
                }
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            status,
            retry,
            code: telling.code.map(Box::from),
            text: telling.text.map(Box::from),
            data,
        })
    }

    /// The same without its JSON, as a receipt tells it.
    pub fn in_words(&self) -> Self {
        Self {
            status: self.status,
            retry: self.retry,
            code: self.code.clone(),
            text: self.text.clone(),
            data: None,
        }
    }

    /// What it means for the delivery.
    pub fn outcome(&self) -> Outcome {
        match (self.status, self.retry) {
            (Status::Done, _) => Outcome::Processed,
            (Status::Failed, None) => Outcome::Failed(Reason::DeviceFailed),
            (Status::Failed, Some(seconds)) => Outcome::Again {
                after: Duration::from_secs(u64::from(seconds)),
                at_next_session: false,
            },
            (Status::Rejected, _) => Outcome::Rejected(Reason::DeviceRejected),
            (Status::Later, _) => Outcome::Again {
                after: LATER,
                at_next_session: true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_has_a_meaning() {
        let outcome = |status, retry| {
            let telling = OutcomeFields {
                status: Some(status),
                retry,
                ..OutcomeFields::default()
            };
            Told::new(telling).unwrap().outcome()
        };
        assert_eq!(outcome("done", None), Outcome::Processed);
        assert_eq!(outcome("failed", None), Outcome::Failed(Reason::DeviceFailed));
        assert_eq!(outcome("rejected", None), Outcome::Rejected(Reason::DeviceRejected));
        let again = |seconds, at_next_session| Outcome::Again {
            after: Duration::from_secs(seconds),
            at_next_session,
        };
        assert_eq!(outcome("failed", Some("0")), again(0, false));
        assert_eq!(outcome("later", None), again(60, true));
        assert_eq!(again(1, true).state(), DeliveryState::Queued);
    }

    #[test]
    fn what_it_may_not_say_is_named() {
        let done = OutcomeFields {
            status: Some("done"),
            ..OutcomeFields::default()
        };
        let failed = OutcomeFields {
            status: Some("failed"),
            ..done
        };
        let long = "x".repeat(4097);
        for (telling, field) in [
            (OutcomeFields::default(), "status"),
            (
                OutcomeFields {
                    status: Some("Done"),
                    ..done
                },
                "status",
            ),
            (OutcomeFields { retry: Some("5"), ..done }, "retry"),
            (
                OutcomeFields {
                    retry: Some("86401"),
                    ..failed
                },
                "retry",
            ),
            (
                OutcomeFields {
                    retry: Some("-1"),
                    ..failed
                },
                "retry",
            ),
            (OutcomeFields { code: Some(""), ..failed }, "code"),
            (
                OutcomeFields {
                    code: Some(&long[..65]),
                    ..failed
                },
                "code",
            ),
            (
                OutcomeFields {
                    text: Some(&long[..1025]),
                    ..failed
                },
                "text",
            ),
            (OutcomeFields { data: Some("{"), ..failed }, "json"),
            (
                OutcomeFields {
                    data: Some(&long),
                    ..failed
                },
                "json",
            ),
        ] {
            assert_eq!(Told::new(telling).unwrap_err().0, field, "{telling:?}");
        }
        let all = OutcomeFields {
            retry: Some("86400"),
            code: Some("disk-full"),
            text: Some("no room"),
            data: Some(r#"{"free":0}"#),
            ..failed
        };
        let told = Told::new(all).unwrap();
        let kept = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Told>(&kept).unwrap(), told);
    }
}
