//! The audit log.

use super::*;

/// An entry that was written at that millisecond behind the start.
pub(super) fn entry(id: &str, at: u64) -> AuditEntry {
    AuditEntry {
        id: id.to_owned(),
        at: Timestamp(START.0 + at),
        actor: Actor::Key {
            id: "k1".into(),
            name: "ops".into(),
        },
        scope: Scope::Admin,
        from: Some("2001:db8::1".parse().unwrap()),
        method: "PUT".into(),
        resource: "/v1/devices/box".into(),
        fields: Vec::new(),
        outcome: None,
    }
}

/// The same with what came of it.
pub(super) fn ended(begun: &AuditEntry) -> AuditEntry {
    AuditEntry {
        fields: vec!["user".into()],
        outcome: Some(AuditOutcome {
            at: begun.at,
            status: 201,
            problem: None,
            created: Some("/v1/devices/box".into()),
            detail: None,
        }),
        ..begun.clone()
    }
}

async fn ids(store: &dyn Store, from: u64, to: u64, limit: usize) -> Vec<String> {
    let found = store.audit(TENANT, from, to, limit).await.unwrap();
    assert!(found.is_sorted_by(|(one, _), (other, _)| one < other));
    found.into_iter().map(|(_, entry)| entry.id).collect()
}

pub async fn changes_are_told_in_the_order_of_time(bench: impl Bench) {
    let store = bench.store();
    // Three of one moment, one later, and one of a clock that is behind.
    let begun = [entry("a", 0), entry("b", 0), entry("c", 0), entry("d", 5_000), entry("e", 10)];
    let mut positions = Vec::new();
    for begun in &begun {
        positions.push(store.begin_audit(TENANT, begun).await.unwrap());
    }
    assert!(positions.is_sorted_by(|one, other| one < other), "{positions:?}");
    assert_eq!(positions[0], audit_position(START));
    let c = ended(&begun[2]);
    for _ in 0..2 {
        store.end_audit(TENANT, positions[2], &begun[2], &c).await.unwrap();
    }
    let all = store.audit(TENANT, 0, u64::MAX, 10).await.unwrap();
    let expected = [begun[0].clone(), begun[1].clone(), c, begun[3].clone(), begun[4].clone()];
    assert_eq!(all, positions.iter().copied().zip(expected).collect::<Vec<_>>());
    assert_eq!(ids(&*store, 0, u64::MAX, 2).await, ["a", "b"]);
    assert_eq!(ids(&*store, positions[1] + 1, u64::MAX, 2).await, ["c", "d"]);
    let at = |ms| audit_position(Timestamp(START.0 + ms));
    assert_eq!(ids(&*store, at(0), at(5_000), 10).await, ["a", "b", "c"]);
    assert_eq!(ids(&*store, at(1), at(6_000), 10).await, ["d", "e"]);
    assert!(ids(&*store, at(9_000), at(1), 10).await.is_empty());
    assert!(store.audit(TenantId(1), 0, u64::MAX, 10).await.unwrap().is_empty());
    let bench = bench.reopen().await;
    assert_eq!(bench.store().audit(TENANT, 0, u64::MAX, 10).await.unwrap(), all);
}

pub async fn the_audit_log_is_kept_so_long_and_so_much_of_it(bench: impl Bench) {
    let store = bench.store();
    let other = TenantId(store.add_tenant("tv", "tv.example", None).await.unwrap().id);
    for n in 0..6 {
        store.begin_audit(TENANT, &entry(&n.to_string(), n)).await.unwrap();
    }
    store.begin_audit(other, &entry("x", 0)).await.unwrap();
    // As `limits` says, four.
    assert_eq!(sweep(&*store, START).await.1, 2);
    assert_eq!(ids(&*store, 0, u64::MAX, 10).await, ["2", "3", "4", "5"]);
    assert_eq!(sweep(&*store, START).await.1, 0);
    // One that is gone is not ended any more, and does not come again in the middle.
    store.begin_audit(TENANT, &entry("6", 400 * 86_400_000)).await.unwrap();
    let later = Timestamp(START.0 + 400 * 86_400_000 + 4);
    bench.clock().advance(Duration::from_millis(400 * 86_400_000 + 4));
    assert_eq!(sweep(&*store, later).await.1, 4);
    assert_eq!(ids(&*store, 0, u64::MAX, 10).await, ["5", "6"]);
    assert!(store.audit(other, 0, u64::MAX, 10).await.unwrap().is_empty());
}
