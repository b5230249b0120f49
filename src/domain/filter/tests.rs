use proptest::prelude::*;
use serde_json::json;

use super::*;

const BOUNDS: FilterBounds = FilterBounds {
    max_bytes: 2_048,
    max_terms: 64,
    state: true,
};

fn parse(text: &str) -> Filter {
    Filter::parse(text, &BOUNDS).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[derive(Debug)]
struct Tv {
    id: DeviceId,
    user: Option<UserId>,
    attributes: Map<String, Value>,
    reported: Option<Map<String, Value>>,
}

impl Tv {
    fn new(attributes: Value) -> Self {
        Self {
            id: "tsn-746".parse().unwrap(),
            user: Some("ann".parse().unwrap()),
            attributes: attributes.as_object().unwrap().clone(),
            reported: json!({"fw": "7.1.2", "temperature": 41.5, "location": {"lat": 52.5}})
                .as_object()
                .cloned(),
        }
    }

    fn judge(&self, filter: &Filter, state: Option<&str>) -> Option<bool> {
        filter.judge(&Facts {
            id: &self.id,
            user: self.user.as_ref(),
            cohort: Cohort::Push,
            attributes: &self.attributes,
            reported: self.reported.as_ref(),
            state,
        })
    }
}

#[test]
fn a_comparison_says_what_it_says() {
    let device = Tv::new(json!({
        "model": "stb-7", "year": 2024, "big": 9_007_199_254_740_993_u64, "code": "42", "hdmi": true, "gone": null, "text": "true",
        "tags": ["beta", "4k", 7], "place": {"room": "attic", "my floor": 3}, "star": "a*b", "": 1, "list": [["beta"]]
    }));
    let check = |text: &str, expected: bool| assert_eq!(device.judge(&parse(text), Some("online")), Some(expected), "{text}");
    // The fixed names.
    check("id = tsn-746", true);
    check("id = TSN-746", true);
    check("id=\"tsn-*\"", true);
    check("id = *-746", true);
    check("id != tsn-746", false);
    check("id < tsn-8", true);
    check("user = ann", true);
    check("user = 'ANN'", false);
    check("user:*", true);
    check("cohort = push", true);
    check("cohort != control", true);
    check("state = online", true);
    check("state != online", false);
    // Text, with open ends.
    check("attributes.model = \"stb-7\"", true);
    check("attributes.model = stb-7", true);
    check("attributes.model = stb*", true);
    check("attributes.model = *7", true);
    check("attributes.model = \"*tb*\"", true);
    check("attributes.model != stb*", false);
    check("attributes.model = *", true);
    check("attributes.model = STB-7", false);
    check("attributes.model >= stb-6", true);
    check("attributes.star = \"a\\*b\"", true);
    check("attributes.star = \"a\\*\"", false);
    check("attributes.\"\" = 1", true);
    // Numbers, and text that is spelled so.
    check("attributes.year = 2024", true);
    check("attributes.year = 2024.0", true);
    check("attributes.year = \"2024\"", false);
    check("attributes.year > 2023.5 AND attributes.year <= 2024", true);
    check("attributes.year != 2024", false);
    check("attributes.year > -1", true);
    check("attributes.big = 9007199254740993", true);
    check("attributes.big > 9007199254740992", true);
    check("attributes.code = 42", true);
    check("attributes.code = 42.0", false);
    check("attributes.code > 5", false);
    check("attributes.code > \"3\"", true);
    check("reported.fw = 7.1*", true);
    check("reported.fw = 7.1.2", true);
    check("reported.temperature >= 41.5", true);
    check("reported.location.lat > 52", true);
    // Words without quotes that are no text.
    check("attributes.hdmi = true", true);
    check("attributes.hdmi != false", true);
    check("attributes.hdmi = \"true\"", false);
    check("attributes.text = true", true);
    check("attributes.hdmi > false", false);
    // Lists and objects.
    check("attributes.tags:beta", true);
    check("attributes.tags:bet*", true);
    check("attributes.tags:7", true);
    check("attributes.tags:gamma", false);
    check("attributes.tags = beta", false);
    check("attributes.list:beta", false);
    check("attributes.place:room", true);
    check("attributes.place.room = attic", true);
    check("attributes.place.\"my floor\" = 3", true);
    check("attributes.model:stb-7", true);
    check("attributes.model:*", true);
    check("attributes.tags:*", true);
    // What is not there fits nothing.
    for operator in ["=", "!=", "<", "<=", ">", ">=", ":"] {
        for name in [
            "attributes.gone",
            "attributes.nothing",
            "attributes.model.deeper",
            "reported.nothing",
        ] {
            check(&format!("{name} {operator} 1"), false);
            check(&format!("NOT {name} {operator} 1"), true);
        }
    }
    check("attributes.gone:*", false);
    // Together.
    check("user = bob OR id = tsn-746", true);
    check("user = bob AND id = tsn-746", false);
    check("-user = bob AND NOT (cohort = poll OR cohort = control)", true);
    check("user = bob OR (id = tsn-746 AND attributes.year = 2024)", true);
    check("  ( ( id = tsn-746 ) )  ", true);
}

#[test]
fn without_a_user_or_reports_nothing_of_them_fits() {
    let mut device = Tv::new(json!({}));
    (device.user, device.reported) = (None, None);
    let check = |text: &str, expected: bool| assert_eq!(device.judge(&parse(text), None), Some(expected), "{text}");
    check("user != ann", false);
    check("NOT user = ann", true);
    check("user:*", false);
    check("reported.fw != 1", false);
    check("NOT reported.fw:*", true);
}

#[test]
fn a_state_that_is_not_known_decides_only_where_nothing_else_does() {
    let device = Tv::new(json!({}));
    let check = |text: &str, expected: Option<bool>| assert_eq!(device.judge(&parse(text), None), expected, "{text}");
    check("state = online", None);
    check("NOT state = online", None);
    check("state = online AND user = ann", None);
    check("state = online AND user = bob", Some(false));
    check("state = online OR user = ann", Some(true));
    check("state = online OR user = bob", None);
}

#[test]
fn a_filter_says_what_it_needs() {
    let user = |text: &str| parse(text).user().map(|user| user.to_string());
    assert_eq!(user("user = ann"), Some("ann".into()));
    assert_eq!(user("user = 7"), Some("7".into()));
    assert_eq!(user("cohort = push AND user = ann"), Some("ann".into()));
    for other in [
        "user = ann OR user = bob",
        "NOT user = ann",
        "user != ann",
        "user = ann*",
        "cohort = push AND (user = ann OR user = bob)",
    ] {
        assert_eq!(user(other), None, "{other}");
    }
    assert!(parse("cohort = push OR NOT (reported.fw:* AND id = a)").reads_reported());
    assert!(!parse("attributes.reported = 1").reads_reported());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let check = |text: &str, offset: usize, why: &str| {
        let wrong = Filter::parse(text, &BOUNDS).expect_err(text);
        assert_eq!(wrong.offset, offset, "{text}: {wrong}");
        assert!(wrong.why.contains(why), "{text}: {wrong}");
    };
    check("", 0, "a comparison is missing");
    check("   ", 3, "a comparison is missing");
    check("colour = red", 0, "id, user, cohort");
    check("attributes = 1", 10, "a dot and a member");
    check("attributes. = 1", 11, "a member is expected");
    check("attributes.\"a*\" = 1", 13, "open end");
    check("id.x = 1", 2, "no members");
    check("attributes.model", 16, "an operator is expected");
    check("attributes.model stb-7", 17, "an operator is expected");
    check("attributes.model == stb-7", 18, "a value is expected");
    check("attributes.model =", 18, "a value is expected");
    check("attributes.model = a;b", 20, "put quotes around it");
    check("attributes.model = \"a", 19, "no closing quote");
    check("attributes.model = \"a\\n\"", 21, "a backslash");
    check("attributes.model = a*b", 20, "at the beginning or at the end");
    check("attributes.model > a*", 20, "no place in an order");
    check("attributes.model = null", 19, "NOT name:*");
    check("cohort = some", 9, "push, poll, control");
    check("cohort = pu*", 9, "push, poll, control");
    check("cohort > push", 7, "no order");
    check("state = asleep", 8, "online, away, offline");
    check("id = a user = b", 7, "AND or OR");
    check("id = a and user = b", 7, "in capitals");
    check("id = a AND", 10, "a comparison is missing");
    check("id = a AND user = b OR id = c", 20, "parentheses");
    check("(id = a", 0, "not closed");
    check("id = a)", 6, "not opened");
    check("NOT NOT id = a", 4, "a name is expected");
    check("id = ä\u{0}", 7, "a value is expected");
    check(&format!("{}id = a{}", "(".repeat(17), ")".repeat(17)), 16, "deeper than 16");
    check(&vec!["id = a"; 65].join(" OR "), 640, "more than 64");
    check(&format!("id = \"{}\"", "ж".repeat(1_100)), 2_048, "at most 2048");
    let without_state = FilterBounds { state: false, ..BOUNDS };
    let wrong = Filter::parse("id = a AND state = online", &without_state).unwrap_err();
    assert_eq!((wrong.offset, wrong.why.contains("/v1/presence")), (11, true));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9.*\"' \\\\ж-]{0,6}", "[a-z]{1,3}", Just("true".into()), Just("AND".into())]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        4 => (text(), any::<bool>(), any::<bool>()).prop_map(|(text, open_start, open_end)| Wanted::Text {
            // An empty text with one open end is read with that at its start.
            open_start: open_start || (open_end && text.is_empty()),
            text: text.into(),
            open_end,
        }),
        1 => (-20_i64..20).prop_map(|number| Wanted::Number(number.into(), number.to_string().into())),
        1 => any::<bool>().prop_map(Wanted::Bool),
        1 => Just(Wanted::Anything),
    ]
}

