//! Binding within the login (XEP-0386).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::domain::FastAgent;

use super::{bind, element::Tag, management::Enable, ns};

/// Features that work inside a bind.
const INLINE: [&str; 2] = [ns::SM, ns::CSI];

/// The longest `<tag/>`, in bytes.
const TAG_MAX_BYTES: usize = 128;

/// `<bind/>` of XEP-0386.
pub(super) struct Bind2 {
    tag: String,
    /// Stream management is to be on from the start.
    pub(super) enable: Option<Enable>,
    /// It comes up in standby (XEP-0352).
    pub(super) inactive: bool,
}

impl Bind2 {
    /// Reads it. `None`: its tag cannot be part of a resource.
    pub(super) fn read(bind: Tag<'_>) -> Option<Self> {
        let tag = bind.child("tag", ns::BIND2).map(Tag::text).unwrap_or_default();
        let fits = tag.is_empty() || tag.len() <= TAG_MAX_BYTES && bind::fits(&tag);
        fits.then(|| Self {
            tag,
            enable: bind.child("enable", ns::SM).map(Enable::read),
            inactive: bind.child("inactive", ns::CSI).is_some(),
        })
    }

    /// The resource: the same for one program on one device, if it says which one it is.
    pub(super) fn resource(&self, agent: Option<&FastAgent>, random: &[u8]) -> String {
        let random = || BASE64_URL_SAFE_NO_PAD.encode(random.get(..12).unwrap_or_default());
        let unique = agent.map_or_else(random, |agent| agent.as_str().to_owned());
        if self.tag.is_empty() {
            unique
        } else {
            format!("{}~{unique}", self.tag)
        }
    }
}

/// Appends what can be asked for inside a bind.
pub(super) fn write_feature(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<bind xmlns='urn:xmpp:bind:0'><inline>");
    for feature in INLINE {
        out.extend_from_slice(format!("<feature var='{feature}'/>").as_bytes());
    }
    out.extend_from_slice(b"</inline></bind>");
}
