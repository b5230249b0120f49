"""A device that polls: python3 poll.py JID URL JOURNAL [WAIT]

Applies each event by appending it to JOURNAL as one JSON line, and prints it. With WAIT (seconds, up to 60) it long-polls.
The password comes from UNPOLL_PASSWORD, the file with the certificate authority from SSL_CERT_FILE. Needs Python alone.
"""

import base64
import http.client
import json
import os
import random
import ssl
import sys
import time
import urllib.error
import urllib.request


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


class Door:
    def __init__(self, jid, password, url, wait):
        self.url = f"{url}/v1/devices/{jid.split('@')[0]}"
        self.query = f"?wait={wait}" if wait else ""
        token = base64.b64encode(f"{jid}:{password}".encode()).decode()
        self.headers = {"Authorization": "Basic " + token, "Content-Type": "application/json"}
        self.tls = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
        self.etag = ""

    def call(self, path, body=None, headers={}):
        request = urllib.request.Request(self.url + path, data=body, headers={**self.headers, **headers})
        return urllib.request.urlopen(request, timeout=90, context=self.tls)

    def turn(self, journal):
        """Polls, applies, acknowledges. Gives the pause until the next poll, in seconds: the service sets it."""
        try:
            with self.call("/events" + self.query, headers={"If-None-Match": self.etag}) as answer:
                page = json.load(answer)
                self.etag = answer.headers["ETag"]
        except urllib.error.HTTPError as error:
            if error.code != 304:
                raise
            return int(error.headers["Retry-After"])  # nothing new
        for entry in page["events"]:
            journal.apply(entry)
        if page["events"]:  # only now: what is acknowledged does not come again
            self.call("/acks", json.dumps({"upto": page["next"]}).encode()).close()
        return page["poll_after_seconds"]


def main():
    jid, url, journal, *wait = sys.argv[1:]
    door, journal = Door(jid, os.environ["UNPOLL_PASSWORD"], url, *wait or [0]), Journal(journal)
    failures = 0
    while True:
        try:
            pause = door.turn(journal)
            failures = 0
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                sys.exit("the password is wrong, or the device was removed")
            pause = max(1, int(error.headers.get("Retry-After", 60)))  # 429 and 503 say when to come back
        except (OSError, http.client.HTTPException):
            failures = min(failures + 1, 8)
            pause = 2**failures
        time.sleep(pause * random.uniform(1, 1.1))  # jitter: boxes that were switched on together do not stay together


main()
