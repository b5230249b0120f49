//! `unpoll health`: asks the admin listener, for a supervisor that knows only commands (a container's health check).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use reqwest::Method;

use super::{
    Failure, Outcome,
    client::{Client, ready},
    say,
};

/// How long the whole answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Whom to ask, and what.
#[derive(clap::Args)]
pub struct Arguments {
    /// The data directory of the server on this machine.
    #[arg(long, value_name = "DIR", default_value = "unpoll-data", env = "UNPOLL_DATA_DIR")]
    data_dir: PathBuf,
    /// Asks instead whether it takes traffic. A restart does not empty a full disk: do not restart a server for this.
    #[arg(long)]
    ready: bool,
}

/// Says what the server says; exit code 1 when it says no, or nothing.
pub async fn run(arguments: Arguments) -> Outcome {
    let file = arguments.data_dir.join("ready.json");
    let line = ready(&arguments.data_dir).ok_or_else(|| {
        Failure::Failed(format!(
            "no server wrote {}; name its data directory with --data-dir",
            file.display()
        ))
    })?;
    let address: SocketAddr = line
        .get("admin")
        .and_then(|address| address.as_str()?.parse().ok())
        .ok_or_else(|| Failure::Failed(format!("{} names no admin listener", file.display())))?;
    let address = reachable(address);
    let client = Client::new(&format!("http://{address}"), "", None)?;
    let path = if arguments.ready { "/readyz" } else { "/healthz" };
    let (status, body) = tokio::time::timeout(ANSWER_WITHIN, client.exchange(Method::GET, path, None))
        .await
        .map_err(|_| Failure::Failed(format!("{address} does not answer within {} s", ANSWER_WITHIN.as_secs())))??;
    let body = String::from_utf8_lossy(&body);
    if status.is_success() {
        return say(body.trim_end());
    }
    Err(Failure::Failed(format!("HTTP {}: {}", status.as_u16(), body.trim_end())))
}

/// Where a listener on this machine is reached: one on all addresses, by loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_by_loopback() {
        let check = |listen: &str, expected: &str| assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        check("0.0.0.0:9090", "127.0.0.1:9090");
        check("[::]:9090", "[::1]:9090");
        check("10.1.2.3:9090", "10.1.2.3:9090");
    }
}
