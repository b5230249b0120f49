//! FAST tokens (XEP-0484): what a device shows instead of its password at its next login.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The mechanism that a token is for (draft-schmaus-kitten-sasl-ht): it works with no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FastMechanism {
    /// HT-SHA-256-EXPR: bound to the TLS connection by its exporter (RFC 9266).
    Expr,
    /// HT-SHA-256-ENDP: bound to the server's certificate (RFC 5929 §4).
    Endp,
    /// HT-SHA-256-NONE: bound to nothing.
    None,
}

impl FastMechanism {
    /// All, the safest first.
    pub const ALL: [Self; 3] = [Self::Expr, Self::Endp, Self::None];

    /// The name in SASL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expr => "HT-SHA-256-EXPR",
            Self::Endp => "HT-SHA-256-ENDP",
            Self::None => "HT-SHA-256-NONE",
        }
    }
}

/// Which program on the device (`<user-agent id=…/>` of XEP-0388), as a hash of bounded length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FastAgent(Box<str>);

impl FastAgent {
    /// The agent with that id.
    pub fn of(id: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, id.as_bytes());
        Self(BASE64URL_NOPAD.encode(hash.as_ref().get(..12).unwrap_or_default()).into())
    }

    /// 16 characters that are always the same for one id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A token. It is the key of an HMAC, so that it is kept as it is; its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastToken {
    secret: Box<str>,
    /// When it was given out.
    pub issued_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
}

impl FastToken {
    /// A token whose text is `secret`: at least 128 random bits.
    pub fn new(secret: String, issued_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            secret: secret.into(),
            issued_at,
            expires_at,
        }
    }

    /// Its text, for the device that it is given to, and nobody else.
    pub fn reveal(&self) -> &str {
        &self.secret
    }

    /// HMAC-SHA-256(token, `role` || channel binding): `Initiator` proves the device, `Responder` the server.
    pub fn sign(&self, role: &str, binding: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes()));
        context.update(role.as_bytes());
        context.update(binding);
        context.sign()
    }
}

impl fmt::Debug for FastToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FastToken(***, until {})", self.expires_at)
    }
}

/// The tokens of one user agent for one mechanism. The old one lives until the new one was used: a device that never read
/// the new one is not locked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FastSlot {
    agent: FastAgent,
    mechanism: FastMechanism,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new: Option<FastToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<FastToken>,
}

/// All FAST tokens of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastTokens {
    /// The generation of the credentials with which they were earned; other credentials, no tokens.
    generation: u32,
    /// Those given a token last come last.
    slots: Vec<FastSlot>,
}

/// Whether a proof fits a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FastProof {
    /// It does.
    Right {
        /// The token.
        token: FastToken,
        /// It was given out last and is used for the first time.
        first_use: bool,
    },
    /// It does, and the token's time is over.
    Expired,
    /// It fits none.
    Wrong,
}

/// What a login changes. Doing it twice comes to the same as doing it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastChange {
    /// Which program.
    pub agent: FastAgent,
    /// Which mechanism of it.
    pub mechanism: FastMechanism,
    /// The newer token was used: the older one goes.
    pub promote: bool,
    /// All tokens of that agent and mechanism go.
    pub invalidate: bool,
    /// A token that is given out now.
    pub fresh: Option<(FastMechanism, FastToken)>,
    /// Agents that may have tokens: above it the agent goes that was given none for longest.
    pub agents_max: u32,
}

impl FastTokens {
    /// The tokens, if they were earned with the credentials of that generation.
    #[must_use]
    pub fn of_generation(self, generation: u32) -> Self {
        if self.generation == generation {
            return self;
        }
        Self {
            generation,
            slots: Vec::new(),
        }
    }

