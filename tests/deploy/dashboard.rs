//! The Grafana dashboard: every query of it, and every rule, run by a real Prometheus that scraped the real service.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    prometheus::Prometheus,
    read,
    rules::{recorded, yaml},
    support::{Backend, Device, SOON, Service, Settings, wait_for},
    words::Reference,
};

const DASHBOARD: &str = "deploy/grafana/dashboards/unpoll.json";

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// The row of the panels that only a service on Redis fills.
const CLUSTER: &str = "Nodes and Redis";

/// A PromQL expression behind the title of its panel.
type Titled = (String, String);

/// Every one.
fn expressions(dashboard: &Value) -> Vec<Titled> {
    let (mut all, cluster) = expressions_of_rows(dashboard);
    all.extend(cluster);
    all
}

/// The same of the rows that every service fills, and of the one about nodes.
fn expressions_of_rows(dashboard: &Value) -> (Vec<Titled>, Vec<Titled>) {
    let (mut common, mut cluster) = (Vec::new(), Vec::new());
    let mut found = &mut common;
    for panel in items(dashboard, "panels") {
        if panel["title"] == CLUSTER {
            found = &mut cluster;
        }
        for target in items(panel, "targets") {
            found.push((
                panel["title"].as_str().unwrap().to_owned(),
                target["expr"].as_str().unwrap().to_owned(),
            ));
        }
    }
    assert!(common.len() > 50 && cluster.len() > 12, "{} and {}", common.len(), cluster.len());
    (common, cluster)
}

/// Queries that rightly have no series in a healthy service, with the reason.
const EMPTY: [(&str, &str); 0] = [];

/// A service with all that the dashboard shows: devices of each cohort, events that arrive, a keepalive, a refusal, a poll.
struct Scene {
    service: Service,
    _device: Device,
}

impl Scene {
    /// A service of its own, or a node on that Redis.
    fn new(redis: &str) -> Self {
        let settings = Settings::default()
            .set("UNPOLL_REDIS_URL", redis)
            .set("UNPOLL_LEDGER_POLL_INTERVAL_SECS", "1")
            .set("UNPOLL_XMPP_KEEPALIVE_SECS", "1")
            // As in compose.yml: metrics go beyond loopback, so they ask for a key.
            .set("UNPOLL_TLS_RISK_READABLE_KEYS_BEYOND_LOOPBACK", "true");
        let mut service = Service::start_with(settings);
        service.stop();
        service.admin = "0.0.0.0:0".parse().unwrap();
        service.run();
        service.admin.set_ip("127.0.0.1".parse().unwrap());
        let backend = service.backend();
        backend.add_device("box", "secret");
        let control = json!({ "password": "secret", "cohort": "control" });
        assert_eq!(backend.send("PUT", "/v1/devices/poller", &control).status, 201);
        let device = Device::online(&service, "box", "secret");
        let scene = Self { service, _device: device };
        scene.act();
        scene
    }

    /// One of everything.
    fn act(&self) {
        let backend = self.service.backend();
        let event = backend.push("box", &json!({ "on": true }));
        wait_for("it is delivered", SOON, || (backend.state(&event) == "delivered").then_some(()));
        backend.get("/v1/nothing").expect(404);
        let keyless = backend.with_key("");
        let basic = [("authorization", "Basic cG9sbGVyOnNlY3JldA==")];
        keyless.request("GET", "/v1/devices/poller/events", &basic, b"").expect(200);
    }

    fn scrape_key(&self) -> String {
        let answer = self
            .service
            .backend()
            .send("POST", "/v1/keys", &json!({ "name": "prometheus", "scope": "admin" }));
        answer.expect(201).json()["key"].as_str().unwrap().to_owned()
    }
}

#[test]
fn every_query_of_the_dashboard_and_every_rule_works_on_the_real_service() {
    let dashboard = dashboard();
    let (common, cluster) = expressions_of_rows(&dashboard);
    let scene = Scene::new("");
    let prometheus = every_query_has_series(&scene, common);
    for (metric, label) in [("unpoll_build_info", "instance"), ("unpoll_polls_avoided_total", "baseline")] {
        let query = format!("label_values({metric}, {label})");
        let variable = items(&dashboard["templating"], "list").find(|variable| variable["definition"] == *query);
        assert_eq!(variable.unwrap()["query"]["query"], *query);
        assert!(!prometheus.label_values(metric, label).is_empty(), "{query} gives nothing");
    }
    every_rule_was_evaluated(&prometheus);
    drop((prometheus, scene));

    let redis = loadtest::redis::Server::start(&loadtest::redis::Settings::default()).unwrap();
    let scene = Scene::new(&redis.url());
    let prometheus = every_query_has_series(&scene, cluster);
    every_rule_was_evaluated(&prometheus);
}

