// A device with xmpp.js: node device.mjs JID HOST:PORT JOURNAL (or, instead of HOST:PORT, wss://HOST:PORT/xmpp-websocket)
//
// Applies each event by appending it to JOURNAL as one JSON line, and prints it. The password comes from UNPOLL_PASSWORD,
// the file with the certificate authority from NODE_EXTRA_CA_CERTS.

import fs from "node:fs";
import { client, xml } from "@xmpp/client";

const EVENT = "urn:unpoll:event:1";
const RECEIPTS = "urn:xmpp:receipts";
const [jid, address, path] = process.argv.slice(2);
const [username, domain] = jid.split("@");

// What was applied. One append applies an event and remembers its number: both or neither survive a crash.
const journal = fs.openSync(path, "a+");
const last = new Map(); // lane -> the last seq applied
const text = fs.readFileSync(path);
const whole = text.subarray(0, text.lastIndexOf("\n") + 1);
fs.ftruncateSync(journal, whole.length); // a line that a crash cut short was not applied
for (const line of whole.toString().split("\n").filter(Boolean)) {
  const { lane, seq } = JSON.parse(line);
  last.set(lane, seq);
}

function apply(entry) {
  if (entry.seq <= (last.get(entry.lane) ?? 0)) return; // a repeat: it is acknowledged again, never applied again
  const line = JSON.stringify(entry);
  fs.writeSync(journal, line + "\n");
  fs.fsyncSync(journal);
  last.set(entry.lane, entry.seq);
  console.log(line);
}

const service = address.startsWith("wss://") ? address : `xmpps://${address}`;
const xmpp = client({ service, domain, username, password: process.env.UNPOLL_PASSWORD });

// xmpp.js decodes each piece of a TLS stream on its own, which breaks a character that lies across two pieces.
xmpp.on("connect", () => xmpp.socket.socket.setEncoding?.("utf8"));

// "I can take events". After a resumption (XEP-0198, xmpp.js does it) this is not needed and "online" is not emitted.
xmpp.on("online", () => xmpp.send(xml("presence")));

xmpp.on("stanza", (stanza) => {
  const event = stanza.is("message") && stanza.getChild("event", EVENT);
  if (!event) return;
  const { id, lane, seq } = event.attrs;
  apply({ id, lane, seq: Number(seq), event: JSON.parse(event.getChildText("json", "urn:xmpp:json:0")) });
  if (stanza.getChild("request", RECEIPTS)) {
    xmpp.send(xml("message", { to: stanza.attrs.from }, xml("received", { xmlns: RECEIPTS, id: stanza.attrs.id })));
  }
});

xmpp.on("error", (error) => {
  console.error(String(error));
  if (error.condition === "conflict" || error.condition === "not-authorized") {
    xmpp.reconnect.stop(); // another connection took over, or the password is wrong: coming back would not help
    process.exit(1);
  }
});

xmpp.reconnect.delay = 1000 + Math.random() * 1000; // jitter: after an outage all devices come at once
xmpp.start().catch(() => {}); // "error" was emitted; xmpp.js tries again
