//! The table of lost nodes.

use super::reply;
use crate::store::{StoreError, codec::damaged};

/// A life of a node that is over, and how far its seats are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) number: u16,
    pub(super) incarnation: u32,
    /// Buckets that are done. `None`: all.
    pub(super) done: Option<u16>,
}

/// Reads the table of losses.
pub(super) fn read_losses(value: redis::Value) -> Result<Vec<Loss>, StoreError> {
    let read = |life: &[u8], done: &[u8]| -> Option<Loss> {
        let (number, incarnation) = std::str::from_utf8(life).ok()?.split_once(':')?;
        Some(Loss {
            number: number.parse().ok()?,
            incarnation: incarnation.parse().ok()?,
            done: match done {
                b"done" => None,
                done => Some(std::str::from_utf8(done).ok()?.parse().ok()?),
            },
        })
    };
    let mut losses = Vec::new();
    for (life, done) in reply::hash(value, "the table of lost nodes")? {
        losses.push(read(&life, &done).ok_or_else(|| damaged("a lost node"))?);
    }
    losses.sort_unstable_by_key(|loss| (loss.number, loss.incarnation));
    Ok(losses)
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn the_table_is_read_in_order() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let read = |rows: &[(&str, &str)]| read_losses(Value::Map(rows.iter().map(|(life, done)| (text(life), text(done))).collect()));
        let loss = |number, incarnation, done| Loss { number, incarnation, done };
        let found = read(&[("10:1", "done"), ("2:7", "512"), ("2:6", "0")]).unwrap();
        assert_eq!(found, [loss(2, 6, Some(0)), loss(2, 7, Some(512)), loss(10, 1, None)]);
        assert!(read(&[("2", "0")]).is_err() && read(&[("2:7", "x")]).is_err());
    }
}
