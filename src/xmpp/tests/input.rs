//! What a peer may send before and after login, and how it is cut.

use super::*;

/// Runs `inputs`, one `receive` each, and answers output and facts.
fn run(secured: bool, inputs: &[&[u8]]) -> (String, Vec<String>, usize) {
    let mut talk = Talk::with(config(), secured);
    let mut out = String::new();
    for input in inputs {
        out.push_str(&talk.send_bytes(input));
    }
    (out, talk.facts(), talk.claims)
}

/// Everything a session does, as one input: login by SCRAM, bind, stream management, stanzas, the end.
fn whole_life() -> String {
    let mut talk = Talk::new();
    talk.send(HEADER);
    let auth = auth("SCRAM-SHA-256", "n,,n=stb-1,r=abc");
    let challenge = talk.send(&auth);
    let server_first = decoded(inside(&challenge, "challenge"));
    let last = response(&scram_final(false, "pencil", "n=stb-1,r=abc", "n,,", &server_first));
    [
        HEADER,
        &auth,
        &last,
        "\n",
        HEADER,
        BIND,
        " \r\n\t",
        ENABLE,
        "<presence><priority>5</priority></presence>",
        "<iq type='get' id='q&amp;1' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
        "<a xmlns='urn:xmpp:sm:3' h='1'/>",
        "<message to='example.com'><body>Жук &lt;&#x416;&gt; <![CDATA[<&>]]></body></message>",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a h='2' xmlns=\"urn:xmpp:sm:3\"></a>",
        "<s:message xmlns:s='jabber:client' s:x='1' x='2'/>",
        "<active xmlns='urn:xmpp:csi:0'/>",
        "</stream:stream>",
    ]
    .concat()
}

#[test]
fn any_cut_of_the_input_gives_the_same_answers() {
    let input = whole_life();
    let input = input.as_bytes();
    let whole = run(true, &[input]);
    assert!(whole.0.ends_with("</stream:stream>"), "{}", whole.0);
    assert!(whole.0.contains("<a xmlns='urn:xmpp:sm:3' h='3'/>"), "{}", whole.0);
    assert_eq!(whole.1, ["ready", "over"]);
    for at in 0..=input.len() {
        assert_eq!(run(true, &[&input[..at], &input[at..]]), whole, "cut at {at}");
    }
    let bytes: Vec<_> = input.chunks(1).collect();
    assert_eq!(run(true, &bytes), whole);
}

#[test]
fn any_cut_of_bad_input_gives_the_same_error() {
    for bad in [
        "<message><body>x</message>",
        "<a xmlns='urn:xmpp:sm:3' h='99'/>",
        "<!DOCTYPE x>",
        "<iq>&a;</iq>",
        "<message>\u{1}</message>",
        "x",
    ] {
        let input = format!("{HEADER}{PLAIN}{HEADER}{BIND}{ENABLE}{bad}<presence/>");
        let input = input.as_bytes();
        let whole = run(true, &[input]);
        assert!(whole.0.ends_with("</stream:error></stream:stream>"));
        for at in 0..=input.len() {
            assert_eq!(run(true, &[&input[..at], &input[at..]]), whole, "{bad} cut at {at}");
        }
    }
}

#[test]
fn a_parser_that_rests_between_stanzas_reads_the_same() {
    let input = whole_life();
    let mut talk = Talk::new();
    let mut out = String::new();
    for byte in input.as_bytes().chunks(1) {
        out.push_str(&talk.send_bytes(byte));
        talk.stream.rest();
    }
    assert_eq!(out, run(true, &[input.as_bytes()]).0);
}

#[test]
fn a_header_with_other_prefixes_is_remembered_while_the_parser_rests() {
    let header = "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns:c='jabber:client' xmlns:p='urn:xmpp:ping' \
        to='example.com' version='1.0'>";
    let mut talk = Talk::new();
    talk.send(header);
    talk.send(PLAIN);
    talk.send(header);
    let bind = "<c:iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></c:iq>";
    assert!(talk.send(bind).contains("<jid>"));
    talk.stream.rest();
    let out = talk.send("<c:iq type='get' id='1'><p:ping/></c:iq>");
    assert!(out.starts_with("<iq type='result' id='1'"), "{out}");
    talk.stream.rest();
    assert_eq!(talk.send("</s:stream>"), "</stream:stream>");
    assert_eq!(talk.facts(), ["over"]);
}

