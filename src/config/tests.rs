use std::path::PathBuf;

use super::*;

fn build(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Result<Config, String> {
    let mut layers = Layers::new().unwrap();
    layers.text(file, "unpoll.toml").map_err(|error| error.to_string())?;
    layers.environment(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    for (flag, key, value) in flags {
        layers.flag(flag, key, value);
    }
    layers.build().map_err(|error| error.to_string())
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = "domain = 'file.example'\ndrain_secs = 7\n[http]\nlisten = '127.0.0.1:1'\n";
    let environment = [
        ("UNPOLL_DOMAIN", "env.example"),
        ("UNPOLL_HTTP_LISTEN", "127.0.0.1:2"),
        ("PATH", "/bin"),
    ];
    let config = build(file, &environment, &[("--http", "http.listen", "127.0.0.1:3")]).unwrap();
    assert_eq!(config.http.listen.port(), 3);
    assert_eq!(config.domain, "env.example");
    assert_eq!(config.drain_secs, 7);
    assert_eq!(config.https.listen.port(), 8443);
    assert_eq!(config.data_dir, PathBuf::from("unpoll-data"));
}

#[test]
fn the_environment_reads_numbers_and_switches_by_the_type_of_the_setting() {
    let environment = [
        ("UNPOLL_DRAIN_SECS", "5"),
        ("UNPOLL_XMPP_REQUIRE_TLS", "false"),
        ("UNPOLL_DATA_DIR", "17"),
        ("UNPOLL_LIMITS_QUEUE_MAX_EVENTS", "9"),
        ("UNPOLL_KEY", "not a setting"),
    ];
    let config = build("", &environment, &[]).unwrap();
    assert_eq!(
        (config.drain_secs, config.xmpp.require_tls, config.limits.queue_max_events),
        (5, false, 9)
    );
    assert_eq!(config.data_dir, PathBuf::from("17"));
}

#[test]
fn what_is_wrong_is_named_with_its_source() {
    let check = |file: &str, environment: &[(&str, &str)], expected: &str| {
        let error = build(file, environment, &[]).unwrap_err();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    };
    check(
        "[http]\nlisen = '127.0.0.1:1'",
        &[],
        "http.lisen, from the file unpoll.toml, is no setting; did you mean http.listen?",
    );
    check("[nothing]\nlike = 1", &[], "nothing.like, from the file unpoll.toml, is no setting");
    check(
        "drain_secs = 'soon'",
        &[],
        "drain_secs = \"soon\", from the file unpoll.toml, is of type string; it must be of type integer",
    );
    check("drain_secs = -1", &[], "drain_secs = -1, from the file unpoll.toml, is not valid");
    check("http = 3", &[], "http, from the file unpoll.toml, is no setting");
    check("= 3", &[], "the settings file unpoll.toml is not TOML");
    check(
        "",
        &[("UNPOLL_HTTP_LISTE", "x")],
        "UNPOLL_HTTP_LISTE is no setting; did you mean UNPOLL_HTTP_LISTEN?",
    );
    check(
        "",
        &[("UNPOLL_DRAIN_SECS", "soon")],
        "drain_secs = \"soon\", from the environment variable UNPOLL_DRAIN_SECS, is not of type integer",
    );
    check(
        "",
        &[("UNPOLL_HTTP_LISTEN", "8080")],
        "http.listen = \"8080\", from the environment variable UNPOLL_HTTP_LISTEN, is not valid",
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let error = build("a = 1\nb = 2", &[("UNPOLL_C", "3")], &[]).unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn beyond_loopback_nothing_secret_is_open_by_accident() {
    let check = |file: &str, expected: &[&str]| {
        let config = build(file, &[], &[]).unwrap();
        let problems = config.validate().err().map_or_else(Vec::new, |error| error.0);
        assert_eq!(problems.len(), expected.len(), "{file}: {problems:?}");
        for (problem, start) in problems.iter().zip(expected) {
            assert!(problem.starts_with(start), "{problem:?} should start with {start:?}");
        }
    };
    check("", &[]);
    check("[http]\nlisten = '[::1]:0'", &[]);
    check("[http]\nlisten = '0.0.0.0:8080'", &["http.listen = 0.0.0.0:8080"]);
    check(
        "[http]\nlisten = '0.0.0.0:8080'\n[tls]\nrisk_readable_keys_beyond_loopback = true",
        &[],
    );
    check("[admin]\nlisten = '10.0.0.1:9090'", &["admin.listen"]);
    check("[https]\nlisten = '0.0.0.0:8443'", &["https.listen"]);
    check(
        "[xmpp]\nlisten = '0.0.0.0:5222'\nlisten_tls = '[::]:5223'",
        &["xmpp.listen_tls", "xmpp.listen = "],
    );
    check("[xmpp]\nlisten = '0.0.0.0:5222'\n[tls]\nrisk_impostors_beyond_loopback = true", &[]);
    check("[xmpp]\nlisten = '0.0.0.0:5222'\nrequire_tls = false", &["xmpp.listen = "]);
    check(
        "[http]\nlisten = '0.0.0.0:8080'\n[tls]\nrisk_readable_keys_beyond_loopback = true\n[xmpp]\nrequire_tls = false",
        &["http.listen = 0.0.0.0:8080 is beyond loopback and xmpp.require_tls is false"],
    );
    check("[xmpp]\nwebsocket_url = 'wss://push.example.com/xmpp-websocket'", &[]);
    check("[xmpp]\nwebsocket_url = 'push.example.com'", &["xmpp.websocket_url"]);
    check(
        "[xmpp]\nwebsocket_origins = ['https://ui.example.com', 'http://localhost:3000', 'null']",
        &[],
    );
    check("[xmpp]\nwebsocket_origins = ['ui.example.com']", &["xmpp.websocket_origins"]);
    check(
        "[xmpp]\nwebsocket_origins = ['https://ui.example.com/']",
        &["xmpp.websocket_origins"],
    );
    check("[https]\nlisten = '0.0.0.0:8443'\n[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'", &[]);
    check("[tls]\ncertificate = 'c.pem'", &["tls.certificate and tls.key go together"]);
    check("domain = 'Example.com'", &["domain = "]);
    check("domain = ''", &["domain = "]);
    check("[log]\nlevel = 'info,=='", &["[log] level"]);
}

#[test]
fn the_sample_documents_every_setting_and_changes_nothing() {
    let sample = Config::sample();
    let undocumented: Vec<_> = sample.lines().collect();
    assert!(
        !undocumented
            .windows(2)
            .any(|pair| pair[0] == "# " && pair[1].starts_with("# Environment")),
        "{sample}"
    );
    let given: String = sample
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) =>
            {
                rest
            }
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    let config = build(&given, &[], &[]).unwrap();
    assert_eq!(toml::to_string(&config).unwrap(), toml::to_string(&Config::default()).unwrap());
    assert!(given.contains("\ndrain_secs = 120"));
}
