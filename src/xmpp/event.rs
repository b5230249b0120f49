//! An event as a stanza (profile §7.1).

use std::io::Write as _;

use crate::{
    domain::{Require, given_collapse_key},
    store::QueuedEvent,
};

use super::text::{attribute, escape_characters};

/// Appends the message that carries `event` to the bare JID `to`. `waited`: it was not written on arrival, so it says since
/// when it waits. The same arguments always make the same bytes: a replay is rendered again instead of kept.
pub(super) fn write(out: &mut Vec<u8>, event: &QueuedEvent, domain: &str, to: &str, waited: bool) {
    let now_or_never = event.event.ttl.is_zero();
    let id = event.id.text();
    let id = std::str::from_utf8(&id).unwrap_or_default();
    // Writing to a Vec cannot fail.
    _ = write!(
        out,
        "<message type='{}' id='{id}' from='{domain}' to='{to}'><event xmlns='urn:unpoll:event:1' id='{id}' lane='{}' seq='{}' \
         accepted='{accepted}' expires='{}'",
        if now_or_never { "headline" } else { "normal" },
        event.lane,
        event.seq.0,
        event.event.expires_at(),
        accepted = event.event.accepted_at,
    );
    if let Some(key) = &event.event.collapse_key {
        attribute(out, "collapse", given_collapse_key(key));
    }
    _ = write!(
        out,
        " urgency='{}' attempt='{}' require='{}'><json xmlns='urn:xmpp:json:0'>",
        event.event.urgency,
        event.attempt,
        event.event.require.as_str(),
    );
    escape_characters(out, &event.event.json.0);
    out.extend_from_slice(b"</json></event>");
    if event.event.require == Require::Received {
        out.extend_from_slice(b"<request xmlns='urn:xmpp:receipts'/>");
    }
    _ = write!(out, "<stanza-id xmlns='urn:xmpp:sid:0' by='{domain}' id='{id}'/>");
    if waited {
        _ = write!(
            out,
            "<delay xmlns='urn:xmpp:delay' from='{domain}' stamp='{}'/>",
            event.event.deliverable_from()
        );
    }
    out.extend_from_slice(b"<no-copy xmlns='urn:xmpp:hints'/>");
    out.extend_from_slice(if now_or_never {
        b"<no-store xmlns='urn:xmpp:hints'/></message>".as_slice()
    } else {
        b"<store xmlns='urn:xmpp:hints'/></message>".as_slice()
    });
}
