//! Which server is the primary of what.

use std::time::Duration;

use redis::Value;

use super::{
    connection::Connection,
    keys::SLOTS,
    lane,
    url::{Layout, Target},
};

/// A primary and the slots that it serves, each range with its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) address: String,
    pub(super) slots: Vec<(u16, u16)>,
}

/// Why no primary was found.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopologyError {
    #[error("none of {0} answers: {1}")]
    Unreachable(String, String),
    #[error("no Sentinel of {0} knows the service \"{1}\"")]
    UnknownService(String, String),
    #[error("the server {0} is a node of Redis Cluster")]
    IsCluster(String),
    #[error("the cluster does not serve every slot")]
    Incomplete,
}

const ALL_SLOTS: (u16, u16) = (0, SLOTS - 1);

/// Asks who the primaries are. `known`: servers to ask first.
pub(super) async fn discover(target: &Target, known: &[String], within: Duration) -> Result<Vec<Primary>, TopologyError> {
    match &target.layout {
        Layout::Single(address) => {
            let mut connection = greet(target, address, within)
                .await
                .map_err(|error| TopologyError::Unreachable(address.clone(), error.to_string()))?;
            let info: String = redis::cmd("INFO")
                .arg("server")
                .query_async(&mut connection)
                .await
                .unwrap_or_default();
            if info.lines().any(|line| line.trim() == "redis_mode:cluster") {
                return Err(TopologyError::IsCluster(address.clone()));
            }
            Ok(vec![Primary {
                address: address.clone(),
                slots: vec![ALL_SLOTS],
            }])
        }
        Layout::Sentinel { sentinels, service } => {
            let mut why = String::new();
            let mut answered = false;
            for sentinel in sentinels {
                match primary_of(target, sentinel, service, within).await {
                    Ok(Some(address)) => {
                        return Ok(vec![Primary {
                            address,
                            slots: vec![ALL_SLOTS],
                        }]);
                    }
                    Ok(None) => answered = true,
                    Err(error) => why = error.to_string(),
                }
            }
            if answered {
                return Err(TopologyError::UnknownService(sentinels.join(","), service.clone()));
            }
            Err(TopologyError::Unreachable(sentinels.join(","), why))
        }
        Layout::Cluster(seeds) => {
            let mut why = String::new();
            for address in known.iter().chain(seeds) {
                match slots(target, address, within).await {
                    Ok(primaries) if complete(&primaries) => return Ok(primaries),
                    Ok(_) => why = TopologyError::Incomplete.to_string(),
                    Err(error) => why = error.to_string(),
                }
            }
            Err(TopologyError::Unreachable(seeds.join(","), why))
        }
    }
}

async fn greet(target: &Target, address: &str, within: Duration) -> Result<Connection, redis::RedisError> {
    let settings = lane::Settings {
        server: target.server(address),
        connect_within: within,
        answer_within: within,
        wait: None,
        floor_key: None,
        waiting_max: 1,
    };
    lane::connect(&settings).await
}

/// A Sentinel's word, if the server agrees that it is the primary: Sentinels may be behind.
async fn primary_of(target: &Target, sentinel: &str, service: &str, within: Duration) -> Result<Option<String>, redis::RedisError> {
    let mut connection = match greet(&target.of_sentinel(), sentinel, within).await {
        // Many a Sentinel asks for no password where the servers do, and takes none.
        Err(error) if error.kind() == redis::ErrorKind::AuthenticationFailed => greet(&target.of_open_sentinel(), sentinel, within).await?,
        greeted => greeted?,
    };
    let mut cmd = redis::cmd("SENTINEL");
    cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let found: Option<(String, u16)> = cmd.query_async(&mut connection).await?;
    let Some((host, port)) = found else { return Ok(None) };
    let address = joined(&host, port);
    let mut server = greet(target, &address, within).await?;
    let role: Value = redis::cmd("ROLE").query_async(&mut server).await?;
    match role {
        Value::Array(parts) if parts.first().is_some_and(|word| text(word) == Some("master")) => Ok(Some(address)),
        _ => Err(redis::RedisError::from((
            redis::ErrorKind::Io,
            "the server that Sentinel names is not the primary yet",
        ))),
    }
}

async fn slots(target: &Target, address: &str, within: Duration) -> Result<Vec<Primary>, redis::RedisError> {
    let mut connection = greet(target, address, within).await?;
    let ranges: Vec<Value> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    let asked = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let mut primaries: Vec<Primary> = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        let (Some(Value::Int(first)), Some(Value::Int(last)), Some(Value::Array(server))) = (parts.first(), parts.get(1), parts.get(2))
        else {
            continue;
        };
        // An empty host: the one that was asked.
        let host = server.first().and_then(text).filter(|host| !host.is_empty()).unwrap_or(asked);
        let Some(Value::Int(port)) = server.get(1) else { continue };
        let (Ok(first), Ok(last), Ok(port)) = (u16::try_from(*first), u16::try_from(*last), u16::try_from(*port)) else {
            continue;
        };
        let address = joined(host, port);
        match primaries.iter_mut().find(|primary| primary.address == address) {
            Some(primary) => primary.slots.push((first, last)),
            None => primaries.push(Primary {
                address,
                slots: vec![(first, last)],
            }),
        }
    }
    for primary in &mut primaries {
        primary.slots.sort_unstable();
    }
    primaries.sort_unstable_by(|a, b| a.slots.cmp(&b.slots));
    Ok(primaries)
}

fn complete(primaries: &[Primary]) -> bool {
    let count = |(first, last): &(u16, u16)| usize::from(last.saturating_sub(*first)) + 1;
    primaries.iter().flat_map(|primary| &primary.slots).map(count).sum::<usize>() == usize::from(SLOTS)
}

fn joined(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
