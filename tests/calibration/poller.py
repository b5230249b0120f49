"""A box of cohort control: it polls every few seconds, now and then it is away."""

import asyncio
import base64
import json
import random
import time

from wire import Gone, Wire


class Poller:
    def __init__(self, world, device, password):
        self.world, self.device = world, device
        self.basic = base64.b64encode(f"{device}@{world.domain}:{password}".encode()).decode()
        self.wire, self.after, self.etag, self.rest = None, None, None, b""
        self.seen = {}
        self.random = random.Random(f"{world.seed} {device}")

    async def live(self):
        interval = self.world.interval
        await asyncio.sleep(self.random.uniform(0, interval))
        away_at = time.time() + self.random.expovariate(1 / self.world.drop_every)
        while time.time() < self.world.ends:
            started = time.time()
            try:
                await self.poll()
            except (Gone, OSError) as error:
                self.world.log(kind="poll-failed", box=self.device, at=time.time(), why=str(error))
                await self.hang_up()
            if time.time() > away_at:
                away = self.random.uniform(4, 12) * interval
                self.world.log(kind="away", box=self.device, at=time.time(), seconds=away)
                await self.hang_up()
                await asyncio.sleep(away)
                away_at = time.time() + self.random.expovariate(1 / self.world.drop_every)
                continue
            # Clocks of boxes are not exact, and they do not all poll at once.
            pause = interval * self.random.uniform(0.8, 1.2)
            await asyncio.sleep(max(0, started + pause - time.time()))
        await self.hang_up()

    async def hang_up(self):
        if self.wire:
            # The end of a connection is a part of what its last poll costs.
            await asyncio.wait_for(self.wire.drain(), 5)
            self.world.log(kind="poll-wire", box=self.device, at=time.time(), **self.wire.counts())
            self.wire.close()
        self.wire, self.rest = None, b""

    async def poll(self):
        path = f"/v1/devices/{self.device}/events"
        if self.after:
            path += f"?after={self.after}"
        headers = {"If-None-Match": self.etag} if self.etag else {}
        sent = time.time()
        status, answer, body = await self.ask("GET", path, headers)
        if status == 304:
            self.world.log(kind="poll", box=self.device, at=sent, status=status, events=0, payload=0)
            return
        if status != 200:
            self.world.log(kind="poll", box=self.device, at=sent, status=status, events=0, payload=0, body=body.decode())
            return
        page = json.loads(body)
        payload = sum(len(raw) for raw in event_texts(body.decode()))
        self.world.log(kind="poll", box=self.device, at=sent, status=status, events=len(page["events"]), payload=payload)
        news = []
        for event in page["events"]:
            if event["seq"] > self.seen.get(event["lane"], 0):
                self.seen[event["lane"]] = event["seq"]
                news.append(event["id"])
        self.after, self.etag = page["next"], answer.get("etag")
        if page["events"]:
            status, _, body = await self.ask("POST", f"/v1/devices/{self.device}/acks", {}, json.dumps({"upto": page["next"]}).encode())
            self.world.log(kind="poll-ack", box=self.device, at=time.time(), status=status, ids=news)

    async def ask(self, method, path, headers, body=b""):
        if not self.wire:
            self.wire = await Wire(self.world.https, self.world.ca, self.world.domain).open()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.world.domain}", f"Authorization: Basic {self.basic}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        await self.wire.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        while b"\r\n\r\n" not in self.rest:
            self.rest += await self.wire.receive()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        first, *fields = head.decode().split("\r\n")
        answer = {name.lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
        length = int(answer.get("content-length", 0))
        while len(self.rest) < length:
            self.rest += await self.wire.receive()
        body, self.rest = self.rest[:length], self.rest[length:]
        if answer.get("connection") == "close":
            await self.hang_up()
        return int(first.split()[1]), answer, body


def event_texts(body):
    """The JSON of each event in the answer to a poll, as it came."""
    decoder, at = json.JSONDecoder(), 0
    while (at := body.find('"event":', at)) >= 0:
        at += len('"event":')
        _, end = decoder.raw_decode(body, at)
        yield body[at:end]
        at = end
