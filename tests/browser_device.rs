//! A device that is a page in a browser: xmpp.js in real Chromium, over WebSocket (RFC 7395).

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
// Both are shared with tests that use more of them.
#![allow(dead_code)]

#[path = "page/browser.rs"]
mod browser;
mod support;

use std::{fs, path::PathBuf};

use browser::Browser;
use serde_json::json;
use support::{SOON, Service, wait_for, wait_for_presence};

/// What the page does: log in, say that it is there, note each event.
const PAGE: &str = r#"
    window.events = [];
    window.errors = [];
    const { client, xml } = window.XMPP;
    window.xmpp = client({ service: SERVICE, domain: "localhost", username: "ui", password: "secret" });
    xmpp.on("error", error => errors.push(String(error)));
    xmpp.on("online", () => xmpp.send(xml("presence")));
    xmpp.on("stanza", stanza => {
        const event = stanza.is("message") && stanza.getChild("event", "urn:unpoll:event:1");
        if (event) events.push(JSON.parse(event.getChildText("json", "urn:xmpp:json:0")).data);
    });
    xmpp.start().catch(() => {});
    true
"#;

#[test]
fn a_page_in_a_browser_is_a_device() {
    let mut service = Service::start();
    let backend = service.backend();
    backend.add_device("ui", "secret");
    let mut browser = Browser::start();
    // A page of the service's own origin, of which a browser needs no more than that.
    let place = format!("localhost:{}", service.https.port());
    assert_eq!(browser.visit(&format!("https://{place}/.well-known/host-meta.json"), None), 200);
    browser.eval(&fs::read_to_string(library()).expect("tests/all installs xmpp.js"));
    let door = browser.eval("fetch('/.well-known/host-meta.json').then(meta => meta.json()).then(meta => meta.links[0].href)");
    assert_eq!(door, json!(format!("wss://{place}/xmpp-websocket")));
    browser.eval(&PAGE.replace("SERVICE", &door.to_string()));
    wait_for_presence(&backend, "ui", "online");
    let presence = backend.get("/v1/devices/ui/presence").json();
    assert_eq!(presence["transport"], "websocket", "{presence}");

    let sent = json!({ "title": "Жалюзи & 電視 <b>\"'\u{1f4fa}\u{200d}</b> ]]>" });
    let id = backend.push("ui", &sent);
    browser.until("events.length === 1");
    assert_eq!(browser.eval("events[0]"), sent);
    wait_for("it is delivered", SOON, || (backend.state(&id) == "delivered").then_some(()));

    // The service is killed under it: it comes back by itself to what it missed.
    service.kill();
    service.run();
    let id = backend.push("ui", &json!(2));
    browser.until("events.includes(2)");
    wait_for("it is delivered", SOON, || (backend.state(&id) == "delivered").then_some(()));
    assert_eq!(browser.eval("events.length"), 2);
    browser.eval("xmpp.stop().then(() => true)");
    wait_for_presence(&backend, "ui", "offline");
}

/// xmpp.js as one file for browsers.
fn library() -> PathBuf {
    let installed = std::env::var_os("TEST_CLIENTS_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients"), PathBuf::from);
    installed.join("node/node_modules/@xmpp/client/dist/xmpp.min.js")
}
