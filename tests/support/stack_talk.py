# SPDX-License-Identifier: Apache-2.0
"""Clients and servers on a stand, and what their TCP has agreed on."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.support.netns import GATEWAY, SERVER
from tests.support.stack import ECHO, TARGETS, Stand, fresh_client

BANNER: Final = b"220 at your service\r\n"
GREETER: Final = 8025
"""Speaks first, then is an echo."""
BULK: Final = 8090
"""Reads to the end of file, answers with the count and as many bytes."""
FILLER: Final = 8091
"""Sends as many bytes as the first eight ask for, and reads on."""
GOODBYE: Final = b"goodbye"
CHUNK: Final = 1 << 18

OPTION_NAMES: Final = {1: "timestamps", 2: "sack", 4: "wscale", 8: "ecn"}


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """What a kernel's TCP has agreed on with the other side (struct tcp_info)."""

    options: frozenset[str]
    snd_wscale: int
    rcv_wscale: int
    snd_mss: int
    advmss: int
    pmtu: int
    rtt_us: int
    retransmitted: int

    @classmethod
    def of(cls, connection: Any) -> Self:
        """Return that of a socket."""
        raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        word = struct.unpack_from("=24I", raw, 8)
        return cls(
            options=frozenset(name for bit, name in OPTION_NAMES.items() if raw[5] & bit),
            snd_wscale=raw[6] & 15,
            rcv_wscale=raw[6] >> 4,
            snd_mss=word[2],
            pmtu=word[13],
            rtt_us=word[15],
            advmss=word[19],
            retransmitted=word[23],
        )

    def agreed(self) -> dict[str, object]:
        """Return what the handshake decides, without what is measured later."""
        names = ("options", "snd_wscale", "rcv_wscale", "snd_mss", "advmss", "pmtu")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Client:
    """A connection of a client, and the address that it came from."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def name(self) -> tuple[str, int]:
        """Return the client's address and port."""
        address, port = self.writer.get_extra_info("sockname")[:2]
        return address, port

    @property
    def info(self) -> TcpInfo:
        """Return what the client's TCP thinks of it."""
        return TcpInfo.of(self.writer.get_extra_info("socket"))

    async def says(self, sent: bytes) -> bytes:
        """Send something and return as many bytes of answer."""
        self.writer.write(sent)
        async with asyncio.timeout(5):
            return await self.reader.readexactly(len(sent))

    def reset(self) -> None:
        """End it with a RST."""
        end_by_reset(self.writer)

    async def exchange(self, size: int) -> tuple[int, int]:
        """Send `size` bytes; return how many the server counted and how many came back."""
        async with asyncio.timeout(30):
            await pour(self.writer, size)
            self.writer.write_eof()
            answered = int.from_bytes(await self.reader.readexactly(8), "big")
            received = 0
            while data := await self.reader.read(CHUNK):
                received += len(data)
        return answered, received


def end_by_reset(writer: asyncio.StreamWriter) -> None:
    """Close one side of a connection with a RST, unless it is closed already."""
    connection = writer.get_extra_info("socket")
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        writer.transport.abort()


