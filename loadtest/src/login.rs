//! From TCP to a bound session, step by step (RFC 6120, XEP-0198 §3). The way of one round trip is in [`crate::sasl2`].

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Error, Trust,
    error::in_time,
    event::{NS_CLIENT, NS_SM, NS_STREAMS},
    frame::{Frame, Framer},
    sasl::{self, Scram},
    session::{Login, Managed, Options, Session},
    transport::{Security, Transport},
    xml::{Element, escape, shorten},
};

const NS_SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const NS_BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const NS_TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";

impl Session {
    /// Connects, encrypts, authenticates and reads the features that follow. Nothing is bound.
    ///
    /// # Errors
    /// Whatever step fails.
    pub async fn authenticate(options: Arc<Options>) -> Result<Self, Error> {
        let mut session = Self::open(options).await?;
        session.prove().await?;
        session.open_stream().await?;
        Ok(session)
    }

    /// Connects and encrypts; the stream is open, its features are read, nobody is authenticated.
    ///
    /// # Errors
    /// Whatever step fails.
    pub async fn open(options: Arc<Options>) -> Result<Self, Error> {
        let mut session = Self::encrypted(options).await?;
        session.open_stream().await?;
        Ok(session)
    }

    /// Connects and encrypts; no stream is open yet.
    pub(crate) async fn encrypted(options: Arc<Options>) -> Result<Self, Error> {
        let within = options.step_within;
        let mut io = in_time("connect", within, Transport::tcp(options.server, options.source)).await?;
        if let Security::Tls(trust) = &options.security {
            io = in_time("TLS handshake", within, io.encrypt(trust, &options.domain)).await?;
        }
        let session = Self {
            io,
            framer: Framer::default(),
            header: Bytes::new(),
            features: None,
            options,
            jid: String::new(),
            managed: None,
            token: None,
        };
        match &session.options.security {
            Security::StartTls(trust) => {
                let trust = trust.clone();
                session.start_tls(&trust).await
            }
            Security::Tls(_) | Security::Plain => Ok(session),
        }
    }

    async fn start_tls(mut self, trust: &Trust) -> Result<Self, Error> {
        self.open_stream().await?;
        let offered = self
            .features
            .as_ref()
            .is_some_and(|features| features.child("starttls", NS_TLS).is_some());
        if !offered {
            return Err(Error::NotOffered("STARTTLS"));
        }
        self.send(&format!("<starttls xmlns='{NS_TLS}'/>")).await?;
        let answer = self.step("<proceed/>").await?;
        if !answer.is("proceed", NS_TLS) || !self.framer.is_empty() {
            return Err(unexpected("<proceed/> and nothing behind it", &answer));
        }
        let io = in_time(
            "TLS handshake",
            self.options.step_within,
            self.io.encrypt(trust, &self.options.domain),
        )
        .await?;
        // Nothing of the stream in clear goes on inside.
        let framer = Framer::default();
        Ok(Self { io, framer, ..self })
    }

    /// Sends the header and reads the server's, and its features.
    pub(crate) async fn open_stream(&mut self) -> Result<(), Error> {
        let header = self.stream_header();
        self.send(&header).await?;
        self.read_features().await
    }

    /// The header of our stream; it says who we are where that is protected and the server may look (XEP-0388 §2.1).
    pub(crate) fn stream_header(&self) -> String {
        let domain = escape(&self.options.domain).into_owned();
        let from = match self.options.login {
            Login::Sasl => String::new(),
            Login::Sasl2 | Login::Fast(_) if !self.io.is_encrypted() => String::new(),
            Login::Sasl2 | Login::Fast(_) => format!(" from='{}'", escape(&self.options.bare_jid())),
        };
        format!(
            "<?xml version='1.0'?><stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAMS}' to='{domain}'{from} version='1.0' xml:lang='en'>"
        )
    }

    /// Reads the server's header and its features.
    pub(crate) async fn read_features(&mut self) -> Result<(), Error> {
        self.framer.restart();
        match self.frame_in_time("a stream header").await? {
            Frame::Header(header) => {
                let root = Element::header(&header)?;
                if !root.is("stream", NS_STREAMS) || root.attribute("version") != Some("1.0") || root.attribute("id").is_none() {
                    return Err(unexpected("a stream header with id and version", &root));
                }
                // Copied: a slice would keep the whole read buffer alive for as long as the session.
                self.header = Bytes::copy_from_slice(&header);
            }
            other => {
                return Err(Error::Unexpected {
                    wanted: "a stream header",
                    got: format!("{other:?}"),
                });
            }
        }
        let features = self.step("<stream:features/>").await?;
        if !features.is("features", NS_STREAMS) {
            return Err(unexpected("<stream:features/>", &features));
        }
        self.features = Some(Box::new(features));
        Ok(())
    }

