//! Why a connection was not made, or ended; and whether coming back can help.

use std::{io, time::Duration};

use tokio_xmpp::xmlstream::{ReadError, RecvFeaturesError};
use xmpp_parsers::{
    minidom::Element,
    ns,
    stream_error::{DefinedCondition, StreamError},
};

use super::{DeviceError, delivered::EVENT_NS, mechanism::MechanismError};

/// Why a connection was not made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The network, or TLS.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server ended the stream with an error (RFC 6120 §4.9).
    #[error("the server ended the stream: {}", .0.condition)]
    Stream(Box<StreamError>),
    /// The server ended the stream without one.
    #[error("the server ended the stream")]
    Closed,
    /// The server refused the login (RFC 6120 §6.5).
    #[error("the server refused the login: {condition}")]
    Refused {
        /// SASL's condition.
        condition: String,
        /// After how long to come back, if it says so.
        retry: Option<Duration>,
    },
    /// The device refuses the login.
    #[error("the login failed, because of the server: {0}")]
    Mechanism(#[from] MechanismError),
    /// What the server sent makes no sense there.
    #[error("the server breaks the protocol: {0}")]
    Protocol(String),
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::SoftTimeout => io::Error::new(io::ErrorKind::TimedOut, "no answer").into(),
            ReadError::HardError(error) => error.into(),
            ReadError::ParseError(error) => Self::Protocol(error.to_string()),
            ReadError::StreamFooterReceived => Self::Closed,
        }
    }
}

impl From<RecvFeaturesError> for Trouble {
    fn from(error: RecvFeaturesError) -> Self {
        match error {
            RecvFeaturesError::Io(error) => error.into(),
            RecvFeaturesError::StreamError(error) => Self::Stream(Box::new(error.0)),
        }
    }
}

/// The pause that a refusal asks for (`xmpp-profile` §7.9).
fn asked_pause<'a>(mut elements: impl Iterator<Item = &'a Element>) -> Option<Duration> {
    let retry = elements.find(|element| element.is("retry", EVENT_NS))?;
    retry.attr("after")?.parse().ok().map(Duration::from_secs)
}

impl Trouble {
    /// A stream error.
    pub fn stream(element: Element) -> Self {
        match StreamError::try_from(element) {
            Ok(error) => Self::Stream(Box::new(error)),
            Err(error) => Self::Protocol(format!("an unknown stream error: {error}")),
        }
    }

    /// A failed login, of SASL or SASL2.
    pub fn refused(failure: &Element) -> Self {
        let condition = failure.children().find(|child| child.has_ns(ns::SASL) && child.name() != "text");
        Self::Refused {
            condition: condition.map_or_else(|| "no reason given".into(), |condition| condition.name().to_owned()),
            retry: asked_pause(failure.children()),
        }
    }

    /// After how long the server wants the device back.
    pub fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::Stream(error) => asked_pause(error.application_specific.iter()),
            Self::Refused { retry, .. } => *retry,
            _ => None,
        }
    }

    /// The host and port to go to instead (RFC 6120 §4.9.3.19).
    pub fn other_host(&self) -> Option<&str> {
        match self {
            Self::Stream(error) => match &error.condition {
                DefinedCondition::SeeOtherHost(host) => Some(host.trim()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the device did something too often, and should stay away for long.
    pub fn is_patience_needed(&self) -> bool {
        matches!(self, Self::Stream(error) if error.condition == DefinedCondition::PolicyViolation)
    }

    /// Whether trying again cannot help, and why. `address` is where the device was, `jid` who it is.
    pub fn hopeless(&self, address: &str, jid: &str) -> Option<DeviceError> {
        let (address, jid) = (address.to_owned(), jid.to_owned());
        match self {
            Self::Refused { condition, .. } if condition == "temporary-auth-failure" => None,
            Self::Refused { condition, .. } => Some(DeviceError::Login {
                jid,
                why: condition.clone(),
            }),
            Self::Mechanism(error) => Some(DeviceError::Impostor {
                address,
                why: error.clone(),
            }),
            Self::Stream(error) => match error.condition {
                DefinedCondition::HostUnknown => Some(DeviceError::UnknownDomain {
                    address,
                    domain: jid.split_once('@').map_or_else(String::new, |(_, domain)| domain.to_owned()),
                }),
                DefinedCondition::Conflict => Some(DeviceError::Conflict { jid }),
                DefinedCondition::NotAuthorized => Some(DeviceError::Login {
                    jid,
                    why: "the stream is not-authorized".into(),
                }),
                _ => None,
            },
            Self::Io(error) => {
                let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
                match tls {
                    rustls::Error::InvalidCertificate(_) => Some(DeviceError::Untrusted {
                        address,
                        why: tls.to_string(),
                    }),
                    rustls::Error::InvalidMessage(_) => Some(DeviceError::NoTls { address }),
                    _ => None,
                }
            }
            Self::Closed | Self::Protocol(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(inner: &str) -> Trouble {
        let xml = format!("<e:error xmlns:e='http://etherx.jabber.org/streams'>{inner}</e:error>");
        Trouble::stream(xml.parse().unwrap())
    }

    #[test]
    fn what_the_server_says_decides_whether_and_when_the_device_comes_back() {
        let busy = stream(
            "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>retry in 40 s</text><retry xmlns='urn:unpoll:event:1' after='40'/>",
        );
        assert_eq!(busy.asked_pause(), Some(Duration::from_secs(40)));
        assert!(busy.hopeless("h:1", "tv@d").is_none());
        let moved = stream("<see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>n2.example.com:5223</see-other-host>");
        assert_eq!(moved.other_host(), Some("n2.example.com:5223"));
        let taken = stream("<conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>");
        assert!(matches!(taken.hopeless("h:1", "tv@d"), Some(DeviceError::Conflict { .. })));
        let flood = stream("<policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>");
        assert!(flood.is_patience_needed() && flood.hopeless("h:1", "tv@d").is_none());
    }

    #[test]
    fn a_refused_login_is_final_unless_the_server_only_cannot_look_it_up() {
        let refused = |namespace: &str, condition: &str| {
            let xml = format!(
                "<failure xmlns='{namespace}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>\
                 <retry xmlns='urn:unpoll:event:1' after='7'/></failure>"
            );
            Trouble::refused(&xml.parse().unwrap())
        };
        let error = refused(ns::SASL2, "not-authorized").hopeless("h:1", "tv@d").unwrap();
        assert!(error.to_string().contains("not-authorized"), "{error}");
        let later = refused(ns::SASL, "temporary-auth-failure");
        assert!(later.hopeless("h:1", "tv@d").is_none());
        assert_eq!(later.asked_pause(), Some(Duration::from_secs(7)));
    }
}
