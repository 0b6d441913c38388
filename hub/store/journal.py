# SPDX-License-Identifier: Apache-2.0
"""The journal: what was accepted, decided and done, durable before anybody is told so."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

import structlog

from hub.clock import Clock
from hub.errors import StoreError
from hub.net import IPNetwork
from hub.store import reads, writes
from hub.store.database import Database, check
from hub.store.faults import explain, is_damage
from hub.store.lane import Lane, Work
from hub.store.records import AuditRow, Batch, Row, StoredEvent
from hub.store.writer import Writer

log = structlog.get_logger(__name__)

PRUNE_STEP: Final = 200
"""Rows deleted in one go: a few milliseconds, then waiting writers have their turn."""
SHRINK_STEP: Final = 256
"""Pages given back to the file system in one go."""

P = ParamSpec("P")
T = TypeVar("T")


class Journal:
    """One SQLite file, used by one hub; bound to the event loop that opened it.

    A write is durable when it returns: committed, and flushed to the disk. It happens also when
    the task that waits for it is cancelled.

    Attributes:
        path: the file, without symbolic links.
        recovered_from: where the damaged file was moved to that this one stands in for, None when
            there was none, or when it was taken away.
        taken_away: whether this file stands in for one that somebody took away, while it was in
            use. Of this and `recovered_from`, only what happened last is set.
        recoveries: how often that happened at run time. What is kept in memory has to be written
            again then: the fresh file knows of nothing.
        on_recovery: called in the event loop at each such time, with the path of the old file;
            that is `path` itself where somebody had taken the file away.
        on_commit: called in another thread after each transaction, with its seconds and the
            number of requests in it.
    """

    on_recovery: Callable[[Path], None] | None = None
    on_commit: Callable[[float, int], None] | None = None

    def __init__(self, database: Database, connection: sqlite3.Connection) -> None:
        self.path = database.path
        self.recovered_from = database.moved_aside
        self.taken_away = False
        self.recoveries = 0
        self._database = database
        self._reader = Lane("journal-reader", database.connect_reader)
        self._checkpointer = Lane("journal-checkpointer", database.connect_checkpointer)
        self._closed = False
        self._writer = Writer(
            database,
            connection,
            lanes=(self._reader, self._checkpointer),
            checkpoint=self._start_checkpoint,
            recovered=self._note_recovery,
            committed=self._note_commit,
        )

    @classmethod
    async def open(cls, path: Path, *, clock: Clock) -> Self:
        """Open the journal at `path`, or make it; a damaged one is moved aside.

        Raises:
            StoreError: in use by another hub, on a network file system, written by a newer hub,
                no place for a journal, or a file that never was one.
            StoreFullError: no space to make it.
        """
        database = Database(path, clock)
        return cls(database, await asyncio.to_thread(database.open))

    async def append_event(
        self,
        *,
        delivery_id: str,
        detector: str,
        stamp: float,
        received_at: float,
        via: str,
        raw: bytes,
    ) -> tuple[int, bool]:
        """Keep an event as `pending`; return its number, and whether it is new.

        The same `delivery_id` again leaves what is there and returns the old number.

        Raises:
            StoreFullError: no space, nothing of it is kept.
            StoreError: cannot be kept for another reason.
        """
        result: tuple[int, bool] = await self._writer.submit(
            writes.append, delivery_id, detector, stamp, received_at, via, raw, size=len(raw)
        )
        return result

    async def write(self, batch: Batch) -> None:
        """Write all of `batch` or nothing of it.

        Raises:
            StoreFullError: no space, nothing of it is kept.
            StoreError: cannot be kept for another reason.
        """
        await self._writer.submit(writes.write_batch, batch)

    async def pending_events(self, limit: int, *, after: int = 0) -> list[StoredEvent]:
        """Return events that are still to be dealt with and numbered above `after`, oldest first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.pending_events, limit, after)

    async def events(
        self, *, before: int | None = None, limit: int = 100, attack: str | None = None
    ) -> list[StoredEvent]:
        """Return events numbered below `before`, newest first, of `attack` where that is given.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.events, before, limit, attack)

    async def event(self, number: int) -> StoredEvent | None:
        """Return one event, None where there is none.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.event, number)

    async def open_attacks(self) -> list[Row]:
        """Return every open attack, oldest first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.open_rows, "attacks")

    async def attacks(self, *, limit: int) -> list[Row]:
        """Return attacks, open or not, the one that changed last first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.newest_rows, "attacks", limit)

    async def attack(self, name: str) -> Row | None:
        """Return the attack with the id `name`, None where there is none.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.row, "attacks", name)

    async def attacks_on(self, target: IPNetwork, limit: int) -> list[Row]:
        """Return attacks on what shares an address with `target`, the newest first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.attacks_on, target, limit)

    async def events_on(self, target: IPNetwork, limit: int) -> list[StoredEvent]:
        """Return events on what shares an address with `target`, the newest first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.events_on, target, limit)

    async def open_mitigations(self) -> list[Row]:
        """Return every open mitigation, oldest first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.open_rows, "mitigations")

    async def mitigations(self, *, limit: int) -> list[Row]:
        """Return mitigations, open or not, the one that changed last first.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.newest_rows, "mitigations", limit)

    async def mitigation(self, name: str) -> Row | None:
        """Return the mitigation with the id `name`, None where there is none.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.row, "mitigations", name)

    async def settings(self) -> dict[str, str]:
        """Return every setting by its name.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.settings)

    async def audit(
        self,
        *,
        event: int | None = None,
        attack: str | None = None,
        mitigation: str | None = None,
        limit: int = 100,
    ) -> list[AuditRow]:
        """Return the newest audit rows that match everything given, newest last.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.audit, event, attack, mitigation, limit)

    async def rows(self) -> dict[str, int]:
        """Return about how many rows each table that grows has; found without counting them.

        Raises:
            StoreError: cannot be read.
        """
        return await self._read(reads.spans)

    async def prune(self, *, events_before: float, audit_before: float, limit: int = 5000) -> int:
        """Delete what is past its time, in steps between which writers have their turn.

        Pending events stay, and so does all that belongs to an open attack or mitigation.
        Closed attacks and mitigations go with the audit record.

        Args:
            events_before: Unix seconds; events received earlier go.
            audit_before: Unix seconds; audit rows and closed rows older than this go.
            limit: the most rows to delete now.

        Returns:
            How many rows were deleted; `limit` means that there may be more.

        Raises:
            StoreError: cannot be written.
        """
        gone = 0
        while gone < limit:
            step = min(PRUNE_STEP, limit - gone)
            count: int = await self._writer.submit(
                writes.prune_step, events_before, audit_before, step
            )
            gone += count
            if count < step:
                break
        while await self._writer.submit(writes.shrink_step, SHRINK_STEP):
            pass
        return gone

    async def ping(self) -> None:
        """Go the way of a write to the file and back, without writing.

        Raises:
            StoreError: that way is blocked.
        """
        await self._writer.submit(writes.touch)

    async def close(self) -> None:
        """Finish what is queued and let go of the file; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._writer.stop()
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._checkpointer.close()
        self._reader.close()
        self._writer.join()
        self._database.close()

    async def _read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise StoreError("closed", where=str(self.path))
        try:
            try:
                return await self._reader.run(work, *args, **kwargs)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
            # The writer finds the same damage, and begins a fresh file.
            await self._writer.submit(check)
            return await self._reader.run(work, *args, **kwargs)
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    def _start_checkpoint(self) -> None:
        # Closing ends that lane first; the last connection to close copies what is left.
        with suppress(RuntimeError):
            self._checkpointer.start(_copy_log)

    def _note_commit(self, seconds: float, requests: int) -> None:
        if self.on_commit is not None:
            self.on_commit(seconds, requests)

    def _note_recovery(self, moved_to: Path | None) -> None:
        self.recovered_from, self.taken_away = moved_to, moved_to is None
        self.recoveries += 1
        if self.on_recovery is not None:
            self.on_recovery(moved_to or self.path)


def _copy_log(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        # Nothing is lost: the log keeps what was not copied, and the writer meets the cause.
        log.warning(
            "journal.checkpoint_failed",
            error=str(error),
            todo="if it goes on, look at the disk and who keeps the file open",
        )
