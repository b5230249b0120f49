//! Errors on the wire: of the stream (RFC 6120 §4.9), of a login (§6.5), of a stanza (§8.3).

use std::fmt::Write as _;

use super::{framer::Fault, ns, text::escape};

/// Stream errors that the gateway itself asks for. (All others come from the machine.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// A newer connection holds the seat.
    Conflict,
    /// The node stops.
    SystemShutdown,
    /// Too many sessions, or no memory; with the seconds after which to come back.
    ResourceConstraint {
        /// Seconds.
        retry_after: u32,
    },
    /// A bug.
    InternalServerError,
    /// The device was removed, or its credentials changed: `not-authorized`.
    NotAuthorized,
}

/// Every stream error that we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Asked(StreamError),
    NotWellFormed,
    RestrictedXml,
    BadFormat,
    InvalidNamespace,
    UnsupportedVersion,
    UnsupportedStanzaType,
    HostUnknown,
    NotAuthorized,
    InvalidFrom,
    ConnectionTimeout,
    PolicyViolation(&'static str),
    StanzaTooBig,
    HandledCountTooHigh { handled: u32, sent: u32 },
    Reset,
}

impl From<Fault> for Condition {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotWellFormed => Self::NotWellFormed,
            Fault::Restricted => Self::RestrictedXml,
            Fault::BadFormat => Self::BadFormat,
            Fault::TooBig => Self::StanzaTooBig,
            Fault::TooComplex => Self::PolicyViolation("nested too deep, or too many attributes"),
        }
    }
}

impl Condition {
    fn name(&self) -> &'static str {
        match self {
            Self::Asked(StreamError::Conflict) => "conflict",
            Self::Asked(StreamError::SystemShutdown) => "system-shutdown",
            Self::Asked(StreamError::ResourceConstraint { .. }) => "resource-constraint",
            Self::Asked(StreamError::InternalServerError) => "internal-server-error",
            Self::Asked(StreamError::NotAuthorized) | Self::NotAuthorized => "not-authorized",
            Self::NotWellFormed => "not-well-formed",
            Self::RestrictedXml => "restricted-xml",
            Self::BadFormat => "bad-format",
            Self::InvalidNamespace => "invalid-namespace",
            Self::UnsupportedVersion => "unsupported-version",
            Self::UnsupportedStanzaType => "unsupported-stanza-type",
            Self::HostUnknown => "host-unknown",
            Self::InvalidFrom => "invalid-from",
            Self::ConnectionTimeout => "connection-timeout",
            Self::PolicyViolation(_) | Self::StanzaTooBig => "policy-violation",
            Self::HandledCountTooHigh { .. } => "undefined-condition",
            Self::Reset => "reset",
        }
    }

    fn text(&self) -> Option<String> {
        Some(match self {
            Self::Asked(StreamError::Conflict) => "replaced by a newer connection".into(),
            Self::Asked(StreamError::SystemShutdown) => "this node stops; reconnect".into(),
            Self::Asked(StreamError::ResourceConstraint { retry_after }) => format!("overloaded; retry in {retry_after} s"),
            Self::PolicyViolation(text) => (*text).into(),
            Self::Reset => "this connection is old; reconnect and resume".into(),
            _ => return None,
        })
    }

    /// Appends the error; the end of the stream follows it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut xml = format!("<stream:error><{} xmlns='{}'/>", self.name(), ns::STREAM_ERRORS);
        // Writing to a String cannot fail.
        if let Some(text) = self.text() {
            _ = write!(xml, "<text xmlns='{}' xml:lang='en'>{text}</text>", ns::STREAM_ERRORS);
        }
        match self {
            Self::StanzaTooBig => xml.push_str("<stanza-too-big xmlns='urn:xmpp:errors'/>"),
            Self::Asked(StreamError::ResourceConstraint { retry_after }) => {
                _ = write!(xml, "<retry xmlns='{}' after='{retry_after}'/>", ns::EVENT);
            }
            Self::HandledCountTooHigh { handled, sent } => {
                _ = write!(
                    xml,
                    "<handled-count-too-high xmlns='{}' h='{handled}' send-count='{sent}'/>",
                    ns::SM
                );
            }
            _ => {}
        }
        xml.push_str("</stream:error>");
        out.extend_from_slice(xml.as_bytes());
    }
}

