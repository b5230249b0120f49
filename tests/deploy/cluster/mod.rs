//! `deploy/compose.cluster.yml` with what it mounts: by the rules of docker-compose, and run.

mod site;
mod story;

use std::{collections::BTreeMap, fs};

use loadtest::redis;
use serde_json::Value;
use unpoll::config::{Config, ConfigError, Layers};

use super::{
    done,
    image::{is_pinned, words},
    path, read,
    rules::yaml,
    support::{Backend, Device, SOON, Service, Settings, TestDir, unpoll, wait_for},
};
use site::{DOMAIN, NETWORK, shipped};

const NODES: [(&str, &str); 3] = [("unpoll-1", "11"), ("unpoll-2", "12"), ("unpoll-3", "13")];

fn services() -> BTreeMap<String, Value> {
    shipped()["services"].as_object().unwrap().clone().into_iter().collect()
}

fn address(service: &Value) -> &str {
    service["networks"]["inside"]["ipv4_address"].as_str().unwrap()
}

/// The settings of a node, without those in `without`.
fn settings(node: &Value, without: &[&str]) -> Result<Config, ConfigError> {
    let given = node["environment"].as_object().unwrap().iter();
    let environment = given
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    let mut layers = Layers::new()?;
    let url = format!("redis-sentinel://u:p@{NETWORK}31/unpoll");
    layers.environment(environment.chain([("UNPOLL_REDIS_URL".to_owned(), url)]).collect::<Vec<_>>());
    let config = layers.build()?;
    config.validate()?;
    Ok(config)
}

#[test]
fn a_node_takes_its_settings_and_hears_only_the_balancer_s_word() {
    let services = services();
    for (node, number) in NODES {
        let service = &services[node];
        assert_eq!(address(service), format!("{NETWORK}{number}"));
        let config = settings(service, &[]).unwrap();
        assert_eq!(config.domain, DOMAIN);
        assert_eq!(config.cluster.listen.to_string(), format!("{NETWORK}{number}:7400"));
        let balancer = format!("{}/32", address(&services["haproxy"]));
        for networks in [&config.http.proxy_from, &config.xmpp.proxy_from] {
            assert_eq!(networks.iter().map(ToString::to_string).collect::<Vec<_>>(), [balancer.as_str()]);
        }
        assert!(settings(service, &["UNPOLL_TLS_RISK_READABLE_KEYS_BEYOND_LOOPBACK"]).is_err());
        assert!(settings(service, &["UNPOLL_TLS_CERTIFICATE", "UNPOLL_TLS_KEY"]).is_err());
        let grace = service["stop_grace_period"].as_str().unwrap();
        assert_eq!(grace, "150s");
        assert!(config.drain_notice_secs + config.drain_secs + 15 <= 150);
        // `inter 1s fall 2`, and as much again.
        assert!(read("deploy/haproxy/haproxy.cfg").contains("inter 1s fall 2 rise 2") && config.drain_notice_secs >= 4);
        assert_eq!(words(&service["command"])[1..], ["--config", "/run/secrets/unpoll.toml"]);
    }
}

/// Who is outside reaches HAProxy, and on this host Grafana; Redis and metrics stay inside.
#[test]
fn only_the_balancer_is_published() {
    let compose = shipped();
    for network in ["watch", "inside"] {
        assert_eq!(compose["networks"][network]["internal"], true, "{network}");
    }
    for (name, service) in services() {
        let expected: &[&str] = match name.as_str() {
            "haproxy" => &["8443:8443", "5222:5222", "5223:5223"],
            "grafana" => &["127.0.0.1:3000:3000/tcp"],
            _ => &[],
        };
        let ports = service["ports"].as_array().into_iter().flatten();
        let published: Vec<String> = ports
            .map(|port| match port.as_str() {
                Some(port) => port.to_owned(),
                None => format!("{}:{}", port["published"], port["target"]),
            })
            .collect();
        assert_eq!(published, expected, "{name}");
    }
}

#[test]
fn every_container_is_pinned_bounded_watched_and_restarted() {
    let services = services();
    assert_eq!(services.len(), 12);
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        assert!(is_pinned(image) || service.get("build").is_some(), "{name}: {image}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(words(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert_eq!(service["read_only"].as_bool(), Some(name != "grafana"), "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(words(&service["healthcheck"]["test"])[0], "CMD", "{name}");
    }
    let text = read("deploy/compose.cluster.yml");
    for mount in text.split('"').chain(text.lines().map(|line| line.trim().trim_start_matches("- "))) {
        if let Some((from, to)) = mount.split_once(':').filter(|(from, _)| from.starts_with("./")) {
            assert!(path("deploy").join(from).exists() && to.ends_with(":ro"), "{mount}");
        }
    }
}

