//! The client's side of login in one round trip: SASL2 (XEP-0388) with the resource (XEP-0386) and stream management inside, and
//! tokens that stand for the password the next time (FAST, XEP-0484, with the mechanisms of draft-schmaus-kitten-sasl-ht).

use std::{fmt, sync::Arc};

use aws_lc_rs::{digest, hmac};
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    Error,
    event::{NS_SM, NS_STREAMS},
    login::{refused, unexpected},
    sasl::{self, Scram},
    session::{Login, Managed, Options, Session},
    xml::{Element, escape},
};

const NS_SASL2: &str = "urn:xmpp:sasl:2";
const NS_BIND2: &str = "urn:xmpp:bind:0";
const NS_FAST: &str = "urn:xmpp:fast:0";

/// What a token is bound to besides the account; a part of its mechanism's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The TLS connection on which it is shown, by `tls-exporter`.
    Exporter,
    /// Nothing.
    Nothing,
}

impl Bound {
    fn mechanism(self) -> &'static str {
        match self {
            Self::Exporter => "HT-SHA-256-EXPR",
            Self::Nothing => "HT-SHA-256-NONE",
        }
    }
}

/// Stands for the password, for one mechanism and the program that asked for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is bound to.
    pub bound: Bound,
    secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?}, ***)", self.bound)
    }
}

impl Token {
    fn sign(&self, who: &str, binding: &[u8]) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        hmac::sign(&key, &[who.as_bytes(), binding].concat())
    }

    fn initial(&self, user: &str, binding: &[u8]) -> String {
        let proof = self.sign("Initiator", binding);
        BASE64_STANDARD.encode([user.as_bytes(), &[0], proof.as_ref()].concat())
    }

    /// Checks that the server knows the token too.
    fn verify(&self, additional: &str, binding: &[u8]) -> Result<(), Error> {
        let last = BASE64_STANDARD
            .decode(additional.trim())
            .map_err(|_| Error::Sasl("additional data that is not base64"))?;
        let expected = self.sign("Responder", binding);
        aws_lc_rs::constant_time::verify_slices_are_equal(&last, expected.as_ref())
            .map_err(|_| Error::Sasl("the server does not know the token"))
    }
}

impl Session {
    /// Logs in, and goes on with the old session or binds a new one, all in one request. True when it was resumed.
    ///
    /// # Errors
    /// Whatever step fails.
    pub(crate) async fn at_once(options: Arc<Options>, past: Option<(Managed, String)>) -> Result<(Self, bool), Error> {
        let mut session = Self::encrypted(options.clone()).await?;
        let exporter = session.io.exporter();
        let resume = past.as_ref().and_then(|(managed, _)| managed.request()).unwrap_or_default();
        let (success, wanted) = match &options.login {
            Login::Fast(token) => {
                let binding = token.binding(exporter.as_ref())?;
                let first = token.initial(&options.user, binding);
                let inline = format!("<fast xmlns='{NS_FAST}'/>{resume}");
                // The server's features are known from the first time: nothing is waited for.
                let request = session.stream_header() + &options.authenticate(token.bound.mechanism(), &first, &inline);
                session.send(&request).await?;
                session.read_features().await?;
                let success = session.authenticated().await?;
                token.verify(additional(&success), binding)?;
                (success, token.bound)
            }
            Login::Sasl | Login::Sasl2 => {
                session.open_stream().await?;
                session.prove_with_password(&options, exporter.is_some(), &resume).await?
            }
        };
        session.token = success.child("token", NS_FAST).and_then(|token| {
            Some(Token {
                bound: wanted,
                secret: token.attribute("token")?.to_owned(),
            })
        });
        if let (Some(resumed), Some((managed, jid))) = (success.child("resumed", NS_SM), past) {
            session.features = None;
            session.go_on(managed, jid, resumed).await?;
            return Ok((session, true));
        }
        session.begin(&success).await?;
        session.announce().await?;
        Ok((session, false))
    }

    /// The password by SCRAM or PLAIN. The second value: what a token that comes with the success is bound to.
    async fn prove_with_password(&mut self, options: &Options, exports: bool, resume: &str) -> Result<(Element, Bound), Error> {
        let offer = self
            .features
            .as_ref()
            .and_then(|features| features.child("authentication", NS_SASL2));
        let offer = offer.ok_or(Error::NotOffered("SASL2"))?;
        let mechanism = options.choose(Some(offer))?;
        let fast = offer.child("inline", NS_SASL2).and_then(|inline| inline.child("fast", NS_FAST));
        let gives = |bound: Bound| fast.is_some_and(|fast| fast.children.iter().any(|child| child.text.trim() == bound.mechanism()));
        let wanted = if exports && gives(Bound::Exporter) {
            Bound::Exporter
        } else {
            Bound::Nothing
        };
        let request = match gives(wanted) {
            true => format!("<request-token xmlns='{NS_FAST}' mechanism='{}'/>", wanted.mechanism()),
            false => String::new(),
        };
        let begun = Scram::begin(mechanism, &options.user)?;
        let first = begun
            .as_ref()
            .map_or_else(|| sasl::plain(&options.user, &options.password), |(_, first)| first.clone());
        let inline = format!("{request}{resume}");
        self.send(&options.authenticate(mechanism.name(), &first, &inline)).await?;
        let Some((mut scram, _)) = begun else {
            return Ok((self.authenticated().await?, wanted));
        };
        let challenge = refused(self.step("<challenge/>").await?, NS_SASL2)?;
        if !challenge.is("challenge", NS_SASL2) {
            return Err(unexpected("<challenge/>", &challenge));
        }
        let answer = scram.answer(&challenge.text, &options.password)?;
        self.send(&format!("<response xmlns='{NS_SASL2}'>{answer}</response>")).await?;
        let success = self.authenticated().await?;
        scram.verify(additional(&success))?;
        Ok((success, wanted))
    }

