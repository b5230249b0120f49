//! Login in one round trip (XEP-0388, 0386, 0484), and channel binding.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::domain::{FastMechanism, FastToken};

const DAY: u64 = 24 * 3600;
const AGENT: &str = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>fw</software></user-agent>";
const BIND_MANAGED: &str = "<bind xmlns='urn:xmpp:bind:0'><tag>stb</tag><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>";
const NOT_AUTHORIZED: &str = "<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>";

pub(super) fn bindings() -> Bindings {
    Bindings {
        exporter: Some([b'e'; 32]),
        end_point: Some(Arc::from(*b"certificate")),
    }
}

fn authenticate(mechanism: &str, message: &[u8], inside: &str) -> String {
    format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'><initial-response>{}</initial-response>{inside}</authenticate>",
        BASE64_STANDARD.encode(message)
    )
}

fn plain(inside: &str) -> String {
    authenticate("PLAIN", b"\0stb-1\0pencil", inside)
}

fn response2(message: &str) -> String {
    format!("<response xmlns='urn:xmpp:sasl:2'>{}</response>", BASE64_STANDARD.encode(message))
}

/// A fresh connection with TLS 1.3, its header said.
fn opened() -> Talk {
    let mut talk = Talk::new();
    talk.stream.bound_to(bindings());
    talk.send(HEADER);
    talk
}

/// The same for the device of another connection: what the store has, and the time, go on.
fn again(before: Talk) -> Talk {
    // Another connection has other random bytes.
    static CONNECTIONS: AtomicU8 = AtomicU8::new(8);
    let random = [CONNECTIONS.fetch_add(1, Ordering::Relaxed); 32];
    let mut talk = Talk::new();
    talk.stream = ServerStream::new(Arc::new(config()), true, random, talk.now);
    talk.stream.bound_to(bindings());
    talk.send(HEADER);
    talk.tokens = before.tokens;
    talk.time = before.time;
    talk.parked = before.parked;
    talk
}

fn attribute<'a>(xml: &'a str, name: &str) -> &'a str {
    let rest = &xml[xml.find(&format!(" {name}='")).unwrap_or_else(|| panic!("no {name} in {xml}")) + name.len() + 3..];
    &rest[..rest.find('\'').unwrap()]
}

/// The token that an answer gives out.
fn token(out: &str) -> String {
    attribute(&out[out.find("<token ").unwrap_or_else(|| panic!("no token in {out}"))..], "token").to_owned()
}

fn fast(mechanism: FastMechanism, user: &str, token: &str, inside: &str) -> String {
    let binding = match mechanism {
        FastMechanism::Expr => vec![b'e'; 32],
        FastMechanism::Endp => b"certificate".to_vec(),
        FastMechanism::None => Vec::new(),
    };
    let proof = FastToken::new(token.to_owned(), START, START).sign("Initiator", &binding);
    let message = [user.as_bytes(), b"\0", proof.as_ref()].concat();
    authenticate(
        mechanism.name(),
        &message,
        &format!("{AGENT}<fast xmlns='urn:xmpp:fast:0' count='1'/>{inside}"),
    )
}

#[test]
fn the_features_list_what_works_on_this_connection() {
    let mut talk = Talk::new();
    talk.stream.bound_to(bindings());
    let out = talk.send(HEADER);
    assert!(out.contains(
        "<mechanism>SCRAM-SHA-256-PLUS</mechanism><mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-256</mechanism>\
         <mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism></mechanisms><sasl-channel-binding \
         xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/><channel-binding type='tls-server-end-point'/>\
         </sasl-channel-binding><authentication xmlns='urn:xmpp:sasl:2'>"
    ));
    assert!(out.contains(
        "<inline><sm xmlns='urn:xmpp:sm:3'/><bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:sm:3'/><feature var='urn:xmpp:csi:0'/></inline></bind>\
         <fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-ENDP</mechanism>\
         <mechanism>HT-SHA-256-NONE</mechanism></fast></inline></authentication>"
    ));
    let out = Talk::new().send(HEADER);
    assert!(!out.contains("PLUS") && !out.contains("sasl-cb") && !out.contains("EXPR"), "{out}");
    assert!(out.contains("<fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast>"));
    assert!(!Talk::with(config(), false).send(HEADER).contains("authentication"));
}

