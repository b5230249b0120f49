//! Two nodes in one process, over loopback.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    domain::{Data, Event, EventId, Generation, Lane, Located, Queue, Require, Seq, TenantId, Timestamp, Urgency},
    store::QueuedEvent,
};

const SOON: Duration = Duration::from_secs(20);

/// What a node heard.
#[derive(Default)]
struct Heard {
    hints: Mutex<Vec<Hint>>,
    lost: AtomicUsize,
}

impl Node for Heard {
    fn arrived(&self, arrival: Arrival) -> bool {
        self.hints.lock().push(Hint::Arrived(arrival));
        true
    }

    fn displaced(&self, device: &DeviceKey, epoch: Epoch) {
        let device = device.clone();
        self.hints.lock().push(Hint::Displaced { device, epoch });
    }

    fn removed(&self, device: &DeviceKey, epoch: Epoch) {
        let device = device.clone();
        self.hints.lock().push(Hint::Removed { device, epoch });
    }

    fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn answer(&self, question: &Question) -> Option<Vec<u8>> {
        match question {
            Question::Sessions(devices) if devices.iter().any(|device| device.device.as_str() == "nobody") => None,
            Question::Sessions(devices) => Some(devices.iter().flat_map(|device| device.device.as_str().bytes()).collect()),
            Question::Holds(_, events) => Some(events.iter().map(|event| event.0[0] & 1).collect()),
        }
    }
}

struct One {
    cluster: Cluster,
    heard: Arc<Heard>,
    hints: mpsc::Sender<Addressed>,
    peers: watch::Sender<Arc<[Peer]>>,
    indirect: mpsc::Receiver<Indirect>,
    card: Peer,
    crew: Crew,
}

impl One {
    async fn new(name: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            fallback_after_ms: 200,
            ..Config::default()
        };
        change(&mut config);
        let bound = Bound::bind(config).await.unwrap();
        let card = Peer {
            node: name.into(),
            incarnation: 1,
            address: bound.address().parse().unwrap(),
            fingerprint: bound.fingerprint(),
        };
        let heard = Arc::new(Heard::default());
        let (hints, to_tell) = mpsc::channel(200_000);
        let (peers, known) = watch::channel(Arc::from([]));
        let (indirect, through_redis) = mpsc::channel(10_000);
        let inputs = Inputs {
            name: name.into(),
            peers: known,
            hints: to_tell,
            indirect,
            node: heard.clone(),
        };
        let metrics = ClusterMetrics::register(&prometheus::Registry::new()).unwrap();
        let (cluster, tasks) = bound.join(inputs, metrics).unwrap();
        let crew = Crew::default();
        tasks.start(&crew);
        Self {
            cluster,
            heard,
            hints,
            peers,
            indirect: through_redis,
            card,
            crew,
        }
    }

    fn knows(&self, others: &[&Peer]) {
        self.peers.send_replace(others.iter().map(|peer| (*peer).clone()).collect());
    }

    async fn tell(&self, node: &str, hint: Hint) {
        let node = node.into();
        self.hints.send(Addressed { node, hint }).await.unwrap();
    }

    async fn stop(self) -> Peer {
        assert_eq!(self.crew.dismiss(Instant::now() + SOON).await, 0);
        self.card
    }
}

