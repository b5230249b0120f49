"""A device with slixmpp: python3 device.py JID HOST:PORT JOURNAL

Applies each event by appending it to JOURNAL as one JSON line, and prints it. The password comes from UNPOLL_PASSWORD,
the file with the certificate authority from SSL_CERT_FILE.
"""

import asyncio
import json
import os
import random
import sys

import slixmpp
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

EVENT = "urn:unpoll:event:1"
JSON = "urn:xmpp:json:0"


class Journal:
    """What was applied. One append applies an event and remembers its number: both or neither survive a crash."""

    def __init__(self, path):
        self.last = {}  # lane -> the last seq applied
        self.file = open(path, "a+b")
        self.file.seek(0)
        whole = self.file.read().rpartition(b"\n")[0]
        self.file.truncate(len(whole) + 1 if whole else 0)  # a line that a crash cut short was not applied
        for line in whole.splitlines():
            entry = json.loads(line)
            self.last[entry["lane"]] = entry["seq"]

    def apply(self, entry):
        if entry["seq"] <= self.last.get(entry["lane"], 0):
            return  # a repeat: it is acknowledged again, never applied again
        line = json.dumps(entry, ensure_ascii=False)
        self.file.write(line.encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.last[entry["lane"]] = entry["seq"]
        print(line, flush=True)


class Device(slixmpp.ClientXMPP):
    def __init__(self, jid, password, address, journal):
        super().__init__(jid, password)
        self.address = address
        self.journal = journal
        self.ca_certs = os.environ["SSL_CERT_FILE"]
        self.enable_starttls = False  # TLS from the first byte
        self.register_plugin("xep_0198")  # acknowledges what was handled, and resumes after a break
        self.register_plugin("xep_0184")  # tells the backend "received" where an event asks for it
        self.register_plugin("xep_0199", {"keepalive": True, "interval": 300, "timeout": 30})
        # Not the event "message": slixmpp gives that for messages with a body only.
        self.register_handler(Callback("event", MatchXPath(f"{{jabber:client}}message/{{{EVENT}}}event"), self.on_event))
        self.add_event_handler("session_start", lambda _: self.send_presence())  # "I can take events"
        self.add_event_handler("failed_all_auth", lambda _: self.give_up("the password is wrong"))
        self.add_event_handler("stream_error", self.on_stream_error)
        self.add_event_handler("disconnected", self.on_disconnected)

    def on_event(self, message):
        event = message.xml.find(f"{{{EVENT}}}event")
        cloud_event = json.loads(event.findtext(f"{{{JSON}}}json"))
        self.journal.apply({"id": event.get("id"), "lane": event.get("lane"), "seq": int(event.get("seq")), "event": cloud_event})

    def on_stream_error(self, error):
        if error["condition"] == "conflict":
            self.give_up("another connection of this device took over")

    def give_up(self, why):
        print(why, file=sys.stderr)
        os._exit(1)

    async def on_disconnected(self, _):
        await asyncio.sleep(1 + random.random())  # jitter: after an outage all devices come at once
        self.connect(*self.address)


def main():
    jid, address, journal = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    asyncio.set_event_loop(asyncio.new_event_loop())
    device = Device(jid, os.environ["UNPOLL_PASSWORD"], (host, int(port)), Journal(journal))
    device.connect(*device.address)
    device.loop.run_forever()


main()
