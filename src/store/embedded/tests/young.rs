//! Young rows over the engine's own, against a plain map.

use std::{collections::BTreeMap, path::Path};

use fjall::Slice;

use super::super::{
    draft::Draft,
    engine::{Engine, Setup, Space},
};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(folder: &Path) -> Engine {
    let setup = Setup {
        path: folder.to_path_buf(),
        memtable: 8 * 1024,
        young: 400,
        journals: 1 << 26,
        cache: 1 << 20,
        workers: 1,
    };
    Engine::open(&setup, false).unwrap()
}

fn event(device: u8, number: u64) -> Vec<u8> {
    let mut key = vec![0, 0, 0, 0, 0, device, 1];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn numbers(device: u8) -> Vec<u8> {
    vec![b's', 0, 0, 0, 0, 0, device]
}

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn collected(rows: impl Iterator<Item = Result<(Slice, Slice), crate::store::StoreError>>) -> Rows {
    rows.map(|row| row.unwrap())
        .map(|(key, row)| (key.to_vec(), row.to_vec()))
        .collect()
}

fn check(engine: &Engine, events: &Rows, numbers_rows: &Rows, what: &str) {
    assert_eq!(collected(engine.prefix(Space::Events, b"")), *events, "{what}");
    let view = engine.view();
    assert_eq!(collected(view.from(Space::Events, Vec::new(), b"")), *events, "{what}: in a view");
    for (key, row) in events {
        assert_eq!(view.get(Space::Events, key).unwrap().as_deref(), Some(row.as_slice()), "{what}");
    }
    drop(view);
    for device in 0..4 {
        let one: Rows = events
            .iter()
            .filter(|(key, _)| key[5] == device)
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect();
        assert_eq!(collected(engine.prefix(Space::Events, &event(device, 0)[..6])), one, "{what}");
        let backwards = engine.range(Space::Events, &event(device, 0), &event(device, u64::MAX)).rev();
        let backwards: Vec<_> = backwards.map(|row| row.unwrap().0.to_vec()).collect();
        assert_eq!(backwards, one.keys().rev().cloned().collect::<Vec<_>>(), "{what}");
        let row = engine.get(Space::Rows, &numbers(device)).unwrap();
        assert_eq!(row.as_deref(), numbers_rows.get(&numbers(device)).map(Vec::as_slice), "{what}");
    }
}

#[test]
fn what_is_young_reads_as_if_each_row_had_its_place() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut dice = Dice(7);
    let mut engine = open(folder.path());
    let (mut events, mut numbers_rows) = (Rows::new(), Rows::new());
    let mut last = 0;
    for commit in 0..400_u64 {
        let mut draft = Draft::new(&engine);
        for _ in 0..1 + dice.below(5) {
            let device = u8::try_from(dice.below(4)).unwrap();
            let row = vec![u8::try_from(commit % 251).unwrap(); usize::try_from(dice.below(60)).unwrap()];
            let some = events
                .keys()
                .nth(usize::try_from(dice.below(events.len().max(1) as u64)).unwrap())
                .cloned();
            match (dice.below(9), some) {
                (0..=2, _) => {
                    last += 1;
                    draft.put_new(Space::Events, event(device, last), row.clone(), true);
                    events.insert(event(device, last), row);
                }
                (3, _) => {
                    last += 1;
                    draft.put(Space::Events, event(device, last), row.clone());
                    events.insert(event(device, last), row);
                }
                (4, Some(key)) => {
                    draft.put(Space::Events, key.clone(), row.clone());
                    events.insert(key, row);
                }
                (5, Some(key)) => {
                    draft.remove(Space::Events, key.clone());
                    events.remove(&key);
                }
                (6, _) => {
                    draft.put(Space::Rows, numbers(device), row.clone());
                    numbers_rows.insert(numbers(device), row);
                }
                (7, _) if dice.below(4) == 0 => {
                    draft.remove(Space::Rows, numbers(device));
                    numbers_rows.remove(&numbers(device));
                }
                _ => {
                    draft.put_new(Space::Rows, numbers(device), row.clone(), true);
                    numbers_rows.insert(numbers(device), row);
                }
            }
        }
        engine.commit(draft.finish()).unwrap();
        check(&engine, &events, &numbers_rows, &format!("after commit {commit}"));
        if dice.below(12) == 0 {
            drop(engine);
            engine = open(folder.path());
            check(&engine, &events, &numbers_rows, &format!("opened again after commit {commit}"));
        }
    }
    assert!(engine.blocks() < 30, "blocks go when they are old: {} are left", engine.blocks());
}

#[test]
fn what_ends_while_it_is_young_never_gets_a_row() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let engine = open(folder.path());
    let mut waits = None;
    for number in 0..500 {
        let mut draft = Draft::new(&engine);
        draft.put_new(Space::Events, event(1, number), [7; 40], true);
        draft.put_new(Space::Rows, numbers(1), number.to_be_bytes(), true);
        if let Some(key) = waits.replace(event(1, number)) {
            draft.remove(Space::Events, key);
        }
        engine.commit(draft.finish()).unwrap();
    }
    assert_eq!(engine.events_with_rows(), 0);
    assert_eq!(engine.prefix(Space::Events, b"").count(), 1);
}
