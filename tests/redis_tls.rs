//! Redis behind TLS: alone, with Sentinels and as a cluster; certificates of both sides, and passwords.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{fs, path::PathBuf, time::Duration};

use loadtest::redis::{Cluster, Sentinels, Server, Settings as Redis, Tls};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use serde_json::json;
use support::{Authority, Device, Issued, SOON, Service, Settings, TestDir, wait_for};

struct Scene {
    dir: TestDir,
    authority: Authority,
}

impl Scene {
    fn new() -> Self {
        let dir = TestDir::new();
        let authority = Authority::new(dir.path(), "redis");
        Self { dir, authority }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("redis-ca.pem")
    }

    fn issue(&self, file: &str, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.authority.issue(file, params)
    }

    fn tls(&self, mutual: bool) -> Tls {
        let issued = self.issue("server", &["localhost", "127.0.0.1"]);
        Tls {
            ca: self.ca(),
            certificate: issued.certificate,
            key: issued.key,
            mutual,
        }
    }

    /// Settings of a node that trusts the authority.
    fn settings(&self, url: &str) -> Settings {
        Settings::default()
            .set("UNPOLL_REDIS_URL", url)
            .set("UNPOLL_REDIS_TLS_CA", self.ca().to_str().unwrap())
    }

    /// The same, and shows a certificate of it.
    fn known(&self, url: &str) -> Settings {
        let own = self.issue("node", &["node"]);
        self.settings(url)
            .set("UNPOLL_REDIS_TLS_CERTIFICATE", own.certificate.to_str().unwrap())
            .set("UNPOLL_REDIS_TLS_KEY", own.key.to_str().unwrap())
    }
}

/// Two nodes are one service: an event posted at the second reaches the device at the first.
fn serves(settings: &Settings) -> [Service; 2] {
    let nodes = [Service::start_with(settings.clone()), Service::start_with(settings.clone())];
    let first = nodes[0].backend();
    let second = support::Backend {
        address: nodes[1].http,
        ..nodes[0].backend()
    };
    first.add_device("box", "secret");
    let device = Device::online(&nodes[0], "box", "secret");
    for number in 0..3 {
        let id = second.push("box", &json!({ "n": number }));
        assert_eq!(device.expect_event().id, id);
        wait_for("the receipt", SOON, || (second.state(&id) == "delivered").then_some(()));
    }
    device.close();
    nodes
}

