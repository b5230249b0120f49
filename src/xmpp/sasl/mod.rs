//! SASL mechanisms (RFC 4422), one file each: what both ways to carry them (RFC 6120 §6, XEP-0388) share.
//!
//! A mechanism is offered when what it needs is there: `Mechanism::offered` is the one place that says so.

pub(super) mod binding;
pub(super) mod ht;
pub(super) mod plain;
pub(super) mod scram;

use crate::domain::FastMechanism;

use self::{binding::Bindings, scram::Hash};

/// What a client logs in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// SCRAM (RFC 5802, RFC 7677); `plus`: with channel binding.
    Scram { hash: Hash, plus: bool },
    /// The password itself (RFC 4616).
    Plain,
    /// The certificate that the peer showed (RFC 4422 appendix A).
    External,
    /// A FAST token (XEP-0484).
    Ht(FastMechanism),
}

impl Mechanism {
    /// Those that need nothing but a password, the safest first: what `<mechanisms/>` and `<authentication/>` list.
    const PASSWORD: [Self; 5] = [
        Self::Scram {
            hash: Hash::Sha256,
            plus: true,
        },
        Self::Scram {
            hash: Hash::Sha1,
            plus: true,
        },
        Self::Scram {
            hash: Hash::Sha256,
            plus: false,
        },
        Self::Scram {
            hash: Hash::Sha1,
            plus: false,
        },
        Self::Plain,
    ];

    /// All, the safest first.
    pub(in crate::xmpp) fn all() -> impl Iterator<Item = Self> {
        let tokens = FastMechanism::ALL.into_iter().map(Self::Ht);
        std::iter::once(Self::External).chain(Self::PASSWORD).chain(tokens)
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scram {
                hash: Hash::Sha256,
                plus: true,
            } => "SCRAM-SHA-256-PLUS",
            Self::Scram {
                hash: Hash::Sha1,
                plus: true,
            } => "SCRAM-SHA-1-PLUS",
            Self::Scram {
                hash: Hash::Sha256,
                plus: false,
            } => "SCRAM-SHA-256",
            Self::Scram {
                hash: Hash::Sha1,
                plus: false,
            } => "SCRAM-SHA-1",
            Self::Plain => "PLAIN",
            Self::External => "EXTERNAL",
            Self::Ht(fast) => fast.name(),
        }
    }

    /// What is offered on a connection with these bindings, `certified` if the peer showed a certificate that is worth something.
    pub(super) fn offered(bindings: &Bindings, certified: bool) -> impl Iterator<Item = Self> {
        let plus_works = bindings.any();
        let works = move |one: &Self| plus_works || !matches!(one, Self::Scram { plus: true, .. });
        let external = certified.then_some(Self::External);
        external.into_iter().chain(Self::PASSWORD.into_iter().filter(works))
    }

    /// The offered mechanism of that name. `fast`: those of XEP-0484 count, too.
    pub(super) fn find(name: &str, bindings: &Bindings, certified: bool, fast: bool) -> Option<Self> {
        let tokens = ht::offered(bindings).filter(|_| fast).map(Self::Ht);
        Self::offered(bindings, certified).chain(tokens).find(|one| one.name() == name)
    }
}