class Server:
    """The protected server's programs, with its side of every connection."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._clients: list[Client] = []
        self._writers: dict[tuple[str, int], asyncio.StreamWriter] = {}
        self._silent: set[asyncio.StreamWriter] = set()
        self.ends: dict[tuple[str, int], str] = {}
        """How each connection ended, by the client's address and port: well, or what was raised."""
        self.last_info: dict[tuple[str, int], TcpInfo] = {}
        """What the server's TCP thought of a bulk connection when all was sent."""
        self.accepted = 0
        self.received: Counter[tuple[str, int]] = Counter()
        """Bytes of each client, by its address and port."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Serve every port on both families, ready for cookies, while the context lasts."""
        ports = {
            ECHO: self._echo,
            GREETER: self._greet,
            BULK: self._bulk,
            FILLER: self._fill,
        }
        servers = []
        try:
            for address in TARGETS.values():
                for port, serve in ports.items():
                    listening = await self._stand.listen(SERVER, address, port)
                    servers.append(await asyncio.start_server(serve, sock=listening, backlog=1024))
            await self.prime()
            yield self
        finally:
            for server in servers:
                server.close()
            for writer in self._writers.values():
                end_by_reset(writer)
            await self.end_clients()

    async def end_clients(self) -> None:
        """End every connection of a client with a RST."""
        for client in self._clients:
            client.reset()
        await asyncio.sleep(0)  # noqa: TID251 - lets the aborted handlers end

    async def client(
        self, family: int = 4, port: int = ECHO, source: tuple[str, int] | None = None
    ) -> Client:
        """Return a client's new connection, by default from an address that is not proven."""
        here = source or (fresh_client(family), 0)
        made = Client(*await self._stand.connect(TARGETS[family], port, source=here))
        self._clients.append(made)
        return made

    def include(self, client: Client) -> None:
        """Close this connection in the end, too."""
        self._clients.append(client)

    async def prime(self) -> None:
        """Send each listener one ordinary SYN: the kernel takes cookies for 120 s after that."""
        for address in TARGETS.values():
            for port in (ECHO, GREETER, BULK, FILLER):
                _, writer = await self._stand.connect(address, port, role=GATEWAY)
                end_by_reset(writer)

    def side_of(self, client: Client) -> asyncio.StreamWriter:
        """Return the server's side of a client's connection."""
        return self._writers[client.name]

    def knows(self, client: Client) -> bool:
        """Return whether the server's side of a connection is open."""
        return client.name in self._writers

    def say_no_more(self, client: Client) -> None:
        """Send the server's end of file; it reads on."""
        side = self.side_of(client)
        self._silent.add(side)
        side.write_eof()

    def info(self, client: Client) -> TcpInfo:
        """Return what the server's TCP thinks of a client's connection."""
        return self.info_of(client.name)

    def info_of(self, name: tuple[str, int]) -> TcpInfo:
        """Return the same for the client with this address and port."""
        return TcpInfo.of(self._writers[name].get_extra_info("socket"))

    def _enter(self, writer: asyncio.StreamWriter) -> tuple[str, int]:
        self.accepted += 1
        address, port = writer.get_extra_info("peername")[:2]
        self._writers[address, port] = writer
        return address, port

    async def _answer(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if writer not in self._silent:
            writer.write(data)
            await writer.drain()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = self._enter(writer)
        try:
            while data := await reader.read(CHUNK):
                self.received[name] += len(data)
                await self._answer(writer, data)
            await self._answer(writer, GOODBYE)
            self.ends[name] = "well"
        except OSError as error:
            self.ends[name] = type(error).__name__
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BANNER)
        await self._echo(reader, writer)

    async def _fill(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = self._enter(writer)
        try:
            await pour(writer, int.from_bytes(await reader.readexactly(8), "big"))
            while data := await reader.read(CHUNK):
                self.received[name] += len(data)
            self.ends[name] = "well"
        except (OSError, EOFError) as error:
            self.ends[name] = type(error).__name__
        finally:
            writer.close()

    async def _bulk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = self._enter(writer)
        total = 0
        try:
            while data := await reader.read(CHUNK):
                total += len(data)
            writer.write(total.to_bytes(8, "big"))
            await pour(writer, total)
            self.last_info[name] = TcpInfo.of(writer.get_extra_info("socket"))
            self.ends[name] = "well"
        except OSError as error:
            self.ends[name] = type(error).__name__
        finally:
            writer.close()


async def until(true: Callable[[], bool]) -> None:
    """Return as soon as something has become true; fail after 5 s."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - the other end of it is a kernel
            await asyncio.sleep(0.005)  # noqa: TID251 - the kernel's time, which no clock of ours is


async def pour(writer: asyncio.StreamWriter, total: int) -> None:
    """Write so many bytes."""
    piece = bytes(CHUNK)
    while total:
        writer.write(piece[: min(total, CHUNK)])
        total -= min(total, CHUNK)
        await writer.drain()
