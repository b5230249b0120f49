//! Frames of clients, good and bad, in every cut.

use proptest::prelude::*;

use super::*;

/// A frame as a client sends it: `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What is heard of `bytes` in cuts of `cut`, in words, and what is answered.
fn read(frames: &mut Frames, bytes: &[u8], cut: usize) -> (Vec<String>, Vec<u8>) {
    let (mut heard, mut answer) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        let mut said = |said: Said<'_>| {
            heard.push(match said {
                Said::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                Said::Sign(bytes) => format!("sign {bytes}"),
                Said::Closed => "closed".to_owned(),
            });
        };
        if let Err(fault) = frames.read(&mut piece.to_vec(), &mut said, &mut answer) {
            heard.push(format!("{fault:?}"));
        }
    }
    (heard, answer)
}

#[test]
fn every_cut_reads_the_same() {
    let long = "x".repeat(300);
    let longer = "é".repeat(40_000);
    let bytes = [
        frame(0x81, b"<a/>"),
        frame(0x81, b""),
        frame(0x01, b"<b"),
        frame(0x89, b"ping"),
        frame(0x00, "é".as_bytes().get(..1).unwrap()),
        frame(0x80, &[0xa9, b'/', b'>']),
        frame(0x81, long.as_bytes()),
        frame(0x8a, b""),
        frame(0x81, longer.as_bytes()),
        frame(0x88, &[3, 232]),
        frame(0x81, b"too late"),
    ]
    .concat();
    for cut in [1, 2, 3, 7, 1000, usize::MAX] {
        let mut frames = Frames::new(256 * 1024);
        let (heard, answer) = read(&mut frames, &bytes, cut);
        assert_eq!(
            heard,
            ["<a/>", "", "sign 10", "<bé/>", &long, "sign 6", &longer, "closed"],
            "cut {cut}"
        );
        assert_eq!(answer, [0x8a, 4, b'p', b'i', b'n', b'g']);
        let mut close = Vec::new();
        frames.close(&mut close);
        frames.close(&mut close);
        assert_eq!(close, [0x88, 2, 3, 232]);
        assert_eq!(frames.memory(), 0);
    }
}

#[test]
fn what_is_against_the_rules_is_told_once_and_closes_with_its_code() {
    let check = |bytes: &[u8], fault: &str, code: u16| {
        for cut in [1, usize::MAX] {
            let mut frames = Frames::new(100);
            let (heard, answer) = read(&mut frames, &[bytes, &frame(0x81, b"<a/>")].concat(), cut);
            assert_eq!(heard, [fault], "{bytes:?}");
            assert!(answer.is_empty());
            let mut close = Vec::new();
            frames.close(&mut close);
            assert_eq!(close, [&[0x88, 2], code.to_be_bytes().as_slice()].concat(), "{bytes:?}");
            assert_eq!(frames.memory(), 0);
        }
    };
    check(&frame(0x82, b"binary"), "Binary", 1003);
    check(&frame(0x02, b"bin"), "Binary", 1003);
    check(&frame(0x81, &[0xff, 0xfe]), "NotUtf8", 1007);
    check(&frame(0x81, &[b'x'; 101]), "TooBig", 1009);
    check(
        &[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
        "TooBig",
        1009,
    );
    check(&[frame(0x01, &[b'x'; 60]), frame(0x80, &[b'x'; 60])].concat(), "TooBig", 1009);
    check(&[0x81, 1, b'x'], "BadFrame", 1002);
    check(&frame(0xc1, b"x"), "BadFrame", 1002);
    check(&frame(0x83, b"x"), "BadFrame", 1002);
    check(&frame(0x80, b"x"), "BadFrame", 1002);
    check(&[frame(0x01, b"x"), frame(0x81, b"x")].concat(), "BadFrame", 1002);
    check(&[frame(0x01, b"x"), frame(0x82, b"x")].concat(), "BadFrame", 1002);
    check(&frame(0x09, b"x"), "BadFrame", 1002);
    check(&frame(0x89, &[b'x'; 126]), "BadFrame", 1002);
    check(&frame(0x8b, b""), "BadFrame", 1002);
}

#[test]
fn a_close_is_answered_by_its_code_if_that_may_be_sent() {
    for (payload, code) in [
        (&b""[..], 1000_u16),
        (&[3, 233, b'b', b'y', b'e'], 1001),
        (&[3], 1002),
        (&[3, 237], 1002),
        (&[3, 238], 1002),
        (&[3, 232, 0xff], 1002),
        (&[15, 160], 4000),
    ] {
        let mut frames = Frames::new(100);
        assert_eq!(read(&mut frames, &frame(0x88, payload), 1).0, ["closed"]);
        let mut close = Vec::new();
        frames.close(&mut close);
        assert_eq!(close, [&[0x88, 2], code.to_be_bytes().as_slice()].concat(), "{payload:?}");
    }
}

#[test]
fn nothing_goes_out_behind_our_close() {
    let mut frames = Frames::new(100);
    let mut out = Vec::new();
    frames.text(&Message([b"<a", b" xmlns='b'", b"/>"]), &mut out);
    assert_eq!(out, b"\x81\x0e<a xmlns='b'/>");
    frames.close(&mut out);
    let before = out.len();
    frames.text(&Message([b"<a", b"", b"/>"]), &mut out);
    assert_eq!(
        read(&mut frames, &frame(0x89, b"ping"), 1),
        (vec!["sign 10".to_owned()], Vec::new())
    );
    assert_eq!(out.len(), before);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => prop::sample::select(vec![0x81_u8, 0x01, 0x00, 0x80, 0x89, 0x8a, 0x82, 0x88]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        "[a-z<>/é]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..200)
    ];
    prop_oneof![
        9 => (first, payload).prop_map(|(first, payload)| frame(first, &payload)),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn any_bytes_in_any_cut_are_read_alike_and_hold_no_more_than_allowed(
        sent in prop::collection::vec(any_frame(), 0..20),
        cut in 1_usize..50,
    ) {
        let bytes = sent.concat();
        let (mut whole, mut cuts) = (Frames::new(150), Frames::new(150));
        let one = read(&mut whole, &bytes, usize::MAX);
        let mut other = (Vec::new(), Vec::new());
        for piece in bytes.chunks(cut) {
            let (heard, answer) = read(&mut cuts, piece, cut);
            other.0.extend(heard);
            other.1.extend(answer);
            // A message, a frame of one with its header, and what a Vec has to spare.
            prop_assert!(cuts.memory() <= 2 * (150 + 150 + 14 + 50), "{} bytes", cuts.memory());
        }
        prop_assert_eq!(one, other);
    }
}
