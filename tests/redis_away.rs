//! Redis is away: who logs in meanwhile, what becomes of them when it is back, and a whole minute of it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use loadtest::{Acks, Login, Options, proxy::Proxy, redis, sasl::Password};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, OtherNameValue, SanType};
use rustls::version::TLS13;
use serde_json::json;
use support::{
    Authority, Backend, Client, Device, Error, Issued, Issuer, Mechanism, SOON, STREAM_HEADER, Secure, Service, Settings, TestDir, wait_for,
};

const FEATURES: &str = "</stream:features>";
const SUCCESS: &str = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
const BREAKER: &str = "unpoll_redis_breaker_open";

/// One node on one Redis; it trusts an issuer of tokens and an authority for certificates of devices.
struct Scene {
    dir: TestDir,
    issuer: Issuer,
    authority: Authority,
    redis: redis::Server,
    service: Service,
    backend: Backend,
}

fn settings(url: &str) -> Settings {
    Settings::default()
        .set("UNPOLL_REDIS_URL", url)
        .set("UNPOLL_REDIS_DURABILITY", "primary")
        .set("UNPOLL_REDIS_HEARTBEAT_MS", "500")
}

impl Scene {
    fn new(change: impl FnOnce(Settings) -> Settings) -> Self {
        let (dir, issuer) = (TestDir::new(), Issuer::new("1"));
        let authority = Authority::new(dir.path(), "boxes");
        let keys = dir.path().join("keys.json");
        fs::write(&keys, json!({ "keys": [issuer.jwk()] }).to_string()).unwrap();
        let redis = redis::Server::start(&redis::Settings::default()).unwrap();
        let settings = settings(&redis.url())
            .set("UNPOLL_TOKENS_KEYS_FILE", keys.to_str().unwrap())
            .set("UNPOLL_TOKENS_ISSUER", Issuer::NAME)
            .set("UNPOLL_TLS_CLIENT_CA", dir.path().join("boxes-ca.pem").to_str().unwrap())
            .set("UNPOLL_TLS_CLIENT_PINNED", "true");
        let service = Service::start_with(change(settings));
        let backend = service.backend();
        Self {
            dir,
            issuer,
            authority,
            redis,
            service,
            backend,
        }
    }

    /// Redis answers nothing any more, and the node has noticed.
    fn pause(&self) {
        self.redis.pause();
        wait_for("the breaker", SOON, || (self.service.metric(BREAKER) == Some(1.0)).then_some(()));
    }

    fn by_token(&self, device: &str) -> Result<Device, Error> {
        Device::connect(self.token_options(device))
    }

    fn token_options(&self, device: &str) -> Options {
        Options {
            mechanism: Some(Mechanism::Plain),
            password: Arc::new(Password::new(self.issuer.token(device, 600))),
            ..Device::options(&self.service, device, "")
        }
    }

    fn certificate(&self, device: &str) -> Issued {
        self.authority.issue(device, named(device))
    }

    /// A connection whose TLS showed that.
    fn shows(&self, issued: &Issued) -> Secure {
        let client = Client::new(&self.service.ca(), b"xmpp-client", Some(issued), &TLS13);
        let mut secure = client.connect(self.service.xmpps, None);
        secure.says(STREAM_HEADER, FEATURES);
        secure
    }

    /// An event for that device, once the node finds Redis back.
    fn push(&self, device: &str) -> String {
        let event = json!({"target": {"device": device}, "type": "test", "data": {}});
        wait_for("Redis is back", SOON, || {
            let answer = self.backend.post(&event);
            (answer.status == 202).then(|| answer.json()["id"].as_str().unwrap().to_owned())
        })
    }
}

fn named(device: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let address = OtherNameValue::Utf8String(format!("{device}@localhost"));
    params.subject_alt_names = vec![SanType::OtherName((vec![1, 3, 6, 1, 5, 5, 7, 8, 5], address))];
    params
}

fn external(device: &str) -> String {
    let text = BASE64_STANDARD.encode(format!("{device}@localhost"));
    format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>")
}

/// Logs in by certificate, binds, and is present.
#[track_caller]
fn online(mut secure: Secure, device: &str) -> Secure {
    secure.says(&external(device), SUCCESS);
    secure.says(STREAM_HEADER, FEATURES);
    let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    let bound = secure.says(bind, "</iq>");
    assert!(bound.contains(&format!("<jid>{device}@localhost/")), "{bound}");
    secure.says("<presence/><iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>", "</iq>");
    secure
}

fn pin(scene: &Scene, device: &str, issued: &Issued) {
    let sha256 = data_encoding::HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &issued.der).as_ref());
    let body = json!({"credentials": [{"type": "certificate", "sha256": sha256}]});
    scene.backend.send("PUT", &format!("/v1/devices/{device}"), &body).expect(201);
}

