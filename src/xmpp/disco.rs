//! What the service and an account are and can do (XEP-0030), and its digest (XEP-0115).

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{error::Refused, ns};

/// Features of the service, exactly what it answers, in the order of their bytes (XEP-0115 §5.1).
const SERVICE: [&str; 6] = [
    ns::DISCO_INFO,
    ns::DISCO_ITEMS,
    ns::VERSION,
    // XEP-0160.
    "msgoffline",
    ns::PING,
    ns::RECEIPTS,
];
/// The same of an account.
const ACCOUNT: [&str; 3] = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING];

/// The service's digest.
struct Caps {
    /// The node under which it is asked for.
    node: String,
    /// `<c/>`, as it stands among the features of a stream.
    element: String,
}

static CAPS: LazyLock<Caps> = LazyLock::new(|| {
    let mut text = "server/im//unpoll<".to_owned();
    for feature in SERVICE {
        text.push_str(feature);
        text.push('<');
    }
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let version = BASE64_STANDARD.encode(digest.as_ref());
    Caps {
        node: format!("{}#{version}", ns::EVENT),
        element: format!("<c xmlns='{}' hash='sha-1' node='{}' ver='{version}'/>", ns::CAPS, ns::EVENT),
    }
});

/// `<c/>` for the features of a stream (XEP-0115 §6.3): who knows the digest need not ask.
pub(super) fn caps() -> &'static str {
    &CAPS.element
}

/// Answers a question about the service or, with `account`, about the device's own account; `location`: it may publish where it
/// is (XEP-0163).
pub(super) fn info(account: bool, location: bool, node: Option<&str>) -> Result<String, Refused> {
    if node.is_some_and(|node| account || node != CAPS.node) {
        return Err(Refused::ItemNotFound);
    }
    let mut query = format!("<query xmlns='{}'", ns::DISCO_INFO);
    if node.is_some() {
        query.push_str(" node='");
        query.push_str(&CAPS.node);
        query.push('\'');
    }
    query.push_str(if account {
        "><identity category='account' type='registered'/>"
    } else {
        "><identity category='server' type='im' name='unpoll'/>"
    });
    if account && location {
        query.push_str("<identity category='pubsub' type='pep'/>");
    }
    let publish = (account && location).then_some(ns::PUBSUB_PUBLISH);
    let features = if account { ACCOUNT.as_slice() } else { SERVICE.as_slice() };
    for feature in features.iter().copied().chain(publish) {
        query.push_str("<feature var='");
        query.push_str(feature);
        query.push_str("'/>");
    }
    query.push_str("</query>");
    Ok(query)
}

/// Answers which items the service or an account has: none (XEP-0030 §4).
pub(super) fn items(node: Option<&str>) -> Result<String, Refused> {
    match node {
        None => Ok(format!("<query xmlns='{}'/>", ns::DISCO_ITEMS)),
        Some(_) => Err(Refused::ItemNotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted_and_their_digest_can_be_asked_for() {
        assert!(SERVICE.is_sorted());
        let asked = info(false, false, Some(&CAPS.node)).unwrap();
        let plain = info(false, false, None).unwrap();
        assert_eq!(asked.replace(&format!(" node='{}'", CAPS.node), ""), plain);
        assert_eq!(info(true, false, Some(&CAPS.node)), Err(Refused::ItemNotFound));
        assert!(info(true, true, None).unwrap().contains("pubsub#publish"));
        assert!(!info(true, false, None).unwrap().contains("pubsub"));
    }

    /// A reading of XEP-0115 that is not ours, over the answer.
    #[test]
    fn the_digest_is_what_xmpp_parsers_computes() {
        let element: xmpp_parsers::minidom::Element = info(false, false, None).unwrap().parse().unwrap();
        let answer = xmpp_parsers::disco::DiscoInfoResult::try_from(element).unwrap();
        let data = xmpp_parsers::caps::compute_disco(&answer);
        let hash = xmpp_parsers::caps::hash_caps(&data, xmpp_parsers::hashes::Algo::Sha_1).unwrap();
        assert!(
            caps().contains(&format!("ver='{}'", BASE64_STANDARD.encode(&hash.hash))),
            "{}",
            caps()
        );
    }
}