/// What a node says that does not start.
fn refused(settings: &Settings) -> String {
    let dir = TestDir::new();
    let mut serve = support::unpoll();
    serve.args(["serve", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    serve.args(["--xmpp", "127.0.0.1:0", "--xmpps", "127.0.0.1:0", "--data-dir"]);
    let output = serve
        .arg(dir.path().join("data"))
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

#[track_caller]
fn says(settings: &Settings, expected: &[&str]) {
    let said = refused(settings);
    for words in expected {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

#[test]
fn every_connection_has_tls_and_the_server_must_be_who_it_says() {
    let scene = Scene::new();
    let server = Server::start(&Redis::default().tls(Some(&scene.tls(false)))).unwrap();
    // No node reaches another but through Redis, so that the channel for what is published is used, too.
    let nodes = serves(&scene.settings(&server.tls_url()).set("UNPOLL_CLUSTER_ADVERTISE", "127.0.0.1:9"));
    let sent_around = nodes[1].metric("unpoll_cluster_fallback_total");
    assert!(sent_around.is_some_and(|sent| sent >= 3.0), "{sent_around:?}");
    let clients: String = server.query(&["CLIENT", "LIST"]).unwrap();
    let (own, tls) = (format!("laddr={}", server.address()), format!("laddr={}", server.reached_at()));
    let of_nodes: Vec<&str> = clients.lines().filter(|line| !line.contains(&own)).collect();
    assert!(of_nodes.len() >= 6, "the lanes and the channel of two nodes: {clients}");
    assert!(of_nodes.iter().all(|line| line.contains(&tls)), "{clients}");
    assert_eq!(
        clients.lines().count(),
        of_nodes.len() + 1,
        "only the test itself speaks in clear: {clients}"
    );

    Authority::new(scene.dir.path(), "stranger");
    let stranger = scene.dir.path().join("stranger-ca.pem");
    let strange = scene
        .settings(&server.tls_url())
        .set("UNPOLL_REDIS_TLS_CA", stranger.to_str().unwrap());
    says(&strange, &["is not trusted", "redis.tls_ca"]);
    // The authorities of the system do not know it either.
    let system = Settings::default().set("UNPOLL_REDIS_URL", &server.tls_url());
    says(&system, &["redis.tls_ca"]);
    says(
        &scene.settings(&format!("rediss://{}", server.address())),
        &["does not answer with TLS"],
    );
    says(
        &scene.settings(&server.url()),
        &["redis.tls_… is set, and redis.url is without TLS"],
    );
    let missing = scene.settings(&server.tls_url()).set("UNPOLL_REDIS_TLS_CA", "/nowhere/ca.pem");
    says(&missing, &["redis.tls_ca = \"/nowhere/ca.pem\""]);
}

#[test]
fn the_name_of_the_certificate_must_be_the_one_that_is_connected_to() {
    let scene = Scene::new();
    let issued = scene.issue("named", &["localhost"]);
    let tls = Tls {
        certificate: issued.certificate,
        key: issued.key,
        ..scene.tls(false)
    };
    let server = Server::start(&Redis::default().tls(Some(&tls))).unwrap();
    says(&scene.settings(&server.tls_url()), &["is not for 127.0.0.1"]);
    serves(&scene.settings(&server.tls_url().replace("127.0.0.1", "localhost")));
}

#[test]
fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let scene = Scene::new();
    let password = scene.dir.path().join("password");
    fs::write(&password, "hush hush\n").unwrap();
    let server = Redis::default()
        .tls(Some(&scene.tls(true)))
        // The test itself speaks as the user `default`, in clear.
        .line("user unpoll on >\"hush hush\" ~* &* +@all");
    let server = Server::start(&server).unwrap();
    let url = server.tls_url().replace("rediss://", "rediss://unpoll@");
    let password = |settings: Settings| settings.set("UNPOLL_REDIS_PASSWORD_FILE", password.to_str().unwrap());
    says(&password(scene.settings(&url)), &["redis.tls_certificate", "redis.tls_key"]);
    serves(&password(scene.known(&url)));
    let users: String = server.query(&["CLIENT", "LIST"]).unwrap();
    assert!(
        !users
            .lines()
            .any(|line| line.contains("user=unpoll") && line.contains(&server.address()))
    );
    let wrong = scene.known(&url.replace("unpoll@", "unpoll:wrong@"));
    let said = refused(&wrong);
    assert!(said.contains("Redis is not reached") && !said.contains(":wrong"), "{said}");
}

#[test]
fn sentinels_and_the_servers_that_they_name_have_tls() {
    let scene = Scene::new();
    // The servers know a user whom the Sentinels do not; one that comes back can be made the primary once more.
    let each = Redis::default()
        .tls(Some(&scene.tls(true)))
        .line("user unpoll on >hush ~* &* +@all");
    let mut redis = Sentinels::start_with(1, &each, Duration::from_secs(1)).unwrap();
    let url = redis.url().replace("rediss-sentinel://", "rediss-sentinel://unpoll:hush@");
    // A machine that runs many tests at once shakes hands slowly.
    let settings = scene
        .known(&url)
        .set("UNPOLL_REDIS_DURABILITY", "replicated")
        .set("UNPOLL_REDIS_ANSWER_WITHIN_MS", "3000");
    let nodes = serves(&settings);
    let primary = redis.kill_primary().unwrap();
    redis.wait_for_failover(primary).unwrap();
    redis.restart_dead().unwrap();
    redis.wait_until_healthy().unwrap();
    let event = json!({"target": {"device": "box"}, "type": "test", "data": {}});
    wait_for("the new primary takes events", SOON * 3, || {
        (nodes[0].backend().post(&event).status == 202).then_some(())
    });
    let said = nodes[0].log();
    assert!(said.contains("who the primaries of Redis are is not known: "), "{said}");
}

#[test]
fn all_servers_of_a_cluster_have_tls() {
    let scene = Scene::new();
    let redis = Cluster::start_with(Some(&scene.tls(true))).unwrap();
    serves(&scene.known(&redis.url()).set("UNPOLL_REDIS_DURABILITY", "replicated"));
}