#[test]
fn one_flight_logs_in_binds_and_manages_however_it_is_cut() {
    let flight = format!("{HEADER}{}<presence/>", plain(&format!("{AGENT}{BIND_MANAGED}")));
    let mut whole = Talk::new();
    let out = whole.send(&flight);
    let answer = &out[out.find("<success").unwrap()..];
    assert!(
        answer.starts_with("<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>stb-1@example.com/stb~"),
        "{answer}"
    );
    let jid = inside(answer, "authorization-identifier");
    assert_eq!(jid.len(), "stb-1@example.com/stb~".len() + 16);
    assert!(
        answer.replace(crate::xmpp::disco::caps(), "").contains(
            "</authorization-identifier><bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' \
         id='00000000000000000000000000000001' resume='true' max='300'/></bound></success><stream:features>\
         <csi xmlns='urn:xmpp:csi:0'/><limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes>\
         <idle-seconds>600</idle-seconds></limits></stream:features><presence"
        ),
        "{answer}"
    );
    assert_eq!((whole.claims, whole.facts()), (1, vec!["ready".to_owned()]));
    for at in 1..flight.len() {
        let mut talk = Talk::new();
        let (first, second) = flight.as_bytes().split_at(at);
        let cut = talk.send_bytes(first) + &talk.send_bytes(second);
        assert_eq!(cut, out, "cut at {at}");
    }
    let mut talk = Talk::new();
    let bytes: String = flight.bytes().map(|byte| talk.send_bytes(&[byte])).collect();
    assert_eq!(bytes, out);
}

#[test]
fn scram_says_its_last_word_in_the_success() {
    let bare = "n=stb-1,r=abcdef";
    let mut talk = opened();
    let challenge = talk.send(&authenticate("SCRAM-SHA-256", format!("n,,{bare}").as_bytes(), BIND_MANAGED));
    assert!(challenge.starts_with("<challenge xmlns='urn:xmpp:sasl:2'>"));
    let last = scram_final(false, "pencil", bare, "n,,", &decoded(inside(&challenge, "challenge")));
    let out = talk.send(&response2(&last));
    assert!(decoded(inside(&out, "additional-data")).starts_with("v="), "{out}");
    assert!(out.contains("<bound xmlns='urn:xmpp:bind:0'><enabled "));
}

#[test]
fn a_login_without_a_bind_goes_on_as_after_a_restart() {
    let mut talk = opened();
    let out = talk.send(&plain(""));
    assert!(
        out.starts_with(
            "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>stb-1@example.com</authorization-identifier></success>\
         <stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
        ),
        "{out}"
    );
    assert!(talk.send(BIND).contains("<jid>stb-1@example.com/main</jid>"));
    assert!(talk.send(&plain("")).contains("<unsupported-stanza-type"));
    let mut talk = opened();
    talk.send(&plain(""));
    assert!(talk.send(&plain("")).contains("<unsupported-stanza-type"));
}

#[test]
fn every_failure_is_of_this_protocol_and_allows_another_try() {
    let check = |said: &str, condition: &str| {
        let mut talk = opened();
        assert_eq!(
            talk.send(said),
            format!("<failure xmlns='urn:xmpp:sasl:2'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>"),
            "{said}"
        );
        assert!(talk.send(&plain("")).starts_with("<success"), "{said}");
    };
    check(&authenticate("PLAIN", b"\0stb-1\0pen", ""), "not-authorized");
    check(&authenticate("PLAIN", b"\0nobody\0pencil", BIND_MANAGED), "not-authorized");
    check(&authenticate("PLAIN", b"\0no-store\0pencil", ""), "temporary-auth-failure");
    check(&authenticate("PLAIN", b"x", ""), "malformed-request");
    check(&authenticate("DIGEST-MD5", b"x", ""), "invalid-mechanism");
    check(&plain("<bind xmlns='urn:xmpp:bind:0'><tag>a\tb</tag></bind>"), "malformed-request");
    let mut talk = opened();
    assert_eq!(
        talk.send("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'/>"),
        "<challenge xmlns='urn:xmpp:sasl:2'/>"
    );
    assert!(talk.send("<abort xmlns='urn:xmpp:sasl:2'/>").contains("<aborted "));
    assert!(talk.send(&auth("HT-SHA-256-NONE", "stb-1\0x")).contains("<invalid-mechanism/>"));
    let mut talk = Talk::with(config(), false);
    talk.send(HEADER);
    assert!(talk.send(&plain("")).contains("<encryption-required "));
}

#[test]
fn the_header_must_not_name_another() {
    for (from, works) in [
        ("stb-1@example.com", true),
        ("STB-1@example.com/x", true),
        ("stb-2@example.com", false),
        ("stb-1@evil", false),
    ] {
        let mut talk = Talk::new();
        talk.send(&HEADER.replace(" to=", &format!(" from='{from}' to=")));
        let out = talk.send(&plain(""));
        assert_eq!(out.starts_with("<success"), works, "{from}: {out}");
        assert_eq!(out == NOT_AUTHORIZED, !works, "{from}: {out}");
    }
}

