//! The server under test: one that runs, or one of our own.

use std::{net::SocketAddr, ops::Range, path::PathBuf, sync::Arc};

use aws_lc_rs::rand;
use clap::{Args, ValueEnum};
use loadtest::{
    Door, Error, Login, Options, Password, Poster, Security, Trust,
    server::{Launch, Server},
};
use serde::{Deserialize, Serialize};

use super::SERVER_CORE;

/// Rounds of the verifiers: the least that RFC 7677 allows, as for any generated secret.
const ITERATIONS: u32 = 4096;
/// Devices a request when they are provisioned.
const PROVISION_BATCH: u64 = 1000;

/// Where the server is, and how devices reach it.
#[derive(Args, Clone)]
pub struct Place {
    /// Start this `unpoll` binary, on free ports and in a temporary directory, instead of using a running server.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["server", "https", "url", "pid", "ca", "key_file"])]
    spawn: Option<PathBuf>,
    /// Data directory of the server that is started; a temporary one by default.
    #[arg(long, value_name = "DIR", requires = "spawn")]
    data_dir: Option<PathBuf>,
    /// XMPP address of a running server.
    #[arg(long, value_name = "ADDR", required_unless_present_any = ["spawn", "https"])]
    server: Option<SocketAddr>,
    /// Its HTTPS address, for `poll`.
    #[arg(long, value_name = "ADDR")]
    https: Option<SocketAddr>,
    /// Its HTTP address: `http://127.0.0.1:8080`.
    #[arg(long, required_unless_present_any = ["spawn", "password_file"])]
    url: Option<String>,
    /// Its admin key.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["spawn", "password_file"])]
    key_file: Option<PathBuf>,
    /// Its process, to measure.
    #[arg(long, required_unless_present = "spawn")]
    pid: Option<u32>,
    /// The certificate to trust; needed unless `--plain`.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["spawn", "plain"])]
    ca: Option<PathBuf>,
    /// The domain of the devices.
    #[arg(long, default_value = "load.test")]
    domain: String,
    /// Connect without TLS.
    #[arg(long, conflicts_with_all = ["tls", "starttls"])]
    plain: bool,
    /// Connect with TLS from the first byte (the default).
    #[arg(long, conflicts_with = "starttls")]
    tls: bool,
    /// Connect with STARTTLS.
    #[arg(long)]
    starttls: bool,
    /// Pin a server that we start to core 0, and the driver to core 1.
    #[arg(long)]
    pub pin: bool,
    /// Names of devices begin with this.
    #[arg(long, default_value = "load-")]
    pub prefix: String,
    /// Logins at the same time.
    #[arg(long, default_value_t = 64)]
    pub at_once: usize,
    /// Use devices that exist already, with the password in this file, and provision none.
    #[arg(long, value_name = "FILE", conflicts_with = "spawn")]
    password_file: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How devices log in, for the runs that measure it.
#[derive(Args, Clone, Copy)]
pub struct Manner {
    /// How devices log in.
    #[arg(long, value_enum, default_value = "sasl")]
    pub login: Way,
    /// Devices keep TLS tickets, and share them: most handshakes are short ones. Without it all are full ones.
    #[arg(long)]
    pub tickets: bool,
}

/// How devices log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// SCRAM-SHA-256, a new stream, the resource, stream management: one after the other (RFC 6120).
    #[default]
    Sasl,
    /// SCRAM-SHA-256 with the resource and stream management inside (XEP-0388, XEP-0386).
    Sasl2,
    /// A token earned by an earlier login, and all in one round trip (XEP-0484).
    Fast,
}

/// What a device needs to connect; also what a child process is told.
#[derive(Clone, Serialize, Deserialize)]
pub struct Recipe {
    server: SocketAddr,
    domain: String,
    transport: Protection,
    ca: Option<PathBuf>,
    password: String,
    pub prefix: String,
    pub login: Way,
    pub tickets: bool,
}

/// How devices connect.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    Plain,
    Tls,
    Starttls,
}

