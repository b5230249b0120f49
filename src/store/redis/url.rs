//! `[redis] url`: which servers, and how to greet them.

use std::fmt;

use super::{
    Config,
    access::{Access, AccessError},
    connection::Server,
};

/// How the servers stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// One server, or a name that always leads to the primary.
    Single(String),
    /// Sentinels that know the primary of a service.
    Sentinel {
        /// `host:port` of each Sentinel.
        sentinels: Vec<String>,
        /// Its name.
        service: String,
    },
    /// Redis Cluster.
    Cluster(Vec<String>),
}

/// A parsed URL, and the files that belong to it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) layout: Layout,
    pub(super) tls: bool,
    /// `user:password`, as it was written.
    credentials: Option<String>,
    database: u16,
    access: Access,
}

/// What is wrong with a URL. It names no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; use redis://[user:password@]host:port[/db], redis-sentinel://h1:26379,h2:26379/service or redis-cluster://h1:6379,h2:6379 (rediss… for TLS)"
)]
pub struct InvalidUrl(String);

impl Target {
    /// Where the settings say that Redis is.
    pub(super) fn of(config: &Config) -> Result<Self, InvalidUrl> {
        Ok(Self {
            access: Access::of(config),
            ..Self::parse(&config.url)?
        })
    }

    /// Whether there is a password in it.
    pub(super) fn has_password(&self) -> bool {
        self.credentials.as_ref().is_some_and(|text| text.contains(':'))
    }

    /// Reads the files that connections will need, to name one that is wrong before anything is tried.
    pub(super) async fn look_at_files(&self) -> Result<(), AccessError> {
        if self.tls {
            self.access.tls().await?;
        }
        self.access.password().await.map(|_| ())
    }

    pub(super) fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let invalid = |what: &str| InvalidUrl(what.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("no scheme"))?;
        let (tls, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, scheme.strip_prefix("redis").ok_or_else(|| invalid("an unknown scheme"))?),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials.to_owned()), hosts),
            None => (None, authority),
        };
        let addresses = |port: u16| hosts.split(',').map(|host| address(host, port)).collect::<Result<Vec<_>, _>>();
        let mut database = 0;
        let layout = match kind {
            "" => {
                if !path.is_empty() {
                    database = path.parse().map_err(|_| invalid("the database is no number"))?;
                }
                match <[String; 1]>::try_from(addresses(6379)?) {
                    Ok([one]) => Layout::Single(one),
                    Err(_) => return Err(invalid("several hosts without a word what they are")),
                }
            }
            "-sentinel" if path.is_empty() => return Err(invalid("the name of the service is missing")),
            "-sentinel" => Layout::Sentinel {
                sentinels: addresses(26379)?,
                service: path.to_owned(),
            },
            "-cluster" if path.is_empty() => Layout::Cluster(addresses(6379)?),
            "-cluster" => return Err(invalid("Redis Cluster has one database only")),
            _ => return Err(invalid("an unknown scheme")),
        };
        Ok(Self {
            layout,
            tls,
            credentials,
            database,
            access: Access::default(),
        })
    }

    /// One server of it.
    pub(super) fn server(&self, address: &str) -> Server {
        let credentials = self.credentials.as_ref().map_or_else(String::new, |text| format!("{text}@"));
        Server {
            address: address.to_owned(),
            url: format!("redis://{credentials}{address}/{}", self.database),
            tls: self.tls,
            access: self.access.clone(),
        }
    }

    /// How Sentinels are greeted: they have one database.
    pub(super) fn of_sentinel(&self) -> Self {
        Self {
            database: 0,
            ..self.clone()
        }
    }

    /// How Sentinels are greeted that ask for no password.
    pub(super) fn of_open_sentinel(&self) -> Self {
        Self {
            credentials: None,
            access: self.access.without_password(),
            ..self.of_sentinel()
        }
    }

    /// The same servers as a cluster: one of them said that it is.
    pub(super) fn as_cluster(&self) -> Self {
        let seeds = match &self.layout {
            Layout::Single(one) => vec![one.clone()],
            Layout::Cluster(seeds) | Layout::Sentinel { sentinels: seeds, .. } => seeds.clone(),
        };
        Self {
            layout: Layout::Cluster(seeds),
            database: 0,
            ..self.clone()
        }
    }
}

impl fmt::Debug for Target {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.layout)
    }
}

fn address(host: &str, port: u16) -> Result<String, InvalidUrl> {
    let bare = host.rsplit_once(']').map_or(host, |(_, after)| after);
    if host.is_empty() {
        return Err(InvalidUrl("a host is missing".to_owned()));
    }
    match bare.rsplit_once(':') {
        Some((_, given)) if given.parse::<u16>().is_err() => Err(InvalidUrl(format!("the port of {host} is no number"))),
        Some(_) => Ok(host.to_owned()),
        None => Ok(format!("{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read() {
        let layout = |url: &str| Target::parse(url).unwrap().layout;
        assert_eq!(layout("redis://h"), Layout::Single("h:6379".into()));
        assert_eq!(layout("rediss://[::1]:7000/3"), Layout::Single("[::1]:7000".into()));
        let sentinel = Layout::Sentinel {
            sentinels: vec!["a:1".into(), "b:26379".into()],
            service: "tv".into(),
        };
        assert_eq!(layout("redis-sentinel://a:1,b/tv"), sentinel);
        assert_eq!(layout("redis-cluster://a:1,b:2"), Layout::Cluster(vec!["a:1".into(), "b:2".into()]));
    }

    #[test]
    fn a_server_is_greeted_as_the_url_says() {
        let target = Target::parse("rediss://me:p%40ss@h:1/4").unwrap();
        let server = target.server("other:9");
        assert_eq!((server.url.as_str(), server.tls), ("redis://me:p%40ss@other:9/4", true));
        assert!(!format!("{target:?} {server:?}").contains("p%40ss"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, why) in [
            ("h:6379", "no scheme"),
            ("http://h", "an unknown scheme"),
            ("redis-ring://h", "an unknown scheme"),
            ("redis://a,b", "several hosts"),
            ("redis://u:hush@h/x", "the database is no number"),
            ("redis-sentinel://h", "the name of the service is missing"),
            ("redis-cluster://h/2", "one database"),
            ("redis://", "a host is missing"),
            ("redis://u:hush@h:port", "the port of h:port"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hush"), "{url}: {error}");
        }
    }
}
