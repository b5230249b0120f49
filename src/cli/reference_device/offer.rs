//! What a server offers for the login.

use xmpp_parsers::{minidom::Element, ns};

use super::token;

/// What may come with the login (XEP-0388 §2.3).
pub struct Inline {
    /// The old session may be taken up with it.
    pub resumes: bool,
    /// A new one may be bound with it.
    pub binds: bool,
    /// The mechanism to ask a token for.
    pub token: Option<&'static str>,
}

impl Inline {
    /// Where there are tokens there is the rest.
    pub fn all() -> Self {
        Self {
            resumes: true,
            binds: true,
            token: None,
        }
    }

    /// What the features say. `is_bound`: the connection has a channel binding.
    pub fn offered(authentication: &Element, is_bound: bool) -> Self {
        let inline = authentication.get_child("inline", ns::SASL2);
        let has = |name: &str, namespace: &str| inline.is_some_and(|inline| inline.has_child(name, namespace));
        let fast = inline.and_then(|inline| inline.get_child("fast", ns::FAST));
        Self {
            resumes: has("sm", ns::SM),
            binds: has("bind", ns::BIND2),
            token: fast.and_then(|fast| token::best_of(&names(fast, ns::FAST), is_bound)),
        }
    }
}

fn names(parent: &Element, namespace: &str) -> Vec<String> {
    let mechanisms = parent.children().filter(|child| child.is("mechanism", namespace));
    mechanisms.map(Element::text).collect()
}

/// The mechanisms that a server offers, by SASL2 or else by SASL.
pub fn mechanisms(features: &Element) -> Vec<String> {
    match (
        features.get_child("authentication", ns::SASL2),
        features.get_child("mechanisms", ns::SASL),
    ) {
        (Some(authentication), _) => names(authentication, ns::SASL2),
        (None, Some(mechanisms)) => names(mechanisms, ns::SASL),
        (None, None) => Vec::new(),
    }
}