async fn pair(change: impl Fn(&mut Config)) -> (One, One) {
    let (one, two) = (One::new("n1", &change).await, One::new("n2", &change).await);
    one.knows(&[&two.card]);
    two.knows(&[&one.card]);
    (one, two)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn key(device: &str) -> DeviceKey {
    DeviceKey {
        tenant: TenantId(3),
        device: device.parse().unwrap(),
    }
}

fn arrival(number: u64, queue: Option<Queue>, json: &str) -> Hint {
    let (generation, urgency) = (Generation(63), Urgency::High);
    Hint::Arrived(Arrival {
        epoch: Epoch(9),
        after: queue.map(|_| number - 1),
        event: Arc::new(QueuedEvent {
            id: EventId([7; 20]),
            located: Located {
                tenant: TenantId(3),
                bucket: 1001,
                ordinal: 77,
                queue,
                number,
            },
            lane: if queue.is_some() {
                Lane::Queue(urgency, generation)
            } else {
                Lane::Now(generation)
            },
            seq: Seq(number + 5),
            attempt: 2,
            event: Event {
                tenant: TenantId(3),
                device: "box".parse().unwrap(),
                accepted_at: Timestamp(1_800_000_000_123),
                deliver_at: None,
                ttl: Duration::from_secs(60),
                urgency,
                collapse_key: Some("score".into()),
                require: Require::Processed,
                json: Data(json.into()),
            },
        }),
    })
}

fn displaced(number: u64) -> Hint {
    Hint::Displaced {
        device: key("box"),
        epoch: Epoch(number),
    }
}

#[tokio::test]
async fn every_hint_comes_as_it_went() {
    let (one, two) = pair(|_| {}).await;
    let hints = [
        arrival(12, Some(Queue::First), r#"{"data":"é"}"#),
        arrival(13, Some(Queue::Rest), "{}"),
        arrival(1_800_000_000_124, None, &"x".repeat(70_000)),
        displaced(5),
        Hint::Removed {
            device: key("other"),
            epoch: Epoch(1 << 47),
        },
    ];
    for hint in &hints {
        one.tell("n2", hint.clone()).await;
    }
    until("all hints", || two.heard.hints.lock().len() == hints.len()).await;
    assert_eq!(format!("{:?}", two.heard.hints.lock()), format!("{hints:?}"));
    // One for the node itself takes no way.
    one.tell("n1", displaced(6)).await;
    until("its own hint", || one.heard.hints.lock().len() == 1).await;
}

#[tokio::test]
async fn a_hundred_thousand_hints_come_in_order_in_few_writes() {
    let (one, two) = pair(|_| {}).await;
    for number in 1..=100_000 {
        one.tell("n2", displaced(number)).await;
    }
    until("all hints", || two.heard.hints.lock().len() == 100_000).await;
    for (hint, wanted) in two.heard.hints.lock().iter().zip(1..) {
        assert!(matches!(hint, Hint::Displaced { epoch, .. } if epoch.0 == wanted));
    }
    assert!(one.cluster.0.metrics.batches.get() < 20_000);
}

#[tokio::test]
async fn a_question_is_answered_or_is_not_in_time() {
    let (one, two) = pair(|config| config.answer_ms = 300).await;
    until("a connection", || one.cluster.0.metrics.connected.get() == 1).await;
    let ask = |question| one.cluster.ask("n2", question);
    assert_eq!(
        ask(Question::Sessions(vec![key("box"), key("tv")])).await.as_deref(),
        Some(&b"boxtv"[..])
    );
    assert_eq!(ask(Question::Sessions(vec![key("nobody")])).await, None);
    let events = (0..5).map(|number| EventId([number; 20])).collect();
    assert_eq!(ask(Question::Holds(key("box"), events)).await, Some(vec![0, 1, 0, 1, 0]));
    assert_eq!(
        one.cluster.ask("n7", Question::Sessions(vec![key("box")])).await,
        None,
        "nobody has that name"
    );
    two.stop().await;
    assert_eq!(ask(Question::Sessions(vec![key("box")])).await, None);
}

#[tokio::test]
async fn a_node_that_is_gone_is_told_through_redis_and_directly_once_it_is_back() {
    let (mut one, two) = pair(|_| {}).await;
    until("a connection", || one.cluster.0.metrics.connected.get() == 1).await;
    let gone = two.stop().await;
    until("the end of it", || one.cluster.0.metrics.connected.get() == 0).await;
    one.tell("n2", displaced(1)).await;
    one.tell("n2", displaced(2)).await;
    let mut through_redis = Vec::new();
    // With them goes the word that what was under way may be lost.
    while through_redis.len() < 3 {
        let indirect = timeout(SOON, one.indirect.recv()).await.unwrap().unwrap();
        assert_eq!(&*indirect.node, "n2");
        through_redis.push(indirect.message);
    }

    let two = One::new("n2", |config| config.listen = gone.address).await;
    two.knows(&[&one.card]);
    for message in &through_redis {
        two.cluster.received(message);
    }
    assert_eq!(two.heard.lost.load(Ordering::Relaxed), 1);
    two.cluster.received(b"\0\0\0\x05hello");
    let heard = |count| two.heard.hints.lock().len() == count;
    assert!(heard(2), "{:?}", two.heard.hints.lock());
    one.knows(&[&two.card]);
    until("a connection", || one.cluster.0.metrics.connected.get() == 1).await;
    one.tell("n2", displaced(3)).await;
    until("a hint", || heard(3)).await;
}

#[tokio::test]
async fn what_was_dropped_is_said() {
    let (one, two) = pair(|config| config.queued_max_bytes = 64).await;
    for number in 0..10_000 {
        one.tell("n2", displaced(number)).await;
    }
    until("word of the loss", || two.heard.lost.load(Ordering::Relaxed) > 0).await;
    assert!(two.heard.hints.lock().len() < 10_000);
}

#[tokio::test]
async fn a_node_that_stops_reading_costs_bounded_memory_and_the_others_nothing() {
    let (one, two) = pair(|config| {
        config.queued_max_bytes = 1 << 20;
        config.write_ms = 500;
    })
    .await;
    // Takes connections and never reads.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let third = Peer {
        node: "n3".into(),
        incarnation: 1,
        address: deaf.local_addr().unwrap(),
        fingerprint: [1; 32],
    };
    one.knows(&[&two.card, &third]);
    let large = "x".repeat(60_000);
    for number in 1..=200 {
        one.tell("n3", arrival(number, Some(Queue::Rest), &large)).await;
        one.tell("n2", displaced(number)).await;
    }
    until("the other node's hints", || two.heard.hints.lock().len() == 200).await;
    let way = one.cluster.0.ways.read().get("n3").unwrap().way.clone();
    assert!(way.waiting_bytes() < (1 << 20) + 70_000);
}

#[tokio::test]
async fn strangers_get_nothing() {
    let (one, two) = pair(|_| {}).await;
    let three = One::new("n3", |_| {}).await;
    // It knows the others, and they do not know it.
    three.knows(&[&one.card]);
    until("refusals", || {
        three.cluster.0.metrics.failures.get() > 0 || three.cluster.0.metrics.batches.get() > 0
    })
    .await;
    three.tell("n1", displaced(1)).await;
    // In clear, garbage, and an endless greeting.
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], &[22, 3, 1, 255, 255]] {
        let mut stream = TcpStream::connect(one.card.address).await.unwrap();
        stream.write_all(words).await.unwrap();
        let mut answer = Vec::new();
        // Closed, perhaps with an alert of TLS (7 bytes).
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() <= 7, "{answer:?}");
    }
    two.tell("n1", displaced(2)).await;
    until("a hint of a friend", || !one.heard.hints.lock().is_empty()).await;
    assert!(matches!(one.heard.hints.lock()[..], [Hint::Displaced { epoch: Epoch(2), .. }]));
}

#[tokio::test]
async fn a_friend_that_sends_nonsense_is_cut_off() {
    let (one, two) = pair(|_| {}).await;
    for nonsense in [&b"\0\0\0\x03abc"[..], b"\xff\xff\xff\xff"] {
        let config = two.cluster.0.identity.client(one.card.fingerprint).unwrap();
        let stream = TcpStream::connect(one.card.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(one.card.address.ip().into(), stream).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty());
    }
    assert_eq!(
        one.heard.lost.load(Ordering::Relaxed),
        2,
        "what it would have said is found in the store"
    );
    assert!(one.heard.hints.lock().is_empty());
}

#[test]
fn the_address_that_others_are_told_must_be_one() {
    let config = |listen: &str, advertise: &str| Config {
        listen: listen.parse().unwrap(),
        advertise: advertise.to_owned(),
        ..Config::default()
    };
    assert!(config("127.0.0.1:0", "").check().is_ok());
    assert!(config("0.0.0.0:7400", "192.0.2.7:7400").check().is_ok());
    assert!(config("0.0.0.0:7400", "").check().unwrap_err().contains("cluster.advertise"));
    assert!(config("[::]:7400", "node-3").check().unwrap_err().contains("cluster.advertise"));
}
