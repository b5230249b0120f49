//! The fake device against a foreign server: proof that it reads the RFCs as others do.
//!
//! Prosody is started from here, with a configuration and a certificate of its own. Without Prosody the tests pass with a note,
//! except in CI, where it must be there.

#![allow(clippy::unwrap_used, reason = "a test may fail; clippy knows only functions marked as tests")]

mod support;

use std::{sync::Arc, time::Duration};

use loadtest::{Acks, Device, Error, Kill, Mechanism, Options, Password, Raw, Resumption, Security, Session, Trust, transport::Transport};
use support::{DOMAIN, PASSWORD, Prosody};

const SOON: Duration = Duration::from_secs(10);

fn trust(prosody: &Prosody) -> Trust {
    Trust::ca_file(&prosody.ca()).unwrap()
}

fn device(prosody: &Prosody, user: &str) -> Options {
    let password = Arc::new(Password::new(PASSWORD));
    Options::new(prosody.starttls, Security::StartTls(trust(prosody)), DOMAIN, user, password)
}

fn event(id: &str, lane: &str, seq: u64, to: &str) -> String {
    format!(
        "<message type='chat' to='{to}' id='{id}'><event xmlns='urn:unpoll:event:1' id='{id}' lane='{lane}' seq='{seq}'>\
         <json xmlns='urn:xmpp:json:0'>{{\"title\":\"Жалюзи &amp; 電視 &lt;{id}&gt;\"}}</json></event>\
         <request xmlns='urn:xmpp:receipts'/></message>"
    )
}

