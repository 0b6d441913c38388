# SPDX-License-Identifier: Apache-2.0
"""A visitor: fetches one page over and over, each time over a new TCP connection.

Writes one JSON line a visit to standard output: `at` (Unix seconds it began), `ms` (milliseconds
it took), `error` (null when the page came whole) and `retried`. A connection that is reset is
tried once more, as browsers do: a SYN proxy in reset mode proves a new client so.
"""

import argparse
import asyncio
import json
import sys

from hub.clock import Clock, SystemClock
from hub.tasks import Tasks

PAGE = "You are being served.\n"
GIVE_UP = 4.0


async def fetch(host: str, port: int) -> tuple[str | None, bool]:
    """Return what went wrong, None when the page came whole in 4 s, and whether it was retried."""
    retried = False
    try:
        async with asyncio.timeout(GIVE_UP):
            try:
                answer = await exchange(host, port)
            except ConnectionResetError:
                retried = True
                answer = await exchange(host, port)
    except TimeoutError:
        return f"no whole answer within {GIVE_UP:.0f} s", retried
    except OSError as error:
        return error.strerror or type(error).__name__, retried
    if answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(PAGE.encode()):
        return None, retried
    return f"wrong answer: {answer[:40]!r}", retried


async def exchange(host: str, port: int) -> bytes:
    """Return the answer over one new connection."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


async def visit(host: str, port: int, clock: Clock) -> None:
    """Fetch once and write the line about it."""
    at, began = clock.time(), clock.monotonic()
    error, retried = await fetch(host, port)
    took = round(1000 * (clock.monotonic() - began), 2)
    sys.stdout.write(json.dumps({"at": at, "ms": took, "error": error, "retried": retried}) + "\n")
    sys.stdout.flush()


async def keep_visiting(host: str, port: int, rate: float) -> None:
    """Begin `rate` visits a second until cancelled, slow ones beside each other."""
    clock = SystemClock()
    due = clock.monotonic()
    async with Tasks() as tasks:
        while True:
            tasks.run("visit", visit(host, port, clock))
            # A visitor that was held up must not make up for it by a burst: that is an attack.
            due = max(due + 1 / rate, clock.monotonic())
            await clock.sleep(due - clock.monotonic())


def main() -> None:
    """Run until ended by a signal."""
    parser = argparse.ArgumentParser(description="fetch one page over and over")
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--rate", type=float, default=10.0, help="visits per second")
    options = parser.parse_args()
    asyncio.run(keep_visiting(options.host, options.port, options.rate))


if __name__ == "__main__":
    main()
