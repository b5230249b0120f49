"""A device that logs in by its certificate, with slixmpp: python3 certificate.py JID HOST:PORT CERTIFICATE KEY

Prints "online" when it is, and goes. The file with the certificate authority of the service comes from SSL_CERT_FILE.
"""

import asyncio
import os
import sys

import slixmpp


class Device(slixmpp.ClientXMPP):
    def __init__(self, jid, certificate, key):
        super().__init__(jid, "", sasl_mech="EXTERNAL")
        self.ca_certs = os.environ["SSL_CERT_FILE"]
        self.certfile, self.keyfile = certificate, key
        self.enable_starttls = False  # TLS from the first byte
        self.add_event_handler("session_start", lambda _: self.end("online"))
        self.add_event_handler("failed_all_auth", lambda _: self.end("refused"))

    def end(self, word):
        print(word, flush=True)
        self.disconnect()


def main():
    jid, address, certificate, key = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    asyncio.set_event_loop(asyncio.new_event_loop())
    device = Device(jid, certificate, key)
    device.connect(host, int(port))
    device.loop.run_until_complete(device.disconnected)


main()
