//! STARTTLS and SASL (RFC 6120 §5, §6).

use std::{io::Write as _, sync::Arc, time::Instant};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::domain::{DeviceId, FastMechanism, FastProof, FastTokens, TenantId, Timestamp};

use super::{
    action::{Action, Credentials, SessionEnd},
    bind::Binding,
    element::Tag,
    error::{Condition, LoginFailure},
    external::{Asked, PeerCertificate},
    framing::Framing,
    ns,
    sasl::{
        Mechanism,
        binding::Bindings,
        ht,
        plain::Plain,
        scram::{self, Challenge, ClientFirst, Hash},
    },
    sasl2::{Inline, Used},
    stream::{ServerStream, Stage},
    traffic::LifeSign,
};

/// A device that proved who it is.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) tenant: TenantId,
    pub(super) device: DeviceId,
    /// The generation of the credentials it showed.
    pub(super) generation: u32,
}

/// Where a login is.
enum Exchange {
    /// The mechanism was named without its first message.
    First(Mechanism),
    /// Waits for the credentials.
    Lookup { attempt: Attempt, device: Option<DeviceId> },
    /// The challenge was sent.
    Proof { challenge: Box<Challenge>, who: Option<Who> },
    /// Waits for the check of a password. `who` is `None`: whatever it says, there is no such device, or (`unread`) the store does
    /// not say whether there is; a token counts all the same.
    Check {
        who: Option<Who>,
        device: Option<DeviceId>,
        unread: bool,
    },
}

enum Attempt {
    Scram(Hash, ClientFirst),
    Plain(Plain),
    Ht {
        user: String,
        mechanism: FastMechanism,
        proof: Vec<u8>,
    },
}

/// What only matters until there is a session.
pub(super) struct Login {
    pub(super) secured: bool,
    pub(super) deadline: Instant,
    /// The domain and its tenant, once the header named it.
    pub(super) host: Option<(Arc<str>, TenantId)>,
    pub(super) who: Option<Who>,
    /// What the peer showed in the handshake of this connection.
    pub(super) certificate: Option<Box<PeerCertificate>>,
    /// A login by it that waits for the registry.
    pub(super) external: Option<Box<Asked>>,
    /// Who the header says that it comes from.
    pub(super) from: Option<String>,
    /// What the login can be bound to.
    pub(super) bindings: Bindings,
    /// When something was read last.
    pub(super) time: Timestamp,
    /// The login came in one piece with what follows it (XEP-0388). `None`: as in RFC 6120.
    pub(super) inline: Option<Box<Inline>>,
    /// What it is tried by.
    mechanism: Option<Mechanism>,
    /// A bind that waits for the seat.
    pub(super) binding: Option<Binding>,
    /// `h` of a resumption that waits for its session.
    pub(super) resuming: Option<u32>,
    exchange: Option<Exchange>,
    failures: u8,
    random: hmac::Key,
    drawn: u64,
}

impl Login {
    pub(super) fn new(secured: bool, random: &[u8; 32], deadline: Instant) -> Self {
        Self {
            secured,
            deadline,
            host: None,
            who: None,
            certificate: None,
            external: None,
            from: None,
            bindings: Bindings::default(),
            time: Timestamp(0),
            inline: None,
            mechanism: None,
            binding: None,
            resuming: None,
            exchange: None,
            failures: 0,
            random: hmac::Key::new(hmac::HMAC_SHA256, random),
            drawn: 0,
        }
    }

    /// TLS is up: what was said in clear is forgotten.
    pub(super) fn secure(&mut self, random: &[u8; 32]) {
        let deadline = self.deadline;
        *self = Self::new(true, random, deadline);
    }

    pub(super) fn draw(&mut self) -> hmac::Tag {
        self.drawn += 1;
        hmac::sign(&self.random, &self.drawn.to_be_bytes())
    }

    /// 128 unguessable bits as text.
    pub(super) fn random_hex(&mut self) -> String {
        let drawn = self.draw();
        data_encoding::HEXLOWER.encode(drawn.as_ref().get(..16).unwrap_or_default())
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + 1024
    }
}

impl ServerStream {
    /// A top-level element before there is a session.
    pub(super) fn negotiate(&mut self, tag: Tag<'_>) {
        match (tag.namespace(), tag.name()) {
            (ns::TLS, "starttls") if !self.logged_in() => self.starttls(),
            (ns::SASL, "auth") if !self.logged_in() => self.auth(tag),
            (ns::SASL2, "authenticate") if !self.logged_in() => self.authenticate(tag),
            (ns::SASL | ns::SASL2, "response") if !self.logged_in() => self.response(tag),
            (ns::SASL | ns::SASL2, "abort") if !self.logged_in() => self.login_failed(LoginFailure::Aborted),
            (ns::CLIENT, "iq") if self.logged_in() => self.bind(tag),
            (ns::SM, "resume") if self.logged_in() => self.ask_resume(tag),
            (ns::SM, "enable" | "r" | "a") if self.logged_in() => {
                self.write_plain(LifeSign::Connect, |out| super::error::Unmanaged::UnexpectedRequest.write(out));
            }
            (ns::CSI, "active" | "inactive") if self.logged_in() => {}
            _ => self.unexpected(tag),
        }
    }

