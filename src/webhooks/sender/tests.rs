//! What is connected to, whatever a name server says.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{domain::SystemClock, store::WebhookSecret};

fn webhook(url: &str) -> Webhook {
    let row = serde_json::json!({
        "id": "wh_1", "tenant": 0, "url": url, "states": [], "secrets": [], "disabled": null, "begins_behind": 0,
        "created_at": "2026-11-29T10:00:00Z", "updated_at": "2026-11-29T10:00:00Z", "enabled_at": "2026-11-29T10:00:00Z", "revision": 1,
    });
    let secret = WebhookSecret {
        text: signature::new_secret().unwrap(),
        until: None,
    };
    Webhook {
        secrets: vec![secret],
        ..serde_json::from_value(row).unwrap()
    }
}

fn message() -> Message {
    Message {
        id: "rcp_1".to_owned(),
        body: "{}".to_owned(),
    }
}

/// A receiver on loopback that gives one answer to everything; counts connections.
async fn receiver(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, met) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&met);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(answer.as_bytes()).await;
                // Whoever waits for more waits in vain.
                std::future::pending::<()>().await;
            });
        }
    });
    (address, met)
}

fn sender(networks: &[&str], lookup: Lookup) -> Sender {
    let config = Config {
        allow_networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        answer_ms: 1_500,
        ..Config::default()
    };
    Sender::new(&config, lookup, SystemClock::shared()).unwrap()
}

/// A name server that gives these answers, one after another, and the last for ever.
fn names(answers: &'static [&'static [&'static str]]) -> Lookup {
    let asked = Arc::new(AtomicUsize::new(0));
    Arc::new(move |_| {
        let at = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let found = answers[at].iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        Box::pin(std::future::ready(Ok(found)))
    })
}

const OK: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_name_that_becomes_private_between_two_looks_reaches_nothing() {
    let (address, met) = receiver(OK).await;
    // Private alone, among public ones, mapped, and behind NAT64.
    const PRIVATE: [&[&[&str]]; 4] = [
        &[&["127.0.0.1"]],
        &[&["203.0.114.1", "127.0.0.1"]],
        &[&["::ffff:127.0.0.1"]],
        &[&["64:ff9b::7f00:1"]],
    ];
    for answers in PRIVATE {
        let url = format!("https://rebinding.example:{}/", address.port());
        let attempt = sender(&[], names(answers)).send(&webhook(&url), &message()).await;
        assert_eq!(attempt.verdict, Verdict::Blocked, "{answers:?}: {attempt:?}");
    }
    // Allowed at the first look, private at the second: what is connected to is what was judged.
    let rebinding = sender(&["127.0.0.2/32"], names(&[&["127.0.0.2"], &["127.0.0.1"]]));
    let url = format!("http://rebinding.example:{}/", address.port());
    assert_eq!(
        rebinding.send(&webhook(&url), &message()).await.verdict,
        Verdict::Unreachable,
        "nobody is at 127.0.0.2"
    );
    assert_eq!(rebinding.send(&webhook(&url), &message()).await.verdict, Verdict::Blocked);
    // Without a name.
    for host in ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"] {
        let url = format!("https://{host}:{}/", address.port());
        let attempt = sender(&[], system()).send(&webhook(&url), &message()).await;
        assert_eq!(attempt.verdict, Verdict::Blocked, "{host}: {attempt:?}");
    }
    assert_eq!(met.load(Ordering::SeqCst), 0, "nobody was connected to");
    let (allowed, url) = (sender(&["127.0.0.1/32"], system()), format!("http://{address}/"));
    assert_eq!(allowed.send(&webhook(&url), &message()).await.verdict, Verdict::Delivered);
}

fn system() -> Lookup {
    super::super::address::system_lookup()
}

#[tokio::test]
async fn answers_are_judged_by_their_status_alone() {
    let check = async |answer: &'static str, verdict: Verdict, retry_after: Option<u64>| {
        let (address, met) = receiver(answer).await;
        let attempt = sender(&["127.0.0.1/32"], system())
            .send(&webhook(&format!("http://{address}/")), &message())
            .await;
        assert_eq!(attempt.verdict, verdict, "{answer}: {attempt:?}");
        assert_eq!(attempt.retry_after.map(|pause| pause.as_secs()), retry_after, "{answer}");
        assert_eq!(met.load(Ordering::SeqCst), 1, "{answer}: it is asked once, and nobody else is");
    };
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Verdict::Delivered, None).await;
    // The body never comes to its end.
    check("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nok", Verdict::Delivered, None).await;
    check(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        Verdict::Redirect,
        None,
    )
    .await;
    check("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", Verdict::Gone, None).await;
    check(
        "HTTP/1.1 500 No\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n",
        Verdict::Refused,
        None,
    )
    .await;
    check(
        "HTTP/1.1 503 No\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n",
        Verdict::Refused,
        Some(9),
    )
    .await;
    check("", Verdict::Timeout, None).await;
    check("SSH-2.0-OpenSSH_9.2\r\n", Verdict::Unreachable, None).await;
}
