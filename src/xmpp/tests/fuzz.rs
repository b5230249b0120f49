//! Bytes in, no panic: mutations of real conversations, before and after login. `PROPTEST_CASES` sets how many.

use proptest::prelude::*;

use super::*;

/// Pieces that conversations are made of, right and wrong.
const PIECES: &[&str] = &[
    HEADER,
    PLAIN,
    BIND,
    ENABLE,
    "<?xml version='1.0'?>",
    "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>biwsbj1zdGItMSxyPWFiYw==</auth>",
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>biwsbj1zdGItMSxyPWFiYw==</auth>",
    "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>Yz1iaXdzLHI9YWJjLHA9YWJj</response>",
    "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
    "<presence/>",
    "<presence type='subscribe' to='a@b/c'/>",
    "<presence><priority>-1</priority></presence>",
    "<r xmlns='urn:xmpp:sm:3'/>",
    "<a xmlns='urn:xmpp:sm:3' h='1'/>",
    "<a xmlns='urn:xmpp:sm:3' h='2'/>",
    "<resume xmlns='urn:xmpp:sm:3' previd='00000000000000000000000000000001' h='1'/>",
    "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
    "<iq type='result' id='ping-1'/>",
    "<iq type='get' id='2' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
    "<message to='example.com'><received xmlns='urn:xmpp:receipts' id='aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'/></message>",
    "<message><body>&lt;&#x41;<![CDATA[x]]></body></message>",
    "<active xmlns='urn:xmpp:csi:0'/>",
    "<inactive xmlns='urn:xmpp:csi:0'/>",
    "<presence><keepalive xmlns='urn:unpoll:event:1' seconds='99'/></presence>",
    "</stream:stream>",
    "<a><b><c><d><e><f>",
    "&#0;&amp;&x;",
    "\u{0}\u{ffff}<",
    " \r\n\t",
    "'\">",
];

/// A wrong password: what a conversation without the right one is made of.
const WRONG: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHN0Yi0xAHBlbg==</auth>";

#[derive(Debug, Clone)]
struct Mutation {
    at: prop::sample::Index,
    to: u8,
    kind: u8,
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let mutation = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4).prop_map(|(at, to, kind)| Mutation { at, to, kind });
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 1..14);
    (any::<bool>(), pieces, prop::collection::vec(mutation, 0..6)).prop_map(|(login, pieces, mutations)| {
        let mut text = if login {
            [HEADER, PLAIN, HEADER, BIND, ENABLE, "<presence/>"].concat()
        } else {
            HEADER.to_owned()
        };
        text.extend(pieces);
        let mut bytes = text.into_bytes();
        for Mutation { at, to, kind } in mutations {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = to,
                1 => bytes.insert(at, to),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

/// Feeds it all and drives every timer; answers the most memory held.
fn survive(talk: &mut Talk, bytes: &[u8], cut: usize) -> usize {
    let mut most = 0;
    for (round, chunk) in bytes.chunks(cut.max(1)).enumerate() {
        talk.send_bytes(chunk);
        talk.push(round as u64 + 1);
        talk.flush();
        most = most.max(talk.stream.memory());
        if round % 3 == 0 {
            talk.stream.rest();
        }
        talk.later(1);
        talk.elapse();
    }
    talk.stream.disconnected(talk.now);
    talk.answer();
    most
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(256), ..ProptestConfig::default() })]

    #[test]
    fn no_input_panics_or_gathers_memory(bytes in conversation(), cut in 1usize..400, secured in any::<bool>()) {
        let mut talk = Talk::with(config(), secured);
        let most = survive(&mut talk, &bytes, cut);
        prop_assert!(most < 256 * 1024, "{} bytes", most);
        let ends = talk.seen.iter().filter(|fact| matches!(fact, Action::Close(_))).count();
        prop_assert_eq!(ends, 1, "a stream ends once");
    }

    #[test]
    fn without_the_password_nothing_claims_the_seat(bytes in conversation(), cut in 1usize..400) {
        // The right password never comes: its secret is another one.
        let mut talk = Talk::new();
        talk.secrets = vec![SECRET_OF_NOBODY.clone()];
        survive(&mut talk, &bytes, cut);
        prop_assert_eq!(talk.claims, 0);
        let mut talk = Talk::new();
        talk.send(HEADER);
        talk.send(WRONG);
        prop_assert_eq!(talk.claims, 0);
    }

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), bound in any::<bool>(), cut in 1usize..100) {
        let mut talk = if bound { Talk::managed() } else { Talk::new() };
        survive(&mut talk, &bytes, cut);
        prop_assert_eq!(talk.claims, usize::from(bound));
    }

    #[test]
    fn any_cut_of_any_input_says_the_same(bytes in conversation(), at in any::<prop::sample::Index>()) {
        let run = |inputs: &[&[u8]]| {
            let mut talk = Talk::new();
            let out: String = inputs.iter().map(|input| talk.send_bytes(input)).collect();
            (out, talk.facts(), talk.claims)
        };
        let at = at.index(bytes.len() + 1);
        prop_assert_eq!(run(&[&bytes]), run(&[&bytes[..at], &bytes[at..]]));
    }
}

static SECRET_OF_NOBODY: LazyLock<ScramSecret> = LazyLock::new(|| ScramSecret::derive(&Password("nobody knows".into()), 4096).unwrap());