#[test]
fn scram_plus_is_bound_to_the_connection() {
    let exporter = format!("p=tls-exporter,,{}", "e".repeat(32));
    let wrong = format!("p=tls-exporter,,{}", "f".repeat(32));
    for (mechanism, sha1) in [("SCRAM-SHA-256-PLUS", false), ("SCRAM-SHA-1-PLUS", true)] {
        for (header, bound, works) in [
            ("p=tls-exporter,,", exporter.as_str(), true),
            ("p=tls-server-end-point,,", "p=tls-server-end-point,,certificate", true),
            ("p=tls-exporter,,", wrong.as_str(), false),
            ("p=tls-exporter,,", "p=tls-exporter,,", false),
            ("p=tls-exporter,,", "n,,", false),
        ] {
            let bare = "n=stb-1,r=abcdef";
            let mut talk = opened();
            let challenge = talk.send(&auth(mechanism, &format!("{header}{bare}")));
            let last = scram_final(sha1, "pencil", bare, bound, &decoded(inside(&challenge, "challenge")));
            assert_eq!(talk.send(&response(&last)).starts_with("<success"), works, "{mechanism} {bound}");
            let mut talk = opened();
            let challenge = talk.send(&authenticate(mechanism, format!("{header}{bare}").as_bytes(), ""));
            let last = scram_final(sha1, "pencil", bare, bound, &decoded(inside(&challenge, "challenge")));
            assert_eq!(talk.send(&response2(&last)).starts_with("<success"), works, "{mechanism} {bound}");
        }
    }
}

#[test]
fn who_could_bind_and_saw_no_offer_was_cheated() {
    let mut talk = opened();
    let failed = talk.send(&auth("SCRAM-SHA-256", "y,,n=stb-1,r=abc"));
    assert!(failed.contains("<not-authorized/>"), "{failed}");
    assert!(
        talk.send(&auth("SCRAM-SHA-256-PLUS", "y,,n=stb-1,r=abc"))
            .contains("<malformed-request/>")
    );
    let mut talk = opened();
    assert!(
        talk.send(&auth("SCRAM-SHA-256-PLUS", "p=tls-unique,,n=stb-1,r=abc"))
            .contains("<not-authorized/>")
    );
    let mut talk = Talk::new();
    talk.send(HEADER);
    assert!(talk.send(&auth("SCRAM-SHA-256", "y,,n=stb-1,r=abc")).starts_with("<challenge"));
}

#[test]
fn a_token_logs_in_once_it_was_asked_for() {
    for mechanism in FastMechanism::ALL {
        let ask = format!("<request-token xmlns='urn:xmpp:fast:0' mechanism='{}'/>", mechanism.name());
        let mut talk = opened();
        let out = talk.send(&plain(&format!("{AGENT}{ask}{BIND_MANAGED}")));
        let given = token(&out);
        let mut talk = again(talk);
        let out = talk.send(&fast(mechanism, "stb-1", &given, BIND_MANAGED));
        assert!(out.contains("<bound ") && !out.contains("<token"), "{out}");
        let binding: &[u8] = match mechanism {
            FastMechanism::Expr => &[b'e'; 32],
            FastMechanism::Endp => b"certificate",
            FastMechanism::None => b"",
        };
        let signed = FastToken::new(given.clone(), START, START).sign("Responder", binding);
        assert_eq!(inside(&out, "additional-data"), BASE64_STANDARD.encode(signed));
        // Of another mechanism, user or program it is worth nothing.
        for other in FastMechanism::ALL.into_iter().filter(|other| *other != mechanism) {
            let mut talk = opened();
            assert_eq!(talk.send(&fast(other, "stb-1", &given, "")), NOT_AUTHORIZED);
        }
        talk = again(talk);
        assert_eq!(talk.send(&fast(mechanism, "nobody", &given, "")), NOT_AUTHORIZED);
        assert_eq!(
            talk.send(&fast(mechanism, "stb-1", &given, "").replace("d4565", "e4565")),
            NOT_AUTHORIZED
        );
    }
}

#[test]
fn a_token_that_the_claim_could_not_store_is_not_given_out() {
    let ask = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>";
    let mut talk = opened();
    talk.stream
        .receive(plain(&format!("{AGENT}{ask}{BIND_MANAGED}")).as_bytes(), talk.now, talk.time);
    while let Some(action) = talk.stream.next_action() {
        match action {
            Action::FindCredentials { .. } => talk.stream.credentials_found(
                Credentials::Found {
                    secrets: talk.secrets.clone(),
                    generation: 3,
                    tokens: FastTokens::default(),
                },
                talk.now,
            ),
            Action::CheckPassword { .. } => talk.stream.password_checked(Some(true), talk.now),
            Action::Claim { fast, .. } => {
                assert!(fast.is_some());
                talk.stream.tokens_withheld();
                talk.stream.claimed(Epoch(1), SessionId(1), talk.now);
            }
            other => panic!("{other:?}"),
        }
    }
    let out = talk.output();
    assert!(out.contains("<bound ") && !out.contains("<token"), "{out}");
}

