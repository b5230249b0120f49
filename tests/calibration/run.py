"""The calibration of the ledger, tried on the real service with boxes that know nothing of it.

    python3 tests/calibration/run.py --unpoll target/release/unpoll --seconds 600

Starts the service, adds boxes of cohort control (they poll) and push (they are connected), posts events at random, lets boxes
drop off at random, and has every box write down what it did. Then `recompute.py` works out from those logs alone what the report
should say, and compares. Standard library only, no code of the service.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import recompute
from poller import Poller
from pushed import Pushed


class World:
    def __init__(self, arguments, ready, data, log):
        self.interval = arguments.interval
        self.seed = arguments.seed
        self.drop_every = arguments.drop_every * arguments.interval
        self.domain = ready["domain"]
        address = lambda name: (ready[name].rsplit(":", 1)[0], int(ready[name].rsplit(":", 1)[1]))
        self.http, self.https, self.xmpps = address("http"), address("https"), address("xmpps")
        self.ca = str(data / "ca.pem")
        self.key = (data / "admin.key").read_text().strip()
        self.ends = time.time() + arguments.seconds
        self.file = open(log, "w")

    def log(self, **fact):
        self.file.write(json.dumps(fact) + "\n")

    def ask(self, method, path, body=None, kind="application/json"):
        request = urllib.request.Request(f"http://{self.http[0]}:{self.http[1]}{path}", body, method=method)
        request.add_header("Authorization", f"Bearer {self.key}")
        if body is not None:
            request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def sockets(pid):
    """How many sockets a process holds."""
    held = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held += os.readlink(descriptor).startswith("socket:")
        except FileNotFoundError:
            pass
    return held


async def post(world, devices, every):
    """Events at random times to random boxes: each box gets one in `every` seconds on average."""
    reader, writer = await asyncio.open_connection(*world.http)
    dice, number = random.Random(f"{world.seed} backend"), 0
    while True:
        await asyncio.sleep(dice.expovariate(len(devices) / every))
        if time.time() >= world.ends - world.interval:
            break
        number += 1
        device = dice.choice(devices)
        event = {"type": "com.example.recording.scheduled", "data": {"program": f"EP{number:08}"}, "target": {"device": device}}
        body = json.dumps(event).encode()
        head = f"POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {world.key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        sent = time.time()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(next(line.split(b":")[1] for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")))
        answer = json.loads(await reader.readexactly(length))
        # The service accepted it between the two; on one machine they are a millisecond apart.
        world.log(kind="accepted", box=device, id=answer["id"], at=(sent + time.time()) / 2)
    writer.close()


def provision(world, cohort, count):
    boxes = [(f"{cohort}-{number:04}", secrets.token_hex(16)) for number in range(count)]
    for some in (boxes[at : at + 200] for at in range(0, count, 200)):
        lines = "\n".join(json.dumps({"id": device, "password": password, "cohort": cohort}) for device, password in some)
        world.ask("POST", "/v1/devices", lines.encode(), "application/x-ndjson")
    return boxes


async def experiment(arguments, world, control, push):
    boxes = [Poller(world, *box) for box in control] + [Pushed(world, *box) for box in push]
    devices = [device for device, _ in control + push]
    await asyncio.gather(post(world, devices, arguments.event_every * arguments.interval), *(box.live() for box in boxes))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpoll", required=True, help="the binary")
    parser.add_argument("--boxes", type=int, default=600)
    parser.add_argument("--control", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--interval", type=int, default=10, help="poll interval in seconds")
    parser.add_argument("--event-every", type=float, default=3, help="an event a box in so many intervals")
    parser.add_argument("--drop-every", type=float, default=20, help="a box drops off in so many intervals")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keepalive", type=int, default=30)
    parser.add_argument("--tolerance", type=float, default=0.01, help="by which part logs and report may differ")
    parser.add_argument("--short", action="store_true", help="too short for a calibration: compare the figures alone")
    parser.add_argument("--keep", help="a folder for the logs and the report")
    arguments = parser.parse_args()
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="calibration-"))
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNPOLL_")}
    environment |= {
        "UNPOLL_LEDGER_POLL_INTERVAL_SECS": str(arguments.interval),
        "UNPOLL_XMPP_KEEPALIVE_SECS": str(arguments.keepalive),
        "UNPOLL_HTTP_CONNECTIONS_MAX": "4000",
    }
    command = [arguments.unpoll, "serve", "--data-dir", str(data)]
    for listener in ["http", "https", "admin", "xmpp", "xmpps"]:
        command += [f"--{listener}", "127.0.0.1:0"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
    try:
        ready = json.loads(server.stdout.readline())
        before = sockets(server.pid)
        world = World(arguments, ready, data, folder / "facts.ndjson")
        control = provision(world, "control", arguments.control)
        push = provision(world, "push", arguments.boxes - arguments.control)
        world.ends = time.time() + arguments.seconds
        asyncio.run(experiment(arguments, world, control, push))
        # What the last connections carried is counted once they are closed.
        patience = time.time() + 30
        while sockets(server.pid) > before:
            if time.time() > patience:
                sys.exit(f"30 s after the last box, {sockets(server.pid)} sockets are open; {before} were before the first")
            time.sleep(0.05)
        world.file.close()
        report = world.ask("GET", "/v1/reports/polling-avoided")
        (folder / "report.json").write_text(json.dumps(report, indent=1))
    finally:
        server.terminate()
        server.wait(30)
    facts = [json.loads(line) for line in open(folder / "facts.ndjson")]
    agreed = recompute.compare(facts, report, arguments.interval, arguments.keepalive, arguments.tolerance, arguments.short)
    print(f"logs and report: {folder}" if arguments.keep else "", end="\n" if arguments.keep else "")
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    main()
