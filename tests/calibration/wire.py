"""A TLS connection that knows what its socket carried: bytes, and the kernel's count of segments with data."""

import asyncio
import socket
import ssl
import struct


class Gone(Exception):
    """The connection is over."""


class Wire:
    def __init__(self, address, ca, domain, alpn=None):
        self.address, self.domain = address, domain
        self.context = ssl.create_default_context(cafile=ca)
        self.context.options |= ssl.OP_NO_TICKET
        if alpn:
            self.context.set_alpn_protocols([alpn])
        self.bytes_in = self.bytes_out = 0
        self.socket = None

    async def open(self):
        loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(self.socket, self.address)
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.inward, self.outward, server_hostname=self.domain)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
        # The end of the handshake goes with what is sent first: two packets in a row may be one read at the service.
        return self

    async def _flush(self):
        data = self.outward.read()
        if data:
            self.bytes_out += len(data)
            try:
                await asyncio.get_running_loop().sock_sendall(self.socket, data)
            except OSError as error:
                raise Gone(str(error)) from error

    async def _fill(self):
        try:
            data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        except OSError as error:
            raise Gone(str(error)) from error
        if not data:
            raise Gone("closed by the peer")
        self.bytes_in += len(data)
        self.inward.write(data)

    async def send(self, data):
        self.tls.write(data)
        await self._flush()

    async def receive(self):
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._fill()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLError) as error:
                raise Gone(str(error)) from error
            if not data:
                raise Gone("closed by the peer")
            return data

    async def drain(self):
        """Sends no more, and reads what still comes until the peer has closed."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        try:
            while True:
                await self._fill()
        except Gone:
            pass

    def counts(self):
        # struct tcp_info of Linux: tcpi_data_segs_in and tcpi_data_segs_out. On loopback each write is one segment.
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
        segments_in, segments_out = struct.unpack_from("II", info, 152)
        # The TCP handshake, seen from here: two packets go out, one comes in.
        return {"in": self.bytes_in, "out": self.bytes_out, "packets_in": segments_in + 1, "packets_out": segments_out + 2}

    def close(self):
        """As a program that ends: FIN."""
        if self.socket:
            self.socket.close()
