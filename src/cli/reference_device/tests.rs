//! Against a server that follows a script, over real TLS on loopback.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;
use crate::certificate;

mod sasl2;

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' from='localhost' id='s1' version='1.0' xml:lang='en'>";
const MECHANISMS: &str =
    "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>";
const BIND: &str = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><sm xmlns='urn:xmpp:sm:3'/></stream:features>";

struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    directory: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = certificate::generated(directory.path(), "localhost", SystemTime::now()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain, identity.key)
            .unwrap();
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            directory,
        }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join(certificate::CA_FILE)
    }

    fn device(&self, ca: &std::path::Path) -> ReferenceDevice {
        let account = Account {
            device: "tv".into(),
            domain: "localhost".into(),
            password: "pencil".into(),
        };
        let endpoint = Endpoint {
            address: self.listener.local_addr().unwrap().to_string(),
            others: Vec::new(),
            tls: tls_trusting(ca).unwrap(),
            backoff: Backoff {
                first: Duration::from_millis(5),
                longest: Duration::from_millis(5),
            },
        };
        ReferenceDevice::start(account, endpoint, Memory::default())
    }

    async fn accept(&self) -> Peer {
        let (socket, _) = self.listener.accept().await.unwrap();
        Peer(self.acceptor.accept(socket).await.unwrap())
    }

    /// Up to the features that offer binding.
    async fn accept_login(&self) -> Peer {
        self.accept_login_to(BIND).await
    }

    /// Up to these features.
    async fn accept_login_to(&self, features: &str) -> Peer {
        let mut peer = self.accept().await;
        peer.hears("version='1.0'", "stream:stream").await;
        peer.says(&format!("{HEADER}{MECHANISMS}")).await;
        // PLAIN: "\0tv\0pencil"
        peer.hears("AHR2AHBlbmNpbA==", "auth").await;
        peer.says("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
        peer.hears("stream:stream", "stream:stream").await;
        peer.says(&format!("{HEADER}{features}")).await;
        peer
    }

    /// Up to the first presence.
    async fn accept_session(&self) -> Peer {
        let mut peer = self.accept_login().await;
        peer.hears("urn:ietf:params:xml:ns:xmpp-bind", "iq").await;
        peer.says("<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>tv@localhost/x</jid></bind></iq>")
            .await;
        peer.hears("enable", "enable").await;
        peer.says("<enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true'/>").await;
        peer.hears("<presence", "presence").await;
        peer
    }
}

struct Peer(TlsStream<TcpStream>);

