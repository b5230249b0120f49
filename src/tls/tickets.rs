//! Tickets that every node of one service reads: a device that goes to another node resumes its TLS session there.
//!
//! Each period of six hours has a secret of its own, which comes from outside. A ticket is sealed with a key that is made of the
//! secret and of what is served, so that tickets die with the certificate they were given under, on every node.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac,
};
use parking_lot::RwLock;
use rustls::server::ProducesTickets;

/// How long tickets are given out under one secret. They are taken in the period after it, too, and in the one before it by who is late.
pub const TICKET_PERIOD: Duration = Duration::from_secs(6 * 3_600);

/// Bytes of a key's name, which a ticket begins with (RFC 5077 §4).
const NAME_LEN: usize = 16;

/// The secret of one period.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TicketSecret {
    /// Which: the time since 1970 in [`TICKET_PERIOD`]s.
    pub period: u64,
    /// Random.
    pub secret: [u8; 32],
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketSecret({}, ***)", self.period)
    }
}

/// The secrets of the moment. Cheap to clone; all clones see a change.
#[derive(Clone, Debug, Default)]
pub struct TicketSecrets(Arc<RwLock<Arc<Known>>>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    now: u64,
    secrets: Vec<TicketSecret>,
}

impl TicketSecrets {
    /// From now on tickets are given out under the secret of the period `now`, and taken that were given out under any of these.
    pub fn replace(&self, now: u64, secrets: Vec<TicketSecret>) {
        let known = Known { now, secrets };
        let mut current = self.0.write();
        if **current != known {
            *current = Arc::new(known);
        }
    }

    /// What seals and opens tickets of one listener. `served`: a digest of what it serves with.
    pub(super) fn ticketer(&self, listener: &'static str, served: [u8; 32]) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer {
            secrets: self.clone(),
            listener,
            served,
            keys: RwLock::default(),
        })
    }
}

/// Keys, made once for each change of the secrets.
#[derive(Default)]
struct Keys {
    of: Arc<Known>,
    /// The one that seals comes first.
    keys: Arc<[Key]>,
}

struct Key {
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

struct Ticketer {
    secrets: TicketSecrets,
    listener: &'static str,
    served: [u8; 32],
    keys: RwLock<Keys>,
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticketer({})", self.listener)
    }
}

impl Ticketer {
    fn keys(&self) -> Arc<[Key]> {
        let known = self.secrets.0.read().clone();
        {
            let made = self.keys.read();
            if Arc::ptr_eq(&made.of, &known) {
                return made.keys.clone();
            }
        }
        let mut secrets = known.secrets.clone();
        // That of this period first; where it is not known, that of the next best.
        secrets.sort_by_key(|secret| secret.period.abs_diff(known.now));
        let keys: Arc<[Key]> = secrets.iter().filter_map(|secret| self.key(secret)).collect();
        *self.keys.write() = Keys {
            of: known,
            keys: keys.clone(),
        };
        keys
    }

    fn key(&self, secret: &TicketSecret) -> Option<Key> {
        let made = |what: &str| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret.secret));
            for part in [what.as_bytes(), &[0], self.listener.as_bytes(), &[0], &self.served] {
                context.update(part);
            }
            context.sign()
        };
        Some(Key {
            name: *made("name of a ticket key").as_ref().first_chunk()?,
            key: RandomizedNonceKey::new(&AES_256_GCM_SIV, made("ticket key").as_ref()).ok()?,
        })
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(TICKET_PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys();
        let key = keys.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.key.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let opened = key
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*name), &mut sealed)
            .ok()?;
        Some(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(now: u64, periods: &[u64]) -> TicketSecrets {
        let secrets = TicketSecrets::default();
        let secret = |period: &u64| TicketSecret {
            period: *period,
            secret: [u8::try_from(*period).unwrap(); 32],
        };
        secrets.replace(now, periods.iter().map(secret).collect());
        secrets
    }

    #[test]
    fn a_ticket_of_one_node_is_read_by_every_other() {
        let (here, there) = (known(7, &[6, 7, 8]), known(7, &[6, 7, 8]));
        let (here, there) = (here.ticketer("devices", [1; 32]), there.ticketer("devices", [1; 32]));
        for length in [0, 1, 100, 5_000] {
            let plain = vec![7; length];
            let ticket = here.encrypt(&plain).unwrap();
            assert_eq!(there.decrypt(&ticket), Some(plain));
            assert_ne!(here.encrypt(&[]).unwrap(), there.encrypt(&[]).unwrap(), "no nonce comes twice");
        }
    }

    #[test]
    fn a_ticket_lives_to_the_end_of_the_next_period() {
        let secrets = known(7, &[6, 7, 8]);
        let ticketer = secrets.ticketer("devices", [1; 32]);
        let ticket = ticketer.encrypt(b"session").unwrap();
        let at = |now: u64| {
            let later = known(now, &[now - 1, now, now + 1]);
            later.ticketer("devices", [1; 32]).decrypt(&ticket).is_some()
        };
        assert_eq!([5, 6, 7, 8, 9].map(at), [false, true, true, true, false]);
        // The same ticketer goes over to the next secret, also when no newer one could be read.
        secrets.replace(8, known(7, &[6, 7, 8]).0.read().secrets.clone());
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(ticketer.encrypt(b"session").unwrap()[..NAME_LEN], ticket[..NAME_LEN]);
    }

    #[test]
    fn what_was_changed_or_belongs_elsewhere_is_refused() {
        let secrets = known(7, &[7]);
        let ticketer = secrets.ticketer("devices", [1; 32]);
        let ticket = ticketer.encrypt(b"session").unwrap();
        for (listener, served) in [("web", [1; 32]), ("devices", [2; 32])] {
            assert_eq!(secrets.ticketer(listener, served).decrypt(&ticket), None, "{listener}");
        }
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.decrypt(&changed), None, "byte {at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(TicketSecrets::default().ticketer("devices", [1; 32]).encrypt(b"x"), None);
        assert!(!format!("{secrets:?} {ticketer:?}").contains("7, 7"), "secrets are not shown");
    }
}
