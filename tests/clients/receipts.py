"""Learns what became of every event, and goes on where it was: python3 receipts.py URL FILE

The key comes from UNPOLL_KEY. FILE remembers the last cursor. Prints a line for each receipt. Nothing but Python is needed.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

url, path = sys.argv[1:]


def follow(cursor):
    """What comes behind a cursor, each with its own, until the stream is cut."""
    headers = {"Authorization": "Bearer " + os.environ["UNPOLL_KEY"]}
    if cursor:
        headers["Last-Event-ID"] = cursor
    request = urllib.request.Request(url + "/v1/receipts?from=oldest", headers=headers)
    # A comment comes every 15 s: a stream that says nothing for a minute is dead.
    with urllib.request.urlopen(request, timeout=60) as stream:
        kind = data = None
        for line in stream:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "id":
                cursor = value
            elif field == "event":
                kind = value
            elif field == "data":
                data = json.loads(value)
            elif not field:
                yield cursor, kind, data
                kind = data = None


def remember(cursor):
    with open(path + ".new", "w") as file:
        file.write(cursor)
    os.replace(path + ".new", path)


cursor = open(path).read() if os.path.exists(path) else None
while True:
    try:
        for cursor, kind, data in follow(cursor):
            if kind == "receipt":
                print(data["at"], data["device"], data["event"], data["state"], flush=True)  # your work
            elif kind == "gap":
                print("receipts are missing, ask for what you wait for:", data, file=sys.stderr)
            # After the work: if the program is killed between the two, it does the last one again.
            remember(cursor)
    except urllib.error.HTTPError as error:
        if error.code not in (429, 503):
            raise
        print(error, file=sys.stderr)
    except (OSError, http.client.HTTPException) as error:
        print("the stream was cut:", error, file=sys.stderr)
    time.sleep(2)
