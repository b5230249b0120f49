//! Logging in by certificate.

use super::*;

const NAMED: &str = "stb-1@example.com";

/// A connection whose peer showed a certificate that names these.
fn showed(names: &[&str]) -> Talk {
    let mut talk = Talk::new();
    talk.stream.certificate(PeerCertificate {
        proves: names
            .iter()
            .map(|name| name.split_once('@').unwrap())
            .map(|(device, at)| (device.parse().unwrap(), at.to_owned()))
            .collect(),
        sha256: [7; 32],
    });
    talk
}

fn external(authzid: &str) -> String {
    let text = if authzid.is_empty() {
        "=".to_owned()
    } else {
        BASE64_STANDARD.encode(authzid)
    };
    format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>")
}

const SUCCESS: &str = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";

#[track_caller]
fn fails(talk: &mut Talk, authzid: &str, condition: &str) {
    talk.send(HEADER);
    let out = talk.send(&external(authzid));
    assert!(
        out.starts_with("<failure ") && out.contains(&format!("<{condition}")),
        "{authzid}: {out}"
    );
}

#[test]
fn a_certificate_that_names_the_device_is_enough() {
    for authzid in ["", NAMED, "STB-1@EXAMPLE.COM"] {
        for pinned in [Pinned::None { generation: 3 }, Pinned::This { generation: 3 }] {
            let mut talk = showed(&[NAMED]);
            talk.pinned = pinned;
            let features = talk.send(HEADER);
            assert!(
                features.contains("<mechanism>EXTERNAL</mechanism><mechanism>SCRAM-SHA-256</mechanism>"),
                "{features}"
            );
            assert_eq!(talk.send(&external(authzid)), SUCCESS, "{authzid}");
            assert!(!talk.send(HEADER).contains("EXTERNAL"));
            assert!(talk.send(BIND).contains("<jid>stb-1@example.com/main</jid>"));
        }
    }
}

