//! fjall's journal files, where fjall itself offers no hand.
//!
//! They are named by a rising number; at opening the last one is active and all others are sealed: flushed into tables, then
//! deleted.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Sealed journals each hold a memtable until they are flushed, and fjall halts at four of those.
const FILES_MAX: usize = 2;

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()
}

fn numbers(engine: &Path) -> std::io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(engine)? {
        numbers.extend(number(&entry?.path()));
    }
    Ok(numbers)
}

fn file(engine: &Path, number: u64) -> PathBuf {
    engine.join(format!("{number}.jnl"))
}

/// Sets an empty journal behind those that are there, while the engine is closed. That frees the space of the others once it is
/// open, and nothing is appended to a file whose sync failed. With a `ballast` that file becomes the journal, so that its blocks
/// are never free for others to take. `false`: there are too many journals already.
pub(super) fn seal(engine: &Path, ballast: Option<&Path>) -> std::io::Result<bool> {
    let numbers = numbers(engine)?;
    let Some(last) = numbers.iter().max() else { return Ok(false) };
    if numbers.len() > FILES_MAX {
        return Ok(false);
    }
    let new = file(engine, last + 1);
    match ballast.map(|ballast| fs::rename(ballast, &new)) {
        Some(Ok(())) => {}
        _ => fs::File::create_new(&new)?.sync_all()?,
    }
    fs::File::open(engine)?.sync_all()?;
    Ok(true)
}

/// Takes blocks for the active journal ahead of its end, so that appending needs none. fjall gives up what lies behind the end of
/// a journal when it opens it, so this comes right after opening.
pub(super) fn reserve(engine: &Path, bytes: u64) -> std::io::Result<()> {
    let Some(last) = numbers(engine)?.into_iter().max() else {
        return Ok(());
    };
    let file = fs::File::options().write(true).open(file(engine, last))?;
    let end = file.metadata()?.len();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, end, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_becomes_the_next_journal() {
        let folder = tempfile::tempdir().unwrap();
        let (engine, ballast) = (folder.path().join("engine"), folder.path().join("ballast"));
        fs::create_dir(&engine).unwrap();
        assert!(!seal(&engine, None).unwrap(), "there is none to seal");
        fs::write(engine.join("9.jnl"), "x").unwrap();
        fs::write(&ballast, "zeros").unwrap();
        assert!(seal(&engine, Some(&ballast)).unwrap());
        assert_eq!(fs::read(engine.join("10.jnl")).unwrap(), b"zeros");
        assert!(seal(&engine, Some(&ballast)).unwrap(), "without a ballast it is an empty file");
        assert_eq!(fs::read(engine.join("11.jnl")).unwrap(), b"");
        assert!(!seal(&engine, None).unwrap(), "no more than that");
        reserve(&engine, 65_536).unwrap();
        let reserved = fs::metadata(engine.join("11.jnl")).unwrap();
        assert_eq!(reserved.len(), 0);
        assert!(std::os::unix::fs::MetadataExt::blocks(&reserved) >= 128);
    }
}