impl Peer {
    async fn says(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Reads until `what` was heard and the text ends as an element does.
    async fn hears(&mut self, what: &str, element: &str) -> String {
        let mut heard = String::new();
        let mut some = [0; 1_024];
        while !(heard.contains(what) && heard.trim_end().ends_with('>')) {
            let count = tokio::time::timeout(Duration::from_secs(10), self.0.read(&mut some)).await;
            let count = count
                .unwrap_or_else(|_| panic!("no {element} with {what}, only {heard:?}"))
                .unwrap();
            assert_ne!(count, 0, "the end instead of {element} with {what}, after {heard:?}");
            heard.push_str(std::str::from_utf8(&some[..count]).unwrap());
            heard = short(&heard);
        }
        heard
    }
}

/// `<a></a>` as `<a/>`.
fn short(text: &str) -> String {
    let (mut short, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("></") {
        let (before, after) = rest.split_at(at);
        let is_empty = before
            .rfind('<')
            .is_some_and(|open| !before[open..].starts_with("</") && !before.ends_with('/'));
        short.push_str(before);
        let end = after[3..].find('>').map(|end| end + 4);
        match end.filter(|_| is_empty) {
            Some(end) => {
                short.push_str("/>");
                rest = &after[end..];
            }
            None => {
                short.push_str("></");
                rest = &after[3..];
            }
        }
    }
    short + rest
}

fn event(seq: u64) -> String {
    format!(
        "<message from='localhost' to='tv@localhost/x' id='e{seq}'><event xmlns='urn:unpoll:event:1' id='e{seq}' lane='normal.1' seq='{seq}' \
         attempt='1'><json xmlns='urn:xmpp:json:0'>{{\"n\":{seq}}}</json></event><request xmlns='urn:xmpp:receipts'/></message>"
    )
}

/// The next thing other than a pause between attempts.
async fn next(device: &mut ReferenceDevice) -> Result<News, DeviceError> {
    loop {
        match tokio::time::timeout(Duration::from_secs(10), device.next()).await.expect("news") {
            Ok(News::Retrying { .. }) => {}
            news => return news,
        }
    }
}

#[tokio::test]
async fn a_cut_session_is_resumed_and_a_repeat_is_confirmed_but_not_applied() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        let mut peer = server.accept_session().await;
        peer.says(&format!("{}<r xmlns='urn:xmpp:sm:3'/>", event(1))).await;
        peer.hears("id='e1'", "received").await;
        let _ = peer.0.read(&mut [0; 1_024]).await; // until it is cut

        let mut peer = server.accept_login().await;
        peer.hears("previd", "resume").await;
        peer.says("<resumed xmlns='urn:xmpp:sm:3' previd='sm1' h='2'/>").await;
        peer.says(&format!("{}{}", event(1), event(2))).await;
        peer.hears("id='e1'", "received").await;
        peer.says("<iq type='get' id='p' from='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
            .await;
        peer.hears("id='p'", "iq").await;
        peer
    };
    let story = async {
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: false })));
        let Ok(News::Event(first)) = next(&mut device).await else {
            panic!("an event")
        };
        assert_eq!((first.seq, first.event.get()), (1, r#"{"n":1}"#));
        device.confirm(&first).unwrap();
        // What was sent may still be on its way through the library when the connection is cut.
        tokio::time::timeout(Duration::from_millis(200), device.next())
            .await
            .expect_err("nothing more");
        device.switch().cut(Duration::from_millis(20));
        assert!(matches!(next(&mut device).await, Ok(News::Away)));
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: true })));
        let Ok(News::Event(second)) = next(&mut device).await else {
            panic!("an event")
        };
        assert_eq!((second.seq, device.repeats()), (2, 1));
        let _ = tokio::time::timeout(Duration::from_secs(1), device.next()).await; // answers the ping
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn a_refused_login_ends_it() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        let mut peer = server.accept().await;
        peer.hears("version='1.0'", "stream:stream").await;
        peer.says(&format!("{HEADER}{MECHANISMS}")).await;
        peer.hears("auth", "auth").await;
        peer.says("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
            .await;
        peer
    };
    let (_, news) = tokio::join!(script, next(&mut device));
    let error = news.unwrap_err();
    assert!(matches!(&error, DeviceError::Login { .. }), "{error}");
    assert!(error.to_string().contains("tv@localhost"), "{error}");
}