/// The same address or name in every file that has it.
#[test]
fn the_files_agree_where_everything_is() {
    let services = services();
    let haproxy = read("deploy/haproxy/haproxy.cfg");
    for (node, number) in NODES {
        for port in [5222, 5223, 8443] {
            let server = format!("server {node} {NETWORK}{number}:{port}\n");
            assert_eq!(
                haproxy.matches(&server).count(),
                2,
                "{server}: while it takes traffic, and while it lives"
            );
        }
    }
    let longest = Config::default().xmpp;
    let minutes = (longest.keepalive_max_secs + longest.overdue_secs).div_ceil(60);
    for side in ["client", "server"] {
        let line = haproxy
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("timeout {side} ")))
            .unwrap();
        assert!(line.trim_end_matches('m').parse::<u64>().unwrap() >= minutes, "{side}: {line}");
    }
    let primary = address(&services["redis-1"]).to_owned();
    assert!(read("deploy/redis/sentinel.conf").contains(&format!("sentinel monitor unpoll {primary} 6379 2\n")));
    assert!(read("deploy/redis/replica.conf").contains(&format!("replicaof {primary} 6379\n")));
    let sentinels: Vec<&str> = (1..=3).map(|n| address(&services[&format!("sentinel-{n}")])).collect();
    assert!(read("docs/guides/cluster.md").contains(&format!("@{}/unpoll\"", sentinels.join(","))));

    let mut alone = yaml("deploy/prometheus/prometheus.yml");
    let cluster = yaml("deploy/prometheus/prometheus.cluster.yml");
    let targets = &cluster["scrape_configs"][0]["static_configs"][0]["targets"];
    let nodes: Vec<String> = NODES.iter().map(|(node, _)| format!("{node}:9090")).collect();
    assert_eq!(*targets, serde_json::json!(nodes));
    alone["scrape_configs"][0]["static_configs"][0]["targets"] = targets.clone();
    alone["scrape_configs"]
        .as_array_mut()
        .unwrap()
        .push(cluster["scrape_configs"][1].clone());
    assert_eq!(alone, cluster, "beside the targets it is prometheus.yml");
}

#[test]
fn the_settings_of_the_guide_are_right() {
    let guide = read("docs/guides/cluster.md");
    let blocks: Vec<&str> = guide
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 2);
    let dir = TestDir::new();
    let file = dir.path().join("unpoll.toml");
    for block in blocks {
        fs::write(&file, block).unwrap();
        assert_eq!(done(unpoll().arg("check-config").arg(&file)), "ok\n", "{block}");
    }
}

/// What the guide says to who has no key left.
#[test]
fn a_first_key_is_made_again_when_all_are_gone() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let mut service = Service::start_with(Settings::default().set("UNPOLL_REDIS_URL", &redis.url()));
    let lost = service.backend();
    let guide = read("docs/guides/cluster.md");
    let command = guide.split("with `redis-cli`, `").nth(1).unwrap().split('`').next().unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words.len(), 3);
    let deleted: u32 = redis.query(&words).unwrap();
    assert_eq!(deleted, 2, "{command}");
    fs::remove_file(service.data_dir().join("admin.key")).unwrap();
    service.stop();
    service.run();
    service.backend().get("/v1/keys").expect(200);
    let old = Backend {
        address: service.http,
        ..lost
    };
    old.get("/v1/keys").expect(401);
}

/// The time in which a balancer sees that a node is leaving: it says so, and does all its work.
#[test]
fn a_node_says_that_it_leaves_before_it_refuses_anything() {
    let mut service = Service::start_with(Settings::default().set("UNPOLL_DRAIN_NOTICE_SECS", "3"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let admin = Backend {
        address: service.admin,
        key: String::new(),
    };
    service.signal(rustix::process::Signal::TERM);
    wait_for("it says so", SOON, || (admin.get("/readyz").status == 503).then_some(()));
    let device = Device::online(&service, "box", "secret");
    let id = backend.push("box", &serde_json::json!({ "still": "taken" }));
    assert_eq!(device.expect_event().id, id);
    assert_eq!(service.stop(), Some(0));
}
