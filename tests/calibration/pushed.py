"""A box of cohort push: connected by XMPP over TLS with stream management. Now and then it says goodbye, is cut off, or loses
its network without a word."""

import asyncio
import base64
import random
import re
import time

from wire import Gone, Wire

HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{}' version='1.0'>"
)
EVENT = re.compile(r"<message .*?</message>", re.S)
JSON = re.compile(r"<json [^>]*>(.*?)</json>", re.S)


class Pushed:
    def __init__(self, world, device, password):
        self.world, self.device = world, device
        self.plain = base64.b64encode(f"\0{device}\0{password}".encode()).decode()
        self.seen = {}
        self.random = random.Random(f"{world.seed} {device}")
        self.kept = []

    async def live(self):
        await asyncio.sleep(self.random.uniform(0, self.world.interval))
        while time.time() < self.world.ends:
            try:
                await self.session()
            except (Gone, OSError) as error:
                self.world.log(kind="push-failed", box=self.device, at=time.time(), why=str(error))
            if time.time() < self.world.ends:
                await asyncio.sleep(self.random.uniform(0.5, 6) * self.world.interval)
        for overhearing in self.kept:
            overhearing.cancel()
        await asyncio.gather(*self.kept, return_exceptions=True)

    async def session(self):
        wire = await Wire(self.world.xmpps, self.world.ca, self.world.domain, "xmpp-client").open()
        self.text = ""
        try:
            until = min(self.world.ends, time.time() + self.random.expovariate(1 / self.world.drop_every))
            await self.log_in(wire)
            try:
                await asyncio.wait_for(self.serve(wire), max(0.01, until - time.time()))
            except asyncio.TimeoutError:
                pass
            end = "goodbye" if time.time() >= self.world.ends else self.random.choice(["goodbye", "cut", "silent"])
            if end == "goodbye":
                # Its last proof of life.
                await self.say(wire, "</stream:stream>")
                await asyncio.wait_for(wire.drain(), 5)
            counts = wire.counts()
            self.world.log(kind="push-end", box=self.device, at=time.time(), how=end, **counts)
            if end == "silent":
                # From here on the box answers nothing; what the service still sends to it costs all the same.
                self.kept.append(asyncio.create_task(self.overhear(wire, self.text, counts)))
            else:
                wire.close()
        except Exception as error:
            self.world.log(kind="push-end", box=self.device, at=time.time(), how=repr(error), **wire.counts())
            wire.close()
            raise

    async def overhear(self, wire, text, before):
        try:
            while True:
                text += (await wire.receive()).decode()
        except Gone:
            pass
        finally:
            for message in EVENT.findall(text):
                self.world.log(kind="pushed-late", box=self.device, at=time.time(), payload=self.payload(message))
            late = {name: count - before[name] for name, count in wire.counts().items()}
            self.world.log(kind="push-late", box=self.device, at=time.time(), **late)
            wire.close()

    async def say(self, wire, text, proof=True):
        await wire.send(text.encode())
        if proof:
            self.world.log(kind="proof", box=self.device, at=time.time())

    async def until(self, wire, wanted):
        while wanted not in self.text:
            self.text += (await wire.receive()).decode()
        at = self.text.index(wanted) + len(wanted)
        self.text = self.text[at:]

    async def log_in(self, wire):
        header = HEADER.format(self.world.domain)
        await self.say(wire, header, proof=False)
        await self.until(wire, "</stream:features>")
        await self.say(wire, f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{self.plain}</auth>", proof=False)
        await self.until(wire, "<success")
        await self.until(wire, ">")
        await self.say(wire, header, proof=False)
        await self.until(wire, "</stream:features>")
        await self.say(wire, "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", proof=False)
        await self.until(wire, "</iq>")
        self.world.log(kind="bound", box=self.device, at=time.time())
        await self.say(wire, "<enable xmlns='urn:xmpp:sm:3'/>")
        await self.until(wire, "<enabled ")
        await self.until(wire, ">")
        self.handled = 0
        await self.say(wire, "<presence/>")

    async def serve(self, wire):
        while True:
            self.text += (await wire.receive()).decode()
            for message in EVENT.findall(self.text):
                self.event(message)
            # Each presence and each event counts (XEP-0198 §4).
            self.handled += len(EVENT.findall(self.text)) + len(re.findall(r"<presence[^>]*(?:/>|>.*?</presence>)", self.text, re.S))
            asked = "<r xmlns=" in self.text
            end = max((match.end() for match in re.finditer(r"</message>|<presence[^>]*/>|</presence>|<r [^>]*/>", self.text)), default=0)
            self.text = self.text[end:]
            if asked:
                await self.say(wire, f"<a xmlns='urn:xmpp:sm:3' h='{self.handled}'/>")

    def event(self, message):
        field = lambda name: re.search(rf"<event [^>]*\b{name}=['\"]([^'\"]*)", message).group(1)
        self.world.log(kind="pushed", box=self.device, at=time.time(), id=field("id"), payload=self.payload(message))

    def payload(self, message):
        return len(JSON.search(message).group(1).encode())
