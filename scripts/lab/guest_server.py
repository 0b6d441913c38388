# SPDX-License-Identifier: Apache-2.0
"""Runs inside the guest: a server for tests, on both families, with the standard library only.

The ports speak as those of `tests.support.stack_talk` do, so that the same clients fit.
"""

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable

ECHO = 8080
"""Repeats what it is told; after the client's end of file it says goodbye."""
GREETER = 8025
"""Speaks first, then is an echo."""
BULK = 8090
"""Reads to the end of file, answers with the count and as many bytes."""
FILLER = 8091
"""Sends as many bytes as the first eight ask for, and reads on."""
INFO = 8092
"""Answers each line with what its kernel knows of the connection, as JSON."""
NARROW = 8093
"""The same on a listener with a small receive buffer, and so another window scale."""

GOODBYE = b"goodbye"
BANNER = b"220 at your service\r\n"
NARROW_BUFFER = 8192
BACKLOG = 1024
CHUNK = 1 << 18

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve ECHO."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write(GOODBYE)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve GREETER."""
    writer.write(BANNER)
    await echo(reader, writer)


async def bulk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve BULK."""
    total = 0
    while data := await reader.read(CHUNK):
        total += len(data)
    writer.write(total.to_bytes(8, "big"))
    await _pour(writer, total)


async def fill(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve FILLER."""
    await _pour(writer, int.from_bytes(await reader.readexactly(8), "big"))
    while await reader.read(CHUNK):
        pass


async def inform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve INFO and NARROW."""
    connection: socket.socket = writer.get_extra_info("socket")
    while await reader.readline():
        known = {
            "tcp_info": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256).hex(),
            "rcvbuf": connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            "sndbuf": connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
            "maxseg": connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
            "peer": writer.get_extra_info("peername")[:2],
        }
        writer.write(json.dumps(known).encode() + b"\n")
        await writer.drain()


PORTS: dict[int, Handler] = {
    ECHO: echo,
    GREETER: greet,
    BULK: bulk,
    FILLER: fill,
    INFO: inform,
    NARROW: inform,
}


async def _pour(writer: asyncio.StreamWriter, total: int) -> None:
    piece = bytes(CHUNK)
    while total:
        size = min(total, CHUNK)
        writer.write(piece[:size])
        total -= size
        await writer.drain()


def _serving(serve: Handler) -> Handler:
    async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, EOFError):
            return
        finally:
            writer.close()

    return until_the_end


def _listening(family: socket.AddressFamily, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if port == NARROW:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BUFFER)
    made.bind(("::" if family is socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - a guest's
    made.listen(BACKLOG)
    return made


async def main() -> None:
    """Serve until killed."""
    servers = [
        await asyncio.start_server(_serving(serve), sock=_listening(family, port), backlog=BACKLOG)
        for family in (socket.AF_INET, socket.AF_INET6)
        for port, serve in PORTS.items()
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
