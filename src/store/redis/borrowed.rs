//! For who borrows a Redis for a while and leaves nothing there: a look whether it is fit, and the end of all keys of a prefix.

use redis::Pipeline;

use super::{
    Config, OpenError, check, lane,
    shards::{self, Found},
};
use crate::store::StoreError;

/// Keys asked for at once.
const PAGE: usize = 1_000;

/// Finds the servers and checks them as [`super::RedisStore::open`] does; changes nothing there.
///
/// # Errors
/// What keeps a node from starting on them. Each says what to do.
pub async fn look_at(config: &Config) -> Result<(), OpenError> {
    let Found { target, primaries } = shards::find(config).await?;
    let replicas = check::all(config, &target, &primaries).await?;
    config.replicas_to_wait_for(replicas).map(|_| ())
}

/// Removes every key that begins with the prefix of these settings, page by page. Answers how many. Nodes that use them must have
/// stopped.
///
/// # Errors
/// When a server does not answer, and when there is no prefix: everything would go.
pub async fn remove_all(config: &Config) -> Result<u64, OpenError> {
    if config.prefix.is_empty() {
        return Err(StoreError::Conflict("without redis.prefix every key would be removed".into()).into());
    }
    let Found { target, primaries } = shards::find(config).await?;
    let mut removed = 0;
    for primary in primaries {
        let lost = |error: redis::RedisError| OpenError::Unreachable(format!("{}: {error}", primary.address));
        let settings = lane::Settings::single(target.server(&primary.address), config);
        let mut connection = lane::connect(&settings).await.map_err(lost)?;
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern(&config.prefix)).arg("COUNT").arg(PAGE);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await.map_err(lost)?;
            if !keys.is_empty() {
                let mut unlink = Pipeline::with_capacity(keys.len());
                for key in keys {
                    // One by one: those of a page may be in several slots.
                    unlink.cmd("UNLINK").arg(key);
                }
                let gone: Vec<u64> = unlink.query_async(&mut connection).await.map_err(lost)?;
                removed += gone.iter().sum::<u64>();
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
    }
    Ok(removed)
}

/// What matches all that begins with these very letters.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_a_prefix_stand_for_themselves() {
        assert_eq!(pattern("a[b]*?\\c:"), "a\\[b\\]\\*\\?\\\\c:*");
    }

    #[tokio::test]
    async fn all_keys_of_the_prefix_go_and_no_other() {
        let server = loadtest::redis::Server::start(&loadtest::redis::Settings::default()).unwrap();
        for number in 0..2_500 {
            server.query::<()>(&["SET", &format!("mine[1]:{{{number}}}"), "x"]).unwrap();
        }
        for other in ["mine1:x", "mine[1]", "other"] {
            server.query::<()>(&["SET", other, "x"]).unwrap();
        }
        let config = Config {
            url: server.url(),
            prefix: "mine[1]:".into(),
            ..Config::default()
        };
        assert_eq!(remove_all(&config).await.unwrap(), 2_500);
        let mut left: Vec<String> = server.query(&["KEYS", "*"]).unwrap();
        left.sort();
        assert_eq!(left, ["mine1:x", "mine[1]", "other"]);
        let all = Config {
            prefix: String::new(),
            ..config
        };
        assert!(remove_all(&all).await.is_err());
        assert_eq!(server.query::<u64>(&["DBSIZE"]).unwrap(), 3);
    }
}
