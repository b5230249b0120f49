//! SASL2, Bind 2 and FAST as the texts of XEP-0388, 0386 and 0484 show them.

use aws_lc_rs::hmac;

use super::*;

const SASL2: &str = "<stream:features><authentication xmlns='urn:xmpp:sasl:2'><mechanism>PLAIN</mechanism><inline>\
    <sm xmlns='urn:xmpp:sm:3'/><bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:sm:3'/></inline></bind>\
    <fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-NONE</mechanism></fast>\
    </inline></authentication></stream:features>";
const AFTER: &str = "<stream:features><sm xmlns='urn:xmpp:sm:3'/></stream:features>";
const REFUSED: &str = "<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>";

fn token(name: &str) -> String {
    format!("<token xmlns='urn:xmpp:fast:0' token='{name}' expiry='2099-01-01T00:00:00Z'/>")
}

fn success(inner: &str) -> String {
    format!("<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>tv@localhost/x</authorization-identifier>{inner}</success>")
}

fn bound(session: &str) -> String {
    format!("<bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' id='{session}' resume='true'/></bound>")
}

impl Peer {
    /// HMAC over the role and the exported key of this connection, in base64.
    fn token_proof(&self, token: &str, role: &str) -> String {
        let (_, session) = self.0.get_ref();
        let key = session
            .export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(b""))
            .unwrap();
        let data = [role.as_bytes(), &key].concat();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), &data);
        match role {
            "Initiator" => data_encoding::BASE64.encode(&[b"tv\0", tag.as_ref()].concat()),
            _ => format!("<additional-data>{}</additional-data>", data_encoding::BASE64.encode(tag.as_ref())),
        }
    }
}

impl Server {
    /// A first login by password that ends with a token, up to the presence.
    async fn accept_by_password(&self, session: &str) -> Peer {
        let mut peer = self.accept().await;
        let header = peer.hears("version='1.0'", "stream:stream").await;
        assert!(header.contains("from='tv@localhost'"), "{header}");
        peer.says(&format!("{HEADER}{SASL2}")).await;
        let login = peer.hears("</authenticate>", "authenticate").await;
        for part in [
            "mechanism='PLAIN'",
            "AHR2AHBlbmNpbA==",
            "<user-agent id=",
            "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>",
            "<enable xmlns='urn:xmpp:sm:3' resume='true'",
        ] {
            assert!(login.contains(part), "no {part} in {login}");
        }
        assert!(!login.contains("<resume "), "{login}");
        let inner = format!("{}{}", bound(session), token("first"));
        peer.says(&format!("{}{AFTER}", success(&inner))).await;
        peer.hears("<presence", "presence").await;
        peer
    }

    /// A login that comes together with the header; returns it.
    async fn accept_token(&self, token: &str) -> (Peer, String) {
        let mut peer = self.accept().await;
        // Nothing is said before all of it is here: it takes one round trip.
        let flight = peer.hears("</authenticate>", "header and authenticate").await;
        assert!(flight.contains("mechanism='HT-SHA-256-EXPR'"), "{flight}");
        assert!(flight.contains(&peer.token_proof(token, "Initiator")), "{flight}");
        (peer, flight)
    }
}

async fn online(device: &mut ReferenceDevice, resumes: bool) {
    loop {
        match next(device).await {
            Ok(News::Away) => {}
            Ok(News::Online { resumed }) => return assert_eq!(resumed, resumes),
            news => panic!("{news:?}"),
        }
    }
}

