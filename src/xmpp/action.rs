//! What the machine asks of the gateway.

use std::{sync::Arc, time::Duration};

use crate::domain::{
    DeviceId, EventId, FastChange, FastTokens, Located, Outcome, Password, Polling, Report, ScramSecret, SessionId, TenantId, Told,
};

/// Answer to [`Action::FindCredentials`].
pub enum Credentials {
    /// What the device has.
    Found {
        /// Its verifiers, at most two.
        secrets: Vec<ScramSecret>,
        /// The generation of its credentials, to be claimed with.
        generation: u32,
        /// Its FAST tokens of that generation, if they were asked for.
        tokens: FastTokens,
    },
    /// There is no such device, or it has no secret: fails at the proof, like a wrong password.
    Unknown {
        /// A secret of another device, if there is one: the challenge takes its form, so that names cannot be tried out.
        like: Option<ScramSecret>,
    },
    /// The store does not answer: `temporary-auth-failure`, but for a password that is a token.
    Unavailable,
}

/// Answer to [`Action::CheckCertificate`]: what the registry knows of certificates of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// This one.
    This {
        /// The generation of its credentials, to be claimed with.
        generation: u32,
    },
    /// None: whoever proves to be the device is it.
    None {
        /// The generation of its credentials, to be claimed with.
        generation: u32,
    },
    /// Others, and not this one.
    Other,
    /// There is no such device.
    Unknown,
    /// The store does not answer: `temporary-auth-failure`.
    Unavailable,
    /// The store does not answer, and can judge the device later: whoever proves to be the device is it until then.
    Unread,
}

/// A stored fact about an event that ended at the device's side.
pub type Ended = (EventId, Located, Outcome);

/// What a device says of an event.
#[derive(Debug)]
pub struct Telling {
    /// Which event, if it is one of ours.
    pub event: EventId,
    /// What it says.
    pub told: Arc<Told>,
    /// Under which number it waits for the answer.
    pub ticket: u32,
}

/// What the machine asks of the gateway.
#[derive(Debug)]
pub enum Action {
    /// Write `output`, then start TLS, forget all bytes read in clear, and call `tls_started`.
    StartTls,
    /// Look up the credentials and call `credentials_found`. The machine reads on only after that.
    FindCredentials {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// It shows a FAST token instead of a password: its tokens are needed, and nothing of its password.
        tokens: bool,
    },
    /// PLAIN: check the password against the secrets, off the event loop, and call `password_checked`.
    CheckPassword {
        /// What was sent.
        password: Password,
        /// Any of these may match.
        secrets: Vec<ScramSecret>,
        /// The device whose name was given. A password that is its token is answered by `token_accepted`.
        device: Option<(TenantId, DeviceId)>,
    },
    /// EXTERNAL: look up which certificates the device may use, and call `certificate_checked`.
    CheckCertificate {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// SHA-256 of the certificate.
        sha256: [u8; 32],
    },
    /// Bind: claim the seat and call `claimed` or `claim_failed`.
    Claim {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// The credential generation at login.
        generation: u32,
        /// What the same step changes among its FAST tokens.
        fast: Option<Box<FastChange>>,
    },
    /// XEP-0484 without a claim that could take it along: change the FAST tokens and call `tokens_changed`.
    ChangeTokens {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// The credential generation at login.
        generation: u32,
        /// What to change.
        change: Box<FastChange>,
    },
    /// XEP-0198 `<resume/>`: find the session of that id for this device and call `resume` with it, or `not_resumed`.
    Resume {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// Which session. `None`: the `previd` is no id of ours.
        previous: Option<SessionId>,
    },
    /// Deliveries ended: tell the dispatcher.
    Ended(Vec<Ended>),
    /// The device says what became of an event: keep that, and call `told`.
    Told(Box<Telling>),
    /// The session can take events (first available presence of priority ≥ 0, resumption, or room after refusing).
    Ready,
    /// The device reports something of itself.
    Reported(Box<Report>),
    /// The device said in its presence whether it polls as well.
    Polls(Polling),
    /// The session's keepalive is now this, because the device asked.
    Keepalive(Duration),
    /// Presence became unavailable or negative: hold events.
    Unavailable,
    /// Flush `output`, half-close, drain the peer for a moment, close.
    Close(SessionEnd),
}

/// How a stream ended, and what becomes of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The session is over: clean close, stream error of ours, conflict.
    Over,
    /// The connection is dead and the session may be resumed: keep it for that long.
    Hibernate(Duration),
}
