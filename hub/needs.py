# SPDX-License-Identifier: Apache-2.0
"""Looks every few seconds whether the hub still has what it needs of its machine.

A full disk, one that was made read-only and a journal that hangs show at the next event otherwise,
which may be the one that matters.
"""

import asyncio
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from hub.clock import Clock
from hub.errors import StoreError
from hub.store.journal import Journal
from hub.store.records import Batch
from hub.store.settings import Settings
from hub.tasks import Tasks

log = structlog.get_logger(__name__)

INTERVAL: Final = 5.0
PATIENCE: Final = 5.0
"""Seconds that one small write to the journal may take."""
_KEY: Final = "written_at"
_LOW_BYTES: Final = 64 * 2**20
_LOW_SHARE: Final = 0.05
"""A disk is short of space below 64 MiB, a small one below a twentieth of it."""
_DESCRIPTORS_SHARE: Final = 0.8
_DESCRIPTORS: Final = Path("/proc/self/fd")
_HANGS: Final = "look at the disk and the kernel's log; what is in force stays until its deadline"


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is missing.

    Attributes:
        kind: what it is about; the same as long as it lasts.
        what: what is missing, in words.
        todo: what to do about it.
    """

    kind: str
    what: str
    todo: str


class Needs:
    """Watches disks, descriptors and the journal's way to the disk.

    Args:
        spool: the spool directory.
        journal: is written to, as proof that it takes writes.
        settings: keeps what the journal did not take.
        tasks: owner of a write that hangs.
        clock: of the hub.

    Attributes:
        lacks: what was missing at the newest look.
        hangs: since when the journal has not answered; empty while it does.
    """

    def __init__(
        self,
        spool: Path,
        journal: Journal,
        settings: Settings,
        *,
        tasks: Tasks,
        clock: Clock,
    ) -> None:
        self._places = {"journal": journal.path.parent, "spool": spool}
        self._journal, self._settings = journal, settings
        self._tasks, self._clock = tasks, clock
        self._writing: asyncio.Task[bool] | None = None
        self._since = 0.0
        self.lacks: list[Lack] = []
        self.hangs = ""

    def unready(self) -> list[str]:
        """Return why the hub cannot do its work."""
        return [f"journal: {self.hangs}"] if self.hangs else []

    def warnings(self) -> list[str]:
        """Return what is missing, for `status`."""
        return [*self.unready(), *(f"{one.what}; {one.todo}" for one in self.lacks)]

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await self._clock.sleep(INTERVAL)

    async def look(self) -> None:
        """Look once."""
        await self._prove()
        before, self.lacks = self.lacks, await asyncio.to_thread(self._look)
        for one in self.lacks:
            if one.kind not in {other.kind for other in before}:
                log.warning("hub.short", what=one.what, todo=one.todo)
        for one in before:
            if one.kind not in {other.kind for other in self.lacks}:
                log.info("hub.short_no_more", what=one.kind)

    async def _prove(self) -> None:
        if self._writing is None:
            self._since = self._clock.monotonic()
            self._writing = self._tasks.start("prove the journal", self._write())
        done, _ = await asyncio.wait({self._writing}, timeout=PATIENCE)
        if not done:
            waits = self._clock.monotonic() - self._since
            if not self.hangs:
                log.error("store.hangs", seconds=round(waits), todo=_HANGS)
            self.hangs = f"it has not taken a write for {waits:.0f} s; {_HANGS}"
            return
        taken, self._writing = self._writing.result(), None
        if self.hangs:
            log.warning("store.hangs_no_more", todo="nothing; it takes writes again")
            self.hangs = ""
        if not taken:
            # The keeper says so, and goes on trying.
            await self._settings.put(_KEY, f"{self._clock.time():.0f}")

    async def _write(self) -> bool:
        try:
            await self._journal.write(Batch(settings={_KEY: f"{self._clock.time():.0f}"}))
        except StoreError:
            return False
        return True

    def _look(self) -> list[Lack]:
        found = [_descriptors(), *(_disk(what, path) for what, path in self._places.items())]
        return [one for one in found if one is not None]


def _descriptors() -> Lack | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    todo = "see who holds connections (ss -xp), or raise LimitNOFILE= in the unit"
    try:
        used = len(list(_DESCRIPTORS.iterdir()))
    except OSError as error:
        what = f"no file descriptor is left of {limit} ({error.strerror})"
        return Lack("descriptors", what, todo)
    if used < _DESCRIPTORS_SHARE * limit:
        return None
    return Lack("descriptors", f"{used} of {limit} file descriptors are in use", todo)


def _disk(what: str, path: Path) -> Lack | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None  # whoever uses the place says what is wrong with it
    if found.f_flag & os.ST_RDONLY:
        todo = f"see the kernel's log why; then mount -o remount,rw the file system of {path}"
        return Lack(f"disk of the {what}", f"{path} is on a read-only file system", todo)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    todo = f"free space on the file system of {path}"
    if free < min(_LOW_BYTES, _LOW_SHARE * size):
        what_is = f"{free // 2**10} KiB are left for the {what} in {path}"
        return Lack(f"disk of the {what}", what_is, todo)
    if found.f_files and not found.f_favail:
        return Lack(f"disk of the {what}", f"no inode is left for the {what} in {path}", todo)
    return None
