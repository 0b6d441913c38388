# SPDX-License-Identifier: Apache-2.0
"""How many events the hub makes durable, and whether a burst loses any."""

import asyncio
import json
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hub.intake.envelope import Envelope, encode
from scripts.benchmarks.figure import Figure, median
from tests.support.hub_process import REPOSITORY, HubProcess, until

EVENTS: Final = 10_000
CONNECTIONS: Final = 64
RUNS: Final = 3
_SAMPLE: Final = REPOSITORY / "tests" / "data" / "fastnetmon" / "1.2.9-syn-spoofed-ban.json"


def durable_events() -> dict[str, Figure]:
    """Send 10,000 real reports over kept connections; count answers 202 a second, and losses."""
    rates: list[float] = []
    losses: list[float] = []
    for _ in range(RUNS):
        with TemporaryDirectory() as folder, HubProcess(Path(folder)) as hub:
            requests = _requests()
            begun = time.monotonic()  # noqa: TID251 - measures another process
            refused = asyncio.run(_send(hub.folder / "intake.sock", requests))
            rates.append((EVENTS - len(refused)) / (time.monotonic() - begun))  # noqa: TID251
            for number, body in enumerate(refused):
                # As fnm-notify does with what is turned away: one file by atomic rename.
                (hub.folder / "spool" / f".tmp-{number}").write_bytes(body)
                target = hub.folder / "spool" / f"{time.time_ns():020d}-{uuid.uuid4().hex}.json"
                (hub.folder / "spool" / f".tmp-{number}").rename(target)
            until("spool empty", lambda: not list((hub.folder / "spool").glob("*.json")), 120)
            found = hub.get("/v1/events?limit=1")["items"][0]["number"]
            losses.append(EVENTS - found)
    return {
        "durable_events_per_s": median(rates, ">= 3000", "events/s"),
        "burst_lost": Figure(max(losses), "= 0", "events", RUNS, (min(losses), max(losses))),
    }


def _requests() -> list[bytes]:
    sample = json.loads(_SAMPLE.read_text())
    made: list[bytes] = []
    for index in range(EVENTS):
        envelope = Envelope(
            id=uuid.uuid4().hex,
            detector="bench",
            stamp=time.time(),  # noqa: TID251 - as fnm-notify stamps
            args=(f"192.0.2.{index % 200 + 1}", *sample["args"][1:]),
            stdin=sample["stdin"].encode(),
        )
        made.append(encode(envelope))
    return made


async def _send(path: Path, bodies: list[bytes]) -> list[bytes]:
    refused: list[bytes] = []
    waiting = iter(bodies)

    async def connection() -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for body in waiting:
            head = (
                f"POST /v1/events/fastnetmon HTTP/1.1\r\nHost: hub\r\nContent-Length: {len(body)}"
            )
            writer.write(head.encode() + b"\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            lines = answer.decode().lower().splitlines()
            length = next(line for line in lines if line.startswith("content-length"))
            await reader.readexactly(int(length.partition(":")[2]))
            if " 202 " not in lines[0]:
                refused.append(body)
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(connection(), name=f"connection {number}")
    return refused
