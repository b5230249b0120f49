"""Posts one event with the CloudEvents SDK for Python: python3 post.py URL structured|binary

The key comes from UNPOLL_KEY, the event's attributes and data as JSON from stdin. Prints the answer.
"""

import json
import os
import sys
import urllib.request

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

url, mode = sys.argv[1:]
given = json.load(sys.stdin)
event = CloudEvent({"datacontenttype": "application/json", **given["attributes"]}, given["data"])
message = {"structured": to_structured_event, "binary": to_binary_event}[mode](event)
headers = {**message.headers, "Authorization": "Bearer " + os.environ["UNPOLL_KEY"]}
request = urllib.request.Request(url + "/v1/events", data=message.body, headers=headers, method="POST")
with urllib.request.urlopen(request) as answer:
    print(answer.read().decode())