#[track_caller]
fn is_put_off(tried: Result<Device, Error>) {
    let error = tried.map(|_| ()).expect_err("it is not let in");
    assert_eq!(error.refusal(), Some("temporary-auth-failure"), "{error}");
}

#[track_caller]
fn hears_that_it_is_not_authorized(mut device: Device) {
    let ended = device.ended().to_string();
    assert!(ended.contains("not-authorized"), "{ended}");
}

#[test]
fn who_needs_no_row_or_has_one_at_hand_logs_in_and_gets_its_events_when_redis_is_back() {
    let mut scene = Scene::new(|settings| settings);
    for device in ["seen", "sasl2", "unseen", "token", "certified"] {
        scene.backend.add_device(device, "secret");
    }
    let (pinned, other) = (
        scene.authority.self_signed("pinned", named("pinned")),
        scene.authority.self_signed("own", named("pinned-to-another")),
    );
    pin(&scene, "pinned", &pinned);
    pin(&scene, "pinned-to-another", &other);
    let sasl2 = Options {
        login: Login::Sasl2,
        ..Device::options(&scene.service, "sasl2", "secret")
    };
    Device::online(&scene.service, "seen", "secret").close();
    Device::connect(sasl2.clone()).unwrap().close();

    scene.pause();
    let seen = Device::online(&scene.service, "seen", "secret");
    // It asks for a token for the next time, which cannot be stored: it gets none, and goes in.
    let by_sasl2 = Device::connect(sasl2).unwrap();
    is_put_off(Device::connect(Device::options(&scene.service, "unseen", "secret")));
    let plain = Options {
        mechanism: Some(Mechanism::Plain),
        ..Device::options(&scene.service, "unseen", "secret")
    };
    is_put_off(Device::connect(plain));
    let token = scene.by_token("token").unwrap();
    let certified = online(scene.shows(&scene.certificate("certified")), "certified");
    // Whether a pinned certificate is the right one, the row alone can tell; one that an authority vouches for is judged later.
    let answer = scene.shows(&pinned).says(&external("pinned"), "</failure>");
    assert!(answer.contains("<temporary-auth-failure"), "{answer}");
    let judged_later = online(scene.shows(&scene.certificate("pinned-to-another")), "pinned-to-another");
    // Nobody knows this one, and nobody may be added.
    let stranger = scene.by_token("stranger").unwrap();
    assert!(seen.is_connected() && token.is_connected() && stranger.is_connected());
    wait_for("what Redis is to be told", SOON, || {
        let owed = scene.service.metric("unpoll_claims_pending")?;
        (owed >= 6.0).then_some(())
    });

    scene.redis.go_on();
    for (device, id) in [(&seen, "seen"), (&by_sasl2, "sasl2"), (&token, "token")] {
        let event = scene.push(id);
        wait_for("the event", SOON, || (device.expect_event().id == event).then_some(()));
        wait_for("the receipt", SOON, || (scene.backend.state(&event) == "delivered").then_some(()));
        assert_eq!(scene.backend.presence(id), "online");
    }
    let event = scene.push("certified");
    let mut certified = certified;
    let said = certified.says("", "</message>");
    assert!(said.contains(&event), "{said}");
    hears_that_it_is_not_authorized(stranger);
    let mut judged_later = judged_later;
    let said = judged_later.says("", "</stream:stream>");
    assert!(said.contains("<not-authorized"), "{said}");
    scene.backend.get("/v1/devices/stranger").expect(404);
    wait_for("nothing is owed", SOON, || {
        (scene.service.metric("unpoll_claims_pending") == Some(0.0)).then_some(())
    });

    // The same with a Redis that is killed, and comes back with what it had.
    scene.redis.kill();
    wait_for("the breaker", SOON, || (scene.service.metric(BREAKER) == Some(1.0)).then_some(()));
    let again = scene.by_token("certified").unwrap();
    scene.redis.restart().unwrap();
    let event = scene.push("certified");
    wait_for("the event", SOON, || (again.expect_event().id == event).then_some(()));
    drop(scene.dir);
}

#[test]
fn a_device_that_its_token_may_add_is_added_when_redis_is_back() {
    let scene = Scene::new(|settings| settings.set("UNPOLL_TOKENS_REGISTER", "true"));
    scene.backend.add_device("gone", "secret");
    scene.backend.delete("/v1/devices/gone").expect(204);
    scene.pause();
    let fresh = scene.by_token("fresh").unwrap();
    let gone = scene.by_token("gone").unwrap();
    scene.redis.go_on();
    // Before that a POST is refused: 404.
    wait_for("it is added", SOON, || {
        (scene.backend.get("/v1/devices/fresh").status == 200).then_some(())
    });
    let event = scene.push("fresh");
    wait_for("the event", SOON, || (fresh.expect_event().id == event).then_some(()));
    assert!(fresh.is_connected());
    // A token does not undo that a device was removed.
    hears_that_it_is_not_authorized(gone);
}

