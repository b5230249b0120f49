//! Devices that log in with a token instead of a password: by XMPP, and at the poll door.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{fs, sync::Arc};

use loadtest::{redis, sasl::Password};
use serde_json::{Value, json};
use support::{Answer, Backend, Device, Error, Issuer, KeyServer, Mechanism, Options, SOON, Service, Settings, TestDir, basic, wait_for};

fn settings(keys: (&str, &str)) -> Settings {
    Settings::default().set(keys.0, keys.1).set("UNPOLL_TOKENS_ISSUER", Issuer::NAME)
}

fn keys_file(dir: &TestDir, keys: &[Value]) -> String {
    let file = dir.path().join("keys.json");
    fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

fn by_token(service: &Service, device: &str, token: &str) -> Result<Device, Error> {
    Device::connect(Options {
        mechanism: Some(Mechanism::Plain),
        password: Arc::new(Password::new(token)),
        ..Device::options(service, device, "")
    })
}

#[track_caller]
fn is_refused(tried: Result<Device, Error>, condition: &str) {
    let error = tried.map(|_| ()).expect_err("the token is not taken").to_string();
    assert!(error.contains(condition), "{error}");
}

fn polls(service: &Service, device: &str, authorization: &str) -> Answer {
    let nobody = Backend {
        address: service.http,
        key: String::new(),
    };
    let path = format!("/v1/devices/{device}/events");
    nobody.request("GET", &path, &[("authorization", authorization)], b"")
}

#[test]
fn a_device_that_nobody_added_is_added_by_its_token_and_stays_removed() {
    let (dir, issuer) = (TestDir::new(), Issuer::new("1"));
    let service =
        Service::start_with(settings(("UNPOLL_TOKENS_KEYS_FILE", &keys_file(&dir, &[issuer.jwk()]))).set("UNPOLL_TOKENS_REGISTER", "true"));
    let backend = service.backend();
    let token = issuer.token("box", 600);
    is_refused(by_token(&service, "other", &token), "not-authorized");
    is_refused(by_token(&service, "box", &issuer.token("box", -120)), "not-authorized");
    is_refused(by_token(&service, "box", &Issuer::new("1").token("box", 600)), "not-authorized");
    backend.get("/v1/devices/box").expect(404);

    let mut device = by_token(&service, "box", &token).unwrap();
    let id = backend.push("box", &json!("by token"));
    assert_eq!(device.expect_event().id, id);
    assert_eq!(backend.get("/v1/devices/box").expect(200).json()["credentials"], json!([]));
    // The next token of the same device, at the next login: rotation without a visit.
    device.kill(support::Kill::Reset);
    let device = by_token(&service, "box", &issuer.token("box@localhost", 900)).unwrap();

    // The poll door takes it as a password, and by itself.
    let id = backend.push("box", &json!("polled"));
    device.expect_event();
    drop(device);
    for authorization in [basic("box@localhost", &token), basic("box", &token), format!("Bearer {token}")] {
        for _ in 0..2 {
            polls(&service, "box", &authorization).expect(200);
        }
        polls(&service, "other", &authorization).expect(403);
    }
    assert!(!id.is_empty());
    polls(&service, "box", &format!("Bearer {}", issuer.token("box", -120))).expect(401);
    polls(&service, "new", &format!("Bearer {}", issuer.token("new", 60))).expect(200);
    backend.get("/v1/devices/new").expect(200);

    backend.request("DELETE", "/v1/devices/box", &[], b"").expect(204);
    is_refused(by_token(&service, "box", &token), "not-authorized");
    polls(&service, "box", &format!("Bearer {token}")).expect(401);
    backend.get("/v1/devices/box").expect(410);
    // What is no token is a password still.
    backend.add_device("plain", "secret");
    by_token(&service, "plain", "secret").unwrap();
    assert!(service.metric(r#"unpoll_token_checks_total{result="valid"}"#).unwrap() >= 4.0);
    assert!(service.metric(r#"unpoll_token_checks_total{result="expired"}"#).unwrap() >= 2.0);
    assert!(!service.log().contains(&token), "no token is in the log");
}

/// On Redis: the engine has no part in it, but for the tenants, which come by their shared memory.
#[test]
fn a_token_opens_the_door_of_the_tenant_that_it_names_and_no_other() {
    let (dir, issuer) = (TestDir::new(), Issuer::new("1"));
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let service = Service::start_with(
        settings(("UNPOLL_TOKENS_KEYS_FILE", &keys_file(&dir, &[issuer.jwk()])))
            .set("UNPOLL_TOKENS_REGISTER", "true")
            .set("UNPOLL_TOKENS_TENANT_CLAIM", "org")
            .set("UNPOLL_REDIS_URL", &redis.url())
            .set("UNPOLL_REDIS_DURABILITY", "primary"),
    );
    let home = service.backend();
    home.send("PUT", "/v1/tenants/tv", &json!({"domain": "tv.example"})).expect(201);
    let key = json!({"name": "first", "scope": "admin", "tenant": "tv"});
    let tv = home.send("POST", "/v1/keys", &key).expect(201).json();
    let tv = home.with_key(tv["key"].as_str().unwrap());
    let token = |org: &str| issuer.sign(&json!({"aud": "localhost", "sub": "box", "org": org}));
    let at_tv = |token: &str| {
        Device::connect(Options {
            domain: "tv.example".into(),
            mechanism: Some(Mechanism::Plain),
            password: Arc::new(Password::new(token)),
            ..Device::options(&service, "box", "")
        })
    };
    let device = wait_for("a device at the new domain", SOON, || at_tv(&token("tv")).ok());
    home.get("/v1/devices/box").expect(404);
    let id = tv.push("box", &json!("for tv"));
    assert_eq!(device.expect_event().id, id);
    is_refused(at_tv(&token("default")), "not-authorized");
    is_refused(by_token(&service, "box", &token("tv")), "not-authorized");
    polls(&service, "box", &basic("box@localhost", &token("tv"))).expect(401);
    polls(&service, "box", &basic("box@tv.example", &token("tv"))).expect(200);
    home.get("/v1/devices/box").expect(404);
    // As Bearer token it says by itself where it belongs.
    device.close();
    let waits = tv.push("box", &json!("polled"));
    let polled = polls(&service, "box", &format!("Bearer {}", token("tv.example"))).expect(200);
    assert!(polled.body.contains(&waits), "{polled:?}");
    // One that names none is of nobody.
    let nobodys = issuer.token("box", 600);
    is_refused(by_token(&service, "box", &nobodys), "not-authorized");
    polls(&service, "box", &format!("Bearer {nobodys}")).expect(401);
    by_token(&service, "box", &token("default")).unwrap();
    home.get("/v1/devices/box").expect(200);
}

#[test]
fn without_registration_a_token_opens_the_door_for_known_devices_only() {
    let (dir, issuer) = (TestDir::new(), Issuer::new("1"));
    let service = Service::start_with(settings(("UNPOLL_TOKENS_KEYS_FILE", &keys_file(&dir, &[issuer.jwk()]))));
    is_refused(by_token(&service, "box", &issuer.token("box", 600)), "not-authorized");
    polls(&service, "box", &format!("Bearer {}", issuer.token("box", 600))).expect(401);
    let backend = service.backend();
    backend.request("PUT", "/v1/devices/box", &[], b"{}").expect(201);
    by_token(&service, "box", &issuer.token("box", 600)).unwrap();
    polls(&service, "box", &format!("Bearer {}", issuer.token("box", 600))).expect(200);
}

#[test]
fn keys_rotate_at_their_address_and_an_issuer_that_is_away_does_no_harm() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = KeyServer::start(vec![old.jwk()]);
    let service = Service::start_with(
        settings(("UNPOLL_TOKENS_KEYS_URL", &server.url))
            .set("UNPOLL_TOKENS_REFRESH_SECS", "1")
            .set("UNPOLL_TOKENS_REGISTER", "true"),
    );
    wait_for("the keys are there", SOON, || {
        (service.metric("unpoll_token_keys") == Some(1.0)).then_some(())
    });
    by_token(&service, "box", &old.token("box", 600)).unwrap();
    server.set(vec![new.jwk()]);
    let (asked, rotated) = (server.asked(), new.token("box", 600));
    wait_for("the keys are asked for again", SOON, || (server.asked() > asked + 1).then_some(()));
    by_token(&service, "box", &rotated).unwrap();
    is_refused(by_token(&service, "box", &old.token("box", 600)), "not-authorized");

    // Nobody is there at the address of this one: a login is put off, not refused for good, and the service runs.
    let away = Service::start_with(settings(("UNPOLL_TOKENS_KEYS_URL", "http://127.0.0.1:9/keys")));
    is_refused(by_token(&away, "box", &old.token("box", 600)), "temporary-auth-failure");
    polls(&away, "box", &format!("Bearer {}", old.token("box", 600))).expect(503);
}

#[test]
fn a_key_that_is_new_in_the_file_is_found_when_a_token_names_it() {
    let (dir, old, new) = (TestDir::new(), Issuer::new("old"), Issuer::new("new"));
    let file = keys_file(&dir, &[old.jwk()]);
    let service = Service::start_with(settings(("UNPOLL_TOKENS_KEYS_FILE", &file)).set("UNPOLL_TOKENS_REGISTER", "true"));
    by_token(&service, "box", &old.token("box", 600)).unwrap();
    keys_file(&dir, &[old.jwk(), new.jwk()]);
    wait_for("the new key is found", SOON, || {
        by_token(&service, "box", &new.token("box", 600)).ok()
    });
    keys_file(&dir, &[new.jwk()]);
    // A token of a third key has the file read again; the old key is gone then.
    let third = Issuer::new("third");
    wait_for("the old key is gone", SOON, || {
        let _ = by_token(&service, "box", &third.token("box", 600));
        by_token(&service, "box", &old.token("box", 600)).err()
    });
    by_token(&service, "box", &new.token("box", 600)).unwrap();
}

#[test]
fn a_file_without_keys_is_named_at_the_start() {
    let (dir, file) = (TestDir::new(), TestDir::new());
    let file = file.path().join("none.json");
    let started = support::unpoll()
        .args(["serve", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--xmpp", "127.0.0.1:0", "--xmpps", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .env("UNPOLL_TOKENS_KEYS_FILE", &file)
        .env("UNPOLL_TOKENS_ISSUER", Issuer::NAME)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(
        !started.status.success() && said.contains("tokens.keys_file = ") && said.contains("none.json"),
        "{said}"
    );
}

/// Backends: a token instead of a key, judged by the settings, and named in the audit log.
#[test]
fn a_backend_comes_with_a_token_instead_of_a_key_on_either_engine() {
    let (dir, issuer) = (TestDir::new(), Issuer::new("1"));
    let embedded = Settings::default()
        .set("UNPOLL_JWT_KEYS_FILE", &keys_file(&dir, &[issuer.jwk()]))
        .set("UNPOLL_JWT_ISSUER", Issuer::NAME)
        .set("UNPOLL_JWT_AUDIENCE", "push")
        .set("UNPOLL_JWT_TENANT_CLAIM", "org");
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let on_redis = embedded
        .clone()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary");
    for settings in [embedded, on_redis] {
        a_token_is_as_good_as_a_key(&Service::start_with(settings), &issuer);
    }

    // The key of an issuer who is not there: nobody is refused for good.
    let away = Service::start_with(
        Settings::default()
            .set("UNPOLL_JWT_KEYS_URL", "http://127.0.0.1:9/keys")
            .set("UNPOLL_JWT_ISSUER", Issuer::NAME)
            .set("UNPOLL_JWT_AUDIENCE", "push"),
    );
    let token = issuer.sign(&json!({"aud": "push", "sub": "ci@example", "scope": "unpoll:push"}));
    let refused = away.backend().with_key(&token).get("/v1/limits").expect(503);
    assert_eq!(refused.slug(), "no-issuer-keys");
    away.backend().get("/v1/limits").expect(200);
}

fn a_token_is_as_good_as_a_key(service: &Service, issuer: &Issuer) {
    let other = Issuer::new("2");
    let claims = |scope: &str| json!({"aud": "push", "sub": "ci@example", "org": "default", "scope": scope});
    let changed = |name: &str, value: Value| {
        let mut claims = claims("unpoll:push");
        claims[name] = value;
        claims
    };
    let with = |token: &str| service.backend().with_key(token);
    let admin = with(&issuer.sign(&claims("openid unpoll:admin")));
    admin.request("PUT", "/v1/devices/box", &[], b"{\"user\":\"ann\"}").expect(201);
    // Read and push together, of which neither contains the other.
    let both = with(&issuer.sign(&claims("unpoll:read unpoll:push")));
    both.get("/v1/devices/box").expect(200);
    both.push("box", &json!(1));
    both.get("/v1/keys").expect(403);
    let push = with(&issuer.sign(&claims("unpoll:push")));
    push.push("box", &json!(2));
    assert_eq!(push.get("/v1/devices").expect(403).slug(), "forbidden");
    assert_eq!(
        with(&issuer.sign(&claims("openid"))).get("/v1/limits").expect(403).slug(),
        "forbidden"
    );

    for (token, why) in [
        (issuer.sign(&changed("exp", json!(1_000))), "expired"),
        (issuer.sign(&changed("iss", json!("https://evil.example"))), "another issuer"),
        (issuer.sign(&changed("aud", json!("localhost"))), "another audience"),
        (issuer.sign(&changed("org", json!("other"))), "tenant"),
        (issuer.sign(&changed("sub", json!(""))), "subject"),
        (issuer.sign(&changed("more", json!("x".repeat(6_500)))), "no token"),
        (other.sign(&claims("unpoll:admin")), "key is not known"),
        (format!("{}x", issuer.sign(&claims("unpoll:admin"))), ""),
    ] {
        let refused = with(&token).get("/v1/limits").expect(401);
        assert_eq!(refused.slug(), "invalid-token");
        let challenge = refused.header("www-authenticate").unwrap().to_owned();
        assert!(
            challenge.starts_with("Bearer error=\"invalid_token\"") && challenge.contains(why),
            "{challenge}"
        );
        assert!(refused.body.contains(why) && !refused.body.contains(&token), "{refused:?}");
    }
    // Keys go on.
    let log = service.backend().get("/v1/audit").expect(200).json();
    let entry = &log["items"][0];
    assert_eq!(entry["actor"], json!({"token": {"subject": "ci@example"}}));
    assert_eq!(
        (&entry["resource"], &entry["from"], &entry["fields"]),
        (&json!("/v1/devices/box"), &json!("127.0.0.1"), &json!(["user"]))
    );
    assert_eq!(service.metric("unpoll_jwt_keys"), Some(1.0));
    assert!(service.metric(r#"unpoll_jwt_checks_total{result="expired"}"#).unwrap() >= 1.0);
    assert_eq!(service.metric(r#"unpoll_audit_entries_total{result="written"}"#), Some(1.0));
}
