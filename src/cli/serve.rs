//! `unpoll serve`: settings, logging, signals; the rest is `App`.

use std::path::PathBuf;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use super::{Failure, Outcome, say};
use crate::{
    app::App,
    config::{Config, Layers},
    telemetry,
};

/// Every setting is also in the settings file and in the environment; a flag beats both.
#[derive(clap::Args)]
pub struct Arguments {
    /// The settings file, in TOML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The XMPP domain of the devices [default: localhost].
    #[arg(long, value_name = "D")]
    domain: Option<String>,
    /// Where events, keys and the generated certificate are kept [default: unpoll-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The address of HTTP [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// The address of HTTPS [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR")]
    https: Option<String>,
    /// The address of metrics and health [default: 127.0.0.1:9090].
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// The address of XMPP with STARTTLS [default: 127.0.0.1:5222].
    #[arg(long, value_name = "ADDR")]
    xmpp: Option<String>,
    /// The address of XMPP over TLS [default: 127.0.0.1:5223].
    #[arg(long, value_name = "ADDR")]
    xmpps: Option<String>,
    /// Many nodes share this Redis: redis://host:port, redis-sentinel://h1,h2/service or redis-cluster://h1,h2 (rediss… for TLS).
    /// A URL with a password belongs in the environment, UNPOLL_REDIS_URL [default: none, the embedded store].
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The address for hints of the other nodes on one Redis [default: 127.0.0.1, any free port].
    #[arg(long, value_name = "ADDR")]
    cluster: Option<String>,
}

impl Arguments {
    fn settings(&self, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, crate::config::ConfigError> {
        let mut layers = Layers::new()?;
        if let Some(path) = &self.config {
            layers.file(path)?;
        }
        layers.environment(environment);
        let flags = [
            ("--domain", "domain", &self.domain),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--http", "http.listen", &self.http),
            ("--https", "https.listen", &self.https),
            ("--admin", "admin.listen", &self.admin),
            ("--xmpp", "xmpp.listen", &self.xmpp),
            ("--xmpps", "xmpp.listen_tls", &self.xmpps),
            ("--redis", "redis.url", &self.redis),
            ("--cluster", "cluster.listen", &self.cluster),
        ];
        for (flag, key, value) in flags {
            if let Some(value) = value {
                layers.flag(flag, key, value);
            }
        }
        let config = layers.build()?;
        config.validate()?;
        Ok(config)
    }
}

/// Serves until SIGTERM or SIGINT, then drains. SIGHUP has the certificate's files looked at.
pub fn run(arguments: &Arguments) -> Outcome {
    // A name that is not UTF-8 is none of ours; a value that is not would be refused by its setting.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    let config = arguments.settings(environment).map_err(|error| Failure::Usage(error.to_string()))?;
    telemetry::init_logging(&config.log).map_err(Failure::failed)?;
    super::block_on(async move {
        // Before the ready line: whoever reads it may send a signal at once.
        let handler = |kind| signal(kind).map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")));
        let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
        let mut hangup = handler(SignalKind::hangup())?;
        let app = App::bind(config).await.map_err(Failure::failed)?;
        say(app.ready())?;
        tell_supervisor(NotifyState::Ready);
        let reload = app.reload();
        app.run(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => reload.now(),
                }
            }
            tell_supervisor(NotifyState::Stopping);
        })
        .await;
        Ok(())
    })
}

/// Tells a supervisor that speaks sd_notify(3) (systemd with `Type=notify`); without `NOTIFY_SOCKET` there is none.
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!("the supervisor behind NOTIFY_SOCKET cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        arguments: super::Arguments,
    }

    #[test]
    fn without_settings_everything_is_on_loopback() {
        let config = Serve::parse_from(["serve"]).arguments.settings([]).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.xmpp.listen_tls.to_string(), "127.0.0.1:5223");
        assert_eq!(config.domain, "localhost");
    }

    #[test]
    fn a_bad_flag_is_named() {
        let arguments = Serve::parse_from(["serve", "--http", "8080"]).arguments;
        let error = arguments.settings([]).unwrap_err().to_string();
        assert!(error.contains("the flag --http"), "{error}");
        let arguments = Serve::parse_from(["serve", "--http", "0.0.0.0:80"]).arguments;
        assert!(
            arguments
                .settings([])
                .unwrap_err()
                .to_string()
                .contains("risk_readable_keys_beyond_loopback")
        );
    }
}
