//! A look at the first bytes of a connection, before anything is spent on it (RFC 8446 §4.1.2, §5.1).

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// The beginning of a TLS record: the rest is to come.
    Partial,
    /// As much as is needed to go on. `returning`: it shows a ticket of an earlier connection (RFC 8446 §4.2.11, RFC 5077 §3.2).
    Whole {
        /// It was here before.
        returning: bool,
    },
}

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;

/// Looks at the first bytes of a TLS connection. What is no TLS is whole: it fails soon enough.
pub(super) fn look(bytes: &[u8], room: usize) -> Hello {
    let Some((&kind, rest)) = bytes.split_first() else {
        return Hello::Partial;
    };
    if kind != RECORD_HANDSHAKE {
        return Hello::Whole { returning: false };
    }
    let (Some(length), true) = (rest.get(2..4), bytes.len() < room) else {
        return if bytes.len() < room {
            Hello::Partial
        } else {
            Hello::Whole { returning: false }
        };
    };
    match rest.get(4..4 + number(length)) {
        None => Hello::Partial,
        Some(record) => Hello::Whole {
            returning: returning(record).unwrap_or(false),
        },
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Takes a vector with a length of so many bytes in front.
fn vector<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let (content, rest) = rest.split_at_checked(number(length))?;
    *bytes = rest;
    Some(content)
}

fn returning(record: &[u8]) -> Option<bool> {
    let (&kind, mut rest) = record.split_first()?;
    if kind != CLIENT_HELLO {
        return None;
    }
    let mut hello = vector(&mut rest, 3)?.get(2 + 32..)?;
    vector(&mut hello, 1)?;
    vector(&mut hello, 2)?;
    vector(&mut hello, 1)?;
    let mut extensions = vector(&mut hello, 2)?;
    while let Some((kind, rest)) = extensions.split_at_checked(2) {
        extensions = rest;
        let content = vector(&mut extensions, 2)?;
        match u16::try_from(number(kind)).ok()? {
            PRE_SHARED_KEY => return Some(true),
            SESSION_TICKET if !content.is_empty() => return Some(true),
            _ => {}
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ROOM: usize = 4096;

    /// A ClientHello with those extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, content) in extensions {
            all.extend(kind.to_be_bytes());
            all.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            all.extend(*content);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([1, 9]);
        body.extend([0, 2, 0x13, 1]);
        body.extend([1, 0]);
        body.extend(u16::try_from(all.len()).unwrap().to_be_bytes());
        body.extend(all);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut record = vec![22, 3, 1];
        record.extend(u16::try_from(body.len() + 4).unwrap().to_be_bytes());
        record.push(1);
        record.extend(&length[1..]);
        record.extend(body);
        record
    }

    #[test]
    fn a_ticket_tells_who_was_here_before() {
        let check = |extensions: &[(u16, &[u8])], returning| {
            assert_eq!(look(&hello(extensions), ROOM), Hello::Whole { returning }, "{extensions:?}");
        };
        check(&[], false);
        check(&[(0, b"name"), (35, b"")], false);
        check(&[(35, b"ticket")], true);
        check(&[(43, b"x"), (41, b"psk")], true);
    }

    #[test]
    fn every_beginning_is_partial_and_nonsense_is_whole() {
        let whole = hello(&[(41, b"psk")]);
        for cut in 0..whole.len() {
            assert_eq!(look(&whole[..cut], ROOM), Hello::Partial, "{cut}");
        }
        for at in 5..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            assert!(matches!(look(&broken, ROOM), Hello::Whole { .. }), "{at}");
        }
        assert_eq!(look(b"<?xml", ROOM), Hello::Whole { returning: false });
        assert_eq!(
            look(&[22; ROOM], ROOM),
            Hello::Whole { returning: false },
            "larger than what is looked at"
        );
    }

    /// The first message of a client, and then all of its handshake, after which it has a ticket.
    fn connect(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> Vec<u8> {
        let mut client = rustls::ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        let mut first = Vec::new();
        client.write_tls(&mut first).unwrap();
        server.read_tls(&mut &first[..]).unwrap();
        server.process_new_packets().unwrap();
        for _ in 0..4 {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            server.write_tls(&mut back).unwrap();
            client.read_tls(&mut &back[..]).unwrap();
            client.process_new_packets().unwrap();
            client.write_tls(&mut there).unwrap();
            server.read_tls(&mut &there[..]).unwrap();
            server.process_new_packets().unwrap();
        }
        assert!(!client.is_handshaking());
        first
    }

    #[test]
    fn rustls_shows_the_ticket_that_we_gave_it() {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(key.cert.der().clone()).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
        let identity = crate::certificate::Identity {
            chain: vec![key.cert.der().clone()],
            key: private,
        };
        let server = crate::tls::Served::new(&identity, None).unwrap().devices;
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let client = rustls::ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let client = Arc::new(client);
            let first = connect(client.clone(), server.clone());
            assert_eq!(look(&first, ROOM), Hello::Whole { returning: false });
            assert_eq!(look(&first[..first.len() - 1], ROOM), Hello::Partial);
            let again = connect(client, server.clone());
            assert_eq!(look(&again, ROOM), Hello::Whole { returning: true }, "{version:?}");
        }
    }
}
