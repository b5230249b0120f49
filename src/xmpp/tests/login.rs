//! From the first byte to the seat.

use super::*;

fn scram_log_in(talk: &mut Talk, mechanism: &str, user: &str, password: &str) -> String {
    let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
    let challenge = talk.send(&auth(mechanism, &format!("n,,{bare}")));
    let server_first = decoded(inside(&challenge, "challenge"));
    assert!(server_first.starts_with("r=fyko+d2lbbFgONRv9qkxdawL"));
    talk.send(&response(&scram_final(
        mechanism == "SCRAM-SHA-1",
        password,
        &bare,
        "n,,",
        &server_first,
    )))
}

#[test]
fn a_device_logs_in_over_starttls_by_each_mechanism() {
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"] {
        let mut talk = Talk::with(config(), false);
        let out = talk.send(HEADER);
        assert!(out.starts_with("<?xml version='1.0'?><stream:stream "));
        assert!(
            out.ends_with("<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>")
        );
        assert_eq!(
            talk.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
            "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
        );
        assert!(talk.tls);
        let out = talk.send(HEADER);
        assert!(out.contains("<mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism>"));
        assert!(
            out.contains("<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>16384</max-bytes><idle-seconds>10</idle-seconds></limits>")
        );
        let success = match mechanism {
            "PLAIN" => talk.send(PLAIN),
            _ => scram_log_in(&mut talk, mechanism, "stb-1", "pencil"),
        };
        assert!(
            success.starts_with("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"),
            "{mechanism}: {success}"
        );
        if mechanism != "PLAIN" {
            assert!(decoded(inside(&success, "success")).starts_with("v="));
        }
        let out = talk.send(HEADER).replace(crate::xmpp::disco::caps(), "");
        assert!(out.ends_with(
            "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>\
             <session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session><sm xmlns='urn:xmpp:sm:3'/>\
             <csi xmlns='urn:xmpp:csi:0'/><limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>262144</max-bytes>\
             <idle-seconds>600</idle-seconds></limits></stream:features>"
        ));
        assert_eq!(
            talk.send(BIND),
            "<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>stb-1@example.com/main</jid></bind></iq>"
        );
        assert_eq!(talk.claims, 1);
        assert_eq!(talk.stream.session().unwrap().epoch(), Epoch(1));
    }
}

#[test]
fn stream_ids_differ_and_tell_nothing() {
    let mut talk = Talk::new();
    let first = talk.send(HEADER);
    talk.send(PLAIN);
    let second = talk.send(HEADER);
    let id = |out: &str| out.split(" id='").nth(1).unwrap()[..32].to_owned();
    assert_ne!(id(&first), id(&second));
}

#[test]
fn bytes_in_clear_behind_starttls_are_thrown_away() {
    let mut talk = Talk::with(config(), false);
    talk.send(HEADER);
    let out = talk.send(&format!(
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{HEADER}{PLAIN}{HEADER}{BIND}"
    ));
    assert_eq!(out, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(talk.claims, 0);
    assert!(talk.send(HEADER).contains("<mechanisms"));
}

#[test]
fn a_second_starttls_fails() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    assert_eq!(
        talk.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>"
    );
    assert_eq!(talk.facts(), ["over"]);
}

#[test]
fn a_login_in_clear_is_allowed_only_where_it_is_configured() {
    let mut talk = Talk::with(config(), false);
    talk.send(HEADER);
    assert_eq!(
        talk.send(PLAIN),
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><encryption-required/></failure>"
    );
    let plaintext = StreamConfig {
        allow_plaintext: true,
        ..config()
    };
    let mut talk = Talk::with(plaintext, false);
    let out = talk.send(HEADER);
    assert!(
        out.contains("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'></starttls><mechanisms"),
        "{out}"
    );
    assert!(talk.send(PLAIN).starts_with("<success"));
}