#[tokio::test]
async fn every_mechanism_logs_in_over_starttls_and_direct_tls() {
    let Some(prosody) = Prosody::start().await else { return };
    for mechanism in Mechanism::ALL {
        for direct in [false, true] {
            let mut options = Options {
                mechanism: Some(mechanism),
                resource: Some("main".into()),
                ..device(&prosody, "anna")
            };
            if direct {
                (options.server, options.security) = (prosody.direct, Security::Tls(trust(&prosody)));
            }
            let mut device = Device::connect(options)
                .await
                .unwrap_or_else(|e| panic!("{mechanism:?}, direct {direct}: {e}"));
            assert_eq!(device.jid(), Some(format!("anna@{DOMAIN}/main").as_str()));
            device.sync().await.unwrap();
            device.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_certificate_are_refused() {
    let Some(prosody) = Prosody::start().await else { return };
    for mechanism in Mechanism::ALL {
        let wrong = Arc::new(Password::new("wrong"));
        let options = Options {
            mechanism: Some(mechanism),
            password: wrong,
            ..device(&prosody, "anna")
        };
        let error = Device::connect(options).await.err().unwrap();
        assert_eq!(error.refusal(), Some("not-authorized"), "{mechanism:?}: {error}");
    }
    let stranger = Prosody::certificate_only();
    let options = Options {
        security: Security::StartTls(Trust::ca_file(&stranger.ca()).unwrap()),
        ..device(&prosody, "anna")
    };
    assert!(matches!(Device::connect(options).await, Err(Error::Tls(_))));
}

#[tokio::test]
async fn an_unknown_host_is_a_stream_error() {
    let Some(prosody) = Prosody::start().await else { return };
    let options = Options {
        domain: "nowhere.test".into(),
        ..device(&prosody, "anna")
    };
    let error = Session::open(Arc::new(options)).await.err().unwrap();
    assert_eq!(error.stream_condition(), Some("host-unknown"), "{error}");
}

#[tokio::test]
async fn messages_arrive_are_applied_once_and_acknowledged() {
    let Some(prosody) = Prosody::start().await else { return };
    let mut bert = Device::connect(device(&prosody, "bert")).await.unwrap();
    let anna = Device::connect(device(&prosody, "anna")).await.unwrap();
    let to = bert.jid().unwrap().to_owned();
    for (id, seq) in [("e1", 1), ("e2", 2), ("e1", 1), ("e3", 3)] {
        anna.send_stanza(event(id, "normal.1", seq, &to)).await.unwrap();
    }
    for id in ["e1", "e2", "e3"] {
        let got = bert.next_event(SOON).await.unwrap();
        assert_eq!((got.id.as_str(), got.json), (id, format!("{{\"title\":\"Жалюзи & 電視 <{id}>\"}}")));
    }
    assert_eq!((bert.applied().len(), bert.record().repeats()), (3, 1));
    bert.sync().await.unwrap();
    let managed = bert.managed().await.unwrap().unwrap();
    assert!(
        managed.handled >= 5,
        "four messages and the answer to the ping were counted: {managed:?}"
    );
    // Prosody acknowledges what we ask it to.
    bert.send("<r xmlns='urn:xmpp:sm:3'/>").await.unwrap();
    bert.sync().await.unwrap();
    assert!(bert.managed().await.unwrap().unwrap().acked > 0);
}

#[tokio::test]
async fn a_session_resumes_after_each_way_to_die_and_gets_what_it_missed_in_order() {
    let Some(prosody) = Prosody::start().await else { return };
    let anna = Device::connect(device(&prosody, "anna")).await.unwrap();
    let mut bert = Device::connect(device(&prosody, "bert")).await.unwrap();
    let to = bert.jid().unwrap().to_owned();
    let mut seq = 0;
    for how in [Kill::Reset, Kill::Close, Kill::Silent, Kill::Reset] {
        bert.kill(how).await;
        assert!(!bert.is_connected());
        for _ in 0..3 {
            seq += 1;
            anna.send_stanza(event(&format!("e{seq}"), "normal.1", seq, &to)).await.unwrap();
        }
        assert_eq!(bert.resume().await.unwrap(), Resumption::Resumed, "{how:?}");
        assert_eq!(bert.jid(), Some(to.as_str()));
        for missed in seq - 2..=seq {
            let got = bert
                .next_event(SOON)
                .await
                .unwrap_or_else(|e| panic!("{how:?}, {missed}: {e}\n{}", prosody.log()));
            assert_eq!(got.seq, missed, "{how:?}");
        }
        bert.sync().await.unwrap();
    }
    let applied: Vec<u64> = bert.applied().iter().map(|event| event.seq).collect();
    assert_eq!(applied, (1..=seq).collect::<Vec<_>>());
    assert_eq!((bert.record().out_of_order().len(), bert.record().applied_twice().len()), (0, 0));
}

#[tokio::test]
async fn what_was_read_but_not_acknowledged_comes_again_and_is_not_applied_again() {
    let Some(prosody) = Prosody::forgetful().await else { return };
    let anna = Device::connect(device(&prosody, "anna")).await.unwrap();
    let mut bert = Device::connect(Options {
        acks: Acks::Never,
        ..device(&prosody, "bert")
    })
    .await
    .unwrap();
    let to = format!("bert@{DOMAIN}");
    anna.send_stanza(event("e1", "normal.1", 1, &to)).await.unwrap();
    bert.next_event(SOON).await.unwrap();
    // A new session, not a resumption: to Prosody the event is still unacknowledged, so it keeps it and sends it again.
    bert.change(|options| options.acks = Acks::Prompt);
    bert.kill(Kill::Reset).await;
    prosody.has_forgotten().await;
    bert.reconnect().await.unwrap();
    anna.send_stanza(event("e2", "normal.1", 2, &to)).await.unwrap();
    assert_eq!(bert.next_event(SOON).await.unwrap().id, "e2");
    assert_eq!((bert.applied().len(), bert.record().repeats()), (2, 1));
}

#[tokio::test]
async fn a_session_the_server_lost_is_bound_anew() {
    let Some(prosody) = Prosody::forgetful().await else { return };
    let mut bert = Device::connect(device(&prosody, "bert")).await.unwrap();
    bert.kill(Kill::Reset).await;
    prosody.has_forgotten().await;
    assert_eq!(bert.resume().await.unwrap(), Resumption::Anew);
    bert.sync().await.unwrap();
}

#[tokio::test]
async fn the_newer_of_two_equal_resources_wins_and_the_older_hears_conflict() {
    let Some(prosody) = Prosody::start().await else { return };
    let options = Options {
        resource: Some("main".into()),
        ..device(&prosody, "anna")
    };
    let mut older = Device::connect(options.clone()).await.unwrap();
    let mut newer = Device::connect(options).await.unwrap();
    assert_eq!(older.ended(SOON).await.unwrap().stream_condition(), Some("conflict"));
    newer.sync().await.unwrap();
}

#[tokio::test]
async fn bytes_by_hand_reach_the_server_as_they_are() {
    let Some(prosody) = Prosody::start().await else { return };
    let mut raw = Raw::connect(prosody.direct, Some((&trust(&prosody), DOMAIN))).await.unwrap();
    raw.send("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='load.test' version='1.0'>")
        .await
        .unwrap();
    assert!(raw.read_until("</stream:features>", SOON).await.unwrap().contains("SCRAM-SHA-1"));
    raw.send("<message></iq>").await.unwrap();
    assert!(raw.read_to_end(SOON).await.unwrap().contains("not-well-formed"));

    let session = Session::log_in(Arc::new(device(&prosody, "anna"))).await.unwrap();
    let mut raw = Raw::from(session);
    raw.send("<iq type='get' id='p1'><ping xmlns='urn:xmpp:ping'/></iq>").await.unwrap();
    assert!(raw.read_until("p1", SOON).await.unwrap().contains("<iq"));
    raw.reset();

    let io = Transport::tcp(prosody.starttls, Some("127.0.0.9".parse().unwrap())).await.unwrap();
    assert_eq!(io.local().unwrap().ip().to_string(), "127.0.0.9");
}

/// Runs `loadtest` against that server, and gives its report.
async fn report_of(prosody: &Prosody, words: &str) -> serde_json::Value {
    std::fs::write(prosody.file("password"), PASSWORD).unwrap();
    let mut run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadtest"));
    run.args(words.split(' '));
    run.arg("--domain")
        .arg(DOMAIN)
        .arg("--ca")
        .arg(prosody.ca())
        .arg("--password-file")
        .arg(prosody.file("password"));
    run.args(["--server", &prosody.direct.to_string(), "--pid", &prosody.pid().to_string()]);
    let done = run.output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[tokio::test]
async fn the_connect_run_measures_a_foreign_server_from_two_processes() {
    let Some(prosody) = Prosody::start().await else { return };
    prosody.register(&(0..40).map(|number| format!("load-{number}")).collect::<Vec<_>>());
    let report = report_of(
        &prosody,
        "connect --devices 40 --steps 10 --rest 0 --hold 1 --processes 2 --at-once 4 --json",
    )
    .await;
    assert_eq!((&report["passed"], &report["seen"]["up"]), (&true.into(), &40.into()), "{report}");
    let logins: Vec<u64> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["login"]["count"].as_u64().unwrap())
        .collect();
    assert_eq!(logins, [10, 30]);
    assert!(report["steps"][1]["cpu_us_per_login"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["steps"][1]["memory_per_session"].as_f64().unwrap() > 0.0, "{report}");
}

#[tokio::test]
async fn the_storm_run_brings_all_boxes_of_two_processes_back() {
    let Some(prosody) = Prosody::start().await else { return };
    prosody.register(&(0..30).map(|number| format!("load-{number}")).collect::<Vec<_>>());
    let report = report_of(
        &prosody,
        "storm --devices 30 --quiet 0 --calm 0 --pause 1 --resume --at-once 4 --json",
    )
    .await;
    assert_eq!(
        (&report["asked"]["drivers"], &report["passed"]),
        (&2.into(), &true.into()),
        "{report}"
    );
    for figure in ["up", "resumed"] {
        assert_eq!(report[figure], 30, "{figure} of all processes together: {report}");
    }
    assert_eq!(
        (&report["back"]["count"], &report["login"]["count"]),
        (&30.into(), &30.into()),
        "{report}"
    );
}