/// Scrapes the scene and runs these queries.
fn every_query_has_series(scene: &Scene, mut waiting: Vec<Titled>) -> Prometheus {
    let admin = Backend {
        address: scene.service.admin,
        key: String::new(),
    };
    assert_eq!(admin.get("/metrics").status, 401, "metrics beyond loopback need a key");
    let prometheus = Prometheus::start(scene.service.admin, &scene.scrape_key());

    // A rate sees what happens between two scrapes.
    let scraped = |times: u32| {
        let enough = format!("count_over_time(up[5m]) >= {times}");
        wait_for("Prometheus scrapes", SOON * 2, || prometheus.query(&enough).ok());
    };
    scraped(2);
    scene.act();

    waiting.retain(|(_, expression)| !EMPTY.iter().any(|(empty, _)| empty == expression));
    let end = Instant::now() + SOON * 3;
    let mut faults = Vec::new();
    while !waiting.is_empty() && Instant::now() < end {
        faults.clear();
        waiting.retain(|(panel, expression)| {
            let fault = prometheus.query(&filled(expression)).err();
            faults.extend(fault.iter().map(|why| format!("{panel}: {expression}: {why}")));
            fault.is_some()
        });
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(waiting.is_empty(), "{} queries give nothing:\n{}", faults.len(), faults.join("\n"));
    prometheus
}

fn every_rule_was_evaluated(prometheus: &Prometheus) {
    let groups = prometheus.get("/api/v1/rules");
    let rules: Vec<&Value> = items(&groups, "groups").flat_map(|group| items(group, "rules")).collect();
    assert!(rules.len() > recorded().len() + 15, "{} rules", rules.len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        // Those that a healthy service would fire are alarms for nothing.
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

/// With the variables that Grafana fills in.
fn filled(expression: &str) -> String {
    let values = [("$__rate_interval", "5m"), ("$instance", ".*"), ("$baseline", "declared")];
    let filled = values
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!filled.contains('$'), "{filled}");
    filled
}

#[test]
fn the_dashboard_names_only_what_there_is() {
    let reference = Reference::new(recorded());
    let dashboard = dashboard();
    let annotations = items(&dashboard["annotations"], "list").filter_map(|annotation| annotation["expr"].as_str());
    let unknown: BTreeSet<String> = expressions(&dashboard)
        .iter()
        .map(|(_, expression)| expression.as_str())
        .chain(annotations)
        .flat_map(|expression| reference.unknown(expression))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_panels_lie_side_by_side() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in items(&dashboard, "panels") {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} covers another panel");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let refs: BTreeSet<&str> = items(panel, "targets").map(|target| target["refId"].as_str().unwrap()).collect();
            assert!(refs.len() == items(panel, "targets").count() && !refs.is_empty(), "{title}");
        }
    }
}

/// What is provisioned is where compose.yml mounts it, and the data source is the one that it starts.
#[test]
fn grafana_finds_its_data_source_and_the_dashboard() {
    let compose = yaml("deploy/compose.yml");
    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0].clone();
    let variable = dashboard()["templating"]["list"][0].clone();
    assert_eq!((&variable["type"], &variable["query"]), (&json!("datasource"), &source["type"]));
    assert_eq!(variable["current"]["value"], source["uid"]);
    let (host, port) = source["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap()
        .split_once(':')
        .unwrap();
    assert_eq!(compose["services"][host]["expose"], json!([port]));
    let scrape = &yaml("deploy/prometheus/prometheus.yml")["global"]["scrape_interval"];
    assert_eq!(&source["jsonData"]["timeInterval"], scrape);

    let grafana = &compose["services"]["grafana"];
    let mounted = |from: &str| {
        let volumes = items(grafana, "volumes").filter_map(Value::as_str);
        let found = volumes
            .filter_map(|volume| volume.strip_prefix(from)?.strip_prefix(':')?.strip_suffix(":ro"))
            .next();
        found.unwrap_or_else(|| panic!("{from} is not mounted")).to_owned()
    };
    assert_eq!(mounted("./grafana/provisioning"), "/etc/grafana/provisioning");
    let folder = mounted("./grafana/dashboards");
    let provider = yaml("deploy/grafana/provisioning/dashboards/unpoll.yml")["providers"][0].clone();
    assert_eq!(provider["options"]["path"], json!(folder));
    let home = &grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(*home, json!(format!("{folder}/unpoll.json")));
}