    /// Looks for the token that made `proof`, the newer one first, in constant time.
    pub fn verify(&self, agent: &FastAgent, mechanism: FastMechanism, binding: &[u8], proof: &[u8], now: Timestamp) -> FastProof {
        let slot = self.slots.iter().find(|slot| slot.agent == *agent && slot.mechanism == mechanism);
        let tokens = slot.map(|slot| [(slot.new.as_ref(), true), (slot.current.as_ref(), false)]);
        for (token, first_use) in tokens.into_iter().flatten() {
            let Some(token) = token else { continue };
            if verify_slices_are_equal(token.sign("Initiator", binding).as_ref(), proof).is_ok() {
                if token.expires_at <= now {
                    return FastProof::Expired;
                }
                let token = token.clone();
                return FastProof::Right { token, first_use };
            }
        }
        FastProof::Wrong
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &FastChange) {
        if change.invalidate {
            self.slots
                .retain(|slot| slot.agent != change.agent || slot.mechanism != change.mechanism);
        }
        let place = |slots: &[FastSlot], mechanism| {
            slots
                .iter()
                .position(|slot| slot.agent == change.agent && slot.mechanism == mechanism)
        };
        if change.promote
            && let Some(slot) = place(&self.slots, change.mechanism).and_then(|at| self.slots.get_mut(at))
            && let Some(new) = slot.new.take()
        {
            slot.current = Some(new);
        }
        let Some((mechanism, fresh)) = &change.fresh else { return };
        let mut slot = match place(&self.slots, *mechanism) {
            Some(at) => self.slots.remove(at),
            None => FastSlot {
                agent: change.agent.clone(),
                mechanism: *mechanism,
                new: None,
                current: None,
            },
        };
        slot.new = Some(fresh.clone());
        self.slots.push(slot);
        while self.agents() > change.agents_max.max(1) as usize {
            let Some(oldest) = self.slots.first().map(|slot| slot.agent.clone()) else {
                return;
            };
            self.slots.retain(|slot| slot.agent != oldest);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn agents(&self) -> usize {
        let first = |at: usize, slot: &FastSlot| self.slots.iter().position(|one| one.agent == slot.agent) == Some(at);
        self.slots.iter().enumerate().filter(|(at, slot)| first(*at, slot)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn token(text: &str) -> FastToken {
        FastToken::new(text.into(), NOW, Timestamp(5_000))
    }

    fn change(agent: &str, fresh: Option<&str>, promote: bool) -> FastChange {
        FastChange {
            agent: FastAgent::of(agent),
            mechanism: FastMechanism::None,
            promote,
            invalidate: false,
            fresh: fresh.map(|text| (FastMechanism::None, token(text))),
            agents_max: 2,
        }
    }

    fn proof(tokens: &FastTokens, agent: &str, text: &str) -> FastProof {
        let proof = token(text).sign("Initiator", b"");
        tokens.verify(&FastAgent::of(agent), FastMechanism::None, b"", proof.as_ref(), NOW)
    }

    fn right(text: &str, first_use: bool) -> FastProof {
        let token = token(text);
        FastProof::Right { token, first_use }
    }

    #[test]
    fn the_old_token_lives_until_the_new_one_was_used() {
        let mut tokens = FastTokens::default();
        tokens.apply(&change("a", Some("one"), false));
        assert_eq!(proof(&tokens, "a", "one"), right("one", true));
        tokens.apply(&change("a", Some("two"), true));
        assert_eq!(proof(&tokens, "a", "one"), right("one", false));
        assert_eq!(proof(&tokens, "a", "two"), right("two", true));
        // The second never arrived: a third replaces it, and the first still works.
        tokens.apply(&change("a", Some("three"), false));
        assert_eq!(proof(&tokens, "a", "one"), right("one", false));
        assert_eq!(proof(&tokens, "a", "two"), FastProof::Wrong);
        tokens.apply(&change("a", None, true));
        assert_eq!(proof(&tokens, "a", "one"), FastProof::Wrong);
        assert_eq!(proof(&tokens, "a", "three"), right("three", false));
    }

    #[test]
    fn a_token_is_bound_to_agent_mechanism_binding_time_and_generation() {
        let mut tokens = FastTokens::default().of_generation(3);
        tokens.apply(&change("a", Some("one"), false));
        assert_eq!(proof(&tokens, "b", "one"), FastProof::Wrong);
        let agent = FastAgent::of("a");
        let proof_of = |binding: &[u8]| token("one").sign("Initiator", binding);
        let verify = |mechanism, proof: &[u8], now| tokens.verify(&agent, mechanism, b"", proof, now);
        assert_eq!(verify(FastMechanism::Expr, proof_of(b"").as_ref(), NOW), FastProof::Wrong);
        assert_eq!(verify(FastMechanism::None, proof_of(b"x").as_ref(), NOW), FastProof::Wrong);
        assert_eq!(
            verify(FastMechanism::None, proof_of(b"").as_ref(), Timestamp(5_000)),
            FastProof::Expired
        );
        assert!(tokens.of_generation(4).is_empty());
    }

    #[test]
    fn invalidation_and_the_bound_take_tokens_away() {
        let mut tokens = FastTokens::default();
        for agent in ["a", "b", "a", "c"] {
            tokens.apply(&change(agent, Some(agent), false));
        }
        assert_eq!(proof(&tokens, "b", "b"), FastProof::Wrong);
        assert_eq!(proof(&tokens, "a", "a"), right("a", true));
        let invalidate = FastChange {
            invalidate: true,
            ..change("a", None, false)
        };
        tokens.apply(&invalidate);
        assert_eq!(proof(&tokens, "a", "a"), FastProof::Wrong);
        assert_eq!(proof(&tokens, "c", "c"), right("c", true));
    }

    #[test]
    fn a_token_prints_nothing() {
        assert!(!format!("{:?}", token("hush")).contains("hush"));
    }
}