    async fn prove(&mut self) -> Result<(), Error> {
        let offered = self.features.as_ref().and_then(|features| features.child("mechanisms", NS_SASL));
        let mechanism = self.options.choose(offered)?;
        let (user, password) = (self.options.user.clone(), self.options.password.clone());
        let begun = Scram::begin(mechanism, &user)?;
        let first = begun
            .as_ref()
            .map_or_else(|| sasl::plain(&user, &password), |(_, first)| first.clone());
        self.send(&format!("<auth xmlns='{NS_SASL}' mechanism='{}'>{first}</auth>", mechanism.name()))
            .await?;
        if let Some((mut scram, _)) = begun {
            let challenge = refused(self.step("<challenge/>").await?, NS_SASL)?;
            if !challenge.is("challenge", NS_SASL) {
                return Err(unexpected("<challenge/>", &challenge));
            }
            let answer = scram.answer(&challenge.text, &password)?;
            self.send(&format!("<response xmlns='{NS_SASL}'>{answer}</response>")).await?;
            let success = self.success().await?;
            return scram.verify(&success.text);
        }
        self.success().await.map(drop)
    }

    async fn success(&mut self) -> Result<Element, Error> {
        let answer = refused(self.step("<success/>").await?, NS_SASL)?;
        if answer.is("success", NS_SASL) {
            Ok(answer)
        } else {
            Err(unexpected("<success/>", &answer))
        }
    }

    /// Binds the resource of the options (RFC 6120 §7).
    ///
    /// # Errors
    /// A refusal, or a JID that is not of this account.
    pub async fn bind(&mut self) -> Result<(), Error> {
        let resource = self
            .options
            .resource
            .as_ref()
            .map(|name| format!("<resource>{}</resource>", escape(name)));
        let resource = resource.unwrap_or_default();
        self.send(&format!("<iq type='set' id='bind'><bind xmlns='{NS_BIND}'>{resource}</bind></iq>"))
            .await?;
        let answer = self.step("the result of bind").await?;
        let jid = answer
            .child("bind", NS_BIND)
            .and_then(|bind| bind.child("jid", NS_BIND))
            .map(|jid| jid.text.clone());
        match jid {
            Some(jid) if answer.attribute("type") == Some("result") && jid.starts_with(&format!("{}/", self.options.bare_jid())) => {
                self.jid = jid;
                self.features = None;
                Ok(())
            }
            _ => Err(unexpected("the result of bind", &answer)),
        }
    }

    /// Enables stream management when the options ask for it (XEP-0198 §3).
    ///
    /// # Errors
    /// A refusal.
    pub async fn enable(&mut self) -> Result<(), Error> {
        if !self.options.managed {
            return Ok(());
        }
        let enable = self.options.enable();
        self.send(&enable).await?;
        let answer = self.step("<enabled/>").await?;
        if !answer.is("enabled", NS_SM) {
            return Err(unexpected("<enabled/>", &answer));
        }
        self.managed = Some(Managed::begun(&answer));
        Ok(())
    }

    /// Sends the initial presence of the options.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn announce(&mut self) -> Result<(), Error> {
        match self.options.presence {
            None => Ok(()),
            Some(0) => self.send_stanza("<presence/>".into()).await,
            Some(priority) => {
                self.send_stanza(format!("<presence><priority>{priority}</priority></presence>"))
                    .await
            }
        }
    }
}

/// The element, unless it is a `<failure/>` of that protocol. Conditions are those of RFC 6120 in both.
pub(crate) fn refused(element: Element, protocol: &str) -> Result<Element, Error> {
    if !element.is("failure", protocol) {
        return Ok(element);
    }
    let text = element.children.iter().find(|child| child.name == "text");
    let condition = element.children.iter().find(|child| child.ns == NS_SASL && child.name != "text");
    Err(Error::Refused {
        condition: condition.map(|child| child.name.clone()).unwrap_or_default(),
        text: text.map(|text| text.text.clone()).unwrap_or_default(),
    })
}

pub(crate) fn unexpected(wanted: &'static str, got: &Element) -> Error {
    Error::Unexpected {
        wanted,
        got: shorten(format!("{got:?}").as_bytes()),
    }
}
