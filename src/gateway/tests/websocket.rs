//! WebSocket: the handshake, frames good and bad, and the tests of the other doors once more.

use std::{cell::Cell, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Device, Offer, OfferOne, Service, TENANT, admission, event, id, life, now, sessions, transport,
    web_client::{CLOSE, Client, HANDSHAKE, OPEN, frame},
};
use crate::http;

thread_local! {
    /// Where the devices of this test come in that would come in by direct TLS.
    static OVER_WEBSOCKET: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn over_websocket() -> bool {
    OVER_WEBSOCKET.get()
}

/// Runs tests of other files with devices that come in here.
macro_rules! once_more {
    ($($file:ident: $($test:ident),+;)+) => {
        $($(
            #[test]
            fn $test() {
                OVER_WEBSOCKET.set(true);
                $file::$test();
            }
        )+)+
    };
}

once_more! {
    sessions:
        an_acknowledged_event_ends_and_presence_follows,
        arrivals_wait_until_the_backlog_is_read,
        a_full_window_says_later_and_is_ready_again_after_an_acknowledgement,
        a_lost_session_is_away_and_resumes_with_what_it_did_not_get,
        resuming_over_an_open_connection_ends_that_one_with_conflict,
        a_newer_bind_takes_the_seat_and_the_older_session_returns_its_events,
        a_new_bind_ends_a_session_that_waits_to_be_resumed_and_its_count_is_remembered,
        a_session_that_nobody_resumes_ends_and_gives_the_seat_up,
        a_silent_device_reads_offline_after_a_missed_probe,
        a_removed_device_is_thrown_out,
        a_full_signal_channel_loses_no_signal,
        at_a_stop_devices_hear_it_and_their_last_acknowledgements_count,
        a_store_that_is_down_is_no_wrong_password,
        a_resumption_that_dies_of_the_same_event_is_told_each_time,
        two_connections_that_fight_for_a_seat_are_slowed,
        presence_is_told_over_http_to_who_may_read,
        low_urgency_waits_in_the_store_while_the_device_is_inactive;
    life:
        the_kernel_gives_up_on_data_that_nobody_takes_on_every_port,
        a_device_that_does_not_read_is_named_and_then_why_it_was_given_up,
        a_keepalive_that_was_asked_for_outlives_a_resumption,
        an_old_connection_is_reset_and_its_session_resumed,
        a_cloned_identity_shows_in_presence;
    admission:
        a_crowd_that_logs_in_takes_turns_and_all_get_in,
        an_account_whose_logins_fail_again_and_again_is_slowed_and_not_locked;
    transport:
        beyond_sessions_max_a_device_reads_why_it_is_refused,
        a_device_that_does_not_read_is_sent_no_more_than_it_takes_and_all_of_it_later,
        a_device_that_takes_nothing_for_too_long_is_given_up;
}

#[tokio::test]
async fn a_device_gets_an_event_over_websocket_and_presence_says_so() {
    OVER_WEBSOCKET.set(true);
    let mut service = Service::start().await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    assert_eq!(link.offer(&event("box", 1, r#"{"data":"é"}"#), now()), Offer::Taken);
    device.hear("{\"data\":\"é\"}").await;
    assert_eq!(service.presence("box").await["transport"], "websocket");
    let series = r#"unpoll_sessions{node="n1",transport="websocket"}"#;
    assert_eq!(service.metric(series).as_deref(), Some("1"));
    device.send("</stream:stream>").await;
    device.hear("</stream:stream>").await;
    device.hear_the_end().await;
    service
        .until("counted", async |service| service.metric(series).as_deref() == Some("0"))
        .await;
}

#[tokio::test]
async fn a_handshake_that_is_none_is_answered_with_what_is_wrong() {
    OVER_WEBSOCKET.set(true);
    let service = Service::with(|config| config.websocket_origins = vec!["https://ui.example".to_owned()]).await;
    let check = async |from: &str, to: &str, status: &str, slug: &str| {
        let mut client = Client::https(&service).await;
        assert!(from.is_empty() || HANDSHAKE.contains(from), "{from}");
        let request = if from.is_empty() {
            to.to_owned()
        } else {
            HANDSHAKE.replacen(from, to, 1)
        };
        let answer = client.asks(&request).await;
        assert!(
            answer.split(' ').nth(1) == Some(status) && answer.contains(slug),
            "{to:?}: {answer}"
        );
        answer
    };
    let answer = check("Upgrade: websocket\r\n", "", "426", "/problems/upgrade-required").await;
    assert!(
        answer.contains("sec-websocket-version: 13") && answer.contains("upgrade: websocket"),
        "{answer}"
    );
    check("Connection: Upgrade", "Connection: keep-alive", "426", "/problems/upgrade-required").await;
    check("Version: 13", "Version: 8", "426", "/problems/upgrade-required").await;
    check("Sec-WebSocket-Protocol: xmpp\r\n", "", "400", "\\\"xmpp\\\"").await;
    check("Protocol: xmpp", "Protocol: mqtt, xmpp-framing", "400", "/problems/bad-handshake").await;
    check("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: c2hvcnQ=", "400", "Sec-WebSocket-Key").await;
    check("HTTP/1.1", "HTTP/1.0", "426", "/problems/upgrade-required").await;
    check("GET", "POST", "405", "/problems/method-not-allowed").await;
    check("Host", "Origin: https://evil.example\r\nHost", "403", "/problems/foreign-origin").await;
    let answer = check(
        "Host",
        "Origin: https://UI.example\r\nHost",
        "101",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    )
    .await;
    assert!(answer.contains("sec-websocket-protocol: xmpp"), "{answer}");
    check("Protocol: xmpp", "Protocol: chat, xmpp", "101", "sec-websocket-protocol: xmpp\r\n").await;

    let refused = Client::http(&service).await.asks(HANDSHAKE).await;
    assert!(
        refused.starts_with("HTTP/1.1 403 ") && refused.contains("/problems/tls-required"),
        "{refused}"
    );
    let refused = Client::http(&service)
        .await
        .asks("GET /.well-known/host-meta HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert!(refused.contains("/problems/tls-required"), "{refused}");
    for (path, expected) in [
        (
            "host-meta",
            "<Link rel='urn:xmpp:alt-connections:websocket' href='wss://box.example:8443/xmpp-websocket'/>",
        ),
        (
            "host-meta.json",
            r#"{"links":[{"rel":"urn:xmpp:alt-connections:websocket","href":"wss://box.example:8443/xmpp-websocket"}]}"#,
        ),
    ] {
        let request = format!("GET /.well-known/{path} HTTP/1.1\r\nHost: box.example:8443\r\n\r\n");
        let answer = check("", &request, "200", expected).await;
        assert!(answer.contains("access-control-allow-origin: *"), "{answer}");
    }
    check(
        "",
        "GET /.well-known/host-meta HTTP/1.1\r\nHost: <'>\r\n\r\n",
        "400",
        "/problems/invalid-field",
    )
    .await;
}

#[tokio::test]
async fn what_is_no_message_of_text_ends_the_session_with_an_error_and_a_code() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let large = "x".repeat(257 * 1024);
    for (bytes, error, code) in [
        (frame(0x82, b"binary"), "<bad-format ", 1003_u16),
        (
            frame(0x81, b"<presence xmlns='jabber:client'>\xff</presence>"),
            "<not-well-formed ",
            1007,
        ),
        (frame(0x81, large.as_bytes()), "<stanza-too-big ", 1009),
        (vec![0x81, 4, b'<', b'a', b'/', b'>'], "<bad-format ", 1002),
        (
            frame(0x81, b"<r xmlns='urn:xmpp:sm:3'/><r xmlns='urn:xmpp:sm:3'/>"),
            "<not-well-formed ",
            1000,
        ),
        (frame(0x81, b"<r xmlns='urn:xmpp:sm:3'>"), "<not-well-formed ", 1000),
    ] {
        let mut client = Client::open(&service).await;
        client.login().await;
        // It may end before all of it is sent.
        let _ = client.io.write_all(&bytes).await;
        let _ = client.io.flush().await;
        let said = client.until("<stream:error").await;
        assert!(said.contains(error), "{said}");
        assert_eq!(client.hear().await, Some((0x81, CLOSE.to_owned())));
        let (first, payload) = client.hear().await.unwrap();
        let code = code.to_be_bytes().map(char::from);
        assert_eq!((first, payload.chars().collect::<Vec<_>>()), (0x88, code.to_vec()), "{error}");
        assert_eq!(client.hear().await, None);
    }
}

#[tokio::test]
async fn before_the_login_a_message_may_be_no_larger_than_there() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let mut client = Client::open(&service).await;
    let _ = client.io.write_all(&frame(0x81, "x".repeat(17 * 1024).as_bytes())).await;
    assert!(client.until("<stream:error").await.contains("<stanza-too-big "));
}

#[tokio::test]
async fn pings_are_answered_and_fragments_put_together_whatever_the_cut() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let mut client = Client::open(&service).await;
    client.login().await;
    client.say("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
    client.until("<enabled").await;
    let bytes = [
        frame(0x01, b"<presence xmlns='jab"),
        frame(0x89, b"are you there"),
        frame(0x80, b"ber:client'/>"),
        frame(0x8a, b""),
        frame(0x81, b" "),
        frame(0x81, b"<r xmlns='urn:xmpp:sm:3'/>"),
    ]
    .concat();
    for byte in bytes {
        client.send(&[byte]).await;
    }
    assert_eq!(client.hear().await, Some((0x8a, "are you there".to_owned())));
    client.until("<presence ").await;
    client.until("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    client.send(&frame(0x88, &[3, 233])).await;
    assert_eq!(client.hear().await, Some((0x88, "\u{3}\u{e9}".to_owned())));
    assert_eq!(client.hear().await, None);
    // It closed its WebSocket and not its stream: the session waits.
    service.until("away", async |service| service.state("box").await == "away").await;
}

#[tokio::test]
async fn what_is_sent_ahead_of_the_answer_is_read() {
    OVER_WEBSOCKET.set(true);
    let service = Service::start().await;
    let mut client = Client::https(&service).await;
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>";
    let ahead = [HANDSHAKE.as_bytes(), &frame(0x81, OPEN.as_bytes()), &frame(0x81, auth.as_bytes())].concat();
    client.send(&ahead).await;
    assert!(client.asks("").await.starts_with("HTTP/1.1 101 "));
    let features = client.until("<stream:features").await;
    assert!(
        features.contains("<channel-binding type='tls-exporter'/>") && !features.contains("starttls"),
        "{features}"
    );
    client.until("<success").await;
}

#[tokio::test]
async fn a_connection_that_left_http_is_bound_by_none_of_its_limits() {
    OVER_WEBSOCKET.set(true);
    let limits = http::Config {
        connections_max: 1,
        head_secs: 1,
        idle_secs: 1,
        write_secs: 1,
        ..http::Config::default()
    };
    let service = Service::with_http(limits, |_| {}).await;
    let mut first = Client::open(&service).await;
    first.login().await;
    // The one place is free again, and the second client leaves it, too.
    let mut second = Client::open(&service).await;
    second.say(OPEN).await;
    second.until("<stream:features").await;
    // Longer than HTTP would let it be.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    first
        .say("<iq xmlns='jabber:client' type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        .await;
    first.until("id='p'").await;
}

#[tokio::test]
async fn without_require_tls_a_proxy_may_end_it() {
    OVER_WEBSOCKET.set(true);
    let service = Service::with(|config| config.require_tls = false).await;
    let mut client = Client::http(&service).await;
    assert!(client.asks(HANDSHAKE).await.starts_with("HTTP/1.1 101 "));
    client.say(OPEN).await;
    let features = client.until("<stream:features").await;
    assert!(
        !features.contains("starttls") && !features.contains("channel-binding"),
        "{features}"
    );
    client.show_password().await;
}

#[tokio::test]
async fn a_session_moves_between_the_doors() {
    let mut service = Service::with_http(http::Config::default(), |_| {}).await;
    let mut tcp = Device::tls(&service).await;
    tcp.login("box").await;
    tcp.bind().await;
    let session = tcp.enable().await;
    tcp.present().await;
    service.ready("box").await;
    assert_eq!(
        service.link("box").unwrap().offer(&event("box", 1, r#"{"n":1}"#), now()),
        Offer::Taken
    );
    tcp.hear(r#"{"n":1}"#).await;

    OVER_WEBSOCKET.set(true);
    let mut web = Device::tls(&service).await;
    web.login("box").await;
    web.resume(&session, 1).await;
    web.hear("<resumed ").await;
    web.hear(r#"{"n":1}"#).await;
    tcp.hear("<conflict ").await;
    assert_eq!(service.presence("box").await["transport"], "websocket");
    drop(web);
    service.until("away", async |service| service.state("box").await == "away").await;

    OVER_WEBSOCKET.set(false);
    let mut tcp = Device::tls(&service).await;
    tcp.login("box").await;
    tcp.resume(&session, 2).await;
    tcp.hear("<resumed ").await;
    assert_eq!(service.presence("box").await["transport"], "xmpps");
    let link = service.gateway.links().link(TENANT, &id("box")).unwrap();
    assert!(!link.holds(event("box", 1, r#"{"n":1}"#).id));
}

#[tokio::test]
async fn who_sends_too_much_is_slowed_and_then_cut_off_and_nobody_else_waits() {
    OVER_WEBSOCKET.set(true);
    let mut service = Service::with(|config| {
        config.flood_stanzas_per_second = 200;
        config.flood_stanzas_burst = 100;
        config.flood_patience_secs = 3;
    })
    .await;
    let mut other = service.online("other").await;
    let mut client = Client::open(&service).await;
    client.login().await;
    client.say("<enable xmlns='urn:xmpp:sm:3'/>").await;
    client.until("<enabled").await;
    let flood = tokio::spawn(async move {
        let requests = frame(0x81, b"<r xmlns='urn:xmpp:sm:3'/>").repeat(200_000);
        let (mut reading, mut writing) = tokio::io::split(client.io);
        let sending = async {
            let _ = writing.write_all(&requests).await;
            std::future::pending::<()>().await;
        };
        let mut heard = Vec::new();
        tokio::select! {
            () = sending => {}
            // However it ends: what was said before is in `heard`.
            _ = reading.read_to_end(&mut heard) => {}
        }
        String::from_utf8_lossy(&heard).into_owned()
    });
    service
        .until("it is named", async |service| service.presence("box").await["flooding"] == true)
        .await;
    other.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    tokio::time::timeout(Duration::from_secs(1), other.hear("<a ")).await.unwrap();
    let heard = flood.await.unwrap();
    let answers = heard.matches("<a xmlns").count();
    assert!(
        answers < 3_000 && heard.contains("<policy-violation "),
        "{answers} answers of 200,000"
    );
    assert_eq!(service.state("other").await, "online");
}

#[tokio::test]
async fn at_the_cap_a_handshake_is_refused_before_anything_is_spent() {
    OVER_WEBSOCKET.set(true);
    let mut service = Service::with(|config| config.sessions_max = 1).await;
    let _first = service.online("box").await;
    let answer = Client::https(&service).await.asks(HANDSHAKE).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: "), "{answer}");
    let series = r#"unpoll_connections_refused_total{reason="sessions"}"#;
    assert_eq!(service.metric(series).as_deref(), Some("1"));
}
