//! A node whose clock leaps.

use std::time::Duration;

use loadtest::redis;

use super::{super::Config, faults::until, open};
use crate::{
    domain::{Clock, Event, ManualClock, SystemClock, Timestamp},
    store::{
        Mailbox,
        contract::{self, TENANT, add, claim, event, push, waiting},
    },
};

#[tokio::test]
async fn a_clock_that_leaps_ends_and_brings_nothing_early_and_numbers_go_on_rising() {
    let server = redis::Server::start(&redis::Settings::default()).unwrap();
    let clock = ManualClock::at(system_time());
    let config = Config {
        url: server.url(),
        heartbeat_ms: 100,
        ..Config::default()
    };
    let opened = open(&config, &clock).await;
    let (store, right) = (&opened.store, &opened.store.shared.clock);
    add(&**store, "box").await;
    let post = async || {
        let event = Event {
            ttl: Duration::from_secs(3_600),
            ..event("box", "{}", right.now())
        };
        let id = push(&**store, event).await.unwrap().id;
        (id, store.locate(TENANT, id).unwrap().number)
    };
    add(&**store, "later").await;
    let in_an_hour = Event {
        deliver_at: Some(system_time().plus(Duration::from_secs(3_600))),
        ..event("later", "{}", system_time())
    };
    push(&**store, in_an_hour).await.unwrap();
    let mut last = post().await;
    let mut ids = vec![last.0];
    let mut epoch = claim(&**store, "box", 0).await.unwrap().epoch;
    let days = |days: i64| Timestamp(system_time().0.saturating_add_signed(days * 86_400_000));
    for (session, leap) in (1..).zip([2, -2, 0]) {
        clock.set(days(leap));
        // Before the next heartbeat knows of it, too.
        let (expired, _) = contract::sweep(&**store, clock.now()).await;
        assert_eq!(expired, 0, "by {leap} days");
        assert_eq!(store.requeue_due(clock.now(), 10).await.unwrap(), 0, "by {leap} days");
        until("the right time", async || {
            right.now().since(system_time()) < Duration::from_secs(60)
        })
        .await;
        until("the right time", async || {
            system_time().since(right.now()) < Duration::from_secs(60)
        })
        .await;
        let next = post().await;
        assert!(next.1 > last.1, "by {leap} days");
        ids.push(next.0);
        let claimed = claim(&**store, "box", session).await.unwrap();
        assert!(claimed.epoch > epoch, "by {leap} days");
        (last, epoch) = (next, claimed.epoch);
        assert_eq!(waiting(&**store, "box").await, ids, "by {leap} days");
        assert_eq!(contract::sweep(&**store, right.now()).await.0, 0, "by {leap} days");
    }
}

fn system_time() -> Timestamp {
    SystemClock::default().now()
}