    async fn authenticated(&mut self) -> Result<Element, Error> {
        let answer = refused(self.step("<success/>").await?, NS_SASL2)?;
        if answer.is("success", NS_SASL2) {
            Ok(answer)
        } else {
            Err(unexpected("<success/>", &answer))
        }
    }

    /// Takes what `<success/>` bound, and the features behind it.
    async fn begin(&mut self, success: &Element) -> Result<(), Error> {
        let bound = success.child("bound", NS_BIND2).ok_or_else(|| unexpected("<bound/>", success))?;
        let jid = success.child("authorization-identifier", NS_SASL2).map(|jid| jid.text.clone());
        let own = format!("{}/", self.options.bare_jid());
        self.jid = jid
            .filter(|jid| jid.starts_with(&own))
            .ok_or_else(|| unexpected("our full JID", success))?;
        if self.options.managed {
            let enabled = bound.child("enabled", NS_SM).ok_or_else(|| unexpected("<enabled/>", success))?;
            self.managed = Some(Managed::begun(enabled));
        }
        let features = self.step("<stream:features/>").await?;
        if !features.is("features", NS_STREAMS) {
            return Err(unexpected("<stream:features/>", &features));
        }
        self.features = None;
        Ok(())
    }
}

impl Token {
    fn binding<'a>(&self, exporter: Option<&'a [u8; 32]>) -> Result<&'a [u8], Error> {
        match (self.bound, exporter) {
            (Bound::Nothing, _) => Ok(&[]),
            (Bound::Exporter, Some(exporter)) => Ok(exporter),
            (Bound::Exporter, None) => Err(Error::NotOffered("tls-exporter, to which our token is bound")),
        }
    }
}

impl Options {
    /// `<authenticate/>` with a bind inside.
    fn authenticate(&self, mechanism: &str, first: &str, inline: &str) -> String {
        let enable = if self.managed { self.enable() } else { String::new() };
        let tag = self.resource.as_ref().map(|name| format!("<tag>{}</tag>", escape(name)));
        format!(
            "<authenticate xmlns='{NS_SASL2}' mechanism='{mechanism}'><initial-response>{first}</initial-response>\
             <user-agent id='{}'><software>loadtest</software></user-agent>{inline}\
             <bind xmlns='{NS_BIND2}'>{}{enable}</bind></authenticate>",
            self.agent(),
            tag.unwrap_or_default()
        )
    }

    /// A UUID that is always the same for the same device (XEP-0388 §2.1.1).
    fn agent(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.bare_jid().as_bytes());
        let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let part = |range| hex.get(range).unwrap_or_default();
        format!(
            "{}-{}-4{}-8{}-{}",
            part(0..8),
            part(8..12),
            part(13..16),
            part(17..20),
            part(20..32)
        )
    }
}

fn additional(success: &Element) -> &str {
    success
        .child("additional-data", NS_SASL2)
        .map(|data| data.text.as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_proved_and_the_server_proves_that_it_knows_it() {
        let token = Token {
            bound: Bound::Exporter,
            secret: "secret".into(),
        };
        let exporter = [7; 32];
        let binding = token.binding(Some(&exporter)).unwrap();
        let first = BASE64_STANDARD.decode(token.initial("anna", binding)).unwrap();
        // HMAC-SHA-256("secret", "Initiator" || 32 x 0x07), computed apart with Python's hmac.
        let (user, proof) = first.split_at(5);
        assert_eq!(user, b"anna\0");
        let hex: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "11462c1e5c382ef8992348f41df4564e5a4c9cbb20ece77ba2c8bd3d015b96dd");
        let responder = BASE64_STANDARD.encode(token.sign("Responder", binding).as_ref());
        token.verify(&responder, binding).unwrap();
        assert!(token.verify(&responder, b"").is_err(), "of another connection");
        assert!(token.verify("", binding).is_err());
        assert!(token.binding(None).is_err(), "nothing to bind to");
        assert_eq!(format!("{token:?}"), "Token(Exporter, ***)");
    }
}