#[test]
fn every_failure_of_a_login_has_its_condition_and_allows_another_try() {
    let check = |auth: &str, condition: &str| {
        let mut talk = Talk::new();
        talk.send(HEADER);
        assert_eq!(
            talk.send(auth),
            format!("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{condition}/></failure>"),
            "{auth}"
        );
        assert!(talk.send(PLAIN).starts_with("<success"), "{auth}");
    };
    let plain = |message: &str| auth("PLAIN", message);
    check(&plain("\0stb-1\0pen"), "not-authorized");
    check(&plain("\0nobody\0pencil"), "not-authorized");
    check(&plain("\0not a name\0pencil"), "not-authorized");
    check(&plain("\0no-store\0pencil"), "temporary-auth-failure");
    check(&plain("stb-1"), "malformed-request");
    check(&plain("\0stb-1\0"), "malformed-request");
    check(&plain("stb-2@example.com\0stb-1\0pencil"), "invalid-authzid");
    check(&plain("stb-1@other.example\0stb-1\0pencil"), "invalid-authzid");
    check(&auth("DIGEST-MD5", ""), "invalid-mechanism");
    check(&auth("SCRAM-SHA-256-PLUS", "n,,n=stb-1,r=x"), "invalid-mechanism");
    check(&auth("SCRAM-SHA-256", "p=tls-exporter,,n=stb-1,r=x"), "malformed-request");
    check(&auth("SCRAM-SHA-256", "n,,m=x,n=stb-1,r=x"), "malformed-request");
    check(&auth("SCRAM-SHA-256", "n,,n=stb-1"), "malformed-request");
    check(&auth("SCRAM-SHA-256", "n,,n=stb=1,r=x"), "malformed-request");
    check(&auth("SCRAM-SHA-256", "n,a=stb-2@example.com,n=stb-1,r=x"), "invalid-authzid");
    check(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%%%</auth>",
        "incorrect-encoding",
    );
    check(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AP9hAGI=</auth>",
        "malformed-request",
    );
    check("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "aborted");
    check(
        "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>eA==</response>",
        "malformed-request",
    );
}

#[test]
fn scram_fails_for_a_wrong_password_an_unknown_device_and_a_missing_verifier_alike() {
    let failed = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1"] {
        let mut talk = Talk::new();
        talk.send(HEADER);
        assert_eq!(scram_log_in(&mut talk, mechanism, "stb-1", "pen"), failed);
        assert_eq!(scram_log_in(&mut talk, mechanism, "nobody", "pencil"), failed);
    }
    let mut talk = Talk::new();
    talk.secrets = vec![ScramSecret {
        sha1: None,
        ..SECRET.clone()
    }];
    talk.send(HEADER);
    assert_eq!(scram_log_in(&mut talk, "SCRAM-SHA-1", "stb-1", "pencil"), failed);
    assert!(scram_log_in(&mut talk, "SCRAM-SHA-256", "stb-1", "pencil").starts_with("<success"));
}

#[test]
fn scram_checks_nonce_and_binding() {
    let failed = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";
    for (gs2, change_nonce) in [("y,,", false), ("n,,", true)] {
        let mut talk = Talk::new();
        talk.send(HEADER);
        let challenge = talk.send(&auth("SCRAM-SHA-256", "n,,n=stb-1,r=abc"));
        let mut server_first = decoded(inside(&challenge, "challenge"));
        if change_nonce {
            server_first = server_first.replacen("r=abc", "r=abd", 1);
        }
        let last = scram_final(false, "pencil", "n=stb-1,r=abc", gs2, &server_first);
        assert_eq!(talk.send(&response(&last)), failed);
    }
}

#[test]
fn an_unknown_device_shows_the_same_salt_at_every_login() {
    let salt = |user: &str| {
        let mut talk = Talk::new();
        talk.send(HEADER);
        let out = talk.send(&auth("SCRAM-SHA-256", &format!("n,,n={user},r=abc")));
        let first = decoded(inside(&out, "challenge"));
        let salt = first.split(',').nth(1).unwrap().to_owned();
        (salt, first.split(',').nth(2).unwrap().to_owned())
    };
    assert_eq!(salt("nobody"), salt("nobody"));
    assert_ne!(salt("nobody").0, salt("no-one").0);
    assert_eq!(salt("nobody").1, salt("stb-1").1);
    assert_eq!(salt("nobody").0.len(), salt("stb-1").0.len());
}

