//! Resource binding (RFC 6120 §7): where a session begins.

use std::time::Instant;

use crate::domain::{Epoch, SessionId};

use super::{
    action::Action,
    element::Tag,
    error::{Condition, LoginFailure, Refused, write_refusal},
    ns,
    session::Session,
    stream::{ServerStream, Stage},
    text::{attribute, escape},
    traffic::LifeSign,
};

/// The longest resource (RFC 7622 §3.4).
const RESOURCE_MAX_BYTES: usize = 1023;

/// A bind that waits for the seat.
pub(super) struct Binding {
    /// Of the IQ. `None`: it came with the login (XEP-0386).
    pub(super) id: Option<String>,
    pub(super) resource: String,
}

/// Whether a resource can be taken as given. Reject, do not repair.
pub(super) fn fits(resource: &str) -> bool {
    (1..=RESOURCE_MAX_BYTES).contains(&resource.len()) && !resource.chars().any(char::is_control)
}

impl ServerStream {
    /// An `<iq/>` before there is a session: only a bind is served.
    pub(super) fn bind(&mut self, tag: Tag<'_>) {
        let Some(bind) = tag.child("bind", ns::BIND) else {
            return self.unexpected(tag);
        };
        let id = tag.attribute("id");
        let (Some(id), Some("set")) = (id, tag.attribute("type")) else {
            return self.bind_refused(id, Refused::BadRequest);
        };
        let asked = bind.child("resource", ns::BIND).map(Tag::text).unwrap_or_default();
        let Some(login) = &mut self.login else { return };
        let resource = if asked.is_empty() { login.random_hex() } else { asked };
        if !fits(&resource) {
            return self.bind_refused(Some(id), Refused::BadRequest);
        }
        let Some(who) = login.who.clone() else { return };
        login.binding = Some(Binding {
            id: Some(id.to_owned()),
            resource,
        });
        self.stage = Stage::Waiting;
        self.actions.push_back(Action::Claim {
            tenant: who.tenant,
            device: who.device,
            generation: who.generation,
            fast: None,
        });
    }

    fn bind_refused(&mut self, id: Option<&str>, refused: Refused) {
        let to = self.login.as_ref().and_then(|login| {
            let (domain, _) = login.host.as_ref()?;
            Some(format!("{}@{domain}", login.who.as_ref()?.device))
        });
        self.write_plain(LifeSign::Connect, |out| {
            write_refusal(out, "iq", id, None, &to.unwrap_or_default(), refused, None);
        });
    }

    fn binding(&mut self) -> Option<Binding> {
        if self.stage != Stage::Waiting {
            return None;
        }
        self.login.as_mut()?.binding.take()
    }

    /// Answers `Claim`: the seat is held under `epoch` by session `id`.
    pub fn claimed(&mut self, epoch: Epoch, id: SessionId, now: Instant) {
        let Some(binding) = self.binding() else { return };
        let Some(mut login) = self.login.take() else { return };
        let (Some(who), Some((domain, _))) = (login.who, login.host) else {
            return;
        };
        let session = Session::new(who.tenant, who.device, &domain, &binding.resource, id, epoch);
        self.stage = Stage::Bound;
        let Some(id) = binding.id else {
            self.session = Some(Box::new(session));
            if let Some(inline) = login.inline.take() {
                self.bound_inline(&inline);
            }
            return self.go_on(now);
        };
        self.write_plain(LifeSign::Connect, |out| {
            out.extend_from_slice(b"<iq type='result'");
            attribute(out, "id", &id);
            out.extend_from_slice(b"><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>");
            escape(out, session.jid.full());
            out.extend_from_slice(b"</jid></bind></iq>");
        });
        self.session = Some(Box::new(session));
        self.go_on(now);
    }

    /// Answers `Claim`: the store does not answer (`temporary`: stanza error `resource-constraint`, type wait, the stream
    /// lives) or the device is gone (`not-authorized` stream error). A bind that came with the login fails the login.
    pub fn claim_failed(&mut self, temporary: bool, now: Instant) {
        let Some(binding) = self.binding() else { return };
        self.stage = Stage::Open;
        let Some(id) = binding.id else {
            self.login_failed(if temporary {
                LoginFailure::TemporaryAuthFailure
            } else {
                LoginFailure::NotAuthorized
            });
            return self.go_on(now);
        };
        if temporary {
            self.bind_refused(Some(&id), Refused::ResourceConstraint);
            self.go_on(now);
        } else {
            self.fail_with(&Condition::NotAuthorized);
        }
    }
}
