//! Whether a server is fit to keep promises: looked at before anything is written to it.

use super::{Config, OpenError, lane, replicas, topology::Primary, url::Target};

/// The oldest version that has what the scripts need: functions.
const OLDEST: (u32, u32) = (7, 0);

/// Checks every primary. Answers how many replicas are in step with the one that has the fewest.
pub(super) async fn all(config: &Config, target: &Target, primaries: &[Primary]) -> Result<u32, OpenError> {
    let mut fewest = u32::MAX;
    for primary in primaries {
        fewest = fewest.min(one(config, target, &primary.address).await?);
    }
    Ok(fewest)
}

async fn one(config: &Config, target: &Target, address: &str) -> Result<u32, OpenError> {
    let unreachable = |error: redis::RedisError| OpenError::Unreachable(format!("{address}: {error}"));
    let settings = lane::Settings::single(target.server(address), config);
    let mut connection = lane::connect(&settings).await.map_err(unreachable)?;
    let info: String = redis::cmd("INFO").query_async(&mut connection).await.map_err(unreachable)?;
    let lacks = |what: &str, error: redis::RedisError| OpenError::Lacks {
        address: address.to_owned(),
        what: format!("{what}: {error}"),
    };
    // A server may have renamed a command, or its access list may forbid it.
    let waited = redis::cmd("WAIT").arg(0).arg(1).query_async::<u32>(&mut connection).await;
    waited.map_err(|error| lacks("WAIT", error))?;
    let replicas = judge(address, &info, config)?;
    // After that: it writes, once, to a server that was never used.
    match super::script::make_known(&mut connection).await {
        // It takes no writes at the moment, as before its first replica is there: the lanes bring the scripts when it does.
        Err(error) if matches!(error.code(), Some("NOREPLICAS" | "OOM" | "MISCONF" | "READONLY")) => Ok(replicas),
        Err(error) => Err(lacks("functions (FCALL, FUNCTION LOAD)", error)),
        Ok(()) => Ok(replicas),
    }
}

/// What INFO says, judged. Pure.
fn judge(address: &str, info: &str, config: &Config) -> Result<u32, OpenError> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    let address = || address.to_owned();
    let version = field("redis_version");
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
        return Err(OpenError::TooOld {
            address: address(),
            version: version.to_owned(),
        });
    }
    if field("role") != "master" {
        return Err(OpenError::Replica(address()));
    }
    let policy = field("maxmemory_policy");
    if field("maxmemory") != "0" && policy != "noeviction" {
        return Err(OpenError::Evicts {
            address: address(),
            policy: policy.to_owned(),
        });
    }
    if field("aof_enabled") != "1" && !config.allow_volatile {
        return Err(OpenError::Volatile(address()));
    }
    Ok(replicas::in_step(info, config.replica_gone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &str = "redis_version:7.0.15\r\nrole:master\r\nconnected_slaves:1\r\n\
        slave0:ip=127.0.0.1,port=6380,state=online,offset=84,lag=0\r\n\
        maxmemory:100\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n";

    fn judged(info: &str, allow_volatile: bool) -> Result<u32, OpenError> {
        let config = Config {
            allow_volatile,
            ..Config::default()
        };
        judge("h:1", info, &config)
    }

    #[test]
    fn a_fit_server_says_how_many_replicas_are_in_step() {
        assert_eq!(judged(FIT, false).unwrap(), 1);
        // Without a limit nothing is evicted, whatever the policy.
        let unlimited = FIT.replace("maxmemory:100", "maxmemory:0").replace("noeviction", "allkeys-lru");
        assert!(judged(&unlimited, false).is_ok());
    }

    #[test]
    fn each_unfit_server_hears_what_to_do() {
        let check = |what: &str, other: &str, expected: &[&str]| {
            let error = judged(&FIT.replace(what, other), false).unwrap_err().to_string();
            assert!(error.contains("h:1"), "{error}");
            for word in expected {
                assert!(error.contains(word), "{error}");
            }
        };
        check("noeviction", "volatile-ttl", &["volatile-ttl", "maxmemory-policy noeviction"]);
        check("aof_enabled:1", "aof_enabled:0", &["appendonly yes", "allow_volatile"]);
        check("7.0.15", "6.2.14", &["6.2.14", "7.0"]);
        check("role:master", "role:slave", &["replica"]);
        assert!(judged(&FIT.replace("aof_enabled:1", "aof_enabled:0"), true).is_ok());
    }
}