impl Recipe {
    /// For a server of our own.
    pub fn of(server: &Server, transport: Protection, prefix: &str, password: &str) -> Self {
        let ready = server.ready();
        Self {
            server: match transport {
                Protection::Tls => ready.xmpps,
                Protection::Plain | Protection::Starttls => ready.xmpp,
            },
            domain: ready.domain.clone(),
            transport,
            ca: Some(server.ca()),
            password: password.to_owned(),
            prefix: prefix.to_owned(),
            login: Way::default(),
            tickets: false,
        }
    }

    /// Registers devices of these numbers, all with one password given as SCRAM verifiers: nobody pays for PBKDF2 again.
    pub async fn provision(&self, poster: &mut Poster, devices: Range<u64>) -> Result<(), Error> {
        let mut salt = [0; 16];
        rand::fill(&mut salt).map_err(|_| Error::Machine("no random bytes".into()))?;
        let credential = Password::new(&self.password).credential(&salt, ITERATIONS).to_string();
        for first in devices.clone().step_by(usize::try_from(PROVISION_BATCH).unwrap_or(usize::MAX)) {
            let last = (first + PROVISION_BATCH).min(devices.end);
            let line = |number| format!("{{\"id\":\"{}{number}\",\"credentials\":[{credential}]}}\n", self.prefix);
            let body: String = (first..last).map(line).collect();
            let answer = poster
                .request("POST", "/v1/devices", &[("content-type", "application/x-ndjson")], body.as_bytes())
                .await?;
            let failed = answer
                .json()
                .ok()
                .and_then(|json| json.get("rejected").and_then(serde_json::Value::as_u64))
                .unwrap_or(0);
            if !(200..300).contains(&answer.status) || failed > 0 {
                return Err(Error::Http(format!(
                    "POST /v1/devices answered {}: {}",
                    answer.status,
                    answer.text()
                )));
            }
        }
        Ok(())
    }

    /// The options that all devices share.
    pub fn template(&self) -> Result<Options, Error> {
        let trust = || {
            let ca = self.ca.as_ref().ok_or_else(|| Error::Tls("no CA file".into()))?;
            if self.tickets {
                Trust::ca_file_with_tickets(ca)
            } else {
                Trust::ca_file(ca)
            }
        };
        let security = match self.transport {
            Protection::Plain => Security::Plain,
            Protection::Tls => Security::Tls(trust()?),
            Protection::Starttls => Security::StartTls(trust()?),
        };
        let password = Arc::new(Password::new(&self.password));
        Ok(Options {
            login: match self.login {
                Way::Sasl => Login::Sasl,
                // Who has a token shows it.
                Way::Sasl2 | Way::Fast => Login::Sasl2,
            },
            ..Options::new(self.server, security, &self.domain, "", password)
        })
    }

    /// How devices connect.
    pub fn transport(&self) -> Protection {
        self.transport
    }
}

