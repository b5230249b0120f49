//! An event that kills its device: five times running, and it is given up, whether the device logs in anew or resumes.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use serde_json::json;
use support::{Backend, Device, SOON, Service, Wire, wait_for};

/// A device whose program dies of an event before it has counted it.
struct Crashing<'a> {
    service: &'a Service,
    wire: Option<Wire>,
    session: String,
}

impl Crashing<'_> {
    /// Binds a new session.
    fn log_in(&mut self) {
        let mut wire = Device::logged_in(self.service, "box", "secret");
        wire.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
        wire.until("</iq>");
        wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        let enabled = wire.until("<enabled ") + &wire.until("/>");
        let id = enabled.split("id='").nth(1).and_then(|rest| rest.split('\'').next());
        self.session = id.unwrap_or_else(|| panic!("{enabled}")).to_owned();
        wire.send("<presence/>");
        self.wire = Some(wire);
    }

    /// Goes on with the session. It handled nothing yet.
    fn resume(&mut self) {
        let mut wire = Device::logged_in(self.service, "box", "secret");
        wire.send(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{}' h='0'/>", self.session));
        wire.until("<resumed ");
        self.wire = Some(wire);
    }

    fn reads(&mut self, event: &str) {
        let text = self.wire.as_mut().unwrap().until("</message>");
        assert!(text.contains(event), "{text}");
    }

    fn crashes(&mut self, backend: &Backend) {
        self.wire = None;
        wait_for("the crash is noticed", SOON, || (backend.presence("box") != "online").then_some(()));
    }
}

fn is_given_up_after_five_crashes(comes_back: fn(&mut Crashing<'_>)) {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut device = Crashing {
        service: &service,
        wire: None,
        session: String::new(),
    };
    let poison = backend.push("box", &json!("poison"));
    device.log_in();
    for crash in 1..=5 {
        device.reads(&poison);
        assert_eq!(backend.state(&poison), "dispatched", "before crash {crash}");
        device.crashes(&backend);
        if crash < 5 {
            comes_back(&mut device);
        }
    }
    wait_for("it is given up", SOON, || (backend.state(&poison) == "failed").then_some(()));
    let deliveries = backend.get(&format!("/v1/events/{poison}/deliveries")).expect(200).json();
    assert_eq!(deliveries["items"][0]["reason"], "poison", "{deliveries}");
    assert_eq!(
        service.metric("unpoll_deliveries_total{reason=\"poison\",state=\"failed\"}"),
        Some(1.0)
    );

    // It is not written again, and what follows arrives.
    let next = backend.push("box", &json!("next"));
    comes_back(&mut device);
    device.reads(&next);
    // Its own presence, which the service reflects, is the first stanza that counts.
    device.wire.as_mut().unwrap().send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    wait_for("the next is delivered", SOON, || {
        (backend.state(&next) == "delivered").then_some(())
    });
}

#[test]
fn an_event_that_kills_its_device_at_each_login_is_given_up() {
    is_given_up_after_five_crashes(|device| device.log_in());
}

#[test]
fn an_event_that_kills_its_device_at_each_resumption_is_given_up() {
    is_given_up_after_five_crashes(|device| device.resume());
}
