"""Receives webhooks and prints each as one line of JSON: python3 receive.py PORT

The secret comes from WEBHOOK_SECRET, as the service showed it when the webhook was made.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

LARGEST = 64 * 1024
verifier = Webhook(os.environ["WEBHOOK_SECRET"])
seen = set()  # Yours is a table with a unique key, written in the transaction that does the work.


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("content-length") or 0)
        if length > LARGEST:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            message = verifier.verify(body, dict(self.headers.items()))
        except (WebhookVerificationError, ValueError):
            return self.answer(401)  # Nobody who has the secret sent this.
        name = self.headers["webhook-id"]
        if name not in seen:  # The same message may come again.
            print(json.dumps({"id": name, **message}), flush=True)
            seen.add(name)
        self.answer(204)  # Any 2xx: the work is done, or safely written down.

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print(f"listening on {server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