#[tokio::test]
async fn a_device_comes_back_in_one_round_trip_with_its_session() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        let mut peer = server.accept_by_password("sm1").await;
        peer.says(&event(1)).await;
        peer.hears("id='e1'", "received").await;
        drop(peer);

        let (mut peer, flight) = server.accept_token("first").await;
        assert!(
            flight.contains("<resume xmlns='urn:xmpp:sm:3' h='1' previd='sm1'/>") || flight.contains("previd='sm1' h='1'"),
            "{flight}"
        );
        assert!(flight.contains("count='1'"), "{flight}");
        let proof = peer.token_proof("first", "Responder");
        let resumed = "<resumed xmlns='urn:xmpp:sm:3' previd='sm1' h='2'/>";
        let inner = format!("{proof}{resumed}{}", token("second"));
        peer.says(&format!("{HEADER}{SASL2}{}{}", success(&inner), event(2))).await;
        peer.hears("id='e2'", "received").await;
        drop(peer);

        // The session is gone: a new one comes with the same answer, and the token is the rotated one.
        let (mut peer, _) = server.accept_token("second").await;
        let proof = peer.token_proof("second", "Responder");
        let failed = "<failed xmlns='urn:xmpp:sm:3' h='3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
        let inner = format!("{proof}{failed}{}", bound("sm2"));
        peer.says(&format!("{HEADER}{SASL2}{}{AFTER}", success(&inner))).await;
        peer.hears("<presence", "presence").await;
        peer
    };
    let story = async {
        online(&mut device, false).await;
        for seq in 1..=2 {
            let Ok(News::Event(event)) = next(&mut device).await else {
                panic!("an event")
            };
            assert_eq!(event.seq, seq);
            device.confirm(&event).unwrap();
            online(&mut device, seq == 1).await;
        }
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn a_token_that_the_server_took_back_is_replaced_by_the_password_on_the_same_stream() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        drop(server.accept_by_password("sm1").await);
        let (mut peer, _) = server.accept_token("first").await;
        peer.says(&format!("{HEADER}{SASL2}{REFUSED}")).await;
        let login = peer.hears("</authenticate>", "authenticate").await;
        assert!(login.contains("mechanism='PLAIN'") && login.contains("previd='sm1'"), "{login}");
        peer.says(&format!("{}{AFTER}", success(&bound("sm2")))).await;
        peer.hears("<presence", "presence").await;
        peer
    };
    let story = async {
        online(&mut device, false).await;
        online(&mut device, false).await;
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn a_server_that_does_not_hold_the_token_is_no_server_of_ours() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        drop(server.accept_by_password("sm1").await);
        let (mut peer, _) = server.accept_token("first").await;
        let wrong = peer.token_proof("another", "Responder");
        let inner = format!("{wrong}<resumed xmlns='urn:xmpp:sm:3' previd='sm1' h='1'/>");
        peer.says(&format!("{HEADER}{SASL2}{}", success(&inner))).await;
        peer
    };
    let story = async {
        online(&mut device, false).await;
        let mut news = next(&mut device).await;
        if matches!(news, Ok(News::Away)) {
            news = next(&mut device).await;
        }
        assert!(matches!(news, Err(DeviceError::Impostor { .. })), "{news:?}");
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn the_bare_password_is_not_shown_after_scram_was_offered() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        let mut peer = server.accept().await;
        peer.hears("version='1.0'", "stream:stream").await;
        let both = SASL2.replace("PLAIN", "PLAIN</mechanism><mechanism>SCRAM-SHA-256");
        peer.says(&format!("{HEADER}{both}")).await;
        peer.hears("mechanism='SCRAM-SHA-256'", "authenticate").await;
        drop(peer);
        let mut peer = server.accept().await;
        peer.hears("version='1.0'", "stream:stream").await;
        peer.says(&format!("{HEADER}{SASL2}")).await;
        let mut rest = String::new();
        let _ = peer.0.read_to_string(&mut rest).await; // how it ends does not matter
        assert!(!rest.contains("AHR2AHBlbmNpbA=="), "{rest}");
    };
    let story = async {
        let news = next(&mut device).await;
        assert!(matches!(news, Err(DeviceError::Impostor { .. })), "{news:?}");
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_says_and_another_host_is_followed() {
    let (server, other) = (Server::start().await, Server::start().await);
    let mut device = server.device(&server.ca());
    let error = |inner: &str| format!("{HEADER}<stream:error>{inner}</stream:error></stream:stream>");
    let script = async {
        let mut peer = server.accept().await;
        peer.hears("version='1.0'", "stream:stream").await;
        peer.says(&error(
            "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><retry xmlns='urn:unpoll:event:1' after='1'/>",
        ))
        .await;
        drop(peer);
        let mut peer = server.accept().await;
        peer.hears("version='1.0'", "stream:stream").await;
        let address = other.listener.local_addr().unwrap();
        peer.says(&error(&format!(
            "<see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{address}</see-other-host>"
        )))
        .await;
        // It comes, and does not trust the other's authority.
        let (socket, _) = other.listener.accept().await.unwrap();
        assert!(other.acceptor.accept(socket).await.is_err());
    };
    let story = async {
        let Ok(News::Retrying { pause, .. }) = device.next().await else {
            panic!("a refusal")
        };
        assert!(pause >= Duration::from_secs(1), "{pause:?}");
        let error = next(&mut device).await.unwrap_err();
        let DeviceError::Untrusted { address, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(*address, other.listener.local_addr().unwrap().to_string());
    };
    tokio::join!(script, story);
}

/// SCRAM-SHA-256 from the server's side (RFC 5802 §3), for the password "pencil".
struct Scram {
    salted: [u8; 32],
}

impl Scram {
    fn new() -> Self {
        let mut salted = [0; 32];
        let rounds = std::num::NonZeroU32::new(4_096).unwrap();
        aws_lc_rs::pbkdf2::derive(aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salt", b"pencil", &mut salted);
        Self { salted }
    }

    fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
    }

    fn proof(&self, auth: &[u8]) -> String {
        let client_key = Self::hmac(&self.salted, b"Client Key");
        let stored_key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &client_key);
        let signature = Self::hmac(stored_key.as_ref(), auth);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(one, other)| one ^ other).collect();
        data_encoding::BASE64.encode(&proof)
    }

    fn signature(&self, auth: &[u8]) -> String {
        let server_key = Self::hmac(&self.salted, b"Server Key");
        data_encoding::BASE64.encode(&Self::hmac(&server_key, auth))
    }
}

