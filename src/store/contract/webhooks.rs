//! Webhooks: changed by one at a time, served by one at a time, and nothing that waits is lost.

use super::*;
use crate::store::{Receipt, Stepped, Unsent, Webhook, WebhookProgress, WebhookSecret, WebhookStep};

const LONG: Duration = Duration::from_secs(3_600);
const MADE: Stepped = Stepped::Made {
    redriven: false,
    dropped: 0,
};

pub(super) fn webhook(id: &str, tenant: u16) -> Webhook {
    let secret = WebhookSecret {
        text: "whsec_x".to_owned(),
        until: None,
    };
    Webhook {
        id: id.to_owned(),
        tenant,
        url: "https://example.org/hook".to_owned(),
        states: vec![DeliveryState::Delivered, DeliveryState::NoTarget],
        secrets: vec![secret],
        disabled: None,
        begins_behind: 0,
        created_at: START,
        updated_at: START,
        enabled_at: START,
        revision: 1,
    }
}

pub(super) fn unsent(position: u64, device: &str, attempts: u32) -> Unsent {
    let receipt = serde_json::json!({
        "position": position, "event": "e", "device": device, "state": "delivered", "at": START, "latency_ms": 4,
    });
    Unsent {
        receipt: serde_json::from_value::<Receipt>(receipt).unwrap(),
        since: START,
        attempts,
        at: Timestamp(START.0 + 9),
        error: (attempts > 0).then(|| "status 500".to_owned()),
    }
}

pub(super) fn step(cursor: u64, waiting: Vec<Unsent>, done: Vec<u64>, dead: Vec<Unsent>) -> WebhookStep {
    WebhookStep {
        progress: WebhookProgress {
            cursor: Some(cursor),
            ..WebhookProgress::default()
        },
        waiting,
        done,
        dead,
    }
}

pub async fn a_webhook_is_changed_only_as_it_was_read(bench: impl Bench) {
    let store = bench.webhooks();
    let (one, other) = (webhook("wh_1", 0), webhook("wh_2", 1));
    assert!(store.change_webhook("wh_2", None, Some(other.clone())).await.unwrap());
    assert!(store.change_webhook("wh_1", None, Some(one.clone())).await.unwrap());
    // The same again, because the answer was lost; and another of the same id.
    assert!(store.change_webhook("wh_1", None, Some(one.clone())).await.unwrap());
    let with_url = |url: &str, revision| Webhook {
        url: url.to_owned(),
        revision,
        ..one.clone()
    };
    assert!(
        !store
            .change_webhook("wh_1", None, Some(with_url("https://a.example", 1)))
            .await
            .unwrap()
    );
    assert!(
        store
            .change_webhook("wh_1", Some(1), Some(with_url("https://b.example", 2)))
            .await
            .unwrap()
    );
    assert!(
        !store
            .change_webhook("wh_1", Some(1), Some(with_url("https://c.example", 2)))
            .await
            .unwrap()
    );
    assert!(!store.change_webhook("wh_1", Some(1), None).await.unwrap());
    let changed = with_url("https://b.example", 2);
    assert_eq!(store.webhooks(None).await.unwrap(), [changed.clone(), other.clone()]);
    assert_eq!(store.webhooks(Some(TenantId(1))).await.unwrap(), std::slice::from_ref(&other));
    let bench = bench.reopen().await;
    let store = bench.webhooks();
    assert_eq!(store.webhooks(None).await.unwrap(), [changed, other.clone()]);
    assert!(store.change_webhook("wh_1", Some(2), None).await.unwrap());
    assert!(
        store.change_webhook("wh_1", Some(2), None).await.unwrap(),
        "it is gone, as was asked"
    );
    assert_eq!(store.webhooks(None).await.unwrap(), [other]);
}