/// Why a login failed (RFC 6120 §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginFailure {
    Aborted,
    CredentialsExpired,
    EncryptionRequired,
    IncorrectEncoding,
    InvalidAuthzid,
    InvalidMechanism,
    MalformedRequest,
    NotAuthorized,
    TemporaryAuthFailure,
}

impl LoginFailure {
    fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::CredentialsExpired => "credentials-expired",
            Self::EncryptionRequired => "encryption-required",
            Self::IncorrectEncoding => "incorrect-encoding",
            Self::InvalidAuthzid => "invalid-authzid",
            Self::InvalidMechanism => "invalid-mechanism",
            Self::MalformedRequest => "malformed-request",
            Self::NotAuthorized => "not-authorized",
            Self::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }

    /// Appends the `<failure/>`, of XEP-0388 with `sasl2`: the condition is of RFC 6120 there, too.
    pub(super) fn write(self, out: &mut Vec<u8>, sasl2: bool) {
        let xml = if sasl2 {
            format!("<failure xmlns='{}'><{} xmlns='{}'/></failure>", ns::SASL2, self.name(), ns::SASL)
        } else {
            format!("<failure xmlns='{}'><{}/></failure>", ns::SASL, self.name())
        };
        out.extend_from_slice(xml.as_bytes());
    }
}

/// Why a stanza is not served (RFC 6120 §8.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    BadRequest,
    ItemNotFound,
    NotAllowed,
    ResourceConstraint,
    ServiceUnavailable,
}

impl Refused {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest => ("modify", "bad-request"),
            Self::ItemNotFound => ("cancel", "item-not-found"),
            Self::NotAllowed => ("cancel", "not-allowed"),
            Self::ResourceConstraint => ("wait", "resource-constraint"),
            Self::ServiceUnavailable => ("cancel", "service-unavailable"),
        }
    }

    /// Appends the `<error/>` child, with why in words.
    pub(super) fn write(self, out: &mut Vec<u8>, why: Option<&str>) {
        let (kind, name) = self.words();
        let xml = format!("<error type='{kind}'><{name} xmlns='{}'/>", ns::STANZA_ERRORS);
        out.extend_from_slice(xml.as_bytes());
        if let Some(why) = why {
            out.extend_from_slice(format!("<text xmlns='{}' xml:lang='en'>", ns::STANZA_ERRORS).as_bytes());
            escape(out, why);
            out.extend_from_slice(b"</text>");
        }
        out.extend_from_slice(b"</error>");
    }
}

/// Why stream management was refused (XEP-0198 §3, §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmanaged {
    BadRequest,
    ItemNotFound { handled: Option<u32> },
    UnexpectedRequest,
}

impl Unmanaged {
    /// Appends the `<failed/>`.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let (name, handled) = match self {
            Self::BadRequest => ("bad-request", None),
            Self::ItemNotFound { handled } => ("item-not-found", handled),
            Self::UnexpectedRequest => ("unexpected-request", None),
        };
        out.extend_from_slice(b"<failed xmlns='urn:xmpp:sm:3'");
        if let Some(handled) = handled {
            super::text::attribute(out, "h", &handled.to_string());
        }
        out.push(b'>');
        out.extend_from_slice(format!("<{name} xmlns='{}'/></failed>", ns::STANZA_ERRORS).as_bytes());
    }
}

/// Appends the beginning of an IQ that answers with a result; its tag is left open.
pub(super) fn write_result(out: &mut Vec<u8>, id: Option<&str>, from: Option<&str>, to: &str) {
    out.extend_from_slice(b"<iq type='result'");
    for (name, value) in [("id", id), ("from", from), ("to", Some(to))] {
        if let Some(value) = value {
            super::text::attribute(out, name, value);
        }
    }
}

/// Appends a stanza of `kind` (`iq`, `message`, `presence`) that says `refused` and why, in answer to one of that `id` sent to `from`.
pub(super) fn write_refusal(
    out: &mut Vec<u8>,
    kind: &str,
    id: Option<&str>,
    from: Option<&str>,
    to: &str,
    refused: Refused,
    why: Option<&str>,
) {
    out.push(b'<');
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b" type='error'");
    for (name, value) in [("id", id), ("from", from), ("to", Some(to))] {
        if let Some(value) = value {
            super::text::attribute(out, name, value);
        }
    }
    out.push(b'>');
    refused.write(out, why);
    out.extend_from_slice(b"</");
    escape(out, kind);
    out.push(b'>');
}