#[test]
fn a_token_is_replaced_after_a_day_and_expires() {
    let ask = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>";
    let mut talk = opened();
    let out = talk.send(&plain(&format!("{AGENT}{ask}")));
    assert!(attribute(&out, "expiry").ends_with('Z'));
    let first = token(&out);
    talk = again(talk);
    talk.later(DAY);
    let login = |token: &str| fast(FastMechanism::Expr, "stb-1", token, BIND_MANAGED);
    let second = token(&talk.send(&login(&first)));
    assert_ne!(first, second);
    // The answer was lost: the first still works, and the one given now replaces the second.
    talk = again(talk);
    let third = token(&talk.send(&login(&first)));
    talk = again(talk);
    assert_eq!(talk.send(&login(&second)), NOT_AUTHORIZED);
    assert!(talk.send(&login(&third)).contains("<bound"));
    talk = again(talk);
    assert_eq!(talk.send(&login(&first)), NOT_AUTHORIZED);
    talk.later(14 * DAY);
    let out = talk.send(&login(&third));
    assert!(out.contains("<credentials-expired "), "{out}");
}

#[test]
fn a_token_can_be_taken_back_by_its_owner() {
    let ask = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>";
    let mut talk = opened();
    let given = token(&talk.send(&plain(&format!("{AGENT}{ask}"))));
    talk = again(talk);
    let login = fast(FastMechanism::None, "stb-1", &given, "");
    assert!(
        talk.send(&login.replace(" count='1'", " invalidate='true'"))
            .starts_with("<success")
    );
    talk = again(talk);
    assert_eq!(talk.send(&login), NOT_AUTHORIZED);
    // Without a program's id there is nobody to give a token to.
    let mut talk = opened();
    assert!(!talk.send(&plain(ask)).contains("<token"));
    let off = StreamConfig {
        fast_token: Duration::ZERO,
        ..config()
    };
    let mut talk = Talk::with(off, true);
    assert!(!talk.send(HEADER).contains("urn:xmpp:fast:0"));
    assert!(!talk.send(&plain(&format!("{AGENT}{ask}"))).contains("<token"));
}

#[test]
fn a_session_is_resumed_within_the_login_and_a_token_comes_along() {
    let mut before = Talk::managed();
    before.push(1);
    before.push(2);
    let parked = before.stream.take_session();
    let mut talk = opened();
    talk.parked = parked;
    let resume = "<resume xmlns='urn:xmpp:sm:3' previd='00000000000000000000000000000001' h='2'/>";
    let ask = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>";
    let out = talk.send(&plain(&format!("{AGENT}{ask}{resume}{BIND_MANAGED}")));
    assert!(
        out.starts_with(
            "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>stb-1@example.com/main</authorization-identifier>\
         <resumed xmlns='urn:xmpp:sm:3' previd='00000000000000000000000000000001' h='1'/><token "
        ),
        "{out}"
    );
    assert!(!out.contains("<bound") && !out.contains("features"), "{out}");
    assert_eq!((numbers(&out), talk.claims), (vec![2], 0));
    assert!(!talk.tokens.is_empty());
}

#[test]
fn a_refused_resumption_binds_in_the_same_trip() {
    let mut talk = opened();
    let resume = "<resume xmlns='urn:xmpp:sm:3' previd='00000000000000000000000000000007' h='2'/>";
    let out = talk.send(&plain(&format!("{AGENT}{resume}{BIND_MANAGED}")));
    assert!(
        out.contains(
            "</authorization-identifier><failed xmlns='urn:xmpp:sm:3' h='9'><item-not-found \
         xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed><bound xmlns='urn:xmpp:bind:0'><enabled "
        ),
        "{out}"
    );
    assert!(out.ends_with("</stream:features>"));
    let mut talk = opened();
    let out = talk.send(&plain("<resume xmlns='urn:xmpp:sm:3' h='2'/>"));
    assert!(
        out.contains("<failed xmlns='urn:xmpp:sm:3'><bad-request ") && out.ends_with("</stream:features>"),
        "{out}"
    );
    let mut talk = opened();
    let out = talk.send(&plain(resume));
    assert!(
        out.contains("<failed xmlns='urn:xmpp:sm:3' h='9'>") && !out.contains("<bound"),
        "{out}"
    );
    assert!(talk.send(BIND).contains("<jid>"));
}
