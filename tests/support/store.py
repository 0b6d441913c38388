# SPDX-License-Identifier: Apache-2.0
"""Journals for tests: opening, filling, spoiling."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from hub.clock import SystemClock
from hub.store import Journal

PAGE = 4096


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Journal]:
    """Yield the journal at `path`, and close it."""
    journal = await Journal.open(path, clock=SystemClock())
    try:
        yield journal
    finally:
        await journal.close()


async def append(
    journal: Journal, delivery_id: str, raw: bytes = b"raw", *, received_at: float = 1000.0
) -> tuple[int, bool]:
    """Append one event."""
    return await journal.append_event(
        delivery_id=delivery_id,
        detector="edge1",
        stamp=received_at - 1,
        received_at=received_at,
        via="unix",
        raw=raw,
    )


async def append_all(journal: Journal, names: Iterable[str], raw: bytes = b"raw") -> list[int]:
    """Append one event for each name, all at once; return their numbers."""
    results = await asyncio.gather(*(append(journal, name, raw) for name in names))
    return [number for number, _ in results]


def fill(path: Path, count: int, raw: bytes = b"raw") -> None:
    """Make a journal with `count` events `e0`, `e1` and so on, and close it."""

    async def run() -> None:
        async with opened(path) as journal:
            await append_all(journal, [f"e{number}" for number in range(count)], raw)

    asyncio.run(run())


def sql(path: Path, *statements: str) -> list[Any]:
    """Run statements on the file beside the journal; return the rows of the last."""
    rows: list[Any] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put `data` over what stands at `offset`."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def spoil(path: Path) -> None:
    """Overwrite every page but the first, also those that the log held."""
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path, PAGE, b"\xa5" * (path.stat().st_size - PAGE))


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking `work` outside the event loop."""
    return await asyncio.to_thread(work)
