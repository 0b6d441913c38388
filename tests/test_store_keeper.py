# SPDX-License-Identifier: Apache-2.0
"""The keeper on a real journal that takes no writes for a while."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hub.clock import SystemClock
from hub.store.journal import Journal
from hub.store.keeper import Keeper
from hub.store.records import Batch, Row


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def row(number: int, size: int = 10, *, is_open: bool = True) -> Row:
    """Return the row `m-1` in its state number `number`."""
    return Row("m-1", is_open, float(number), '"' + "x" * size + '"')


async def test_save_when_disk_is_full_then_kept_and_written_later(disk: Path) -> None:
    """Nothing is raised, nothing is lost, and the newest state is what arrives."""
    journal = await Journal.open(disk / "j.sqlite3", clock=SystemClock())
    keeper = Keeper(journal)
    await asyncio.to_thread(fill, disk / "filler")
    assert not await keeper.save(Batch(mitigations=(row(1, 20_000),)))
    assert not await keeper.save(Batch(mitigations=(row(2, 20_000),)))
    assert keeper.trouble
    await asyncio.to_thread((disk / "filler").unlink)
    assert await keeper.flush()
    assert not keeper.waiting
    stored = await journal.mitigation("m-1")
    assert stored is not None
    assert stored.updated_at == 2.0
    await journal.close()


async def test_save_when_a_later_one_succeeded_then_the_earlier_does_not_come_back(
    disk: Path,
) -> None:
    """A large write that fails is not written over the small newer one that passed."""
    journal = await Journal.open(disk / "j.sqlite3", clock=SystemClock())
    keeper = Keeper(journal)
    await keeper.save(Batch(mitigations=(row(0),)))
    large = keeper.save(Batch(mitigations=(row(1, 3_000_000),)))
    small = keeper.save(Batch(mitigations=(row(2, is_open=False),)))
    assert list(await asyncio.gather(large, small)) == [False, True]
    await keeper.flush()
    stored = await journal.mitigation("m-1")
    assert stored is not None
    assert (stored.updated_at, stored.open) == (2.0, False)
    await journal.close()
