//! What the poll door counts, beside what the ledger counts of it.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// How a password was found right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// Right, known by its HMAC.
    Known,
    /// Right, checked by PBKDF2.
    Checked,
    /// Wrong, or of no device.
    Wrong,
    /// Not checked: too many were wrong, or too many wait.
    Refused,
}

impl Login {
    const ALL: [Self; 4] = [Self::Known, Self::Checked, Self::Wrong, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Checked => "checked",
            Self::Wrong => "wrong",
            Self::Refused => "refused",
        }
    }
}

/// Handles that the door updates.
#[derive(Clone)]
pub struct PollMetrics {
    logins: IntCounterVec,
    /// Long polls that wait now.
    pub(super) waiting: IntGauge,
}

impl PollMetrics {
    /// Registers `unpoll_poll_logins_total{result}` and `unpoll_polls_waiting`.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let logins = IntCounterVec::new(
            Opts::new(
                "unpoll_poll_logins_total",
                "Passwords of requests at the poll door: known by their HMAC, checked by PBKDF2, wrong, or refused unchecked.",
            ),
            &["result"],
        )?;
        let waiting = IntGauge::new("unpoll_polls_waiting", "Long polls that wait for an event.")?;
        registry.register(Box::new(logins.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        let metrics = Self { logins, waiting };
        for login in Login::ALL {
            metrics.login(login);
        }
        Ok(metrics)
    }

    /// The counter of one result.
    pub(super) fn login(&self, login: Login) -> IntCounter {
        self.logins.with_label_values(&[login.as_str()])
    }
}
