//! Every problem of a body names its field or its place.

use proptest::prelude::*;

use super::*;

#[test]
fn values_keep_their_bytes() {
    let body = " {\"a\" : { \"n\" : 1.50e+3,\n\t\"é\":\"\\u00e9\" } ,\"b\":\"x\\\"y\",\"c\":-7}".as_bytes();
    let mut fields = Fields::parse(body).unwrap();
    assert_eq!(fields.take("a").unwrap().raw, "{ \"n\" : 1.50e+3,\n\t\"é\":\"\\u00e9\" }");
    assert_eq!(fields.take("b").unwrap().text().unwrap(), "x\"y");
    assert_eq!(fields.take("c").unwrap().integer().unwrap(), -7);
    assert_eq!(fields.take("d"), None);
    fields.finish().unwrap();
}

#[test]
fn what_is_no_json_is_named_with_its_place() {
    let check = |body: &[u8], expected: Option<(usize, usize)>| match (Fields::parse(body), expected) {
        (Err(Refusal::BadJson { line, column, detail }), Some(place)) => {
            assert_eq!((line, column), place, "{detail}: {body:?}");
            assert!(!detail.contains("line"), "{detail}");
        }
        (other, _) => panic!("{other:?}: {body:?}"),
    };
    check(b"", Some((1, 1)));
    check(b"{", Some((1, 1)));
    check(b"{\"a\":1}x", Some((1, 8)));
    check(b"{\"type\":\"t\",\n  \"data\": nope }", Some((2, 12)));
    check(b"{\"a\":\"\x01\"}", Some((1, 7)));
    check(b"nope", Some((1, 2)));
    check(b"{\"a\":1,}", Some((1, 8)));
    assert_eq!(Fields::parse(b"{\"a\":\"\xc3\x28\"}").unwrap_err(), Refusal::BadUtf8 { offset: 6 });
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_path() {
    let check = |refused: Result<(), Refusal>, field: &str, why: &str| match refused {
        Err(Refusal::InvalidField { field: found, why: said }) => {
            assert_eq!(found, field);
            assert!(said.contains(why), "{said}");
        }
        other => panic!("{other:?}"),
    };
    check(Fields::parse(b" [] ").map(drop), BODY, "is an array");
    check(Fields::parse(b"null").map(drop), BODY, "is null");
    check(Fields::parse(b"{\"a\":1,\"b\":2,\"\\u0061\":3}").map(drop), "a", "twice");
    let body = br#"{"t":{"d":5,"s":"x"},"l":[1,{"x":1,"x":2}],"f":1.0,"big":99999999999999999999,"half":"\ud800"}"#;
    let fields = || Fields::parse(body).unwrap();
    check(fields().take("f").unwrap().integer().map(drop), "f", "whole");
    check(fields().take("f").unwrap().text().map(drop), "f", "a string");
    check(fields().take("f").unwrap().object().map(drop), "f", "an object");
    check(fields().take("f").unwrap().array(9).map(drop), "f", "an array");
    let mut target = fields().take("t").unwrap().object().unwrap();
    check(target.take("d").unwrap().text().map(drop), "t.d", "is a number");
    assert_eq!(target.clone().need("e").unwrap_err(), Refusal::MissingField("t.e".into()));
    assert_eq!(target.finish().unwrap_err(), Refusal::UnknownField("t.s".into()));
    let list = fields().take("l").unwrap();
    check(list.array(1).map(drop), "l", "2 items");
    check(list.array(2).unwrap().remove(1).object().map(drop), "l[1].x", "twice");
    assert_eq!(fields().take("big").unwrap().integer(), Ok(i64::MAX));
    let half = fields().take("half").unwrap().text();
    assert!(matches!(half, Err(Refusal::UnprintableText { code: 0xd800, .. })), "{half:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Fields::parse(&bytes);
    }

    #[test]
    fn no_text_makes_a_field_panic(text in "[\\[\\]{}\",:\\\\u0-9a-fd8 .e+-]{0,60}") {
        let field = Field { path: "x".into(), raw: &text };
        let _ = (field.text(), field.integer(), field.array(3), field.value(), field.clone().object());
        let _ = text::check_json("x", &text);
    }
}