pub async fn one_at_a_time_serves_a_webhook(bench: impl Bench) {
    let store = bench.webhooks();
    assert_eq!(store.lease_webhook("wh_1", "n1", LONG).await.unwrap(), None, "there is none");
    store.change_webhook("wh_1", None, Some(webhook("wh_1", 0))).await.unwrap();
    let first = store.lease_webhook("wh_1", "n1", LONG).await.unwrap().unwrap();
    assert_eq!(store.lease_webhook("wh_1", "n2", LONG).await.unwrap(), None);
    let at = |cursor| step(cursor, vec![], vec![], vec![]);
    assert_eq!(store.step_webhook("wh_1", first, LONG, &at(5), 10).await.unwrap(), MADE);
    // The same holder, started anew.
    let second = store.lease_webhook("wh_1", "n1", LONG).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(store.step_webhook("wh_1", first, LONG, &at(9), 10).await.unwrap(), Stepped::Lost);
    // Given up; and what the old holder says afterwards moves nothing.
    assert_eq!(store.step_webhook("wh_1", second, Duration::ZERO, &at(6), 10).await.unwrap(), MADE);
    let third = store.lease_webhook("wh_1", "n2", LONG).await.unwrap().unwrap();
    assert!(third > second);
    assert_eq!(store.step_webhook("wh_1", second, LONG, &at(4), 10).await.unwrap(), Stepped::Lost);
    assert_eq!(store.webhook_work("wh_1").await.unwrap().progress.cursor, Some(6));
    store.change_webhook("wh_1", Some(1), None).await.unwrap();
    assert_eq!(store.step_webhook("wh_1", third, LONG, &at(7), 10).await.unwrap(), Stepped::Lost);
    assert_eq!(store.webhook_work("wh_1").await.unwrap(), Default::default());
}

pub async fn what_a_webhook_did_not_take_is_kept(bench: impl Bench) {
    let store = bench.webhooks();
    store.change_webhook("wh_1", None, Some(webhook("wh_1", 0))).await.unwrap();
    let fence = store.lease_webhook("wh_1", "n1", LONG).await.unwrap().unwrap();
    let waiting = vec![unsent(3, "box", 1), unsent(700, "box", 0), unsent(9, "tv", 2)];
    let made = store
        .step_webhook("wh_1", fence, LONG, &step(700, waiting, vec![], vec![]), 2)
        .await;
    assert_eq!(made.unwrap(), MADE);
    let later = step(
        701,
        vec![unsent(3, "box", 2)],
        vec![9, 800],
        vec![unsent(1, "a", 4), unsent(2, "b", 4)],
    );
    assert_eq!(store.step_webhook("wh_1", fence, Duration::ZERO, &later, 2).await.unwrap(), MADE);
    let bench = bench.reopen().await;
    let store = bench.webhooks();
    let work = store.webhook_work("wh_1").await.unwrap();
    assert_eq!((work.progress, work.dead_letters), (later.progress, 2));
    assert_eq!(work.waiting, [unsent(3, "box", 2), unsent(700, "box", 0)]);
    assert_eq!(
        store.dead_letters("wh_1", 0, 10).await.unwrap(),
        [unsent(1, "a", 4), unsent(2, "b", 4)]
    );
    assert_eq!(store.dead_letters("wh_1", 1, 1).await.unwrap(), [unsent(2, "b", 4)]);

    // Too many: the oldest goes.
    let fence = store.lease_webhook("wh_1", "n1", LONG).await.unwrap().unwrap();
    let more = step(702, vec![], vec![], vec![unsent(5, "c", 4)]);
    let expected = Stepped::Made {
        redriven: false,
        dropped: 1,
    };
    assert_eq!(store.step_webhook("wh_1", fence, LONG, &more, 2).await.unwrap(), expected);
    // Two wait, three may; the one that was dropped is not put back.
    let letters = [unsent(1, "a", 0), unsent(2, "b", 0), unsent(5, "c", 0)];
    assert_eq!(store.redrive("wh_1", &letters, 3).await.unwrap(), 1);
    assert_eq!(store.redrive("wh_1", &letters, 3).await.unwrap(), 0);
    let work = store.webhook_work("wh_1").await.unwrap();
    assert_eq!(work.waiting, [unsent(2, "b", 0), unsent(3, "box", 2), unsent(700, "box", 0)]);
    assert_eq!(work.dead_letters, 1);
    let told = store.step_webhook("wh_1", fence, LONG, &more_of(&work.progress), 2).await.unwrap();
    assert_eq!(
        told,
        Stepped::Made {
            redriven: true,
            dropped: 0
        }
    );
    let again = store.lease_webhook("wh_1", "n1", LONG).await.unwrap().unwrap();
    assert_eq!(
        store.step_webhook("wh_1", again, LONG, &more_of(&work.progress), 2).await.unwrap(),
        MADE
    );
}

fn more_of(progress: &WebhookProgress) -> WebhookStep {
    WebhookStep {
        progress: progress.clone(),
        ..WebhookStep::default()
    }
}

