//! From a connection to a session: SASL2 with Bind 2 and FAST where the server has them (XEP-0388, 0386, 0484), else SASL and
//! binding by RFC 6120; the old session first (XEP-0198 §5).

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use tokio_xmpp::xmlstream::{StreamHeader, Timeouts, XmlStream, initiate_stream};
use xmpp_parsers::{
    bind2::BindQuery,
    fast::{FastResponse, RequestToken},
    minidom::Element,
    ns,
    sasl_cb::{SaslChannelBinding, Type},
    sasl2,
    sm::{Enable, Enabled, Resume, Resumed, StreamId},
};

use super::{
    Account, Journal, Token,
    connect::Connected,
    mechanism::{MechanismError, Proof, offers_scram},
    offer::{Inline, mechanisms},
    talk::{Talk, broken},
    trouble::Trouble,
};

/// Without a byte for this long the device asks for a sign of life: a little more than the server's keepalive, which then does it.
const SILENCE: Duration = Duration::from_secs(330);
/// Without an answer for this long after that the connection is dead.
const ANSWER: Duration = Duration::from_secs(30);
/// What the device calls itself (XEP-0386 §3.2); the server makes a resource of it.
const TAG: &str = "unpoll-listen";
/// The id of the one request during login.
const BIND_ID: &str = "bind";

/// The stream of a device.
pub type Stream = XmlStream<Connected, Element>;

/// A session that may be taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its name. `None`: it cannot be resumed.
    pub id: Option<String>,
    /// Whether stanzas are acknowledged.
    pub is_managed: bool,
}

/// What a login led to.
pub enum Online {
    /// A new session.
    New(Session),
    /// The old one goes on; the server has that many of the device's stanzas.
    Resumed(u32),
}

/// One login.
pub struct Login<'a> {
    /// Who.
    pub account: &'a Account,
    /// What the device remembers.
    pub journal: &'a Journal,
    /// What binds it to the connection.
    pub binding: Option<Vec<u8>>,
    /// The session to go on with, and how many stanzas of it were dealt with.
    pub resume: Option<(String, u32)>,
}

