//! The high-water mark: a small file beside the engine that says how far it had come.
//!
//! One damaged byte makes an engine drop every commit behind it, silently (fjall-rs/fjall#311). At opening, a store that is
//! behind its mark is not the one that answered 202: it is refused.

use std::{fs, io::Write, path::Path};

use aws_lc_rs::digest;

/// The mark could not be read or does not add up.
#[derive(Debug, thiserror::Error)]
pub(super) enum MarkError {
    #[error("the high-water mark cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("the high-water mark is damaged")]
    Damaged,
}

const LENGTH: usize = 16;

fn bytes(commit_no: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&commit_no.to_be_bytes());
    let sum = digest::digest(&digest::SHA256, &bytes[..8]);
    bytes[8..].copy_from_slice(&sum.as_ref()[..8]);
    bytes
}

/// Reads the mark; `None` when there is none yet.
pub(super) fn read(path: &Path) -> Result<Option<u64>, MarkError> {
    let found = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let head: [u8; 8] = found.first_chunk().copied().ok_or(MarkError::Damaged)?;
    let commit_no = u64::from_be_bytes(head);
    if found == bytes(commit_no) {
        Ok(Some(commit_no))
    } else {
        Err(MarkError::Damaged)
    }
}

/// Replaces the mark.
pub(super) fn write(path: &Path, commit_no: u64) -> std::io::Result<()> {
    replace(path, &bytes(commit_no))
}

/// Replaces a file as a whole: a new one, synced, then renamed over the old one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_a_damaged_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("high-water-mark");
        assert!(read(&path).unwrap().is_none());
        write(&path, 7).unwrap();
        write(&path, 8).unwrap();
        assert_eq!(read(&path).unwrap(), Some(8));
        let mut damaged = fs::read(&path).unwrap();
        damaged[7] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(matches!(read(&path), Err(MarkError::Damaged)));
        fs::write(&path, &damaged[..5]).unwrap();
        assert!(matches!(read(&path), Err(MarkError::Damaged)));
    }
}
