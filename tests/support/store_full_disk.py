# SPDX-License-Identifier: Apache-2.0
"""A program that fills a small disk in its own mount namespace, and prints what it saw."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from hub.errors import HubError
from hub.store import Batch, Journal, Row
from tests.support.store import append, opened

PIECE = b"x" * 8192


async def _fill(journal: Journal, kept: set[str], refused: set[str]) -> HubError:
    for number in range(10_000):
        name = f"fill{number}"
        try:
            await append(journal, name, PIECE)
        except HubError as error:
            refused.add(name)
            return error
        kept.add(name)
    msg = "the disk did not get full"
    raise AssertionError(msg)


async def _burst(journal: Journal, kept: set[str], refused: set[str]) -> list[str]:
    names = [f"burst{number}" for number in range(20)]
    results = await asyncio.gather(
        *(append(journal, name, PIECE) for name in names), return_exceptions=True
    )
    kept.update(name for name, got in zip(names, results, strict=True) if isinstance(got, tuple))
    failed = {name: got for name, got in zip(names, results, strict=True) if name not in kept}
    refused.update(failed)
    return sorted({type(got).__name__ for got in failed.values()})


async def _write_batch(journal: Journal) -> str:
    attacks = tuple(Row(f"a-{n}", open=True, updated_at=1.0, doc="y" * 4096) for n in range(200))
    try:
        await journal.write(Batch(attacks=attacks, settings={"freeze": "on"}))
    except HubError as error:
        return type(error).__name__
    return "written"


async def _use(place: Path, seen: dict[str, Any]) -> None:
    ballast = place / "ballast"
    await asyncio.to_thread(ballast.write_bytes, bytes(2**20))
    kept: set[str] = set()
    refused: set[str] = set()
    async with opened(place / "j") as journal:
        large, small = await asyncio.gather(
            append(journal, "large", bytes(3 * 2**20)),
            append(journal, "small"),
            return_exceptions=True,
        )
        seen["small_beside_large_kept"] = isinstance(small, tuple) and isinstance(large, HubError)
        refused.add("large")
        kept.add("small")
        error = await _fill(journal, kept, refused)
        seen["full_error"] = type(error).__name__
        seen["full_retryable"] = error.retryable
        seen["says_what_to_do"] = "free space" in str(error)
        seen["batch_error"] = await _write_batch(journal)
        seen["burst_errors"] = await _burst(journal, kept, refused)
        await journal.ping()
        await asyncio.to_thread(ballast.unlink)
        _, seen["after_space"] = await append(journal, "after", PIECE)
        kept.add("after")
    async with opened(place / "j") as journal:
        stored = {event.delivery_id for event in await journal.events(limit=100_000)}
        seen["acknowledged_lost"] = sorted(kept - stored)
        seen["refused_kept"] = sorted(refused & stored)
        rows = [row.id for row in await journal.attacks(limit=1000)]
        seen["batch_half_written"] = rows + sorted(await journal.settings())
        seen["recovered_from"] = journal.recovered_from


async def _open_on_full(place: Path, seen: dict[str, Any]) -> None:
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    folder = place / "other"
    folder.mkdir()
    try:
        async with opened(folder / "j"):
            pass
    except HubError as error:
        seen["open_error"] = type(error).__name__
    seen["left_over"] = [item.name for item in folder.iterdir() if item.name != "j.lock"]


def main(place: Path) -> None:
    """Mount a disk of 4 MiB on `place`, use it, and print what happened as JSON."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    subprocess.run(mount, check=True)
    seen: dict[str, Any] = {}
    with capture_logs() as logs:
        asyncio.run(_use(place, seen))
        events = [entry["event"] for entry in logs]
        asyncio.run(_open_on_full(place, seen))
    # Writing may work and fail by turns at the brink; told is each change, once.
    seen["log_events"] = list(dict.fromkeys(events))
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
