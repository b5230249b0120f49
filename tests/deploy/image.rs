//! `deploy/Dockerfile` and `deploy/compose.yml`. There is no Docker engine here: what can be held without one is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;
use unpoll::config::{ConfigError, Layers};

use super::{
    done, path, read,
    rules::yaml,
    run,
    support::{Service, Settings, TestDir, unpoll},
};

const DOCKERFILE: &str = "deploy/Dockerfile";

/// The arguments of each instruction of that name, continuation lines joined.
fn instructions(name: &str) -> Vec<String> {
    let text = read(DOCKERFILE).replace("\\\n", " ");
    let found: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(str::to_owned)
        .collect();
    assert!(!found.is_empty(), "no {name} in the Dockerfile");
    found
}

/// What the Dockerfile copies from the repository.
fn copied() -> Vec<String> {
    let from_here = instructions("COPY")
        .into_iter()
        .filter(|arguments| !arguments.starts_with("--from="));
    let sources = from_here.flat_map(|arguments| {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        words[..words.len() - 1].to_vec()
    });
    sources.collect()
}

#[test]
fn hadolint_finds_no_fault() {
    done(Command::new("hadolint").arg(path(DOCKERFILE)));
}

#[test]
fn the_builder_is_sent_what_the_dockerfile_copies_and_no_more() {
    let ignore = read("deploy/Dockerfile.dockerignore");
    let rules: Vec<&str> = ignore.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rules[0], "*");
    let sent: BTreeSet<&str> = rules[1..].iter().map(|rule| rule.strip_prefix('!').unwrap()).collect();
    let copied = copied();
    assert_eq!(sent, copied.iter().map(String::as_str).collect());
}

/// The build sees only what is copied: a file that the code includes, or that a manifest names, must be among it.
#[test]
fn what_is_copied_is_enough_to_build() {
    let context = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
    let _ = fs::remove_dir_all(&context);
    for source in copied() {
        copy(&path(&source), &context.join(&source));
    }
    let build = instructions("RUN").into_iter().find_map(|line| {
        let rest = line.strip_prefix("cargo build --release ")?;
        Some(rest.split(" && ").next()?.trim().to_owned())
    });
    let build = build.expect("the Dockerfile runs cargo build --release");
    let mut check = Command::new(env!("CARGO"));
    check
        .arg("check")
        .args(build.split_whitespace())
        .arg("--offline")
        .current_dir(&context);
    check.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap());
    done(&mut check);
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

