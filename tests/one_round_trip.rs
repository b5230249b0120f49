//! Login in one round trip (XEP-0388, 0386, 0484) by a client that shares no code with the service.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::sync::Arc;

use loadtest::{Login, Security, Trust, crowd::Crowd, event::Incoming, sasl2::Bound};
use serde_json::json;
use support::{Device, Options, SOON, Service, Session, block_on, wait_for};

/// So many logins by that mechanism were counted; who is in may be so a moment before it is.
fn expect_proofs(service: &Service, mechanism: &str, expected: u64) {
    let series = format!("unpoll_login_proofs_total{{mechanism=\"{mechanism}\"}}");
    let counted = || (service.metric(&series) == Some(expected as f64)).then_some(());
    wait_for(&format!("{expected} logins by {mechanism}"), SOON, counted);
}

#[test]
fn a_token_logs_in_and_goes_on_with_the_session_in_one_request() {
    let service = Service::start();
    let backend = service.backend();
    for (id, starttls) in [("direct", false), ("starttls", true)] {
        backend.add_device(id, "secret");
        let mut options = Options {
            login: Login::Sasl2,
            ..Device::options(&service, id, "secret")
        };
        if starttls {
            let trust = Trust::ca_file(&service.ca()).unwrap();
            (options.server, options.security) = (service.xmpp, Security::StartTls(trust));
        }
        let first = block_on(Session::log_in(Arc::new(options.clone()))).unwrap();
        let token = first.token().cloned().expect("a token beside the password");
        assert_eq!(token.bound, Bound::Exporter, "{id}: the strongest that is offered");
        let (transport, managed, jid) = first.part();
        transport.reset();

        options.login = Login::Fast(token);
        let resumed = block_on(Session::resume(Arc::new(options.clone()), managed.unwrap(), jid));
        let (mut session, resumed) = resumed.unwrap();
        assert!(resumed, "{id}");
        let event = backend.push(id, &json!(7));
        let pushed = block_on(async {
            loop {
                if let Incoming::Event(pushed) = session.next().await.unwrap() {
                    return pushed;
                }
            }
        });
        assert_eq!(pushed.id, event);
        block_on(session.end()).unwrap();

        // Once more, with nothing to resume.
        let again = block_on(Session::log_in(Arc::new(options))).unwrap();
        assert!(again.jid().starts_with(&format!("{id}@localhost/")), "{}", again.jid());
        block_on(again.end()).unwrap();
    }
    expect_proofs(&service, "SCRAM-SHA-256", 2);
    expect_proofs(&service, "HT-SHA-256-EXPR", 4);
}

#[test]
fn the_token_of_another_device_is_worth_nothing() {
    let service = Service::start();
    for id in ["honest", "thief"] {
        service.backend().add_device(id, "secret");
    }
    let options = |id| Options {
        login: Login::Sasl2,
        ..Device::options(&service, id, "secret")
    };
    let honest = block_on(Session::log_in(Arc::new(options("honest")))).unwrap();
    let stolen = Options {
        login: Login::Fast(honest.token().cloned().unwrap()),
        ..options("thief")
    };
    let refused = block_on(Session::log_in(Arc::new(stolen))).err().expect("it is refused");
    assert_eq!(refused.refusal(), Some("not-authorized"), "{refused}");
}

#[test]
fn a_crowd_earns_tokens_and_logs_in_by_them() {
    const DEVICES: u64 = 20;
    let service = Service::start();
    for number in 0..DEVICES {
        service.backend().add_device(&format!("box-{number}"), "secret");
    }
    block_on(async {
        let mut crowd = Crowd::new(Device::options(&service, "", "secret"), "box-", Arc::new(|_, _| {}));
        crowd.earn(0..DEVICES, 8).await.unwrap();
        assert_eq!(crowd.log_in(0..DEVICES, 8).await.unwrap().count(), DEVICES);
    });
    expect_proofs(&service, "HT-SHA-256-EXPR", 2 * DEVICES);
}