#[tokio::test]
async fn a_lost_seat_ends_it_so_that_two_boxes_do_not_throw_each_other_out_for_ever() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let script = async {
        let mut peer = server.accept_session().await;
        peer.says("<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
            .await;
        peer
    };
    let story = async {
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: false })));
        let mut news = next(&mut device).await;
        if matches!(news, Ok(News::Away)) {
            news = next(&mut device).await;
        }
        assert!(matches!(news, Err(DeviceError::Conflict { .. })), "{news:?}");
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn an_untrusted_certificate_ends_it() {
    let (server, stranger) = (Server::start().await, Server::start().await);
    let mut device = server.device(&stranger.ca());
    let script = async {
        let (socket, _) = server.listener.accept().await.unwrap();
        assert!(server.acceptor.accept(socket).await.is_err());
    };
    let (_, news) = tokio::join!(script, next(&mut device));
    assert!(matches!(news, Err(DeviceError::Untrusted { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let ca = server.ca();
    drop(server.listener);
    assert!(ca.exists());
    for _ in 0..3 {
        let news = tokio::time::timeout(Duration::from_secs(10), device.next()).await.expect("news");
        assert!(matches!(news, Ok(News::Retrying { .. })), "{news:?}");
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_applied() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let (applied, is_applied) = tokio::sync::oneshot::channel();
    let script = async {
        let mut peer = server.accept_session().await;
        peer.says(&format!(
            "{}<iq type='get' id='p' from='localhost'><ping xmlns='urn:xmpp:ping'/></iq><r xmlns='urn:xmpp:sm:3'/>",
            event(1)
        ))
        .await;
        // The ping behind the event is answered, and neither is acknowledged.
        let heard = peer.hears("<a xmlns='urn:xmpp:sm:3' h='0'/>", "a").await;
        assert!(heard.contains("id='p'") && !heard.contains("received"), "{heard}");
        applied.send(()).unwrap();
        let heard = peer.hears("</stream:stream>", "the end of the stream").await;
        let at = |what: &str| heard.find(what).unwrap_or_else(|| panic!("no {what} in {heard}"));
        assert!(at("<received xmlns='urn:xmpp:receipts' id='e1'/>") < at("<a xmlns='urn:xmpp:sm:3' h='2'/>"));
        peer.says("</stream:stream>").await;
        peer
    };
    let story = async {
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: false })));
        let Ok(News::Event(event)) = next(&mut device).await else {
            panic!("an event")
        };
        is_applied.await.unwrap();
        device.confirm(&event).unwrap();
        device.close().await;
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn an_outcome_is_told_until_the_server_answers_it() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let outcome = "<outcome xmlns='urn:unpoll:event:1' code='3' event='e1' status='failed'/>";
    let script = async {
        let mut peer = server.accept_session().await;
        peer.says(&event(1)).await;
        peer.hears(outcome, "iq").await;
        drop(peer);
        let mut peer = server.accept_login().await;
        peer.hears("previd", "resume").await;
        peer.says("<resumed xmlns='urn:xmpp:sm:3' previd='sm1' h='1'/>").await;
        peer.hears(outcome, "iq").await;
        peer.says("<iq type='result' id='outcome-e1' from='localhost'/>").await;
        peer.says(&event(2)).await;
        peer.hears("event='e2'", "iq").await;
        peer.says("<iq type='error' id='outcome-e2' from='localhost'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>").await;
        peer
    };
    let story = async {
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: false })));
        let Ok(News::Event(event)) = next(&mut device).await else {
            panic!("an event")
        };
        let failed = Outcome::Failed {
            code: "3".into(),
            retry_seconds: None,
        };
        device.settle(&event, Some(failed)).unwrap();
        assert!(matches!(next(&mut device).await, Ok(News::Away)));
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: true })));
        let Ok(News::Event(event)) = next(&mut device).await else {
            panic!("an event, which comes after the answer")
        };
        assert_eq!(device.journal.read(|memory| memory.told().count()), 0);
        device.settle(&event, Some(Outcome::Done)).unwrap();
        let refused = next(&mut device).await;
        assert!(
            matches!(&refused, Ok(News::OutcomeRefused { event }) if event == "e2"),
            "{refused:?}"
        );
        assert_eq!(device.journal.read(|memory| memory.told().count()), 0);
    };
    tokio::join!(script, story);
}

#[tokio::test]
async fn without_stream_management_a_ping_is_answered_when_the_event_before_it_is_applied() {
    let server = Server::start().await;
    let mut device = server.device(&server.ca());
    let ping = |id: &str| format!("<iq type='get' id='{id}' from='localhost'><ping xmlns='urn:xmpp:ping'/></iq>");
    let (applied, is_applied) = tokio::sync::oneshot::channel();
    let script = async {
        let mut peer = server.accept_login_to(&BIND.replace("<sm xmlns='urn:xmpp:sm:3'/>", "")).await;
        peer.hears("urn:ietf:params:xml:ns:xmpp-bind", "iq").await;
        peer.says("<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>tv@localhost/x</jid></bind></iq>")
            .await;
        peer.hears("<presence", "presence").await;
        peer.says(&ping("before")).await;
        peer.hears("id='before'", "iq").await;
        peer.says(&format!("{}{}", event(1), ping("behind"))).await;
        applied.send(()).unwrap();
        let heard = peer.hears("id='behind'", "iq").await;
        let receipt = heard.find("<received").expect("the receipt comes first");
        assert!(receipt < heard.find("id='behind'").unwrap(), "{heard}");
        peer
    };
    let story = async {
        assert!(matches!(next(&mut device).await, Ok(News::Online { resumed: false })));
        let Ok(News::Event(event)) = next(&mut device).await else {
            panic!("an event")
        };
        is_applied.await.unwrap();
        // The ping is read while the event is not applied.
        tokio::time::timeout(Duration::from_millis(200), device.next())
            .await
            .expect_err("nothing more");
        device.confirm(&event).unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(500), device.next()).await;
    };
    tokio::join!(script, story);
}