#[test]
fn the_image_runs_without_rights_and_without_a_shell() {
    let last = read(DOCKERFILE);
    let runtime = last.rsplit("\nFROM ").next().unwrap();
    assert!(!runtime.contains("\nRUN "), "the runtime image has no shell");
    assert_eq!(instructions("USER"), ["65532:65532"]);
    assert_eq!(instructions("STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(instructions("VOLUME"), ["/var/lib/unpoll"]);
    assert_eq!(instructions("ENTRYPOINT"), [r#"["/usr/bin/unpoll"]"#]);
    for image in instructions("FROM") {
        assert!(is_pinned(image.split(' ').next().unwrap()), "{image}");
    }
}

/// A tag that says which version, or which release of the base it is.
pub fn is_pinned(image: &str) -> bool {
    image.contains(|letter: char| letter.is_ascii_digit()) && image.contains(':') && !image.ends_with(":latest")
}

/// `unpoll health` is what the health check runs; it needs no key, on loopback or beyond it.
#[test]
fn health_says_whether_the_server_lives() {
    assert!(instructions("HEALTHCHECK")[0].ends_with(r#"CMD ["/usr/bin/unpoll", "health"]"#));
    let settings = Settings::default().set("UNPOLL_TLS_RISK_READABLE_KEYS_BEYOND_LOOPBACK", "true");
    let mut service = Service::start_with(settings);
    let health = |service: &Service, more: &[&str]| {
        let data = service.data_dir();
        run(unpoll().arg("health").args(more).env("UNPOLL_DATA_DIR", data))
    };
    assert!(health(&service, &[]).status.success());
    assert!(health(&service, &["--ready"]).status.success());

    service.stop();
    let gone = health(&service, &[]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");

    service.admin = "0.0.0.0:0".parse().unwrap();
    service.run();
    fs::remove_file(service.data_dir().join("admin.key")).unwrap();
    assert!(health(&service, &[]).status.success());
    assert!(health(&service, &["--ready"]).status.success());
}

#[test]
fn health_without_a_server_says_where_it_looked() {
    let dir = TestDir::new();
    let output = run(unpoll().arg("health").current_dir(dir.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("unpoll-data/ready.json"),
        "{output:?}"
    );
}

fn services() -> BTreeMap<String, Value> {
    let compose = yaml("deploy/compose.yml");
    compose["services"].as_object().unwrap().clone().into_iter().collect()
}

/// The strings of a list.
pub fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn docker_compose_finds_no_fault() {
    let dir = TestDir::new();
    // Debian's docker-compose is older than `name`.
    let text = read("deploy/compose.yml");
    assert!(text.contains("\nname: unpoll\n"));
    let file = dir.path().join("compose.yml");
    fs::write(&file, text.replace("\nname: unpoll\n", "\n")).unwrap();
    let config = || {
        let mut config = Command::new("docker-compose");
        config.arg("-f").arg(&file).args(["config", "--quiet"]).env_remove("UNPOLL_DOMAIN");
        config
    };
    done(config().env("UNPOLL_DOMAIN", "push.example.com"));
    let unset = run(&mut config());
    assert!(!unset.status.success());
    assert!(String::from_utf8_lossy(&unset.stderr).contains("UNPOLL_DOMAIN"), "{unset:?}");
}

/// The settings that compose.yml gives the service, without those in `without`.
fn settings(without: &[&str]) -> Result<(), ConfigError> {
    let services = services();
    let given = services["unpoll"]["environment"].as_object().unwrap();
    let environment = given
        .iter()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, value)| {
            let value = value.as_str().unwrap();
            (
                name.clone(),
                if value.starts_with("${") { "push.example.com" } else { value }.to_owned(),
            )
        });
    let mut layers = Layers::new()?;
    layers.environment(environment.collect::<Vec<_>>());
    layers.build()?.validate()
}

#[test]
fn the_service_takes_the_settings_of_compose_and_the_risk_is_named_for_a_reason() {
    settings(&[]).unwrap();
    assert!(settings(&["UNPOLL_TLS_RISK_READABLE_KEYS_BEYOND_LOOPBACK"]).is_err());
    assert!(settings(&["UNPOLL_TLS_CERTIFICATE", "UNPOLL_TLS_KEY"]).is_err());
    let services = services();
    let given = services["unpoll"]["environment"].as_object().unwrap();
    assert_eq!(given.keys().filter(|name| name.contains("_RISK_")).count(), 1);
    for (variable, secret) in [("UNPOLL_TLS_CERTIFICATE", "certificate.pem"), ("UNPOLL_TLS_KEY", "key.pem")] {
        assert_eq!(given[variable], format!("/run/secrets/{secret}"));
        assert!(words(&services["unpoll"]["secrets"]).contains(&secret));
    }
    let scrape = yaml("deploy/prometheus/prometheus.yml")["scrape_configs"][0].clone();
    assert_eq!(scrape["static_configs"][0]["targets"][0], "unpoll:9090");
    assert_eq!(given["UNPOLL_ADMIN_LISTEN"], "0.0.0.0:9090");
    let key = scrape["authorization"]["credentials_file"].as_str().unwrap();
    let secrets = words(&services["prometheus"]["secrets"]);
    assert!(secrets.contains(&key.strip_prefix("/run/secrets/").unwrap()), "{key}");
}

/// Who is outside reaches HTTPS and the devices' doors, and on this host Grafana; metrics stay inside.
#[test]
fn only_the_doors_are_published() {
    let compose = yaml("deploy/compose.yml");
    assert_eq!(compose["networks"]["watch"]["internal"], true);
    let services = services();
    assert_eq!(words(&services["unpoll"]["ports"]), ["8443:8443", "5222:5222", "5223:5223"]);
    assert_eq!(words(&services["grafana"]["ports"]), ["127.0.0.1:3000:3000"]);
    assert!(services["prometheus"].get("ports").is_none());
    assert_eq!(words(&services["prometheus"]["networks"]), ["watch"]);
}

#[test]
fn every_container_is_pinned_bounded_watched_and_restarted() {
    for (name, service) in services() {
        let image = service["image"].as_str().unwrap();
        assert!(is_pinned(image) || service.get("build").is_some(), "{name}: {image}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(words(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(words(&service["healthcheck"]["test"])[0], "CMD", "{name}");
        for volume in words(&service["volumes"]) {
            if let Some((from, _)) = volume.split_once(':').filter(|(from, _)| from.starts_with("./")) {
                assert!(path("deploy").join(from).exists() && volume.ends_with(":ro"), "{name}: {volume}");
            }
        }
    }
    let unpoll = &services()["unpoll"];
    let grace: u64 = unpoll["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    assert!(grace >= unpoll::config::Config::default().drain_secs + 15);
    assert_eq!(unpoll["build"]["dockerfile"], DOCKERFILE);
}
