//! How the device proves its password: which SASL mechanism it takes, and what it checks that the `sasl` crate does not.

use data_encoding::BASE64;
use sasl::{
    client::{
        Mechanism,
        mechanisms::{Plain, Scram},
    },
    common::{
        ChannelBinding, Credentials,
        scram::{Sha1, Sha256},
    },
};

/// Fewer rounds make a stolen exchange cheap to guess (RFC 7677 §4).
const ROUNDS_MIN: u32 = 4_096;
/// More rounds are an attack on the device's processor.
const ROUNDS_MAX: u32 = 1_000_000;

/// Why no proof of the password is given, or none of the server's is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MechanismError {
    /// None of the offered mechanisms is known here.
    #[error("it offers no login that this device knows; it knows SCRAM-SHA-256, SCRAM-SHA-1 and PLAIN")]
    Unknown,
    /// SCRAM was offered before, and is not now.
    #[error("it wants the bare password, and offered SCRAM before: somebody may stand between")]
    Downgrade,
    /// What the server sent breaks RFC 5802.
    #[error("its SCRAM messages are wrong: {0}")]
    Broken(String),
    /// The server does not know the password either.
    #[error("it did not prove that it knows the password: it may be an impostor")]
    Unproven,
}

/// One proof of the password, on one connection.
pub struct Proof {
    mechanism: Box<dyn Mechanism + Send + Sync>,
    /// Ours, which the server's must begin with. `None`: PLAIN, where the server proves nothing.
    nonce: Option<String>,
    answered: bool,
    proven: bool,
}

/// Whether one of the mechanisms never shows the password.
pub fn offers_scram(offered: &[String]) -> bool {
    offered.iter().any(|name| name.starts_with("SCRAM-"))
}

impl Proof {
    /// Takes the best mechanism of those offered, bound to the TLS connection where that is possible (RFC 9266). `binding` is
    /// the exported key of the connection, if it has one and the server takes it. With `never_plain` the bare password is not shown.
    pub fn choose(
        offered: &[String],
        (username, password): (&str, &str),
        binding: Option<&[u8]>,
        never_plain: bool,
    ) -> Result<Self, MechanismError> {
        let is_offered = |name: &str| offered.iter().any(|offered| offered == name);
        let plus_is_offered = offered.iter().any(|name| name.starts_with("SCRAM-") && name.ends_with("-PLUS"));
        // RFC 5802 §6: "y" says that the device could bind and saw no offer, so that a server that did offer it hears of the theft.
        let unbound = || match binding {
            Some(_) if !plus_is_offered => ChannelBinding::Unsupported,
            _ => ChannelBinding::None,
        };
        let bound = || binding.map(|key| ChannelBinding::TlsExporter(key.to_vec()));
        let choices = [
            ("SCRAM-SHA-256-PLUS", bound()),
            ("SCRAM-SHA-1-PLUS", bound()),
            ("SCRAM-SHA-256", Some(unbound())),
            ("SCRAM-SHA-1", Some(unbound())),
            ("PLAIN", Some(ChannelBinding::None)),
        ];
        let (name, binding) = choices
            .into_iter()
            .find_map(|(name, binding)| Some((name, binding.filter(|_| is_offered(name))?)))
            .ok_or(MechanismError::Unknown)?;
        if name == "PLAIN" && never_plain {
            return Err(MechanismError::Downgrade);
        }
        let credentials = Credentials::default()
            .with_username(username)
            .with_password(password)
            .with_channel_binding(binding);
        let broken = |error: sasl::client::MechanismError| MechanismError::Broken(error.to_string());
        let mechanism: Box<dyn Mechanism + Send + Sync> = match name {
            "PLAIN" => Box::new(Plain::from_credentials(credentials).map_err(broken)?),
            _ if name.contains("SHA-256") => Box::new(Scram::<Sha256>::from_credentials(credentials).map_err(broken)?),
            _ => Box::new(Scram::<Sha1>::from_credentials(credentials).map_err(broken)?),
        };
        Ok(Self {
            mechanism,
            nonce: None,
            answered: false,
            proven: name == "PLAIN",
        })
    }

    /// The mechanism's name.
    pub fn name(&self) -> &str {
        self.mechanism.name()
    }

    /// What the device says first.
    pub fn initial(&mut self) -> Vec<u8> {
        let initial = self.mechanism.initial();
        if !self.proven {
            let text = String::from_utf8_lossy(&initial);
            self.nonce = text.rsplit_once("r=").map(|(_, nonce)| nonce.to_owned());
        }
        initial
    }

    /// Answers a challenge. The server's last word may come as one, too (RFC 6120 §6.3.10).
    pub fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, MechanismError> {
        if self.answered {
            self.check(challenge)?;
            return Ok(Vec::new());
        }
        self.guard(challenge)?;
        self.answered = true;
        self.mechanism
            .response(challenge)
            .map_err(|error| MechanismError::Broken(error.to_string()))
    }