#[test]
fn the_first_message_may_come_after_an_empty_challenge() {
    let mut talk = showed(&[NAMED]);
    talk.send(HEADER);
    let out = talk.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'/>");
    assert_eq!(out, "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
    assert_eq!(talk.send("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"), SUCCESS);
}

#[test]
fn without_a_certificate_it_is_neither_offered_nor_taken() {
    let mut talk = Talk::new();
    assert!(!talk.send(HEADER).contains("EXTERNAL"));
    assert!(talk.send(&external("")).contains("<invalid-mechanism"));
    // The password still opens the door.
    assert_eq!(talk.send(PLAIN), SUCCESS);
}

#[test]
fn what_was_shown_before_starttls_is_nothing() {
    let mut talk = Talk::with(config(), false);
    talk.stream.certificate(PeerCertificate {
        proves: Vec::new(),
        sha256: [7; 32],
    });
    talk.send(HEADER);
    talk.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(!talk.send(HEADER).contains("EXTERNAL"));
}

#[test]
fn whoever_is_not_named_is_told_so() {
    fails(&mut showed(&[NAMED]), "stb-2@example.com", "invalid-authzid");
    fails(&mut showed(&[NAMED]), "stb-1@other.example", "invalid-authzid");
    fails(&mut showed(&[NAMED]), "stb-1", "invalid-authzid");
    fails(&mut showed(&[NAMED]), "no device@example.com", "invalid-authzid");
    fails(&mut showed(&[NAMED]), "stb-1@example.com\0", "malformed-request");
    // One that names several, or none here, must say which.
    fails(&mut showed(&[NAMED, "stb-2@example.com"]), "", "invalid-authzid");
    fails(&mut showed(&["stb-1@other.example"]), "", "invalid-authzid");
    fails(&mut showed(&[]), "", "invalid-authzid");
    let mut several = showed(&[NAMED, "stb-2@example.com"]);
    several.send(HEADER);
    assert_eq!(several.send(&external(NAMED)), SUCCESS);
    // Named, and not in the registry.
    fails(&mut showed(&["stb-2@example.com"]), "", "not-authorized");
}

#[test]
fn a_pin_lets_in_one_certificate_and_no_other() {
    // Nobody vouches for it: the registry must know it.
    let mut talk = showed(&[]);
    talk.pinned = Pinned::This { generation: 3 };
    talk.send(HEADER);
    assert_eq!(talk.send(&external(NAMED)), SUCCESS);
    for unknown in [Pinned::None { generation: 3 }, Pinned::Other, Pinned::Unknown] {
        let mut talk = showed(&[]);
        talk.pinned = unknown;
        fails(&mut talk, NAMED, "invalid-authzid");
    }
    // It names the device, but the device is pinned to another.
    let mut talk = showed(&[NAMED]);
    talk.pinned = Pinned::Other;
    fails(&mut talk, "", "not-authorized");
    let mut talk = showed(&[NAMED]);
    talk.pinned = Pinned::Unavailable;
    fails(&mut talk, "", "temporary-auth-failure");
}

#[test]
fn a_device_that_can_be_judged_later_is_let_in_by_what_its_certificate_proves_and_no_more() {
    let mut talk = showed(&[NAMED]);
    talk.pinned = Pinned::Unread;
    talk.send(HEADER);
    assert_eq!(talk.send(&external("")), SUCCESS);
    // Nobody vouches for it: only the registry could know it.
    let mut talk = showed(&[]);
    talk.pinned = Pinned::Unread;
    fails(&mut talk, NAMED, "temporary-auth-failure");
}

#[test]
fn three_wrong_names_end_the_stream() {
    let mut talk = showed(&[NAMED]);
    fails(&mut talk, "a@example.com", "invalid-authzid");
    talk.send(&external("b@example.com"));
    let out = talk.send(&external("c@example.com"));
    assert!(out.contains("<policy-violation "), "{out}");
}

#[test]
fn any_cut_of_a_pipelined_login_is_the_same() {
    let all = format!("{HEADER}{}{HEADER}{BIND}", external(""));
    let whole = showed(&[NAMED]).send(&all);
    assert!(whole.contains("<jid>stb-1@example.com/main</jid>"), "{whole}");
    for cut in 0..all.len() {
        let mut talk = showed(&[NAMED]);
        let (first, rest) = all.as_bytes().split_at(cut);
        assert_eq!(talk.send_bytes(first) + &talk.send_bytes(rest), whole, "cut at {cut}");
    }
}

fn external2(authzid: &str) -> String {
    let text = if authzid.is_empty() {
        "=".to_owned()
    } else {
        BASE64_STANDARD.encode(authzid)
    };
    format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='EXTERNAL'><initial-response>{text}</initial-response>\
         <bind xmlns='urn:xmpp:bind:0'/></authenticate>"
    )
}

#[test]
fn sasl2_takes_the_certificate_and_binds_in_the_same_round_trip() {
    for authzid in ["", NAMED] {
        let mut talk = showed(&[NAMED]);
        let features = talk.send(HEADER);
        assert_eq!(features.matches("<mechanism>EXTERNAL</mechanism>").count(), 2, "{features}");
        let out = talk.send(&external2(authzid));
        assert!(
            out.starts_with("<success xmlns='urn:xmpp:sasl:2'>") && out.contains("stb-1@example.com/"),
            "{out}"
        );
        assert_eq!(talk.claims, 1);
    }
    let mut talk = Talk::new();
    assert!(!talk.send(HEADER).contains("EXTERNAL"));
    assert!(talk.send(&external2("")).contains("<invalid-mechanism"));
}

#[test]
fn sasl2_holds_the_header_to_the_certificate() {
    for (from, expected) in [
        ("stb-1@example.com", "<success "),
        ("STB-1@example.com/some", "<success "),
        ("stb-2@example.com", "<not-authorized"),
        ("example.com", "<not-authorized"),
    ] {
        let mut talk = showed(&[NAMED]);
        talk.send(&HEADER.replace(" to='", &format!(" from='{from}' to='")));
        let out = talk.send(&external2(""));
        assert!(out.contains(expected), "{from}: {out}");
    }
}