fn decoded(heard: &str, element: &str) -> String {
    let (_, rest) = heard.split_once(&format!("<{element}")).unwrap();
    let (text, _) = rest.split_once('>').unwrap().1.split_once('<').unwrap();
    String::from_utf8(data_encoding::BASE64.decode(text.as_bytes()).unwrap()).unwrap()
}

/// With `knows`, the server knows the password.
async fn accept_scram_plus(server: &Server, knows: bool) -> Peer {
    let mut peer = server.accept().await;
    peer.hears("version='1.0'", "stream:stream").await;
    let offer = SASL2.replace("PLAIN", "SCRAM-SHA-256-PLUS</mechanism><mechanism>SCRAM-SHA-256");
    let bindings = "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>";
    let offer = offer.replace("</stream:features>", &format!("{bindings}</stream:features>"));
    peer.says(&format!("{HEADER}{offer}")).await;
    let login = peer.hears("</authenticate>", "authenticate").await;
    let first = decoded(&login, "initial-response");
    let bare = first.strip_prefix("p=tls-exporter,,").unwrap_or_else(|| panic!("{first}"));
    let nonce = bare.strip_prefix("n=tv,r=").unwrap();
    let challenge = format!("r={nonce}server,s=c2FsdA==,i=4096");
    let base64 = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    peer.says(&format!("<challenge xmlns='urn:xmpp:sasl:2'>{}</challenge>", base64(&challenge)))
        .await;
    let last = decoded(&peer.hears("</response>", "response").await, "response");
    let (without_proof, proof) = last.split_once(",p=").unwrap();
    let (_, session) = peer.0.get_ref();
    let key = session
        .export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(b""))
        .unwrap();
    let binding = data_encoding::BASE64.encode(&[b"p=tls-exporter,,".as_slice(), &key].concat());
    assert_eq!(without_proof, format!("c={binding},r={nonce}server"));
    let auth = format!("{bare},{challenge},{without_proof}");
    let scram = Scram::new();
    assert_eq!(proof, scram.proof(auth.as_bytes()));
    let signature = scram.signature(if knows { auth.as_bytes() } else { b"a guess" });
    let inner = format!(
        "<additional-data>{}</additional-data>{}",
        base64(&format!("v={signature}")),
        bound("sm1")
    );
    peer.says(&format!("{}{AFTER}", success(&inner))).await;
    peer
}

#[tokio::test]
async fn the_password_is_proven_by_both_and_bound_to_the_connection() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        let mut peer = accept_scram_plus(&server, true).await;
        peer.hears("<presence", "presence").await;
        peer
    };
    tokio::join!(script, online(&mut device, false));
}

#[tokio::test]
async fn a_server_that_only_guesses_the_password_gets_no_device() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let story = async {
        let news = next(&mut device).await;
        assert!(matches!(news, Err(DeviceError::Impostor { .. })), "{news:?}");
    };
    tokio::join!(accept_scram_plus(&server, false), story);
}