    /// The server took the proof; its own is in `data`, unless it was a challenge.
    pub fn finish(&mut self, data: Option<&[u8]>) -> Result<(), MechanismError> {
        if self.proven {
            Ok(())
        } else {
            self.check(data.unwrap_or_default())
        }
    }

    fn check(&mut self, signature: &[u8]) -> Result<(), MechanismError> {
        self.mechanism.success(signature).map_err(|_| MechanismError::Unproven)?;
        self.proven = true;
        Ok(())
    }

    /// RFC 5802 §5.1: the nonce goes on from ours, and the rounds are neither too few nor too many.
    fn guard(&self, challenge: &[u8]) -> Result<(), MechanismError> {
        let broken = |what: &str| Err(MechanismError::Broken(what.to_owned()));
        let Ok(text) = std::str::from_utf8(challenge) else {
            return broken("no UTF-8");
        };
        let field = |name: &str| text.split(',').find_map(|field| field.strip_prefix(name));
        let ours = self.nonce.as_deref().unwrap_or_default();
        if !field("r=").is_some_and(|nonce| nonce.len() > ours.len() && !ours.is_empty() && nonce.starts_with(ours)) {
            return broken("the nonce is not from this login");
        }
        match field("i=").and_then(|rounds| rounds.parse::<u32>().ok()) {
            Some(ROUNDS_MIN..=ROUNDS_MAX) => {}
            _ => return broken("fewer than 4,096 or more than 1,000,000 rounds"),
        }
        match field("s=").map(|salt| BASE64.decode(salt.as_bytes())) {
            Some(Ok(salt)) if !salt.is_empty() => Ok(()),
            _ => broken("no salt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(offered: &[&str], binding: Option<&[u8]>, never_plain: bool) -> Result<Proof, MechanismError> {
        let offered: Vec<String> = offered.iter().map(|name| (*name).to_owned()).collect();
        Proof::choose(&offered, ("tv", "pencil"), binding, never_plain)
    }

    #[test]
    fn the_best_mechanism_is_taken_and_the_flag_says_what_was_seen() {
        let check = |offered: &[&str], binding: Option<&[u8]>, name: &str, header: &str| {
            let mut proof = choose(offered, binding, false).unwrap();
            assert_eq!(proof.name(), name, "{offered:?}");
            let initial = String::from_utf8(proof.initial()).unwrap();
            assert!(initial.starts_with(header), "{offered:?}: {initial}");
        };
        let all = ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"];
        check(&all, Some(b"key"), "SCRAM-SHA-256-PLUS", "p=tls-exporter,,");
        check(&all, None, "SCRAM-SHA-256", "n,,");
        check(&["PLAIN", "SCRAM-SHA-1"], Some(b"key"), "SCRAM-SHA-1", "y,,");
        check(&["PLAIN", "X-OTHER"], Some(b"key"), "PLAIN", "\0tv\0pencil");
    }

    #[test]
    fn the_bare_password_is_not_shown_to_a_server_that_offered_scram_before() {
        assert_eq!(choose(&["PLAIN"], None, true).err(), Some(MechanismError::Downgrade));
        assert!(choose(&["PLAIN", "SCRAM-SHA-1"], None, true).is_ok());
        assert_eq!(choose(&["GSSAPI"], None, false).err(), Some(MechanismError::Unknown));
    }

    #[test]
    fn a_server_that_breaks_scram_gets_no_proof() {
        let check = |challenge: &dyn Fn(&str) -> String, takes: bool| {
            let mut proof = choose(&["SCRAM-SHA-256"], None, false).unwrap();
            let _ = proof.initial();
            let nonce = proof.nonce.clone().unwrap();
            let challenge = challenge(&nonce);
            assert_eq!(proof.answer(challenge.as_bytes()).is_ok(), takes, "{challenge}");
        };
        check(&|nonce| format!("r={nonce}more,s=c2FsdA==,i=4096"), true);
        check(&|nonce| format!("r={nonce},s=c2FsdA==,i=4096"), false);
        check(&|_| "r=another,s=c2FsdA==,i=4096".into(), false);
        check(&|nonce| format!("r={nonce}more,s=c2FsdA==,i=4095"), false);
        check(&|nonce| format!("r={nonce}more,s=c2FsdA==,i=1000001"), false);
        check(&|nonce| format!("r={nonce}more,i=4096"), false);
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let mut proof = choose(&["SCRAM-SHA-256"], None, false).unwrap();
        let _ = proof.initial();
        assert_eq!(proof.finish(None), Err(MechanismError::Unproven));
        let challenge = format!("r={}x,s=c2FsdA==,i=4096", proof.nonce.clone().unwrap());
        proof.answer(challenge.as_bytes()).unwrap();
        assert_eq!(proof.finish(Some(b"v=AAAA")), Err(MechanismError::Unproven));
        assert_eq!(proof.finish(None), Err(MechanismError::Unproven));
        assert_eq!(proof.answer(b"v=AAAA"), Err(MechanismError::Unproven));
    }
}
