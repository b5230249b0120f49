//! Opening what another left: the lock, the format, a damaged journal, the high-water mark.

use std::{fs, io::Write, path::Path, sync::Arc};

use super::{
    super::{
        Config, EmbeddedStore, OpenError,
        draft::Draft,
        engine::{Engine, Setup, Space},
        high_water,
        keys::{self, Place},
        record::{Facts, Kept, decode_event, encode_event},
        rows::Numbers,
        short_keys,
    },
    Embedded, config,
};
use crate::{
    domain::ManualClock,
    store::{
        EnqueuedKind, Idempotency, Mailbox, StoreError,
        contract::{self, START, add, event, push, push_with, waiting},
    },
};

fn open(config: Config) -> Result<Arc<EmbeddedStore>, OpenError> {
    EmbeddedStore::open(config, contract::limits(), ManualClock::at(START)).map(|(store, _)| store)
}

#[tokio::test]
async fn a_second_store_on_the_same_folder_is_refused() {
    let first = Embedded::new();
    let second = open(config(first.folder.path()));
    assert!(matches!(second.err(), Some(OpenError::Locked(_))));
    first.store.close();
    open(config(first.folder.path())).unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_and_an_older_one_ends() {
    let first = Embedded::new();
    first.store.close();
    let format = first.folder.path().join("store/format");
    fs::write(&format, "1\n").unwrap();
    open(config(first.folder.path())).unwrap();
    assert_eq!(
        fs::read_to_string(&format).unwrap(),
        "3\n",
        "a version that knows no packs of keys would take a repeat for new"
    );
    fs::write(&format, "4\n").unwrap();
    let error = open(config(first.folder.path())).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 4, known: 3 }), "{error}");
    fs::write(&format, "x").unwrap();
    assert!(open(config(first.folder.path())).is_err());
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let bench = Embedded::new();
    add(&*bench.store, "box").await;
    bench.store.close();
    bench.store.close();
    let refused = push(&*bench.store, event("box", "{}", START)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_store_behind_its_mark_is_refused_until_the_loss_is_accepted() {
    let bench = Embedded::new();
    add(&*bench.store, "box").await;
    let generation = bench.store.generation();
    bench.store.close();
    let mark = bench.folder.path().join("store/high-water-mark");
    let commit = high_water::read(&mark).unwrap().unwrap();
    high_water::write(&mark, commit + 100).unwrap();
    let error = open(config(bench.folder.path())).err().unwrap();
    assert!(
        matches!(error, OpenError::BehindMark { .. }) && error.to_string().contains("accept_data_loss"),
        "{error}"
    );
    let accepting = || Config {
        accept_data_loss: true,
        ..config(bench.folder.path())
    };
    let store = open(accepting()).unwrap();
    assert_ne!(store.generation(), generation, "numbers may come twice, so they count in new lanes");
    drop(store);
    open(config(bench.folder.path())).unwrap();
    fs::write(&mark, b"nonsense").unwrap();
    assert!(matches!(open(config(bench.folder.path())).err(), Some(OpenError::Mark(_))));
    open(accepting()).unwrap();
}

#[tokio::test]
async fn a_repeat_is_known_by_a_key_that_an_earlier_version_stored() {
    let bench = Embedded::new();
    add(&*bench.store, "box").await;
    let idempotency = Some(Idempotency {
        key: [7; 16],
        body: [1; 16],
        is_copy: false,
    });
    let first = push_with(&*bench.store, event("box", "{}", START), idempotency).await.unwrap();
    bench.store.close();
    // As it was: a row for each key, with the whole of it, and no mark that says otherwise.
    let setup = Setup {
        path: bench.folder.path().join("store/engine"),
        memtable: 1 << 20,
        young: 0,
        journals: 1 << 26,
        cache: 1 << 20,
        workers: 1,
    };
    let engine = Engine::open(&setup, false).unwrap();
    let mut draft = Draft::new(&engine);
    let (event_key, event_row) = engine.prefix(Space::Events, b"").next().unwrap().unwrap();
    let place = Place::read(&event_key).unwrap();
    let (facts, json) = decode_event(&event_row).unwrap();
    let (key, body) = (facts.idempotency.unwrap(), facts.body.unwrap());
    draft.put(Space::Events, event_key.clone(), encode_event(&Facts { body: None, ..facts }, json));
    let numbers_key = keys::numbers(place.tenant, place.ordinal);
    let numbers = Numbers::decode(&engine.get(Space::Rows, &numbers_key).unwrap().unwrap()).unwrap();
    draft.put(Space::Rows, numbers_key, numbers.encode_alone());
    let kept = Kept {
        queue: place.queue,
        number: place.number,
        body,
        accepted_at: facts.accepted_at,
    };
    let short = keys::idempotency(place.tenant, place.ordinal, &key);
    draft.put(Space::Ends, [short.as_slice(), &key[13..]].concat(), kept.encode());
    draft.remove(Space::Rows, short_keys::DONE);
    draft.must_sync();
    engine.commit(draft.finish()).unwrap();
    drop(engine);
    let store = open(config(bench.folder.path())).unwrap();
    let again = push_with(&*store, event("box", "{}", START), idempotency).await.unwrap();
    assert_eq!((again.kind, again.id), (EnqueuedKind::Repeat, first.id));
    let other = idempotency.map(|idempotency| Idempotency {
        body: [9; 16],
        ..idempotency
    });
    let reused = push_with(&*store, event("box", "{}", START), other).await;
    assert!(matches!(reused, Err(StoreError::KeyReused(id)) if id == first.id), "{reused:?}");
}

fn journal(folder: &Path) -> std::path::PathBuf {
    let engine = folder.join("store/engine");
    let mut journals: Vec<_> = fs::read_dir(engine)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jnl"))
        .collect();
    assert_eq!(journals.len(), 1);
    journals.remove(0)
}

#[tokio::test]
async fn a_journal_damaged_in_the_middle_is_noticed() {
    let bench = Embedded::new();
    add(&*bench.store, "box").await;
    for _ in 0..5 {
        push(&*bench.store, event("box", "{\"a\":\"marker of the event\"}", START))
            .await
            .unwrap();
    }
    bench.store.close();
    let path = journal(bench.folder.path());
    let sound = fs::read(&path).unwrap();
    let middle = sound.windows(6).position(|window| window == b"marker").unwrap();
    // A flipped byte of the data, and one that ends the journal early: both lose what comes behind.
    for damage in [
        |bytes: &mut Vec<u8>, at: usize| bytes[at] ^= 0x20,
        |bytes: &mut Vec<u8>, at: usize| bytes.truncate(at),
    ] {
        let mut bytes = sound.clone();
        damage(&mut bytes, middle);
        fs::write(&path, bytes).unwrap();
        let error = open(config(bench.folder.path())).err().expect("a damaged journal must not open");
        assert!(matches!(error, OpenError::BehindMark { .. } | OpenError::Engine(_)), "{error}");
    }
    fs::write(&path, &sound).unwrap();
    let store = open(config(bench.folder.path())).unwrap();
    assert_eq!(waiting(&*store, "box").await.len(), 5);
}

#[tokio::test]
async fn half_a_commit_at_the_end_is_dropped_and_the_rest_stays() {
    let bench = Embedded::new();
    add(&*bench.store, "box").await;
    push(&*bench.store, event("box", "{}", START)).await.unwrap();
    bench.store.close();
    // fjall's journal: a start marker of 1 byte, items 4, number 8; then the power went.
    let path = journal(bench.folder.path());
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[1, 0, 0, 0, 9, 0, 0, 0]).unwrap();
    drop(file);
    let store = open(config(bench.folder.path())).unwrap();
    assert_eq!(waiting(&*store, "box").await.len(), 1);
    push(&*store, event("box", "{}", START)).await.unwrap();
    store.close();
    let store = open(config(bench.folder.path())).unwrap();
    assert_eq!(waiting(&*store, "box").await.len(), 2);
}