#[test]
fn who_was_removed_or_given_other_credentials_meanwhile_loses_its_session() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let proxy = Proxy::start(redis.address().parse().unwrap()).unwrap();
    let near = Service::start_with(settings(&redis.url()));
    let far = Service::start_with(settings(&format!("redis://{}", proxy.address)));
    let backend = near.backend();
    for device in ["removed", "changed", "same"] {
        backend.add_device(device, "secret");
        Device::online(&far, device, "secret").close();
    }
    proxy.cut();
    wait_for("the breaker", SOON, || (far.metric(BREAKER) == Some(1.0)).then_some(()));
    // The rows are at hand, and what becomes of them is not heard of.
    let [removed, changed, same] = ["removed", "changed", "same"].map(|device| Device::online(&far, device, "secret"));
    backend.delete("/v1/devices/removed").expect(204);
    backend.add_device("changed", "another");
    proxy.mend();
    hears_that_it_is_not_authorized(removed);
    hears_that_it_is_not_authorized(changed);
    let id = backend.push("same", &json!(1));
    wait_for("the event", SOON, || (same.expect_event().id == id).then_some(()));
    same.close();
}

#[test]
fn a_minute_without_redis_costs_no_connection_and_no_acknowledgement() {
    const DEVICES: usize = 20;
    const AWAY: Duration = Duration::from_secs(61);
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let nodes = [
        Service::start_with(settings(&redis.url())),
        Service::start_with(settings(&redis.url())),
    ];
    let backends = nodes.each_ref().map(|node| nodes[0].backend().at(node.http));
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let id = format!("box{number}");
        backends[0].add_device(&id, "secret");
        let options = Options {
            acks: Acks::Never,
            ..Device::options(&nodes[number % 2], &id, "secret")
        };
        devices.push((Device::connect(options).unwrap(), id));
    }
    let mut events = Vec::new();
    for (number, (device, id)) in devices.iter().enumerate() {
        for _ in 0..2 {
            let event = backends[(number + 1) % 2].push(id, &json!({}));
            assert_eq!(device.expect_event().id, event);
            events.push(event);
        }
    }

    let gone = Instant::now();
    redis.pause();
    // Some say so at once and some later, before it is overdue (30 s).
    let (at_once, later) = devices.split_at(DEVICES / 2);
    at_once.iter().for_each(|(device, _)| device.acknowledge());
    let mut later = later.iter();
    let event = json!({"target": {"device": "box0"}, "type": "test", "data": {}}).to_string();
    let headers = [("content-type", "application/json"), ("idempotency-key", "\"once\"")];
    let mut refused = 0;
    while gone.elapsed() < AWAY {
        for backend in &backends {
            let answer = backend.request("POST", "/v1/events", &headers, event.as_bytes()).expect(503);
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert_eq!(answer.slug(), "unavailable");
            refused += 1;
        }
        if gone.elapsed() > AWAY / 4 {
            later.by_ref().for_each(|(device, _)| device.acknowledge());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(refused > 20, "{refused} tries in a minute");
    for node in &nodes {
        let readiness = Backend {
            address: node.admin,
            key: String::new(),
        };
        assert_eq!(readiness.get("/readyz").status, 503);
    }
    assert_eq!(later.count(), 0);
    for (device, id) in &devices {
        assert!(device.is_connected(), "{id}");
    }
    redis.go_on();

    for event in &events {
        let settled = || {
            let answer = backends[0].get(&format!("/v1/events/{event}/deliveries"));
            (answer.status == 200 && answer.json()["items"][0]["state"] == "delivered").then_some(())
        };
        wait_for("what was acknowledged is settled", SOON, settled);
    }
    // What was refused comes with its key, and is there once, whether it was stored or not.
    let once = wait_for("events are taken", SOON, || {
        let answer = backends[1].request("POST", "/v1/events", &headers, event.as_bytes());
        matches!(answer.status, 200 | 202).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    });
    assert_eq!(devices[0].0.expect_event().id, once);
    devices[0].0.acknowledge();
    wait_for("the last receipt", SOON, || (backends[0].state(&once) == "delivered").then_some(()));
    for (device, id) in &devices {
        assert!(device.is_connected() && device.event(Duration::from_millis(50)).is_none(), "{id}");
    }
    // One receipt for each end: as many as the log of the tenant ever took.
    wait_for("every receipt is moved", SOON, || {
        let receipts: Option<u64> = redis.query(&["HGET", "unpoll:{t:0}moved", "rows"]).unwrap();
        (receipts == Some(events.len() as u64 + 1)).then_some(())
    });
}
