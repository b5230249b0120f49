"""Holds a service to its own document: UNPOLL_KEY=… python3 documents.py URL

The OpenAPI document is valid, its examples fit their schemas, and every example of a request is sent: the answer has a status, a
type, headers and a body that the document describes, and is no refusal. Prints how many there were.
"""

import base64
import http.client
import json
import os
import sys
import urllib.parse

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

url = urllib.parse.urlsplit(sys.argv[1])
KEY = "Bearer " + os.environ["UNPOLL_KEY"]
DEVICE = "Basic " + base64.b64encode(b"tsn-746:correct-horse").decode()
UPGRADE = {
    "Connection": "upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "xmpp",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
}
# Devices are put before events are posted, and what is deleted is read before.
ORDER = ["put", "post", "patch", "get", "delete"]


def ask(method, path, headers=None, body=None):
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request(method.upper(), path, body, headers or {})
    answer = connection.getresponse()
    # A stream has no end, and a WebSocket is none of HTTP's.
    endless = answer.status == 101 or answer.getheader("content-type") == "text/event-stream"
    text = "" if endless else answer.read().decode()
    connection.close()
    return answer, text


document = json.loads(ask("get", "/openapi.json")[1])
validate(document)


def fits(schema, value, what):
    whole = {**schema, "components": document["components"]}
    validator = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for error in validator.iter_errors(value):
        sys.exit(f"{what}: {error.json_path}: {error.message}")


def examples(content):
    return [(name, example["value"]) for name, example in content.get("examples", {}).items() if "value" in example]


for slug, example in document["components"]["examples"].items():
    fits(document["components"]["schemas"]["Problem"], example["value"], slug)

known = {}  # Ids that answers gave, by path.


def path_of(path, operation):
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            example = parameter["example"]
            value = known.get(path.split("/{")[0]) if "devices" not in path else None
            # What is to be done stands behind the id.
            value = value and value + example[len(example.split(":")[0]):]
            path = path.replace("{%s}" % parameter["name"], value or example)
    return path


def send(path, method, operation, media_type=None, body=None):
    name = operation["operationId"]
    headers = {"Authorization": DEVICE if any("device" in way for way in operation["security"]) else KEY}
    headers |= UPGRADE if name == "connectWebSocket" else {}
    text = None
    if media_type:
        headers["Content-Type"] = media_type
        text = body if isinstance(body, str) else json.dumps(body)
    answer, text = ask(method, path_of(path, operation), headers, text)
    said = f"{name}: {answer.status} {text[:300]}"
    described = operation["responses"].get(str(answer.status))
    if described is None or answer.status >= 400:
        sys.exit(f"{said} is not an answer that the example leads to")
    for header in described.get("headers", {}):
        if answer.getheader(header) is None:
            sys.exit(f"{said} lacks {header}")
    kind = (answer.getheader("content-type") or "").split(";")[0]
    content = described.get("content", {})
    if kind not in (content or [""]):
        sys.exit(f"{said}: it is {kind}, not {list(content)}")
    if kind == "application/json":
        value = json.loads(text)
        fits(content[kind]["schema"], value, said)
        if method == "post" and "id" in value:
            known[path] = value["id"]


operations = [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]
operations.sort(key=lambda one: ORDER.index(one[1]))
sent = 0
for path, method, operation in operations:
    for status, answer in operation["responses"].items():
        for content in answer.get("content", {}).values():
            for name, value in examples(content):
                fits(content["schema"], value, f"{operation['operationId']} {status} {name}")
    bodies = operation.get("requestBody", {}).get("content", {})
    for media_type, content in bodies.items():
        for name, value in examples(content):
            if not isinstance(value, str):
                fits(content["schema"], value, f"{operation['operationId']} {name}")
            send(path, method, operation, media_type, value)
            sent += 1
    if not bodies:
        send(path, method, operation)
        sent += 1
print(json.dumps({"operations": len(operations), "sent": sent}))
