//! What the engine owes when its servers, its network or its neighbours fail.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use loadtest::proxy::Proxy;

use super::*;
use crate::{
    domain::{Clock as _, DeliveryState, Departure, Epoch, EventId, Outcome, SessionId, Timestamp},
    store::{
        Claimed, Cursor, Enqueued, Feed as _, Hint, Mailbox, NewSeat, Registered, Registry as _, StoreError, Transport,
        contract::{TENANT, add, claim, event, key, push, waiting},
    },
};

const SOON: Duration = Duration::from_secs(30);

/// A node with servers of its own.
pub(super) struct Node {
    opened: Opened,
    clock: Arc<ManualClock>,
}

impl Node {
    pub(super) async fn open(url: String, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            url,
            prefix: "f:".into(),
            heartbeat_ms: 200,
            node_lost_secs: 5,
            clock_skew_max_ms: u64::MAX,
            wait_ms: 5_000,
            ..Config::default()
        };
        change(&mut config);
        let clock = ManualClock::at(START);
        Self {
            opened: open(&config, &clock).await,
            clock,
        }
    }

    pub(super) fn store(&self) -> &RedisStore {
        &self.opened.store
    }

    pub(super) async fn push(&self, device: &str) -> Result<Enqueued, StoreError> {
        let at = Timestamp(START.0 + 1);
        push(
            self.store(),
            crate::domain::Event {
                ttl: Duration::from_secs(3_600),
                ..event(device, "{}", at)
            },
        )
        .await
    }

    pub(super) async fn state(&self, id: EventId) -> DeliveryState {
        self.store().delivery(TENANT, id).await.unwrap().unwrap().state
    }
}

/// Claims a seat at the time of the node's clock.
async fn claim_at_clock(node: &Node, device: &str, session: u128) -> Claimed {
    let session = NewSeat {
        session: SessionId(session),
        node: "n1".into(),
        transport: Transport::Xmpps,
        at: node.clock.now(),
        credential_generation: 0,
        fast: None,
    };
    node.store().claim(&key(device), session).await.unwrap()
}