    fn starttls(&mut self) {
        if self.framing == Framing::WebSocket || self.login.as_ref().is_some_and(|login| login.secured) {
            self.out.extend_from_slice(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            self.framing.write_close(&mut self.out);
            return self.close(SessionEnd::Over);
        }
        self.write_plain(LifeSign::Connect, |out| {
            out.extend_from_slice(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        });
        self.stage = Stage::Tls;
        self.actions.push_back(Action::StartTls);
    }

    fn auth(&mut self, tag: Tag<'_>) {
        let Some(login) = &mut self.login else { return };
        login.inline = None;
        let text = tag.text();
        let text = text.trim();
        self.begin(tag, (!text.is_empty()).then_some(text));
    }

    /// The name of the SASL mechanism by which the device logs in, until there is a session.
    pub fn mechanism(&self) -> Option<&'static str> {
        self.login.as_ref()?.mechanism.map(Mechanism::name)
    }

    /// A login begins: with a mechanism and, perhaps, its first message.
    pub(super) fn begin(&mut self, tag: Tag<'_>, first: Option<&str>) {
        let Some(login) = &mut self.login else { return };
        login.exchange = None;
        if !login.secured && !self.config.allow_plaintext {
            return self.login_failed(LoginFailure::EncryptionRequired);
        }
        let fast = login.inline.is_some() && !self.config.fast_token.is_zero();
        let name = tag.attribute("mechanism").unwrap_or_default();
        let Some(mechanism) = Mechanism::find(name, &login.bindings, login.certificate.is_some(), fast) else {
            return self.login_failed(LoginFailure::InvalidMechanism);
        };
        login.mechanism = Some(mechanism);
        let Some(first) = first else {
            // RFC 4422 §3: an empty challenge asks for what the client has to say first.
            login.exchange = Some(Exchange::First(mechanism));
            return self.challenge(None);
        };
        match decode(first) {
            Ok(message) => self.first_message(mechanism, &message),
            Err(failure) => self.login_failed(failure),
        }
    }

    fn challenge(&mut self, text: Option<&str>) {
        let namespace = if self.login.as_ref().is_some_and(|login| login.inline.is_some()) {
            ns::SASL2
        } else {
            ns::SASL
        };
        self.write_plain(LifeSign::Connect, |out| {
            // Writing to a Vec cannot fail.
            _ = match text {
                Some(text) => write!(out, "<challenge xmlns='{namespace}'>{text}</challenge>"),
                None => write!(out, "<challenge xmlns='{namespace}'/>"),
            };
        });
    }

    fn response(&mut self, tag: Tag<'_>) {
        let Some(login) = &mut self.login else { return };
        let exchange = login.exchange.take();
        if login.inline.is_some() != (tag.namespace() == ns::SASL2) {
            return self.login_failed(LoginFailure::MalformedRequest);
        }
        let message = match decode(tag.text().trim()) {
            Ok(message) => message,
            Err(failure) => return self.login_failed(failure),
        };
        match exchange {
            Some(Exchange::First(mechanism)) => self.first_message(mechanism, &message),
            Some(Exchange::Proof { challenge, who }) => {
                let verified = match std::str::from_utf8(&message) {
                    Ok(message) => challenge.verify(message),
                    Err(_) => Err(LoginFailure::MalformedRequest),
                };
                match (verified, who) {
                    (Ok(last), Some(who)) => self.login_succeeded(who, last.as_bytes(), None),
                    (Ok(_), None) => self.login_failed(LoginFailure::NotAuthorized),
                    (Err(failure), _) => self.login_failed(failure),
                }
            }
            _ => self.login_failed(LoginFailure::MalformedRequest),
        }
    }

    fn first_message(&mut self, mechanism: Mechanism, message: &[u8]) {
        if mechanism == Mechanism::External {
            return self.external(message);
        }
        let Some(login) = &mut self.login else { return };
        let (attempt, authzid) = match read_first(mechanism, message, &login.bindings) {
            Ok(read) => read,
            Err(failure) => return self.login_failed(failure),
        };
        let user = match &attempt {
            Attempt::Scram(_, first) => &first.user,
            Attempt::Plain(plain) => &plain.user,
            Attempt::Ht { user, .. } => user,
        };
        let device = user.parse::<DeviceId>().ok();
        let Some((domain, tenant)) = login.host.clone() else { return };
        let own = |jid: &str| {
            jid.rsplit_once('@').is_some_and(|(local, host)| {
                host.eq_ignore_ascii_case(&domain) && device.is_some() && local.parse::<DeviceId>().ok() == device
            })
        };
        if authzid.is_some_and(|authzid| !own(&authzid)) {
            return self.login_failed(LoginFailure::InvalidAuthzid);
        }
        // XEP-0388 §2.2: what the header says must be the truth.
        let from = login
            .from
            .as_deref()
            .map(|from| from.split_once('/').map_or(from, |(bare, _)| bare));
        if login.inline.is_some() && from.is_some_and(|from| !own(from)) {
            return self.login_failed(LoginFailure::NotAuthorized);
        }
        let tokens = matches!(attempt, Attempt::Ht { .. });
        let found = device.clone();
        login.exchange = Some(Exchange::Lookup { attempt, device });
        match found {
            Some(device) => {
                self.stage = Stage::Waiting;
                self.actions.push_back(Action::FindCredentials { tenant, device, tokens });
            }
            // What cannot be the name of a device fails like an unknown one.
            None => self.answer(Credentials::Unknown { like: None }),
        }
    }

    /// Answers `FindCredentials`.
    pub fn credentials_found(&mut self, credentials: Credentials, now: Instant) {
        let waits = matches!(
            self.login.as_ref().and_then(|login| login.exchange.as_ref()),
            Some(Exchange::Lookup { .. })
        );
        if self.stage == Stage::Waiting && waits {
            self.answer(credentials);
            self.go_on(now);
        }
    }

    fn answer(&mut self, credentials: Credentials) {
        let Some(login) = &mut self.login else { return };
        let Some(Exchange::Lookup { attempt, device }) = login.exchange.take() else {
            return;
        };
        let Some((_, tenant)) = login.host else { return };
        self.stage = Stage::Open;
        let unread = matches!(credentials, Credentials::Unavailable);
        let (secrets, generation, tokens, like) = match credentials {
            Credentials::Found {
                secrets,
                generation,
                tokens,
            } => (secrets, Some(generation), tokens, None),
            Credentials::Unknown { like } => (Vec::new(), None, FastTokens::default(), like),
            Credentials::Unavailable if matches!(attempt, Attempt::Plain(_)) => (Vec::new(), None, FastTokens::default(), None),
            Credentials::Unavailable => return self.login_failed(LoginFailure::TemporaryAuthFailure),
        };
        let who = match (&device, generation) {
            (Some(device), Some(generation)) if !secrets.is_empty() || matches!(attempt, Attempt::Ht { .. }) => Some(Who {
                tenant,
                device: device.clone(),
                generation,
            }),
            _ => None,
        };
        match attempt {
            Attempt::Scram(hash, first) => {
                let nonce = BASE64_STANDARD.encode(login.draw().as_ref().get(..18).unwrap_or_default());
                let turn = usize::from(login.failures);
                let challenge = Challenge::new(hash, first, &secrets, like.as_ref(), turn, tenant, &nonce);
                let text = BASE64_STANDARD.encode(challenge.message());
                login.exchange = Some(Exchange::Proof {
                    challenge: Box::new(challenge),
                    who,
                });
                self.challenge(Some(&text));
            }
            Attempt::Ht { mechanism, proof, .. } => self.check_token(who, &tokens, mechanism, &proof),
            Attempt::Plain(Plain { user, password, .. }) => {
                let secrets = if who.is_some() || unread {
                    secrets
                } else {
                    // The same work as for a device that exists.
                    vec![scram::fake_secret(tenant, &user, like.as_ref())]
                };
                let named = device.clone().map(|device| (tenant, device));
                login.exchange = Some(Exchange::Check { who, device, unread });
                self.stage = Stage::Waiting;
                self.actions.push_back(Action::CheckPassword {
                    password,
                    secrets,
                    device: named,
                });
            }
        }
    }

    /// Answers `CheckPassword`. `None`: the check failed by a bug, which is not the device's fault.
    pub fn password_checked(&mut self, right: Option<bool>, now: Instant) {
        if self.stage != Stage::Waiting {
            return;
        }
        let Some(login) = &mut self.login else { return };
        match login.exchange.take() {
            Some(Exchange::Check { who, unread, .. }) => {
                self.stage = Stage::Open;
                match (who, right.filter(|_| !unread)) {
                    (_, None) => self.login_failed(LoginFailure::TemporaryAuthFailure),
                    (Some(who), Some(true)) => self.login_succeeded(who, b"", None),
                    _ => self.login_failed(LoginFailure::NotAuthorized),
                }
                self.go_on(now);
            }
            other => login.exchange = other,
        }
    }

    /// Answers `CheckPassword`: the password is a token of the device that was named, whose credentials have that generation.
    pub fn token_accepted(&mut self, generation: u32, now: Instant) {
        if self.stage != Stage::Waiting {
            return;
        }
        let Some(login) = &mut self.login else { return };
        let Some((_, tenant)) = login.host else { return };
        match login.exchange.take() {
            Some(Exchange::Check { device: Some(device), .. }) => {
                self.stage = Stage::Open;
                let who = Who {
                    tenant,
                    device,
                    generation,
                };
                self.login_succeeded(who, b"", None);
                self.go_on(now);
            }
            other => login.exchange = other,
        }
    }

    fn check_token(&mut self, who: Option<Who>, tokens: &FastTokens, mechanism: FastMechanism, proof: &[u8]) {
        let Some(login) = &self.login else { return };
        let agent = login.inline.as_ref().and_then(|inline| inline.agent.as_ref());
        let (Some(who), Some(agent), Some(binding)) = (who, agent, ht::binding(mechanism, &login.bindings)) else {
            return self.login_failed(LoginFailure::NotAuthorized);
        };
        match tokens.verify(agent, mechanism, binding, proof, login.time) {
            FastProof::Right { token, first_use } => {
                let last = token.sign("Responder", binding);
                let used = Used {
                    mechanism,
                    issued_at: token.issued_at,
                    first_use,
                };
                self.login_succeeded(who, last.as_ref(), Some(used));
            }
            FastProof::Expired => self.login_failed(LoginFailure::CredentialsExpired),
            FastProof::Wrong => self.login_failed(LoginFailure::NotAuthorized),
        }
    }

    pub(super) fn login_succeeded(&mut self, who: Who, last: &[u8], used: Option<Used>) {
        let Some(login) = &mut self.login else { return };
        login.who = Some(who);
        login.exchange = None;
        if login.inline.is_some() {
            return self.authenticated(last, used);
        }
        self.write_plain(LifeSign::Connect, |out| {
            if last.is_empty() {
                out.extend_from_slice(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
            } else {
                out.extend_from_slice(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>");
                out.extend_from_slice(BASE64_STANDARD.encode(last).as_bytes());
                out.extend_from_slice(b"</success>");
            }
        });
        self.restart();
    }

    pub(super) fn login_failed(&mut self, failure: LoginFailure) {
        let Some(login) = &mut self.login else { return };
        login.exchange = None;
        login.who = None;
        let sasl2 = login.inline.take().is_some();
        // A store that does not answer is not the device's fault.
        if failure != LoginFailure::TemporaryAuthFailure {
            login.failures = login.failures.saturating_add(1);
        }
        let too_many = login.failures >= self.config.login_tries_max;
        self.stage = Stage::Open;
        self.write_plain(LifeSign::Connect, |out| failure.write(out, sasl2));
        if too_many {
            self.fail_with(&Condition::PolicyViolation("too many failed logins"));
        }
    }
}

/// Reads what a client says first by that mechanism: how it tries to log in, and whom it wants to be.
fn read_first(mechanism: Mechanism, message: &[u8], bindings: &Bindings) -> Result<(Attempt, Option<String>), LoginFailure> {
    let malformed = LoginFailure::MalformedRequest;
    let text = || std::str::from_utf8(message).map_err(|_| malformed);
    match mechanism {
        Mechanism::Scram { hash, plus } => {
            let mut first = ClientFirst::parse(text()?, plus, bindings)?;
            let authzid = first.authzid.take();
            Ok((Attempt::Scram(hash, first), authzid))
        }
        Mechanism::Plain => {
            let mut plain = Plain::parse(text()?).ok_or(malformed)?;
            let authzid = plain.authzid.take();
            Ok((Attempt::Plain(plain), authzid))
        }
        // It names nobody that could be looked up; `external` reads it.
        Mechanism::External => Err(malformed),
        Mechanism::Ht(mechanism) => {
            let (user, proof) = ht::parse(message).ok_or(malformed)?;
            Ok((Attempt::Ht { user, mechanism, proof }, None))
        }
    }
}

/// The octets of a SASL message: base64, or `=` for none (RFC 6120 §6.4.2).
fn decode(text: &str) -> Result<Vec<u8>, LoginFailure> {
    match text {
        "" | "=" => Ok(Vec::new()),
        text => BASE64_STANDARD.decode(text).map_err(|_| LoginFailure::IncorrectEncoding),
    }
}
