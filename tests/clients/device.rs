//! A device with tokio-xmpp: device JID HOST:PORT JOURNAL
//!
//! Applies each event by appending it to JOURNAL as one JSON line, and prints it. The password comes from
//! `UNPOLL_PASSWORD`, the file with the certificate authority from `SSL_CERT_FILE`.

use std::{
    collections::HashMap,
    error::Error,
    fs::File,
    io::{Read, Seek, Write},
};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_xmpp::{
    Client, Event, Stanza,
    connect::DnsConfig,
    jid::BareJid,
    minidom::Element,
    parsers::{message::Message, presence::Presence, receipts::Received},
    rustls,
    xmlstream::Timeouts,
};

const EVENT: &str = "urn:unpoll:event:1";
const JSON: &str = "urn:xmpp:json:0";
const RECEIPTS: &str = "urn:xmpp:receipts";

/// What was applied. One append applies an event and remembers its number: both or neither survive a crash.
struct Journal {
    /// Lane → the last seq applied.
    last: HashMap<String, u64>,
    file: File,
}

impl Journal {
    fn open(path: &str) -> Result<Self, Box<dyn Error>> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?; // a line that a crash cut short was not applied
        file.seek(std::io::SeekFrom::End(0))?;
        let mut last = HashMap::new();
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let entry: Value = serde_json::from_slice(line)?;
            let lane = entry["lane"].as_str().unwrap_or_default().to_owned();
            last.insert(lane, entry["seq"].as_u64().unwrap_or_default());
        }
        Ok(Self { last, file })
    }

    fn apply(&mut self, event: &Element) -> Result<(), Box<dyn Error>> {
        let attribute = |name| event.attr(name).ok_or("the event lacks an attribute");
        let (id, lane, seq) = (attribute("id")?, attribute("lane")?, attribute("seq")?.parse()?);
        if seq <= self.last.get(lane).copied().unwrap_or(0) {
            return Ok(()); // a repeat: it is acknowledged again, never applied again
        }
        let text = event.get_child("json", JSON).ok_or("the event has no JSON")?.text();
        let cloud_event: Value = serde_json::from_str(&text)?;
        let line = json!({ "id": id, "lane": lane, "seq": seq, "event": cloud_event }).to_string();
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_all()?;
        self.last.insert(lane.to_owned(), seq);
        println!("{line}");
        Ok(())
    }
}

// One thread: with several, tokio-xmpp 6.0 can stop giving events while it goes on acknowledging them. It reads and sends
// under one lock, and the reader that finds it taken by another thread is never woken again.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [jid, address, journal] = arguments.as_slice() else {
        return Err("usage: device JID HOST:PORT JOURNAL".into());
    };
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let jid: BareJid = jid.parse()?;
    let mut journal = Journal::open(journal)?;
    // STARTTLS. The client answers <r/> and pings, resumes after a break, and comes back by itself, also after a wrong password.
    let (host, port) = address.rsplit_once(':').ok_or("the address is HOST:PORT")?;
    let server = DnsConfig::no_srv(host, port.parse()?);
    let mut client = Client::new_starttls(jid, std::env::var("UNPOLL_PASSWORD")?, server, Timeouts::tight());
    while let Some(event) = client.next().await {
        match event {
            Event::Online { resumed: false, .. } => {
                // "I can take events". Not sent? Then the connection broke, and the next one comes here again.
                client.send_stanza(Presence::available().into()).await.ok();
            }
            Event::Stanza(Stanza::Message(message)) => {
                let payload = |name: &str, ns: &str| message.payloads.iter().find(|payload| payload.is(name, ns));
                let Some(event) = payload("event", EVENT) else { continue };
                journal.apply(event)?;
                if let (Some(_), Some(id)) = (payload("request", RECEIPTS), &message.id) {
                    let receipt = Message::new(message.from.clone()).with_payload(Received { id: id.0.clone() });
                    client.send_stanza(receipt.into()).await.ok(); // not sent: the event comes again, and so does this
                }
            }
            _ => {}
        }
    }
    Err("the client ended".into())
}
