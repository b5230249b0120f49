//! What a device remembers: the last number of each lane, its token, what the server once offered, outcomes nobody confirmed.

use std::{
    collections::VecDeque,
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Delivered, Lanes, Token, outcome::Told};

/// Outcomes that are repeated until the service answers; past it the oldest are given up.
const TOLD_MAX: usize = 64;
/// The largest journal that is read, in bytes.
const JOURNAL_MAX_BYTES: u64 = 1 << 20;

/// What a device remembers over a cut, and with a journal over its own end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Of which device. Empty: of any.
    #[serde(default)]
    jid: String,
    /// Its name towards the service for all its life (XEP-0388 §2.1); tokens belong to it.
    pub user_agent: String,
    /// The server offered SCRAM once, so it never gets the bare password.
    #[serde(default)]
    pub scram_offered: bool,
    /// What it shows instead of the password.
    #[serde(default)]
    pub token: Option<Token>,
    /// What it applied.
    #[serde(default)]
    pub lanes: Lanes,
    /// Outcomes that the service did not answer yet.
    #[serde(default)]
    told: VecDeque<Told>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            jid: String::new(),
            user_agent: uuid::Uuid::new_v4().to_string(),
            scram_offered: false,
            token: None,
            lanes: Lanes::default(),
            told: VecDeque::new(),
        }
    }
}

impl Memory {
    /// Outcomes that the service did not answer yet, oldest first.
    pub fn told(&self) -> impl Iterator<Item = &Told> {
        self.told.iter()
    }

    fn tell(&mut self, told: Told) {
        self.told.retain(|other| other.event != told.event);
        self.told.push_back(told);
        if self.told.len() > TOLD_MAX {
            self.told.pop_front();
        }
    }
}

/// A memory, and the file that keeps it, if any. The device and its connection share it.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    memory: Memory,
    path: Option<PathBuf>,
}

impl From<Memory> for Journal {
    /// A memory that ends with the device.
    fn from(memory: Memory) -> Self {
        Self(Arc::new(Mutex::new(Kept { memory, path: None })))
    }
}

impl Journal {
    /// The memory of `jid` in a file, or a new one. The file holds a token, which is as good as a password: it is for its owner only.
    ///
    /// # Errors
    /// When the file cannot be read or written, is no journal, or is of another device.
    pub fn open(path: &Path, jid: &str) -> Result<Self, String> {
        let shown = path.display();
        let memory = match read(path) {
            Ok(text) => {
                let memory: Memory = serde_json::from_str(&text).map_err(|error| format!("{shown} is no journal: {error}"))?;
                if memory.jid != jid {
                    return Err(format!("{shown} is the journal of {}, not of {jid}", memory.jid));
                }
                memory
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Memory {
                jid: jid.to_owned(),
                ..Memory::default()
            },
            Err(error) => return Err(format!("the journal {shown} cannot be read: {error}")),
        };
        let kept = Kept {
            memory,
            path: Some(path.to_owned()),
        };
        kept.save()
            .map_err(|error| format!("the journal {shown} cannot be written: {error}"))?;
        Ok(Self(Arc::new(Mutex::new(kept))))
    }

    /// What is remembered now.
    pub fn read<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.0.lock().memory)
    }

    /// Changes what is remembered, and keeps it before it returns.
    ///
    /// # Errors
    /// When the file cannot be written: the change is then remembered, and not kept.
    pub fn change<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> io::Result<T> {
        let mut kept = self.0.lock();
        let changed = change(&mut kept.memory);
        kept.save()?;
        Ok(changed)
    }

    /// Whether an event was applied.
    pub fn knows(&self, event: &Delivered) -> bool {
        self.read(|memory| memory.lanes.knows(&event.lane, event.seq))
    }

    /// The event is applied, with this outcome, if anybody wants to know.
    pub fn applied(&self, event: &Delivered, told: Option<Told>) -> io::Result<()> {
        self.change(|memory| {
            memory.lanes.is_news(&event.lane, event.seq);
            if let Some(told) = told {
                memory.tell(told);
            }
        })
    }

    /// The service has the outcome of this event.
    pub fn answered(&self, event: &str) -> io::Result<()> {
        if self.read(|memory| memory.told().all(|told| told.event != event)) {
            return Ok(());
        }
        self.change(|memory| memory.told.retain(|told| told.event != event))
    }
}

impl Kept {
    /// Whole or not at all: a new file takes the old one's name. The directory is synced, too, so that it stays after a power cut.
    fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut fresh = path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        // One that a crash left behind may have other permissions.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        serde_json::to_writer(&mut file, &self.memory)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::File::open(directory)?.sync_all()
    }
}

fn read(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > JOURNAL_MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {length} bytes, and a journal at most {JOURNAL_MAX_BYTES}"),
        ));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::reference_device::Outcome;

    fn told(event: &str) -> Told {
        Told {
            event: event.into(),
            to: None,
            outcome: Outcome::Done,
        }
    }

    #[test]
    fn a_journal_outlives_the_device_and_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.json");
        let journal = Journal::open(&path, "tv@localhost").unwrap();
        let user_agent = journal.read(|memory| memory.user_agent.clone());
        journal
            .change(|memory| {
                memory.lanes.is_news("normal.1", 7);
                memory.scram_offered = true;
                memory.tell(told("e1"));
            })
            .unwrap();
        drop(journal);
        // What a crash left behind while it wrote is no journal.
        fs::write(directory.path().join("journal.json.new"), "{").unwrap();

        let journal = Journal::open(&path, "tv@localhost").unwrap();
        journal.read(|memory| {
            assert!(memory.scram_offered && memory.lanes.knows("normal.1", 7) && !memory.lanes.knows("normal.1", 8));
            assert_eq!(memory.user_agent, user_agent);
            assert_eq!(memory.told().count(), 1);
        });
        journal.answered("e1").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let journal = Journal::open(&path, "tv@localhost").unwrap();
        assert_eq!(journal.read(|memory| memory.told().count()), 0);
    }

    #[test]
    fn a_journal_of_another_device_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.json");
        drop(Journal::open(&path, "tv@localhost").unwrap());
        let before = fs::read(&path).unwrap();
        assert!(Journal::open(&path, "radio@localhost").unwrap_err().contains("tv@localhost"));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "[1]").unwrap();
        assert!(Journal::open(&path, "tv@localhost").unwrap_err().contains("no journal"));
        assert_eq!(fs::read(&path).unwrap(), b"[1]");
    }

    #[test]
    fn outcomes_that_nobody_answers_are_bounded() {
        let mut memory = Memory::default();
        for number in 0..TOLD_MAX + 3 {
            memory.tell(told(&format!("e{number}")));
            memory.tell(told(&format!("e{number}")));
        }
        assert_eq!(memory.told.len(), TOLD_MAX);
        assert_eq!(memory.told.front().map(|told| told.event.as_str()), Some("e3"));
    }
}
