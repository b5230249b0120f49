//! What the ledger is charged.

use super::*;

/// Over a real socket: what the ledger is charged is what the client saw.
#[tokio::test]
async fn each_exchange_is_charged_what_its_socket_carried() {
    let scene = Scene::new(Config::default()).await;
    let id = scene.push("box", Urgency::Normal, r#"{"specversion":"1.0"}"#).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, crew) = (listener.local_addr().unwrap(), Crew::default());
    let metrics = HttpMetrics::register(&prometheus::Registry::new()).unwrap();
    let router = http::mount_beside(
        Router::new().route("/gated", axum::routing::get(async || "")),
        scene.router.clone(),
        Arc::new(|_| None),
        metrics,
    );
    http::serve(listener, None, router, http::Config::default(), &crew);
    let mut socket = TcpStream::connect(address).await.unwrap();
    let credentials = basic("box@localhost", "secret");
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n");
    let body = json!({ "ids": [id] }).to_string();
    let requests = [
        head("GET /v1/devices/box/events") + "\r\n",
        head("GET /gated") + "\r\n",
        head("POST /v1/devices/box/acks") + &format!("content-length: {}\r\n\r\n{body}", body.len()),
        head("GET /v1/devices/box/events") + "\r\n",
    ];
    let mut answers = Vec::new();
    for request in &requests {
        socket.write_all(request.as_bytes()).await.unwrap();
        answers.push(read_answer(&mut socket).await);
    }
    assert_eq!(scene.notes.traffic.lock().len(), 2, "the last is not over yet");
    drop(socket);
    until(|| scene.notes.traffic.lock().len() == 3).await;
    let traffic = scene.notes.traffic.lock().clone();
    let expected = [
        (Exchange::Poll(PollResult::Events), 0, r#"{"specversion":"1.0"}"#.len()),
        (Exchange::Acks, 2, 0),
        (Exchange::Poll(PollResult::Empty), 3, 0),
    ];
    for ((exchange, inward, outward, payload), (expected, at, events)) in traffic.iter().zip(expected) {
        assert_eq!((*exchange, *payload), (expected, events as u64));
        assert_eq!(
            (inward.bytes, outward.bytes),
            (requests[at].len() as u64, answers[at] as u64),
            "{exchange:?}"
        );
        assert!(inward.packets >= 1 && outward.packets >= 1);
    }
    assert_eq!((traffic[0].1.packets, traffic[0].2.packets), (3, 2), "with the handshake of TCP");
    assert!(scene.logins("checked") == 1 && scene.results() == [PollResult::Events, PollResult::Empty]);
}

/// Reads one answer with a length; gives its size.
async fn read_answer(socket: &mut TcpStream) -> usize {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece).await.unwrap();
        assert!(read > 0, "the connection is kept");
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            if body.len() >= length.split("\r\n").next().unwrap().parse().unwrap() {
                return answer.len();
            }
        }
    }
}