pub async fn webhooks_follow_the_receipts_of_their_tenant(bench: impl Bench) {
    let (store, webhooks) = (bench.store(), bench.webhooks());
    assert_eq!(webhooks.newest_receipt(TENANT).await.unwrap(), 0);
    add(&*store, "box").await;
    for _ in 0..2 {
        let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
        end(&*store, "box", id, Outcome::Delivered, START).await;
    }
    let newest = webhooks.newest_receipt(TENANT).await.unwrap();
    let all = webhooks.receipts(TENANT, 0, 10).await.unwrap();
    assert_eq!((all.len(), all[1].position), (2, newest));
    assert_eq!(webhooks.newest_receipt(TenantId(9)).await.unwrap(), 0);
}

pub async fn the_webhooks_of_a_tenant_go_with_it(bench: impl Bench) {
    let (store, webhooks) = (bench.store(), bench.webhooks());
    let tv = store.add_tenant("tv", "tv.example", None).await.unwrap();
    let (own, other) = (webhook("wh_1", tv.id), webhook("wh_2", TENANT.0));
    for webhook in [&own, &other] {
        assert!(webhooks.change_webhook(&webhook.id, None, Some(webhook.clone())).await.unwrap());
        let fence = webhooks.lease_webhook(&webhook.id, "n1", LONG).await.unwrap().unwrap();
        let sent = step(9, vec![unsent(3, "box", 1)], vec![], vec![unsent(1, "box", 4)]);
        assert_eq!(webhooks.step_webhook(&webhook.id, fence, LONG, &sent, 9).await.unwrap(), MADE);
    }
    assert!(store.remove_tenant(TenantId(tv.id), START).await.unwrap());
    let bench = {
        let is_gone = async |webhooks: &dyn crate::store::Webhooks, id: &str| {
            assert_eq!(webhooks.webhooks(None).await.unwrap(), std::slice::from_ref(&other));
            assert_eq!(webhooks.webhooks(Some(TenantId(tv.id))).await.unwrap(), []);
            assert_eq!(webhooks.webhook_work(id).await.unwrap(), Default::default());
            assert_eq!(webhooks.dead_letters(id, 0, 9).await.unwrap(), []);
            assert_eq!(webhooks.lease_webhook(id, "n1", LONG).await.unwrap(), None);
        };
        is_gone(&*webhooks, "wh_1").await;
        // Whoever served it learns of it with its next step, and one that was on its way comes too late.
        let stepped = webhooks.step_webhook("wh_1", 1, LONG, &step(10, vec![], vec![], vec![]), 9).await;
        assert_eq!(stepped.unwrap(), Stepped::Lost);
        assert!(!webhooks.change_webhook("wh_3", None, Some(webhook("wh_3", tv.id))).await.unwrap());

        // As an end in the midst of the removal leaves it: nobody sees it, and it is swept.
        let cars = store.add_tenant("cars", "cars.example", None).await.unwrap();
        assert!(webhooks.change_webhook("wh_4", None, Some(webhook("wh_4", cars.id))).await.unwrap());
        let fence = webhooks.lease_webhook("wh_4", "n1", Duration::ZERO).await.unwrap().unwrap();
        let sent = step(9, vec![unsent(3, "box", 1)], vec![], vec![unsent(1, "box", 4)]);
        assert_eq!(webhooks.step_webhook("wh_4", fence, Duration::ZERO, &sent, 9).await.unwrap(), MADE);
        let removed_at = Some(START);
        let removed = Tenant {
            removed_at,
            ..Tenant::clone(&cars)
        };
        store.put_tenant(removed).await.unwrap();
        assert_eq!(webhooks.webhooks(None).await.unwrap(), std::slice::from_ref(&other));
        assert_eq!(webhooks.webhook_work("wh_4").await.unwrap().waiting.len(), 1);
        sweep(&*store, bench.clock().now()).await;
        is_gone(&*webhooks, "wh_4").await;
        drop((store, webhooks));
        bench.reopen().await
    };
    let webhooks = bench.webhooks();
    assert_eq!(webhooks.webhooks(None).await.unwrap(), std::slice::from_ref(&other));
    let work = webhooks.webhook_work("wh_2").await.unwrap();
    assert_eq!((work.progress.cursor, work.waiting.len(), work.dead_letters), (Some(9), 1, 1));
    // Who has the name next begins with nothing.
    let again = bench.store().add_tenant("tv", "tv.example", None).await.unwrap();
    assert_eq!(webhooks.webhooks(Some(TenantId(again.id))).await.unwrap(), []);
}