/// The server under test.
pub struct Target {
    own: Option<Server>,
    pub pid: u32,
    http: Option<(SocketAddr, String)>,
    pub recipe: Recipe,
    provisions: bool,
    https: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Place {
    fn transport(&self) -> Protection {
        match (self.plain, self.starttls) {
            (true, _) => Protection::Plain,
            (_, true) => Protection::Starttls,
            _ => Protection::Tls,
        }
    }

    /// Starts the server, or finds the running one.
    pub async fn target(&self) -> Result<Target, Error> {
        self.target_with(&[]).await
    }

    /// As [`Place::target`]; a server that is started gets these variables of the environment.
    pub async fn target_with(&self, environment: &[(&str, String)]) -> Result<Target, Error> {
        let transport = self.transport();
        let missing = |what: &str| Error::Machine(format!("{what} is missing"));
        if let Some(program) = &self.spawn {
            let launch = Launch {
                data: self.data_dir.clone(),
                core: self.pin.then_some(SERVER_CORE),
                plain: self.plain,
                domain: self.domain.clone(),
                environment: environment
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
                ..Launch::new(program)
            };
            let server = Server::start(&launch).await?;
            let ready = server.ready().clone();
            let recipe = Recipe::of(&server, transport, &self.prefix, &random_password()?);
            let key = read(&server.key())?;
            return Ok(Target {
                pid: server.pid()?,
                http: Some((ready.http, key)),
                https: ready.https,
                admin: ready.admin,
                recipe,
                provisions: true,
                own: Some(server),
            });
        }
        let http = match (&self.url, &self.key_file) {
            (Some(url), Some(key)) => Some((resolve(url).await?, read(key)?)),
            _ => None,
        };
        let password = self.password_file.as_ref().map_or_else(random_password, read)?;
        let server = self.server.or(self.https).ok_or_else(|| missing("--server"))?;
        Ok(Target {
            own: None,
            pid: self.pid.ok_or_else(|| missing("--pid"))?,
            http,
            https: self.https,
            admin: None,
            recipe: Recipe {
                server,
                domain: self.domain.clone(),
                transport,
                ca: self.ca.clone(),
                password,
                prefix: self.prefix.clone(),
                login: Way::default(),
                tickets: false,
            },
            provisions: self.password_file.is_none(),
        })
    }
}

impl Target {
    /// Devices log in in that manner.
    pub fn with(mut self, manner: Manner) -> Self {
        (self.recipe.login, self.recipe.tickets) = (manner.login, manner.tickets);
        self
    }

    /// A poster of its own connection.
    pub fn poster(&self) -> Result<Poster, Error> {
        let (address, key) = self
            .http
            .as_ref()
            .ok_or_else(|| Error::Machine("--url and --key-file are needed to post".into()))?;
        Ok(Poster::new(*address, Some(key.clone())))
    }

    /// Where devices poll.
    pub fn door(&self) -> Result<Door, Error> {
        let https = self.https.ok_or_else(|| Error::Machine("--https is missing".into()))?;
        let ca = self.recipe.ca.as_ref().ok_or_else(|| Error::Tls("no CA file".into()))?;
        Door::new(https, &self.recipe.domain, ca)
    }

    /// The password of all devices.
    pub fn password(&self) -> &str {
        &self.recipe.password
    }

    /// A metric of a server of our own; `series` is its name with its labels. `None` where it cannot be asked.
    pub async fn metric(&self, series: &str) -> Result<Option<f64>, Error> {
        let Some(admin) = self.admin else { return Ok(None) };
        let text = Poster::new(admin, None).get("/metrics").await?.text();
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        Ok(text.lines().find_map(value))
    }

    /// The name of a device.
    pub fn device(&self, number: u64) -> String {
        format!("{}{number}", self.recipe.prefix)
    }

    /// Registers the devices.
    pub async fn provision(&self, devices: u64) -> Result<(), Error> {
        if !self.provisions {
            return Ok(());
        }
        self.recipe.provision(&mut self.poster()?, 0..devices).await
    }

    /// Kills a server of our own (SIGKILL) and starts it again, at the same addresses and with the same data.
    pub async fn kill_and_start(&mut self) -> Result<(), Error> {
        let own = self
            .own
            .as_mut()
            .ok_or_else(|| Error::Machine("--spawn is needed to kill the server".into()))?;
        own.kill_and_start().await?;
        self.pid = own.pid()?;
        Ok(())
    }

    /// Stops a server of our own. True when there was none, or it stopped as it should.
    pub async fn stop(self) -> Result<bool, Error> {
        match self.own {
            Some(server) => server.stop().await,
            None => Ok(true),
        }
    }
}

pub(super) fn random_password() -> Result<String, Error> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| Error::Machine("no random bytes".into()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn read(path: &PathBuf) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::Machine(format!("{}: {e}", path.display())))?;
    Ok(text.trim().to_owned())
}

async fn resolve(url: &str) -> Result<SocketAddr, Error> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let mut found = tokio::net::lookup_host(host)
        .await
        .map_err(|e| Error::Machine(format!("{url}: {e}")))?;
    found.next().ok_or_else(|| Error::Machine(format!("{url}: no address")))
}