fn test() -> impl Strategy<Value = Node> {
    let path = || proptest::collection::vec(text(), 1..4).prop_map(|path| path.into_iter().map(Box::<str>::from).collect());
    let name = prop_oneof![
        path().prop_map(Name::Attributes),
        path().prop_map(Name::Reported),
        Just(Name::Attributes(["a".into()].into())),
        Just(Name::Attributes(["b".into(), "c".into()].into())),
    ];
    let operator = proptest::sample::select(Operator::ALL.map(|(_, operator)| operator).to_vec());
    (name, operator, wanted()).prop_map(|(name, operator, wanted)| {
        // An order takes no open end, and only `:` asks for anything.
        let wanted = match wanted {
            Wanted::Text { text, .. } if operator.orders() => Wanted::text(text),
            Wanted::Anything if operator != Operator::Has => Wanted::Bool(true),
            wanted => wanted,
        };
        Node::Test(Test { name, operator, wanted })
    })
}

fn node() -> impl Strategy<Value = Node> {
    test().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Node::All),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Node::Any),
            inner.prop_map(|node| Node::Not(Box::new(node))),
        ]
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-20_i64..20).prop_map(Value::from),
        (-20.0..20.0).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn device() -> impl Strategy<Value = Tv> {
    (value(), value()).prop_map(|(a, b)| Tv::new(json!({"a": a, "b": {"c": b.clone()}, "true": b})))
}