#[test]
fn a_password_check_that_fails_by_a_bug_is_no_wrong_password() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    let plain = auth("PLAIN", "\0stb-1\0pencil");
    talk.stream.receive(plain.as_bytes(), talk.now, talk.time);
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
            Action::CheckPassword { .. } => talk.stream.password_checked(None, talk.now),
            other => panic!("{other:?}"),
        }
    }
    assert!(talk.output().contains("<temporary-auth-failure/>"));
    assert_eq!(
        talk.send(&plain),
        "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
        "it may try again"
    );
}

#[test]
fn without_the_store_a_token_is_taken_and_no_password() {
    for (is_token, expected) in [(true, "<success "), (false, "<temporary-auth-failure/>")] {
        let mut talk = Talk::new();
        talk.send(HEADER);
        let plain = auth("PLAIN", "\0stb-1\0pencil");
        talk.stream.receive(plain.as_bytes(), talk.now, talk.time);
        while let Some(action) = talk.stream.next_action() {
            match action {
                Action::FindCredentials { .. } => talk.stream.credentials_found(Credentials::Unavailable, talk.now),
                Action::CheckPassword { secrets, device, .. } => {
                    assert!(secrets.is_empty() && device.is_some());
                    if is_token {
                        talk.stream.token_accepted(0, talk.now);
                    } else {
                        // Whatever the check of a password says.
                        talk.stream.password_checked(Some(true), talk.now);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        let out = talk.output();
        assert!(out.contains(expected), "{out}");
    }
}

#[test]
fn the_exchange_of_rfc_7677_is_reproduced() {
    use super::sasl::scram::{Challenge, ClientFirst, Hash};
    let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let secret = known_secret(&salt, "pencil");
    let first = ClientFirst::parse("n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false, &Bindings::default()).unwrap();
    let nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let challenge = Challenge::new(Hash::Sha256, first, &[secret], None, 0, TenantId(0), nonce);
    assert_eq!(
        challenge.message(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(challenge.verify(last), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".into()));
}

#[test]
fn the_exchange_of_rfc_5802_is_reproduced() {
    use super::sasl::scram::{Challenge, ClientFirst, Hash};
    let salt = BASE64_STANDARD.decode("QSXCR+Q6sek8bf92").unwrap();
    let secret = known_secret(&salt, "pencil");
    let first = ClientFirst::parse("n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", false, &Bindings::default()).unwrap();
    let challenge = Challenge::new(Hash::Sha1, first, &[secret], None, 0, TenantId(0), "3rfcNHYJY1ZVvWVs7j");
    assert_eq!(
        challenge.message(),
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
    );
    let last = "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=";
    assert_eq!(challenge.verify(last), Ok("v=rmF9pqV8S7suAoZWja4dJRkFsKQ=".into()));
}

/// Both verifiers of a password with a salt of the RFCs.
fn known_secret(salt: &[u8], password: &str) -> ScramSecret {
    use crate::domain::ScramVerifier;
    let verifier = |kdf, mac, hash: &'static digest::Algorithm| {
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(kdf, 4096.try_into().unwrap(), salt, password.as_bytes(), &mut salted);
        let key = hmac::Key::new(mac, &salted);
        ScramVerifier {
            salt: salt.to_vec(),
            iterations: 4096,
            stored_key: digest::digest(hash, hmac::sign(&key, b"Client Key").as_ref()).as_ref().to_vec(),
            server_key: hmac::sign(&key, b"Server Key").as_ref().to_vec(),
        }
    };
    ScramSecret {
        sha256: verifier(pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
        sha1: Some(verifier(
            pbkdf2::PBKDF2_HMAC_SHA1,
            hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
        )),
    }
}

#[test]
fn a_login_without_its_first_message_is_asked_for_it() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    let out = talk.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>");
    assert_eq!(out, "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
    assert!(talk.send(&response("\0stb-1\0pencil")).starts_with("<success"));
}

#[test]
fn a_device_may_name_itself_and_change_the_case() {
    for (mechanism, message) in [
        ("PLAIN", "stb-1@example.com\0stb-1\0pencil"),
        ("PLAIN", "STB-1@Example.COM\0Stb-1\0pencil"),
    ] {
        let mut talk = Talk::new();
        talk.send(HEADER);
        assert!(talk.send(&auth(mechanism, message)).starts_with("<success"), "{message}");
    }
    let mut talk = Talk::new();
    talk.send(HEADER);
    let gs2 = "y,a=stb-1@example.com,";
    let challenge = talk.send(&auth("SCRAM-SHA-256", &format!("{gs2}n=STB-1,r=abc")));
    let server_first = decoded(inside(&challenge, "challenge"));
    let last = scram_final(false, "pencil", "n=STB-1,r=abc", gs2, &server_first);
    assert!(talk.send(&response(&last)).starts_with("<success"));
    talk.send(HEADER);
    assert!(talk.send(BIND).contains("<jid>stb-1@example.com/main</jid>"));
}

#[test]
fn the_third_failure_ends_the_stream() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    let wrong = auth("PLAIN", "\0stb-1\0pen");
    for _ in 0..2 {
        assert!(talk.send(&wrong).ends_with("</failure>"));
    }
    let out = talk.send(&wrong);
    assert!(out.contains("</failure><stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"));
    assert!(out.ends_with("</stream:error></stream:stream>"));
    assert_eq!(talk.facts(), ["over"]);
    assert_eq!(talk.send(PLAIN), "");
}

#[test]
fn either_of_two_passwords_logs_in() {
    let new = ScramSecret::derive(&Password("crayon".into()), 4096).unwrap();
    let mut talk = Talk::new();
    talk.secrets = vec![new.clone(), SECRET.clone()];
    talk.send(HEADER);
    assert!(talk.send(PLAIN).starts_with("<success"));
    // SCRAM shows one salt a try: the second try shows the other.
    let mut talk = Talk::new();
    talk.secrets = vec![new, SECRET.clone()];
    talk.send(HEADER);
    assert!(scram_log_in(&mut talk, "SCRAM-SHA-256", "stb-1", "pencil").starts_with("<failure"));
    assert!(scram_log_in(&mut talk, "SCRAM-SHA-256", "stb-1", "pencil").starts_with("<success"));
}

#[test]
fn two_passwords_of_one_salt_are_tried_together() {
    let salt = [9; 16];
    let mut talk = Talk::new();
    talk.secrets = vec![known_secret(&salt, "crayon"), known_secret(&salt, "pencil")];
    talk.send(HEADER);
    assert!(scram_log_in(&mut talk, "SCRAM-SHA-1", "stb-1", "pencil").starts_with("<success"));
}

#[test]
fn a_resource_is_taken_as_given_or_made_up_or_refused() {
    let bind = |inner: &str| format!("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>{inner}</bind></iq>");
    let jid = |inner: &str| {
        let mut talk = Talk::new();
        talk.log_in();
        let out = talk.send(&bind(inner));
        out.contains("<jid>").then(|| inside(&out, "jid").to_owned()).ok_or(out)
    };
    assert_eq!(
        jid("<resource>Küche &amp; Bad</resource>").unwrap(),
        "stb-1@example.com/Küche &amp; Bad"
    );
    let made = jid("").unwrap();
    assert_eq!(made.len(), "stb-1@example.com/".len() + 32);
    let long = |length| format!("<resource>{}</resource>", "x".repeat(length));
    assert!(jid(&long(1023)).is_ok());
    for refused in [long(1024), "<resource>a&#9;b</resource>".into()] {
        assert!(jid(&refused).unwrap_err().contains(
            "<iq type='error' id='b' to='stb-1@example.com'><error type='modify'>\
             <bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
        ));
    }
}

#[test]
fn a_seat_that_cannot_be_had_now_may_be_asked_for_again() {
    let mut talk = Talk::new();
    talk.log_in();
    talk.stream.receive(BIND.as_bytes(), talk.now, talk.time);
    assert!(matches!(talk.stream.next_action(), Some(Action::Claim { .. })));
    talk.stream.claim_failed(true, talk.now);
    let out = talk.output();
    assert!(out.contains("<error type='wait'><resource-constraint"), "{out}");
    assert!(talk.send(BIND).contains("<jid>"));

    let mut talk = Talk::new();
    talk.log_in();
    talk.stream.receive(BIND.as_bytes(), talk.now, talk.time);
    talk.stream.next_action();
    talk.stream.claim_failed(false, talk.now);
    assert!(
        talk.output()
            .contains("<not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>")
    );
    talk.answer();
    assert_eq!(talk.facts(), ["over"]);
}

#[test]
fn negotiation_out_of_order_is_refused() {
    let error = |before: &dyn Fn(&mut Talk), stanza: &str| {
        let mut talk = Talk::new();
        talk.send(HEADER);
        before(&mut talk);
        let out = talk.send(stanza);
        assert_eq!(talk.facts(), ["over"], "{stanza}");
        assert_eq!(talk.claims, 0);
        out.split("<stream:error><").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let fresh = |_: &mut Talk| {};
    for stanza in [
        "<message/>",
        "<presence/>",
        BIND,
        ENABLE,
        "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>",
    ] {
        assert_eq!(error(&fresh, stanza), "not-authorized", "{stanza}");
    }
    assert_eq!(error(&fresh, "<x xmlns='urn:x'/>"), "unsupported-stanza-type");
    let logged_in = |talk: &mut Talk| {
        talk.send(PLAIN);
        talk.send(HEADER);
    };
    for stanza in [
        "<message/>",
        "<presence/>",
        "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
    ] {
        assert_eq!(error(&logged_in, stanza), "not-authorized", "{stanza}");
    }
    assert_eq!(error(&logged_in, PLAIN), "unsupported-stanza-type");
    // The stream must be opened anew after a login.
    let only_logged_in = |talk: &mut Talk| {
        talk.send(PLAIN);
    };
    assert_eq!(error(&only_logged_in, BIND), "invalid-namespace");
}

#[test]
fn after_login_the_stream_must_stay_with_its_tenant() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    talk.send(PLAIN);
    assert!(
        talk.send(&HEADER.replace("example.com", "other.example"))
            .contains("<host-unknown ")
    );
}

#[test]
fn a_failed_resumption_may_be_followed_by_a_bind() {
    let mut talk = Talk::new();
    talk.log_in();
    let check = |talk: &mut Talk, resume: &str, failed: &str| {
        assert_eq!(
            talk.send(resume),
            format!("<failed xmlns='urn:xmpp:sm:3'{failed}</failed>"),
            "{resume}"
        );
    };
    let not_found = " h='9'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>";
    let bad = "><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>";
    let early = "><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>";
    check(&mut talk, "<resume xmlns='urn:xmpp:sm:3' previd='nonsense' h='4'/>", not_found);
    check(&mut talk, "<resume xmlns='urn:xmpp:sm:3' previd='nonsense' h='x'/>", bad);
    check(&mut talk, "<resume xmlns='urn:xmpp:sm:3' h='1'/>", bad);
    check(&mut talk, ENABLE, early);
    assert!(talk.send(BIND).contains("<jid>"));
    check(&mut talk, "<resume xmlns='urn:xmpp:sm:3' previd='nonsense' h='4'/>", early);
}

#[test]
fn what_a_login_costs_is_told_when_it_is_over() {
    let mut talk = Talk::new();
    talk.log_in();
    assert_eq!(talk.stream.traffic(), Traffic::default());
    talk.send(BIND);
    let traffic = talk.stream.traffic();
    assert_eq!(traffic.received[0] as usize, 2 * HEADER.len() + PLAIN.len() + BIND.len());
    assert!(traffic.sent[0] > 500);
    assert_eq!(talk.stream.traffic(), Traffic::default());
}