pub(super) async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let end = Instant::now() + SOON;
    while !is().await {
        assert!(Instant::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_redis_is_away_events_are_refused_in_time_and_sessions_begin_and_end_and_are_told_later() {
    let server = redis::Server::start(&redis::Settings::default()).unwrap();
    let node = Node::open(server.url(), |_| {}).await;
    let store = node.store();
    for device in ["stays", "leaves", "comes"] {
        add(store, device).await;
        // As a login does that is at most a minute ago.
        assert!(matches!(store.device_for_login(&key(device)).await, Ok(Registered::Present(_))));
    }
    let stays = claim(store, "stays", 1).await.unwrap();
    let leaves = claim(store, "leaves", 2).await.unwrap();
    let kept = node.push("stays").await.unwrap();

    server.pause();
    let began = Instant::now();
    assert!(matches!(node.push("stays").await, Err(StoreError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    until("the breaker", async || !store.health().serving).await;
    let began = Instant::now();
    for _ in 0..100 {
        assert!(matches!(node.push("stays").await, Err(StoreError::Unavailable(_))));
    }
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "an open breaker lets callers wait: {:?}",
        began.elapsed()
    );
    assert!(
        matches!(store.device_for_login(&key("comes")).await, Ok(Registered::Present(_))),
        "its row was kept"
    );
    let comes = claim(store, "comes", 3).await.unwrap();
    let first = comes.epoch;
    let comes = claim(store, "comes", 5).await.unwrap();
    assert!(comes.epoch > first, "each login is a newer one");
    assert!(
        store
            .release(&key("leaves"), leaves.epoch, Timestamp(START.0 + 5), Departure::Lost)
            .await
            .unwrap()
    );
    let settled = store.settle(vec![settle_of(store, "stays", kept.id, stays.epoch)]).await.remove(0);
    assert!(matches!(settled, Err(StoreError::Unavailable(_))), "{settled:?}");

    server.go_on();
    until("the seats", async || {
        let epoch = async |device| store.seat(&key(device)).await.ok().map(|view| view.seat.map(|seat| seat.epoch));
        epoch("comes").await == Some(Some(comes.epoch))
            && epoch("leaves").await == Some(None)
            && epoch("stays").await == Some(Some(stays.epoch))
    })
    .await;
    let settled = store.settle(vec![settle_of(store, "stays", kept.id, stays.epoch)]).await.remove(0);
    assert!(settled.is_ok(), "{settled:?}");
    assert_eq!(node.state(kept.id).await, DeliveryState::Delivered);
    assert!(node.push("comes").await.unwrap().seat.is_some());
    assert!(claim(store, "comes", 4).await.unwrap().epoch > comes.epoch, "epochs rise");
}

pub(super) fn settle_of(store: &RedisStore, device: &str, id: EventId, epoch: Epoch) -> crate::store::Settle {
    crate::store::Settle {
        device: key(device),
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome: Outcome::Delivered,
        at: Timestamp(START.0 + 9),
        epoch: Some(epoch),
        told: None,
    }
}

#[tokio::test]
async fn a_failover_loses_nothing_that_was_accepted_and_numbers_go_on_rising() {
    let mut servers = redis::Sentinels::start(2).unwrap();
    let node = Node::open(servers.url(), |_| {}).await;
    let store = node.store();
    for number in 0..5 {
        add(store, &format!("box{number}")).await;
    }
    let mut kept = Vec::new();
    for number in 0..20 {
        let device = format!("box{}", number % 5);
        kept.push((device.clone(), node.push(&device).await.unwrap()));
    }
    let seat = claim(store, "box0", 1).await.unwrap();
    for number in 1..5 {
        // Some of these may be lost with the primary: a claim does not wait for a replica.
        claim(store, &format!("box{number}"), 10 + number).await.unwrap();
    }
    let last = store
        .pending(&key("box0"), Cursor::default(), 10)
        .await
        .unwrap()
        .events
        .last()
        .unwrap()
        .located
        .number;
    let primary = servers.kill_primary().unwrap();
    let began = Instant::now();
    // What is not accepted is refused, and nothing waits for ever.
    while node.push("box0").await.is_err() {
        assert!(began.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(servers.wait_for_failover(primary).map_err(|error| error.to_string()), Ok(()));
    for (device, enqueued) in &kept {
        assert_eq!(enqueued.durability, Durability::Replicated);
        assert!(waiting(store, device).await.contains(&enqueued.id), "{device} lost an event");
    }
    let page = store.pending(&key("box0"), Cursor::default(), 10).await.unwrap();
    assert!(page.events.last().unwrap().located.number > last);
    until("the seat", async || {
        store
            .seat(&key("box0"))
            .await
            .is_ok_and(|view| view.seat.is_some_and(|held| held.epoch == seat.epoch))
    })
    .await;
    // The feed has each of them once, told before the fault or after it.
    let told = async || {
        let changes = store.changes(TENANT, 0, 100).await.unwrap_or_default();
        let mut devices: Vec<String> = changes.iter().filter_map(|row| Some(row.device.as_ref()?.to_string())).collect();
        devices.sort_unstable();
        devices
    };
    until("the feed", async || told().await.len() >= 5).await;
    store.release(&key("box0"), seat.epoch, START, Departure::Lost).await.unwrap();
    until("the last row", async || told().await.len() > 5).await;
    assert_eq!(told().await, ["box0", "box0", "box1", "box2", "box3", "box4"]);
    servers.restart_dead().unwrap();
    servers.wait_until_healthy().unwrap();
}

#[tokio::test]
async fn a_node_that_was_counted_as_lost_goes_on_as_another_life_and_has_its_seats_again() {
    let server = redis::Server::start(&redis::Settings::default()).unwrap();
    let network = Proxy::start(server.address().parse::<SocketAddr>().unwrap()).unwrap();
    let near = Node::open(server.url(), |_| {}).await;
    let far = Node::open(format!("redis://{}", network.address), |_| {}).await;
    for device in ["stays", "leaves", "hops"] {
        add(near.store(), device).await;
    }
    let stays = claim(far.store(), "stays", 1).await.unwrap();
    let leaves = claim(far.store(), "leaves", 2).await.unwrap();
    claim(far.store(), "hops", 3).await.unwrap();
    network.cut();
    near.clock.advance(Duration::from_secs(60));
    until("its seats to be ended", async || {
        near.store().end_lost_seats(2).await.unwrap();
        near.store().changes(TENANT, 0, 100).await.unwrap().len() >= 7
    })
    .await;
    assert_eq!(near.store().end_lost_seats(100).await.unwrap().seats, 0, "once");
    let hopped = claim_at_clock(&near, "hops", 4).await;
    assert!(
        far.store()
            .release(&key("leaves"), leaves.epoch, START, Departure::Lost)
            .await
            .unwrap()
    );

    network.mend();
    until("its return", async || {
        let seat = near.store().seat(&key("stays")).await.unwrap().seat;
        seat.is_some_and(|seat| seat.epoch == stays.epoch && *seat.node == *far.store().node())
    })
    .await;
    until("the feed", async || near.store().changes(TENANT, 0, 100).await.unwrap().len() >= 9).await;
    let changes = near.store().changes(TENANT, 0, 100).await.unwrap();
    let of = |device: &str| -> Vec<(&str, Option<Epoch>, Option<Departure>)> {
        let ours = changes
            .iter()
            .filter(|row| row.device.as_ref().is_some_and(|id| id.as_str() == device));
        ours.map(|row| (row.kind.as_str(), row.session_epoch, row.reason)).collect()
    };
    let lost = Some(Departure::NodeLost);
    assert_eq!(
        of("stays"),
        [
            ("connected", Some(stays.epoch), None),
            ("disconnected", Some(stays.epoch), lost),
            ("connected", Some(stays.epoch), None)
        ]
    );
    assert_eq!(
        of("leaves"),
        [("connected", Some(leaves.epoch), None), ("disconnected", Some(leaves.epoch), lost)],
        "it had left before the node came back"
    );
    assert_eq!(of("hops").last(), Some(&("connected", Some(hopped.epoch), None)));
    assert_eq!(changes.iter().filter(|row| row.device.is_none()).count(), 1);
    // What the node is told of from now on is told by its life of now.
    assert!(far.push("stays").await.unwrap().seat.is_some());
    assert!(near.push("stays").await.unwrap().seat.is_some());
}

#[tokio::test]
async fn a_slot_that_moves_loses_nothing_and_refuses_nothing() {
    let cluster = redis::Cluster::start().unwrap();
    let node = Node::open(cluster.url(), |_| {}).await;
    for number in 0..200 {
        add(node.store(), &format!("box{number}")).await;
    }
    let slot = crate::store::redis::keys::Slot::of_bucket(key("box7").bucket()).0;
    let (here, there) = (
        cluster.primary_of(slot),
        (0..16_384)
            .step_by(100)
            .find(|other| cluster.primary_of(*other) != cluster.primary_of(slot)),
    );
    let kept = node.push("box7").await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let moving = async {
        tokio::task::spawn_blocking({
            let stop = stop.clone();
            move || {
                cluster
                    .migrate(slot, there.unwrap(), || std::thread::sleep(Duration::from_millis(30)))
                    .unwrap();
                stop.cancel();
                cluster
            }
        })
        .await
        .unwrap()
    };
    // While it moves, events for one of its devices are taken.
    let pushing = async {
        let mut ids = vec![kept.id];
        while !stop.is_cancelled() {
            let enqueued = node.push("box7").await.unwrap();
            if ids.len() >= 4 {
                let id: EventId = ids.remove(1);
                assert!(
                    node.store()
                        .settle(vec![settle_of(node.store(), "box7", id, Epoch(1))])
                        .await
                        .remove(0)
                        .is_ok()
                );
            }
            ids.push(enqueued.id);
        }
        ids
    };
    let (cluster, ids) = tokio::join!(moving, pushing);
    assert_ne!(cluster.primary_of(slot), here);
    assert_eq!(waiting(node.store(), "box7").await, ids);
}

#[tokio::test]
async fn a_node_that_is_cut_off_claims_nothing_and_its_seats_are_free() {
    let server = redis::Server::start(&redis::Settings::default()).unwrap();
    let network = Proxy::start(server.address().parse::<SocketAddr>().unwrap()).unwrap();
    let near = Node::open(server.url(), |_| {}).await;
    let far = Node::open(format!("redis://{}", network.address), |_| {}).await;
    add(near.store(), "box").await;
    let first = claim(far.store(), "box", 1).await.unwrap();
    let seat = near.push("box").await.unwrap().seat.unwrap();
    assert_eq!((seat.node, seat.epoch), (far.store().node(), first.epoch));

    network.cut();
    until("its loss", async || near.store().seat(&key("box")).await.unwrap().seat.is_none()).await;
    until("its own knowledge of it", async || !far.store().health().joined).await;
    far.clock.advance(Duration::from_secs(3));
    near.clock.advance(Duration::from_secs(4));
    let lone = claim_at_clock(&far, "box", 2).await;
    assert!(lone.epoch > first.epoch, "a device may log in there, for the time being");
    let second = claim_at_clock(&near, "box", 3).await;
    assert!(second.epoch > lone.epoch, "it came later");

    network.mend();
    until("its return", async || far.store().health().joined).await;
    let view = far.store().seat(&key("box")).await.unwrap();
    assert_eq!(view.seat.unwrap().epoch, second.epoch, "a seat that was claimed meanwhile stays");
    let third = claim(far.store(), "box", 4).await.unwrap();
    assert_eq!(third.displaced.unwrap().node, near.store().node());
}

#[tokio::test]
async fn of_two_nodes_that_claim_one_device_the_later_has_it_and_the_other_is_told() {
    let server = redis::Server::start(&redis::Settings::default()).unwrap();
    let (mut one, two) = (Node::open(server.url(), |_| {}).await, Node::open(server.url(), |_| {}).await);
    add(one.store(), "box").await;
    let first = claim(one.store(), "box", 1).await.unwrap();
    let second = claim(two.store(), "box", 2).await.unwrap();
    assert_eq!(second.displaced.as_ref().map(|seat| seat.epoch), Some(first.epoch));
    let mut other = two.opened.hints;
    let told = tokio::time::timeout(SOON, other.recv()).await.unwrap().unwrap();
    assert_eq!(told.node, one.store().node());
    assert!(matches!(told.hint, Hint::Displaced { epoch, .. } if epoch == first.epoch));
    // A late goodbye of the first does not take the seat of the second.
    assert!(!one.store().release(&key("box"), first.epoch, START, Departure::Lost).await.unwrap());
    assert_eq!(one.store().seat(&key("box")).await.unwrap().seat.unwrap().epoch, second.epoch);
    // An event posted at the first is told to the second, with all that it takes to write it.
    let posted = one.push("box").await.unwrap();
    let told = tokio::time::timeout(SOON, one.opened.hints.recv()).await.unwrap().unwrap();
    assert_eq!(told.node, second_node(&posted));
    assert!(matches!(told.hint, Hint::Arrived(arrival) if arrival.event.id == posted.id && arrival.epoch == second.epoch));
}

fn second_node(posted: &Enqueued) -> Arc<str> {
    posted.seat.as_ref().unwrap().node.clone()
}

#[tokio::test]
async fn a_server_that_forgets_the_scripts_learns_them_again() {
    let server = redis::Server::start(&redis::Settings::default()).unwrap();
    let node = Node::open(server.url(), |_| {}).await;
    add(node.store(), "box").await;
    server.query::<()>(&["FUNCTION", "FLUSH"]).unwrap();
    node.push("box").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_fit_is_refused_with_the_way_out() {
    let refuse = async |settings: redis::Settings, wanted: &str| {
        let server = redis::Server::start(&settings).unwrap();
        let config = Config {
            url: server.url(),
            ..Config::default()
        };
        let metrics = RedisMetrics::register(&Registry::new()).unwrap();
        let clock = CorrectedClock::over(ManualClock::at(START));
        let opened = RedisStore::open(config, contract::limits(), clock, "localhost", None, metrics).await;
        let why = opened.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(why.contains(wanted), "{why:?} should say {wanted:?}");
    };
    let fit = redis::Settings::default;
    refuse(fit().line("maxmemory 100mb").line("maxmemory-policy allkeys-lru"), "noeviction").await;
    refuse(
        redis::Settings {
            lines: vec!["save \"\"".into()],
            ..fit()
        },
        "appendonly",
    )
    .await;
    refuse(fit().line("rename-command FCALL \"\""), "FCALL").await;
}