proptest! {
    #[test]
    fn a_filter_as_text_is_the_same_filter(root in node()) {
        let filter = Filter { root };
        let text = filter.to_string();
        let wide = FilterBounds { max_bytes: 1 << 16, max_terms: 1 << 10, state: false };
        prop_assert_eq!(Filter::parse(&text, &wide), Ok(filter), "{}", text);
    }

    #[test]
    fn logic_holds(one in node(), other in node(), device in device()) {
        let judge = |root: Node| device.judge(&Filter { root }, None);
        let not = |node: Node| Node::Not(Box::new(node));
        let (a, b) = (judge(one.clone()), judge(other.clone()));
        let (a, b) = (a.expect("all is known"), b.expect("all is known"));
        prop_assert_eq!(judge(not(one.clone())), Some(!a));
        prop_assert_eq!(judge(Node::All(vec![one.clone(), other.clone()])), Some(a && b));
        prop_assert_eq!(judge(Node::Any(vec![one.clone(), other.clone()])), Some(a || b));
        prop_assert_eq!(judge(not(Node::Any(vec![one.clone(), other.clone()]))), judge(Node::All(vec![not(one), not(other)])));
    }

    #[test]
    fn two_numbers_are_in_one_order(a in -50_i32..50, b in -50_i32..50, halves in any::<bool>()) {
        let found = if halves { json!(f64::from(a) / 2.0) } else { json!(a) };
        let device = Tv::new(json!({"a": found}));
        let holds = |sign: &str| device.judge(&parse(&format!("attributes.a {sign} {b}")), None) == Some(true);
        let a = if halves { f64::from(a) / 2.0 } else { f64::from(a) };
        let b = f64::from(b);
        let expected = [a < b, a <= b, a == b, a != b, a >= b, a > b];
        prop_assert_eq!(["<", "<=", "=", "!=", ">=", ">"].map(holds), expected);
    }

    #[test]
    fn no_text_is_too_much(text in ".{0,80}") {
        if let Err(wrong) = Filter::parse(&text, &BOUNDS) {
            prop_assert!(text.is_char_boundary(wrong.offset), "{wrong}");
        }
    }

    /// Made of what filters are made of, so that more of it gets further.
    #[test]
    fn no_mixture_is_too_much(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "attributes", "reported", ".", "a", "\"", "'", "\\", "*", "(", ")", " ", "AND", "OR", "NOT", "-", "=", "!=", "<", ">=", ":",
                "id", "user", "state", "cohort", "push", "7", "-7.5e3", "true", "null", "ж", "\u{0}", "\u{2028}",
            ]),
            0..40,
        ),
        device in device(),
    ) {
        let text = parts.concat();
        match Filter::parse(&text, &BOUNDS) {
            Ok(filter) => {
                let again = parse(&filter.to_string());
                prop_assert_eq!(device.judge(&again, Some("away")), device.judge(&filter, Some("away")));
            }
            Err(wrong) => prop_assert!(text.is_char_boundary(wrong.offset), "{wrong}"),
        }
    }
}
