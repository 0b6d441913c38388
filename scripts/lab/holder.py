# SPDX-License-Identifier: Apache-2.0
"""Holds connections open for the whole demo, and asks over each of them once a second.

Writes one JSON line a second to standard output: `at` (Unix seconds), `open` and `lost` (how many
connections), `answers` (so far, over all of them). A connection that is lost is not opened again.
"""

import argparse
import asyncio
import json
import sys

from hub.clock import SystemClock
from hub.tasks import Tasks

PAUSE = 1.0
GIVE_UP = 10.0


class Holder:
    """Some open connections to one web server.

    Attributes:
        open: how many are open.
        lost: how many have ended.
        answers: over all of them, so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port, self._clock = host, port, SystemClock()
        self.open = self.lost = self.answers = 0

    async def hold(self) -> None:
        """Open one and ask over it until it is lost."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self.open += 1
        try:
            while True:
                async with asyncio.timeout(GIVE_UP):
                    await self._ask(reader, writer)
                self.answers += 1
                await self._clock.sleep(PAUSE)
        except (OSError, EOFError, ValueError, TimeoutError):
            self.open, self.lost = self.open - 1, self.lost + 1
        finally:
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"GET / HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        await reader.readexactly(length)

    async def tell(self) -> None:
        """Write a line a second, for ever."""
        while True:
            fields = {"open": self.open, "lost": self.lost, "answers": self.answers}
            sys.stdout.write(json.dumps({"at": self._clock.time(), **fields}) + "\n")
            sys.stdout.flush()
            await self._clock.sleep(1.0)


async def run(host: str, port: int, number: int) -> None:
    """Hold `number` connections until cancelled."""
    holder = Holder(host, port)
    async with Tasks() as tasks:
        for one in range(number):
            tasks.run(f"connection {one}", holder.hold())
        await holder.tell()


def main() -> None:
    """Run until ended by a signal."""
    parser = argparse.ArgumentParser(description="hold connections open and use them")
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--number", type=int, default=20)
    options = parser.parse_args()
    asyncio.run(run(options.host, options.port, options.number))


if __name__ == "__main__":
    main()
