//! One value against what a comparison wants.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
    /// A list has it, an object has the key; anything else is it.
    Has,
}

impl Operator {
    /// Every one, the longer signs first, so that the first that fits is the one that was meant.
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("!=", Self::Unequal),
        ("=", Self::Equal),
        ("<", Self::Less),
        (">", Self::More),
        (":", Self::Has),
    ];

    pub(super) fn sign(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, operator)| *operator == self)
            .map_or("", |(sign, _)| sign)
    }

    /// Whether it asks for an order, not for being the same.
    pub(super) fn orders(self) -> bool {
        matches!(self, Self::Less | Self::AtMost | Self::More | Self::AtLeast)
    }

    /// What it says of two values in that order.
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal | Self::Has => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

/// What a comparison wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// `*` behind `:`: that it is there.
    Anything,
    /// Text, with an open end where a `*` stood.
    Text { text: Box<str>, open_start: bool, open_end: bool },
    /// A number without quotes, and how it was spelled: text of that spelling is the same, too.
    Number(Number, Box<str>),
    /// `true` or `false` without quotes, and text that says so.
    Bool(bool),
}

impl Wanted {
    pub(super) fn text(text: impl Into<Box<str>>) -> Self {
        Self::Text {
            text: text.into(),
            open_start: false,
            open_end: false,
        }
    }

    /// Its text, when it is one text alone.
    pub(super) fn exact(&self) -> Option<&str> {
        match self {
            Self::Text {
                text,
                open_start: false,
                open_end: false,
            } => Some(text),
            Self::Text { .. } | Self::Anything => None,
            Self::Number(_, spelling) => Some(spelling),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
        }
    }

    /// Whether a text fits. Order is that of the characters.
    pub(super) fn fits_text(&self, operator: Operator, found: &str) -> bool {
        if let Some(exact) = self.exact() {
            // `fw < 10` asks for numbers: as text 9 would be behind 10.
            return if operator.orders() && !matches!(self, Self::Text { .. }) {
                false
            } else {
                operator.holds(found.cmp(exact))
            };
        }
        let fits = match self {
            Self::Text {
                text,
                open_start,
                open_end,
            } => match (open_start, open_end) {
                (true, true) => found.contains(&**text),
                (true, false) => found.ends_with(&**text),
                (false, _) => found.starts_with(&**text),
            },
            _ => true,
        };
        fits != (operator == Operator::Unequal)
    }

    /// Whether a value that is there, and not null, fits.
    pub(super) fn fits(&self, operator: Operator, found: &Value) -> bool {
        let has = operator == Operator::Has;
        match (self, found) {
            (Self::Anything, _) => true,
            (_, Value::Array(items)) if has => items
                .iter()
                .any(|item| !item.is_array() && !item.is_object() && self.fits(operator, item)),
            (_, Value::Object(map)) if has => map.keys().any(|key| self.fits_text(operator, key)),
            (_, Value::String(text)) => self.fits_text(operator, text),
            (Self::Number(wanted, _), Value::Number(found)) => order(found, wanted).is_some_and(|order| operator.holds(order)),
            (Self::Bool(wanted), Value::Bool(found)) if !operator.orders() => operator.holds(found.cmp(wanted)),
            // Two of different kinds have no order, and are not the same.
            _ => operator == Operator::Unequal,
        }
    }
}

/// Whole numbers exactly, others as doubles.
fn order(one: &Number, other: &Number) -> Option<Ordering> {
    let whole = |number: &Number| number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}
