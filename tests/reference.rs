//! The reference pages say what the code says: every setting, every metric, every problem.
//!
//! `BLESS=1 cargo test --test reference` writes them.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{fs, net::SocketAddr, path::Path};

use unpoll::{app::App, cluster::ClusterMetrics, config::Config, domain, http::openapi, store::redis::RedisMetrics, telemetry::reference};

#[track_caller]
fn is_fresh(page: &str, fresh: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, fresh).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == fresh,
        "{page} is not what the code says; BLESS=1 cargo test --test reference"
    );
}

#[test]
fn every_setting_is_on_its_page() {
    let page = format!(
        "# Settings\n\nGenerated from the code. Precedence: flag, environment, file, default. `unpoll check-config FILE` checks a file.\n\n\
         ```toml\n{}```\n",
        Config::sample()
    );
    is_fresh("docs/reference/config.md", &page);
}

#[test]
fn every_problem_is_on_its_page() {
    is_fresh("docs/reference/errors.md", &openapi::reference(&domain::explained()));
}

#[tokio::test]
async fn every_metric_is_on_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        data_dir: dir.path().to_owned(),
        ..Config::default()
    };
    config.http.listen = any;
    config.https.listen = any;
    config.admin.listen = any;
    config.xmpp.listen = any;
    config.xmpp.listen_tls = any;
    let app = App::bind(config).await.unwrap();
    // With `--redis` there are these, too.
    RedisMetrics::register(app.metrics().registry()).unwrap();
    ClusterMetrics::register(app.metrics().registry()).unwrap();
    is_fresh("docs/reference/metrics.md", &reference(app.metrics().registry()));
}