/// The condition of the stream error that `input` leads to.
fn error_of(mut talk: Talk, input: &[u8]) -> String {
    let out = talk.send_bytes(input);
    assert_eq!(talk.facts(), ["over"], "{out}");
    assert!(out.ends_with("</stream:error></stream:stream>"), "{out}");
    let error = &out[out.find("<stream:error><").unwrap() + "<stream:error><".len()..];
    let name = error.split(' ').next().unwrap().to_owned();
    if error.contains("<stanza-too-big xmlns='urn:xmpp:errors'/>") {
        format!("{name}: stanza-too-big")
    } else {
        name
    }
}

#[test]
fn bad_xml_is_refused_before_and_after_login() {
    let attributes = |count: usize| (0..count).map(|n| format!(" a{n}=''")).collect::<String>();
    let nested = |depth: usize| format!("<message>{}", "<a>".repeat(depth - 1));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"<message><body>x</message>".to_vec(), "not-well-formed"),
        (b"<message a='1' a='2'/>".to_vec(), "not-well-formed"),
        (b"<message x:a='1'/>".to_vec(), "not-well-formed"),
        (b"<x:message/>".to_vec(), "not-well-formed"),
        (b"<message xmlns:x='u' xmlns:y='u' x:a='1' y:a='2'/>".to_vec(), "not-well-formed"),
        (b"<message>\xff</message>".to_vec(), "not-well-formed"),
        (b"<message>\0</message>".to_vec(), "not-well-formed"),
        (b"<message>&#0;</message>".to_vec(), "not-well-formed"),
        ("<message>\u{ffff}</message>".as_bytes().to_vec(), "not-well-formed"),
        (b"</message>".to_vec(), "not-well-formed"),
        (b"<>".to_vec(), "not-well-formed"),
        (b"hello".to_vec(), "bad-format"),
        (b"<![CDATA[x]]>".to_vec(), "bad-format"),
        (b"<!-- -->".to_vec(), "restricted-xml"),
        (b"<message><!-- --></message>".to_vec(), "restricted-xml"),
        (b"<?pi x?>".to_vec(), "restricted-xml"),
        (b"<message><?pi x?></message>".to_vec(), "restricted-xml"),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]>".to_vec(), "restricted-xml"),
        (b"<message>&a;</message>".to_vec(), "restricted-xml"),
        (b"<message a='&a;'/>".to_vec(), "restricted-xml"),
        (format!("<message{}/>", attributes(65)).into_bytes(), "policy-violation"),
        (nested(33).into_bytes(), "policy-violation"),
        (nested(6000).into_bytes(), "policy-violation"),
    ];
    for (input, condition) in cases {
        let shown = String::from_utf8_lossy(&input[..input.len().min(60)]).into_owned();
        let mut early = Talk::new();
        early.send(HEADER);
        assert_eq!(error_of(early, &input), condition, "before login: {shown}");
        assert_eq!(error_of(Talk::bound(), &input), condition, "after login: {shown}");
    }
    // What is just allowed.
    let mut talk = Talk::bound();
    assert_eq!(talk.send(&format!("<message{}/>", attributes(64))), "");
    assert_eq!(
        talk.send(&format!("<message>{}{}</message>", "<a>".repeat(31), "</a>".repeat(31))),
        ""
    );
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn a_wrong_header_is_answered_by_ours_and_an_error() {
    let cases = [
        (HEADER.replace("example.com", "example.org"), "host-unknown"),
        (HEADER.replace(" to='example.com'", ""), "host-unknown"),
        (HEADER.replace("jabber:client", "jabber:server"), "invalid-namespace"),
        (
            HEADER.replace("etherx.jabber.org/streams", "etherx.jabber.org/x"),
            "invalid-namespace",
        ),
        (HEADER.replace(" version='1.0'>", ">"), "unsupported-version"),
        (HEADER.replace("stream:stream", "stream:strom"), "bad-format"),
        (HEADER.replace("version='1.0'?", "version='1.1'?"), "restricted-xml"),
        ("GET / HTTP/1.1\r\n".into(), "not-well-formed"),
        ("\u{16}\u{3}\u{1}".into(), "not-well-formed"),
        ("<message>".into(), "invalid-namespace"),
        (format!("<!DOCTYPE x>{HEADER}"), "restricted-xml"),
        (
            HEADER.replace("xmlns:stream='http://etherx.jabber.org/streams'", ""),
            "not-well-formed",
        ),
        (
            HEADER.replace("<stream", &format!("<stream{}", "a".repeat(20_000))),
            "policy-violation",
        ),
    ];
    for (header, condition) in cases {
        let mut talk = Talk::with(config(), false);
        let out = talk.send(&header);
        assert!(
            out.starts_with("<?xml version='1.0'?><stream:stream xmlns='jabber:client'"),
            "{out}"
        );
        assert!(
            out.contains(&format!("<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>")),
            "{header}: {out}"
        );
        assert_eq!(talk.facts(), ["over"]);
    }
    let mut talk = Talk::new();
    let out = talk.send(&HEADER.replace("example.com", "Example.COM"));
    assert!(out.contains(" from='example.com' "), "{out}");
}

