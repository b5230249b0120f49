//! What another secret makes of a key, whichever engine keeps it.

use super::{ApiKey, Rotation, StoreError};

/// A secret of a key: its hash, and its row.
pub(in crate::store) type Secret = ([u8; 32], ApiKey);

/// What is to be stored in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Rotated {
    /// The new secret.
    pub(in crate::store) newest: Secret,
    /// The one before it as it is to be, where it goes on for a while.
    pub(in crate::store) before: Option<Secret>,
    /// Those that end.
    pub(in crate::store) ended: Vec<[u8; 32]>,
}

/// What becomes of the secrets of one key. `None`: there is no such key.
pub(in crate::store) fn rotate(secrets: &[Secret], rotation: &Rotation) -> Result<Option<Rotated>, StoreError> {
    let newest = secrets.iter().find(|(_, key)| key.retires_at.is_none());
    let Some((hash, key)) = newest else { return Ok(None) };
    let stays = rotation.retires_at > rotation.now;
    let older = || secrets.iter().filter(|(other, _)| other != hash);
    if stays && let Some(until) = older().filter_map(|(_, key)| key.retires_at).find(|until| *until > rotation.now) {
        return Err(StoreError::Conflict(
            format!("the secret before the last is good until {until}, and a key has two at most: wait, or rotate with grace_secs 0, which ends both").into(),
        ));
    }
    let before = stays.then(|| {
        let retired = ApiKey {
            retires_at: Some(rotation.retires_at),
            ..key.clone()
        };
        (*hash, retired)
    });
    let ended = older().map(|(hash, _)| *hash).chain((!stays).then_some(*hash)).collect();
    Ok(Some(Rotated {
        newest: (rotation.hash, key.clone()),
        before,
        ended,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Scope, Timestamp};

    fn key(retires_at: Option<u64>) -> ApiKey {
        ApiKey {
            id: "k".into(),
            name: "n".into(),
            tenant: 0,
            scope: Scope::Push,
            created_at: Timestamp(1),
            limits: None,
            expires_at: None,
            retires_at: retires_at.map(Timestamp),
        }
    }

    #[test]
    fn a_key_has_two_secrets_at_most() {
        let rotation = |retires_at| Rotation {
            hash: [9; 32],
            now: Timestamp(100),
            retires_at: Timestamp(retires_at),
        };
        assert_eq!(rotate(&[], &rotation(200)).unwrap(), None);
        let one = [([1; 32], key(None))];
        let rotated = rotate(&one, &rotation(200)).unwrap().unwrap();
        assert_eq!(rotated.newest, ([9; 32], key(None)));
        assert_eq!(rotated.before, Some(([1; 32], key(Some(200)))));
        assert!(rotated.ended.is_empty());
        // At once.
        let rotated = rotate(&one, &rotation(100)).unwrap().unwrap();
        assert_eq!((rotated.before, rotated.ended), (None, vec![[1; 32]]));
        // Two live: not without ending both.
        let two = [([1; 32], key(Some(101))), ([2; 32], key(None))];
        assert!(matches!(rotate(&two, &rotation(200)), Err(StoreError::Conflict(_))));
        assert_eq!(rotate(&two, &rotation(0)).unwrap().unwrap().ended, [[1; 32], [2; 32]]);
        // The older has ended by itself.
        let two = [([1; 32], key(Some(100))), ([2; 32], key(None))];
        let rotated = rotate(&two, &rotation(200)).unwrap().unwrap();
        assert_eq!((rotated.before.unwrap().0, rotated.ended), ([2; 32], vec![[1; 32]]));
    }
}
