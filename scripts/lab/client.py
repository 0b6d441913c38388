# SPDX-License-Identifier: Apache-2.0
"""A visitor: fetches one page over and over, each time over a new TCP connection.

Writes one JSON line a visit to standard output: `at` (Unix seconds it began), `ms` (milliseconds
it took) and `error` (null when the page came whole).
"""

import argparse
import asyncio
import json
import sys

from hub.clock import Clock, SystemClock
from hub.tasks import Tasks

PAGE = "You are being served.\n"
GIVE_UP = 4.0


async def fetch(host: str, port: int) -> str | None:
    """Return None when the page came whole within four seconds, else what went wrong."""
    try:
        async with asyncio.timeout(GIVE_UP):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
    except TimeoutError:
        return f"no whole answer within {GIVE_UP:.0f} s"
    except OSError as error:
        return error.strerror or type(error).__name__
    if answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(PAGE.encode()):
        return None
    return f"wrong answer: {answer[:40]!r}"


async def visit(host: str, port: int, clock: Clock) -> None:
    """Fetch once and write the line about it."""
    at, began = clock.time(), clock.monotonic()
    error = await fetch(host, port)
    took = round(1000 * (clock.monotonic() - began), 2)
    sys.stdout.write(json.dumps({"at": at, "ms": took, "error": error}) + "\n")
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