#[test]
fn a_huge_stanza_is_refused_at_the_limit_and_not_gathered() {
    for (logged_in, limit) in [(false, 16 * 1024), (true, 256 * 1024)] {
        let make = || {
            if logged_in {
                return Talk::bound();
            }
            let mut talk = Talk::new();
            talk.send(HEADER);
            talk
        };
        let piece = "x".repeat(1000);
        let mut talk = make();
        talk.send("<message><body>");
        let mut sent = 15;
        let mut most = 0;
        while talk.facts().is_empty() {
            let out = talk.send(&piece);
            sent += piece.len();
            most = most.max(talk.stream.memory());
            assert!(sent <= limit + piece.len(), "{sent} bytes were taken");
            assert_eq!(out.is_empty(), sent <= limit);
        }
        assert!(most < 3 * limit + 64 * 1024, "{most} bytes were held");
        let huge = "x".repeat(10 * limit);
        for input in [
            format!("<message>{huge}</message>"),
            format!("<message>{}</message>", "<a/>".repeat(limit / 3)),
        ] {
            assert_eq!(error_of(make(), input.as_bytes()), "policy-violation: stanza-too-big");
        }
    }
    // What is just allowed.
    let mut talk = Talk::bound();
    let frame = "<message></message>".len();
    assert_eq!(talk.send(&format!("<message>{}</message>", "x".repeat(256 * 1024 - frame))), "");
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn what_is_sent_ahead_of_an_answer_is_bounded() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    talk.stream.receive(PLAIN.as_bytes(), talk.now, talk.time);
    for _ in 0..17 {
        talk.stream.receive(&[b'x'; 1000], talk.now, talk.time);
    }
    assert!(talk.output().contains("<policy-violation"));
    assert!(talk.stream.memory() < 8 * 1024);
}

#[test]
fn a_stream_that_ends_at_once_is_ended() {
    let (out, facts, _) = run(true, &[HEADER.replace("'1.0'>", "'1.0'/>").as_bytes()]);
    assert!(out.ends_with("</stream:features></stream:stream>"), "{out}");
    assert_eq!(facts, ["over"]);
}

#[test]
fn an_idle_session_is_small() {
    let mut talk = Talk::managed();
    talk.send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>");
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert!(talk.stream.memory() > 8 * 1024);
    talk.stream.rest();
    assert!(talk.stream.memory() <= 1024, "{} bytes", talk.stream.memory());
}
