//! The server over real sockets on loopback.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body, routing::post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::super::{Access, Config, HttpMetrics, Shed, ShedConfig, Shedding, mount, read};
use super::serve_shedding;
use crate::{
    crew::Crew,
    domain::{Caller, Refusal, Scope, TenantId},
    proxy::Balancers,
};

struct Scene {
    address: SocketAddr,
    crew: Crew,
    /// One event may wait for the store.
    shed: Shed,
}

impl Scene {
    async fn new(config: Config) -> Self {
        let parts = Router::new()
            .route("/echo", post(async |body: Body| -> Result<_, Refusal> { read(body, 1000).await }))
            .route(
                "/v1/events",
                post(async |body: Body| -> Result<_, Refusal> { read(body, 1000).await }),
            )
            .route("/panic", post(async || if true { panic!("on purpose") } else { "" }));
        let keys = |hash: &[u8; 32]| {
            (*hash == super::super::key_hash("right")).then(|| Caller {
                tenant: TenantId(0),
                domain: "localhost".into(),
                key_id: Some("test".into()),
                key_name: "test".into(),
                also_push: false,
                scope: Scope::Push,
                limits: crate::domain::CallerLimits::default(),
            })
        };
        let registry = prometheus::Registry::new();
        let metrics = HttpMetrics::register(&registry).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, crew) = (listener.local_addr().unwrap(), Crew::default());
        let shed = Shed::new(&ShedConfig::default(), 1, &registry).unwrap();
        serve_shedding(
            listener,
            None,
            Balancers::default(),
            mount(parts, Access::of_keys(keys), metrics.clone()),
            config,
            Some(Shedding::new(shed.clone(), metrics)),
            &crew,
        );
        Self { address, crew, shed }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What the server says to these bytes until it closes or has said `until`.
    async fn says(socket: &mut TcpStream, bytes: &str, until: &str) -> String {
        socket.write_all(bytes.as_bytes()).await.unwrap();
        let (mut said, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let read = timeout(Duration::from_secs(10), socket.read(&mut piece)).await.expect("an answer");
            let read = read.unwrap_or(0);
            said.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&said);
            if read == 0 || (!until.is_empty() && text.contains(until)) {
                return text.into_owned();
            }
        }
    }
}

fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer right\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn requests_are_served_on_one_connection_and_a_panic_is_a_problem() {
    let scene = Scene::new(Config::default()).await;
    let mut socket = scene.connect().await;
    let said = Scene::says(&mut socket, &request("/echo", "one"), "one").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let said = Scene::says(&mut socket, &request("/panic", ""), "}").await;
    assert!(said.starts_with("HTTP/1.1 500") && said.contains("/problems/internal"), "{said}");
    let said = Scene::says(&mut socket, &request("/echo", &"x".repeat(1001)), "}").await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let said = Scene::says(&mut scene.connect().await, &request("/nothing", ""), "}").await;
    assert!(
        said.starts_with("HTTP/1.1 404") && said.contains("/problems/unknown-path"),
        "{said}"
    );
    let wrong = request("/echo", "one").replace("right", "wrong");
    let said = Scene::says(&mut scene.connect().await, &wrong, "}").await;
    assert!(
        said.starts_with("HTTP/1.1 401") && said.contains("www-authenticate: Bearer"),
        "{said}"
    );
    let get = request("/echo", "").replace("POST", "GET");
    let said = Scene::says(&mut scene.connect().await, &get, "}").await;
    assert!(said.starts_with("HTTP/1.1 405") && said.contains("allow: POST"), "{said}");
}

#[tokio::test]
async fn a_slow_head_a_slow_body_and_an_idle_connection_end() {
    let config = Config {
        head_secs: 1,
        idle_secs: 2,
        body_secs: 1,
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    let (mut silent, mut head, mut body, mut idle) = (
        scene.connect().await,
        scene.connect().await,
        scene.connect().await,
        scene.connect().await,
    );
    let began = Instant::now();
    let whole = request("/echo", "one");
    let half = request("/echo", "1234567890");
    let half = half.strip_suffix("67890").unwrap();
    let (silent, head, body, idle) = tokio::join!(
        Scene::says(&mut silent, "", ""),
        Scene::says(&mut head, "POST /echo HTTP/1.1\r\nhost:", ""),
        Scene::says(&mut body, half, "}"),
        Scene::says(&mut idle, &whole, ""),
    );
    assert_eq!((silent.as_str(), head.as_str()), ("", ""));
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("body-too-slow"), "{body}");
    assert!(idle.ends_with("one"), "{idle}");
    assert!(began.elapsed() >= Duration::from_secs(2), "an idle connection has its time");
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let config = Config {
        connections_max: 1,
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    let mut first = scene.connect().await;
    Scene::says(&mut first, &request("/echo", "one"), "one").await;
    let said = Scene::says(&mut scene.connect().await, &request("/echo", "two"), "").await;
    assert!(said.starts_with("HTTP/1.1 429") && said.contains("retry-after"), "{said}");
    let said = Scene::says(&mut first, &request("/echo", "three"), "three").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn far_more_connections_are_told_unheard() {
    let config = Config {
        connections_max: 1,
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    let mut held = Vec::new();
    for _ in 0..1 + 8 {
        held.push(scene.connect().await);
    }
    let said = Scene::says(&mut scene.connect().await, "", "").await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("Retry-After"), "{said}");
}

#[tokio::test]
async fn while_the_store_is_behind_events_are_refused_unread_and_the_rest_is_served() {
    let scene = Scene::new(Config::default()).await;
    let (mut backend, mut other) = (scene.connect().await, scene.connect().await);
    let behind = scene.shed.wait(1);
    // The key is wrong and the body never comes: nobody looked.
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\ncontent-length: 900\r\n\r\n";
    let said = Scene::says(&mut scene.connect().await, head, "}").await;
    assert!(said.starts_with("HTTP/1.1 429") && said.contains("/problems/overloaded"), "{said}");
    let said = Scene::says(&mut backend, &request("/v1/events", "one"), "}").await;
    assert!(said.starts_with("HTTP/1.1 429") && said.contains("retry-after: 1"), "{said}");
    let said = Scene::says(&mut other, &request("/echo", "two"), "two").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    drop(behind);
    let said = Scene::says(&mut backend, &request("/v1/events", "three"), "three").await;
    assert!(said.starts_with("HTTP/1.1 200"), "on the same connection: {said}");
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_finishes_the_others() {
    let scene = Scene::new(Config::default()).await;
    let (mut idle, mut busy) = (scene.connect().await, scene.connect().await);
    Scene::says(&mut idle, &request("/echo", "one"), "one").await;
    let head = request("/echo", "1234567890").replace("\r\n\r\n1234567890", "\r\nexpect: 100-continue\r\n\r\n");
    // The interim answer shows that the handler has the request.
    Scene::says(&mut busy, &head, "100 Continue").await;
    let crew = scene.crew.clone();
    let dismissed = tokio::spawn(async move { crew.dismiss(Instant::now() + Duration::from_secs(10)).await });
    assert_eq!(Scene::says(&mut idle, "", "").await, "");
    let said = Scene::says(&mut busy, "1234567890", "").await;
    assert!(said.ends_with("1234567890"), "{said}");
    assert_eq!(dismissed.await.unwrap(), 0);
}
