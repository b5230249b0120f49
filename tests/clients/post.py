"""Posts events with the CloudEvents SDK for Python: python3 post.py URL structured|binary|batch|ndjson

The key comes from UNPOLL_KEY. Each line of stdin is an event: its attributes and data as JSON. Prints the answers.
"""

import json
import os
import sys
import urllib.request

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

url, mode = sys.argv[1:]


def post(headers, body):
    headers = {**headers, "Authorization": "Bearer " + os.environ["UNPOLL_KEY"]}
    request = urllib.request.Request(url + "/v1/events", data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request) as answer:
        print(answer.read().decode())


def event(line):
    given = json.loads(line)
    return CloudEvent({"datacontenttype": "application/json", **given["attributes"]}, given["data"])


events = [event(line) for line in sys.stdin]
if mode in ("structured", "binary"):
    write = {"structured": to_structured_event, "binary": to_binary_event}[mode]
    for message in map(write, events):
        post(message.headers, message.body)
else:
    # The SDK writes no batches: they are its structured events, put together.
    bodies = [to_structured_event(event).body for event in events]
    if mode == "batch":
        post({"Content-Type": "application/cloudevents-batch+json"}, b"[" + b",".join(bodies) + b"]")
    else:
        post({"Content-Type": "application/x-ndjson"}, b"\n".join(bodies))
