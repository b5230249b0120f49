//! What a device is like, and what stream management knows of its session.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    Error,
    event::{NS_SM, Reading},
    sasl::{Mechanism, Password},
    sasl2::Token,
    transport::Security,
    xml::{Element, escape},
};

/// When `<r/>` is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// At once.
    #[default]
    Prompt,
    /// After this long.
    Late(Duration),
    /// Never, as a device whose application hangs.
    Never,
}

/// How a device logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// SASL, then the resource and stream management, each in a round trip of its own (RFC 6120 §6 and §7).
    #[default]
    Sasl,
    /// SASL2 with all the rest inside (XEP-0388, XEP-0386), and a token for the next time where the server has them.
    Sasl2,
    /// The same with a token instead of the password, in one round trip (XEP-0484).
    Fast(Token),
}

/// What a device is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to connect.
    pub server: SocketAddr,
    /// TLS, STARTTLS or none.
    pub security: Security,
    /// The service's domain: stream `to`, and the name in its certificate.
    pub domain: String,
    /// Localpart of the device.
    pub user: String,
    /// Its password.
    pub password: Arc<Password>,
    /// How it logs in. Default: SASL.
    pub login: Login,
    /// The mechanism to use; the strongest that is offered when absent.
    pub mechanism: Option<Mechanism>,
    /// The resource to ask for; the server's choice when absent.
    pub resource: Option<String>,
    /// Ask for stream management (XEP-0198). Default true.
    pub managed: bool,
    /// Ask that it can be resumed. Default true.
    pub resumable: bool,
    /// Priority of the initial presence; none is sent when absent. Default 0.
    pub presence: Option<i8>,
    /// When `<r/>` is answered.
    pub acks: Acks,
    /// Answer pings (XEP-0199). Default true.
    pub answers_pings: bool,
    /// Send a receipt (XEP-0184) for events that ask for one. Default true.
    pub sends_receipts: bool,
    /// How messages are read.
    pub reading: Reading,
    /// Source address of the connection.
    pub source: Option<IpAddr>,
    /// Longest wait for each step of the login. Default 10 s.
    pub step_within: Duration,
}

impl Options {
    /// A well-behaved device: stream management with resumption, presence, prompt acknowledgements.
    pub fn new(server: SocketAddr, security: Security, domain: &str, user: &str, password: Arc<Password>) -> Self {
        Self {
            server,
            security,
            domain: domain.into(),
            user: user.into(),
            password,
            login: Login::Sasl,
            mechanism: None,
            resource: None,
            managed: true,
            resumable: true,
            presence: Some(0),
            acks: Acks::Prompt,
            answers_pings: true,
            sends_receipts: true,
            reading: Reading::Full,
            source: None,
            step_within: Duration::from_secs(10),
        }
    }

    /// The bare JID.
    pub fn bare_jid(&self) -> String {
        format!("{}@{}", self.user, self.domain)
    }

    /// The mechanism to use, of those that the element offers.
    pub(crate) fn choose(&self, offered: Option<&Element>) -> Result<Mechanism, Error> {
        let offers = |mechanism: &Mechanism| {
            let mut children = offered.iter().flat_map(|offered| &offered.children);
            children.any(|child| child.name == "mechanism" && child.text.trim() == mechanism.name())
        };
        match self.mechanism {
            Some(wanted) if offers(&wanted) => Ok(wanted),
            Some(_) => Err(Error::NotOffered("the SASL mechanism")),
            None => Mechanism::ALL
                .into_iter()
                .find(offers)
                .ok_or(Error::NotOffered("a SASL mechanism of ours")),
        }
    }

    /// `<enable/>` as the options say.
    pub(crate) fn enable(&self) -> String {
        let resume = if self.resumable { " resume='true'" } else { "" };
        format!("<enable xmlns='{NS_SM}'{resume}/>")
    }
}

/// Stream management of one session, which outlives its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed {
    /// The id to resume by; absent when the server does not allow it.
    pub id: Option<String>,
    /// How long the server keeps the session, seconds, when it said so.
    pub max_secs: Option<u64>,
    /// Stanzas handled from the server, modulo 2^32.
    pub handled: u32,
    /// Stanzas the server acknowledged, modulo 2^32.
    pub acked: u32,
    /// Stanzas sent and not acknowledged, oldest first.
    pub unacked: VecDeque<String>,
}

impl Managed {
    /// What `<enabled/>` begins.
    pub(crate) fn begun(enabled: &Element) -> Self {
        let allowed = matches!(enabled.attribute("resume"), Some("true" | "1"));
        Self {
            id: enabled.attribute("id").filter(|_| allowed).map(str::to_owned),
            max_secs: enabled.attribute("max").and_then(|max| max.parse().ok()),
            ..Self::default()
        }
    }

    /// `<resume/>` of this session; `None` when the server does not allow it.
    pub(crate) fn request(&self) -> Option<String> {
        let previd = self.id.as_ref()?;
        Some(format!(
            "<resume xmlns='{NS_SM}' h='{}' previd='{}'/>",
            self.handled,
            escape(previd)
        ))
    }

    /// Takes the server's count of handled stanzas.
    ///
    /// # Errors
    /// More than were sent (XEP-0198 §6).
    pub fn acknowledge(&mut self, h: u32) -> Result<(), Error> {
        let fresh = h.wrapping_sub(self.acked) as usize;
        if fresh > self.unacked.len() {
            return Err(Error::Unexpected {
                wanted: "an acknowledgement of what was sent",
                got: format!("h={h}, {self:?}"),
            });
        }
        self.acked = h;
        self.unacked.drain(..fresh);
        Ok(())
    }
}
