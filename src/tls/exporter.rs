//! `tls-exporter` (RFC 9266) for connections that rustls serves without buffers: they have no `export_keying_material`, so the
//! exporter secret is taken where rustls offers it to a key log, and expanded here (RFC 8446 §7.5). Nothing is logged.

use std::cell::RefCell;

use aws_lc_rs::{
    digest::{self, Algorithm},
    hkdf,
};
use rustls::KeyLog;

const SECRET: &str = "EXPORTER_SECRET";
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

thread_local! {
    /// What the handshake on this thread gave out and nobody took yet: rustls tells it within the call that makes it.
    static BINDING: RefCell<Option<[u8; 32]>> = const { RefCell::new(None) };
}

/// Takes the channel binding of each TLS 1.3 handshake; forgets all other keys.
#[derive(Debug)]
pub struct Exporter;

impl KeyLog for Exporter {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == SECRET {
            BINDING.set(expand(secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SECRET
    }
}

/// The binding of the handshake that went on in the last call of rustls on this thread, if it came to it.
pub fn take() -> Option<[u8; 32]> {
    BINDING.take()
}

/// HKDF-Expand-Label (RFC 8446 §7.1).
fn expand_label(prk: &hkdf::Prk, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_length = [u8::try_from(6 + label.len()).ok()?];
    let context_length = [u8::try_from(context.len()).ok()?];
    let info = [length.as_slice(), &label_length, b"tls13 ", label, &context_length, context];
    prk.expand(&info, Length(out.len())).ok()?.fill(out).ok()
}

/// TLS-Exporter(label, empty context, 32), from the exporter master secret, whose length tells its hash.
fn expand(secret: &[u8]) -> Option<[u8; 32]> {
    let (hkdf, hash): (_, &'static Algorithm) = match secret.len() {
        32 => (hkdf::HKDF_SHA256, &digest::SHA256),
        48 => (hkdf::HKDF_SHA384, &digest::SHA384),
        _ => return None,
    };
    let empty = digest::digest(hash, b"");
    let mut derived = vec![0; secret.len()];
    expand_label(&hkdf::Prk::new_less_safe(hkdf, secret), LABEL, empty.as_ref(), &mut derived)?;
    let mut binding = [0; 32];
    expand_label(&hkdf::Prk::new_less_safe(hkdf, &derived), b"exporter", empty.as_ref(), &mut binding)?;
    Some(binding)
}