impl Login<'_> {
    /// Logs in.
    ///
    /// # Errors
    /// When the server, or the device, does not want it.
    pub async fn run(&self, mut io: Connected) -> Result<(Stream, Online), Trouble> {
        let token = self.token()?;
        if let Some(token) = &token {
            let first = self.authenticate(
                token.mechanism(),
                token.proof(&self.account.device, self.binding.as_deref()),
                vec![
                    FastResponse {
                        count: token.count,
                        invalidate: false,
                    }
                    .into(),
                ],
                &Inline::all(),
            );
            io.add(String::from(&Element::from(first)).into_bytes());
        }
        let timeouts = Timeouts {
            read_timeout: SILENCE,
            response_timeout: ANSWER,
        };
        let stream = initiate_stream(io, ns::JABBER_CLIENT, self.header(), timeouts).await?;
        let mut talk = Talk(stream.skip_features());
        let features = talk.features().await?;
        let mechanisms = mechanisms(&features);
        if offers_scram(&mechanisms) && !self.journal.read(|memory| memory.scram_offered) {
            self.journal.change(|memory| memory.scram_offered = true)?;
        }
        if let Some(token) = &token {
            let answer = talk.next().await?;
            if answer.is("success", ns::SASL2) {
                let success = sasl2::Success::try_from(answer).map_err(broken)?;
                if !token.is_proven(success.additional_data.as_deref().unwrap_or_default(), self.binding.as_deref()) {
                    return Err(MechanismError::Unproven.into());
                }
                let online = self.welcome(&mut talk, success, Some(token.mechanism())).await?;
                return Ok((talk.0, online));
            }
            let refused = Trouble::refused(&answer);
            if matches!(&refused, Trouble::Refused { condition, .. } if condition == "temporary-auth-failure") {
                return Err(refused);
            }
            // Expired, taken back, or of a server that lost it: the password makes a new one.
            self.journal.change(|memory| memory.token = None)?;
        }
        match features.get_child("authentication", ns::SASL2) {
            Some(authentication) => {
                let online = self.password_by_sasl2(&mut talk, &features, &mechanisms, authentication).await?;
                Ok((talk.0, online))
            }
            None => self.password_by_sasl(talk, &features, &mechanisms).await,
        }
    }

    fn header(&self) -> StreamHeader<'_> {
        StreamHeader {
            to: Some(Cow::Borrowed(self.account.domain.as_str())),
            from: Some(Cow::Owned(self.account.jid())),
            id: None,
        }
    }

    /// The token to show, with its count kept before it is used.
    fn token(&self) -> Result<Option<Token>, Trouble> {
        let now = Timestamp::now();
        let is_usable = |token: &Token| token.is_usable(now, self.binding.is_some());
        if !self.journal.read(|memory| memory.token.as_ref().is_some_and(is_usable)) {
            return Ok(None);
        }
        let used = self.journal.change(|memory| {
            let token = memory.token.as_mut()?;
            token.count = token.count.saturating_add(1);
            Some(token.clone())
        })?;
        Ok(used)
    }

    fn proof(&self, features: &Element, mechanisms: &[String]) -> Result<Proof, MechanismError> {
        // Without the list of XEP-0440 a server with "-PLUS" is taken at its word.
        let takes_exporter = features
            .get_child("sasl-channel-binding", ns::SASL_CB)
            .and_then(|list| SaslChannelBinding::try_from(list.clone()).ok())
            .is_none_or(|list| list.types.contains(&Type::TlsExporter));
        Proof::choose(
            mechanisms,
            (&self.account.device, &self.account.password),
            self.binding.as_deref().filter(|_| takes_exporter),
            self.journal.read(|memory| memory.scram_offered),
        )
    }

    fn authenticate(&self, mechanism: &str, initial: Vec<u8>, mut payloads: Vec<Element>, inline: &Inline) -> sasl2::Authenticate {
        if let Some((id, h)) = self.resume.as_ref().filter(|_| inline.resumes) {
            payloads.push(
                Resume {
                    h: *h,
                    previd: StreamId(id.clone()),
                }
                .into(),
            );
        }
        if inline.binds {
            payloads.push(
                BindQuery {
                    tag: Some(TAG.into()),
                    payloads: vec![Enable::new().with_resume().into()],
                }
                .into(),
            );
        }
        let id = self.journal.read(|memory| memory.user_agent.parse().unwrap_or_default());
        sasl2::Authenticate {
            mechanism: mechanism.to_owned(),
            initial_response: Some(initial),
            user_agent: sasl2::UserAgent {
                id,
                software: Some(concat!("unpoll ", env!("CARGO_PKG_VERSION")).into()),
                device: None,
            },
            payloads,
        }
    }

    async fn password_by_sasl2(
        &self,
        talk: &mut Talk,
        features: &Element,
        mechanisms: &[String],
        authentication: &Element,
    ) -> Result<Online, Trouble> {
        let inline = Inline::offered(authentication, self.binding.is_some());
        let mut proof = self.proof(features, mechanisms)?;
        let initial = proof.initial();
        let request = inline.token.map(|mechanism| RequestToken {
            mechanism: mechanism.to_owned(),
        });
        let payloads = request.into_iter().map(Element::from).collect();
        talk.send(self.authenticate(proof.name(), initial, payloads, &inline)).await?;
        loop {
            let answer = talk.next().await?;
            match answer.name() {
                "challenge" if answer.has_ns(ns::SASL2) => {
                    let challenge = sasl2::Challenge::try_from(answer).map_err(broken)?;
                    let sasl_data = proof.answer(&challenge.sasl_data)?;
                    talk.send(sasl2::Response { sasl_data }).await?;
                }
                "success" if answer.has_ns(ns::SASL2) => {
                    let success = sasl2::Success::try_from(answer).map_err(broken)?;
                    proof.finish(success.additional_data.as_deref())?;
                    return self.welcome(talk, success, inline.token).await;
                }
                "failure" if answer.has_ns(ns::SASL2) => return Err(Trouble::refused(&answer)),
                other => return Err(Trouble::Protocol(format!("<{other}/> during the login"))),
            }
        }
    }

    /// What came with the success: a token, the old session, a new one. `mechanism` is the one a token was asked for.
    async fn welcome(&self, talk: &mut Talk, success: sasl2::Success, mechanism: Option<&str>) -> Result<Online, Trouble> {
        let payload = |name: &str, namespace: &str| success.payloads.iter().find(|payload| payload.is(name, namespace));
        if let (Some(element), Some(mechanism)) = (payload("token", ns::FAST), mechanism) {
            let token = Token::read(element, mechanism).ok_or_else(|| broken("a token that is none"))?;
            self.journal.change(|memory| memory.token = Some(token))?;
        }
        if let Some(resumed) = payload("resumed", ns::SM) {
            return self.resumed(resumed.clone());
        }
        let bound = payload("bound", ns::BIND2);
        // No new stream: only its features come (XEP-0388 §2.6).
        let features = talk.features().await?;
        match bound {
            Some(bound) => match bound.get_child("enabled", ns::SM) {
                Some(enabled) => session(enabled.clone()),
                None => enable(talk, &features).await,
            },
            None => {
                let is_tried = payload("failed", ns::SM).is_some();
                self.bind(talk, &features, !is_tried).await
            }
        }
    }

    async fn password_by_sasl(&self, mut talk: Talk, features: &Element, mechanisms: &[String]) -> Result<(Stream, Online), Trouble> {
        let mut proof = self.proof(features, mechanisms)?;
        let initial = proof.initial();
        let base64 = |bytes: &[u8]| {
            if bytes.is_empty() {
                "=".to_owned()
            } else {
                data_encoding::BASE64.encode(bytes)
            }
        };
        let mut auth = Element::builder("auth", ns::SASL).append(base64(&initial)).build();
        auth.set_attr(
            rxml::Namespace::NONE,
            rxml::xml_ncname!("mechanism").to_owned(),
            proof.name().to_owned(),
        );
        talk.send(auth).await?;
        loop {
            let answer = talk.next().await?;
            let data = data_encoding::BASE64.decode(answer.text().trim().as_bytes());
            match answer.name() {
                "challenge" if answer.has_ns(ns::SASL) => {
                    let response = proof.answer(&data.map_err(broken)?)?;
                    let text = data_encoding::BASE64.encode(&response);
                    talk.send(Element::builder("response", ns::SASL).append(text).build()).await?;
                }
                "success" if answer.has_ns(ns::SASL) => {
                    proof.finish(data.ok().as_deref())?;
                    break;
                }
                "failure" if answer.has_ns(ns::SASL) => return Err(Trouble::refused(&answer)),
                other => return Err(Trouble::Protocol(format!("<{other}/> during the login"))),
            }
        }
        let stream = talk.0.initiate_reset().send_header(self.header()).await?;
        let mut talk = Talk(stream.skip_features());
        let features = talk.features().await?;
        let online = self.bind(&mut talk, &features, true).await?;
        Ok((talk.0, online))
    }

    /// The old session if it is still there, and else a new one (RFC 6120 §7, XEP-0198 §3 and §5).
    async fn bind(&self, talk: &mut Talk, features: &Element, resumes: bool) -> Result<Online, Trouble> {
        let is_managed = features.has_child("sm", ns::SM);
        if let Some((id, h)) = self.resume.as_ref().filter(|_| resumes && is_managed) {
            let previd = StreamId(id.clone());
            talk.send(Resume { h: *h, previd }).await?;
            let answer = talk.awaited(|element| element.has_ns(ns::SM)).await?;
            if answer.is("resumed", ns::SM) {
                return self.resumed(answer);
            }
            if !answer.is("failed", ns::SM) {
                return Err(broken("no answer to the resumption"));
            }
        }
        if !features.has_child("bind", ns::BIND) {
            return Err(broken("it offers no binding after the login"));
        }
        let mut request = Element::builder("iq", ns::JABBER_CLIENT)
            .append(Element::bare("bind", ns::BIND))
            .build();
        request.set_attr(rxml::Namespace::NONE, rxml::xml_ncname!("type").to_owned(), "set");
        request.set_attr(rxml::Namespace::NONE, rxml::xml_ncname!("id").to_owned(), BIND_ID);
        talk.send(request).await?;
        let answer = talk
            .awaited(|element| element.name() == "iq" && element.attr("id") == Some(BIND_ID))
            .await?;
        if answer.attr("type") != Some("result") {
            return Err(broken("it refuses to bind"));
        }
        enable(talk, features).await
    }

    fn resumed(&self, element: Element) -> Result<Online, Trouble> {
        let resumed = Resumed::try_from(element).map_err(broken)?;
        match &self.resume {
            Some((id, _)) if *id == resumed.previd.0 => Ok(Online::Resumed(resumed.h)),
            _ => Err(broken("it resumes another session")),
        }
    }
}

async fn enable(talk: &mut Talk, features: &Element) -> Result<Online, Trouble> {
    if !features.has_child("sm", ns::SM) {
        return Ok(Online::New(Session {
            id: None,
            is_managed: false,
        }));
    }
    talk.send(Enable::new().with_resume()).await?;
    let answer = talk.awaited(|element| element.has_ns(ns::SM)).await?;
    if answer.is("enabled", ns::SM) {
        session(answer)
    } else {
        Err(broken("it offers stream management and refuses it"))
    }
}

fn session(enabled: Element) -> Result<Online, Trouble> {
    let enabled = Enabled::try_from(enabled).map_err(broken)?;
    Ok(Online::New(Session {
        id: enabled.id.filter(|_| enabled.resume).map(|id| id.0),
        is_managed: true,
    }))
}
