"""What a device tells of itself, with slixmpp: python3 reports.py JID HOST:PORT

Asks the service what it is, checks its digest, reports attributes in its presence, publishes where it is with the plugin for
XEP-0080, and takes that back when a line comes in. Prints a word for each step. The password comes from UNPOLL_PASSWORD, the
file with the certificate authority from SSL_CERT_FILE.
"""

import asyncio
import json
import os
import sys
from xml.etree import ElementTree

import slixmpp

EVENT = "urn:unpoll:event:1"


class Device(slixmpp.ClientXMPP):
    def __init__(self, jid, password):
        super().__init__(jid, password)
        self.ca_certs = os.environ["SSL_CERT_FILE"]
        self.enable_starttls = False  # TLS from the first byte
        for plugin in ("xep_0030", "xep_0080", "xep_0092", "xep_0115", "xep_0199"):
            self.register_plugin(plugin)
        self.add_event_handler("session_start", self.session)

    async def session(self, _):
        try:
            await self.tell()
        finally:
            self.disconnect()

    async def tell(self):
        domain = self.boundjid.domain
        info = await self.plugin["xep_0030"].get_info(domain)
        assert ("server", "im", None, "unpoll") in info["disco_info"]["identities"], info
        async with asyncio.timeout(20):
            while (caps := await self.plugin["xep_0115"].get_caps(domain)) is None:
                await asyncio.sleep(0.05)  # the library asks by itself, and checks the digest
        assert "urn:xmpp:receipts" in caps["features"], caps
        await self.plugin["xep_0199"].ping(domain)
        version = await self.plugin["xep_0092"].get_version(domain)
        print("asked", version["software_version"]["name"], flush=True)

        presence = self.make_presence()
        attributes = ElementTree.SubElement(presence.xml, f"{{{EVENT}}}attributes")
        ElementTree.SubElement(attributes, f"{{{EVENT}}}json").text = json.dumps({"fw": "7.1", "title": "Жалюзи"})
        presence.send()
        print("reported", flush=True)

        await self.plugin["xep_0080"].publish_location(lat=52.52, lon=13.4, accuracy=20)
        print("published", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await self.plugin["xep_0080"].stop()
        print("taken back", flush=True)


def main():
    jid, address = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    asyncio.set_event_loop(asyncio.new_event_loop())
    device = Device(jid, os.environ["UNPOLL_PASSWORD"])
    device.connect(host, int(port))
    device.loop.run_until_complete(device.disconnected)


main()
