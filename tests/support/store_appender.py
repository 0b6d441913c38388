# SPDX-License-Identifier: Apache-2.0
"""A program that writes to a journal until it is killed, and prints what was acknowledged."""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from hub.store import AuditRow, Batch, Journal, Row
from tests.support.store import append, opened

WRITERS = 8


def raw_of(name: str) -> bytes:
    """Return the bytes that belong to the event `name`."""
    return name.encode() * 200


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def _append_on(journal: Journal, writer: int) -> None:
    for turn in itertools.count():
        name = f"{os.getpid()}-{writer}-{turn}"
        number, _ = await append(journal, name, raw_of(name))
        _say(f"event {number} {name}")


async def _count_on(journal: Journal) -> None:
    count = int((await journal.settings()).get("count", "0"))
    while True:
        count += 1
        row = Row("a-1", open=True, updated_at=float(count), doc=str(count))
        audit = AuditRow(float(count), "counted", "program", None, "a-1", "", str(count))
        batch = Batch(attacks=(row,), settings={"count": str(count)}, audit=(audit,))
        await journal.write(batch)
        _say(f"count {count}")


async def _run(path: Path) -> None:
    async with opened(path) as journal:
        _say("open")
        writers = (_append_on(journal, writer) for writer in range(WRITERS))
        await asyncio.gather(_count_on(journal), *writers)


def main(path: Path) -> None:
    """Write to the journal at `path` until killed."""
    asyncio.run(_run(path), debug=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
