# SPDX-License-Identifier: Apache-2.0
"""The one thread that writes: whatever waits is committed together, then everybody is told."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import structlog

from hub.clock import SystemClock
from hub.errors import StoreError, StoreFullError
from hub.store.database import Database
from hub.store.faults import explain, is_callers, is_damage
from hub.store.lane import Lane
from hub.store.writes import last_numbers

log = structlog.get_logger(__name__)

MAX_GROUP: Final = 1024
"""Requests in one transaction."""
MAX_GROUP_BYTES: Final = 8 * 2**20
"""Payload in one transaction; one larger request still goes through, alone."""
CHECKPOINT_BYTES: Final = 8 * 2**20
"""Payload after which the write-ahead log is copied into the file, beside the writer."""
ROW_BYTES: Final = 2048
"""What a request weighs besides its payload."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One piece of work for the writer's transaction, and who waits for it."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    size: int
    future: asyncio.Future[Any]


Outcome = tuple[Request, Any]
"""A request with its result, or with the exception that its caller gets."""


class Writer:
    """Owner of the thread and of the connection that writes.

    Args:
        database: open and locked.
        connection: its connection that writes.
        lanes: every other user of the file; halted while the file is exchanged.
        checkpoint: called in the writer's thread now and then, must not block.
        recovered: called in the event loop when a fresh file was begun at run time, with the path
            that the damaged one was moved to, None if it had been taken away.
        committed: called in the writer's thread with the seconds and the number of requests of
            each transaction.
    """

    def __init__(
        self,
        database: Database,
        connection: sqlite3.Connection,
        *,
        lanes: Iterable[Lane],
        checkpoint: Callable[[], None],
        recovered: Callable[[Path | None], None],
        committed: Callable[[float, int], None],
    ) -> None:
        self._database, self._lanes = database, tuple(lanes)
        self._connection: sqlite3.Connection | None = connection
        self._checkpoint, self._recovered, self._committed = checkpoint, recovered, committed
        self._clock = SystemClock()
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._numbers = (0, 0)
        self._made = database.made
        self._since_checkpoint = 0
        self._changes = connection.total_changes
        self._failing = False
        self._closed = False
        self._thread = Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[..., Any], *args: Any, size: int = 0) -> asyncio.Future[Any]:
        """Queue `work(connection, *args)`; the future ends after the commit, not before.

        The work is done also when nobody waits for the future any more.

        Raises:
            StoreError: closed.
        """
        if self._closed:
            raise StoreError("closed", where=str(self._database.path))
        future = self._loop.create_future()
        self._queue.put(Request(work, args, size, future))
        return future

    def stop(self) -> None:
        """Take no more work."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)

    def join(self) -> None:
        """Wait until everything that was queued is done, and close the connection."""
        self._thread.join()
        self._drop()

    def _run(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # damage shows, and is dealt with, at the first request
                self._numbers = last_numbers(self._connection)
        while (request := self._queue.get()) is not None:
            group, last = self._gather(request)
            outcomes = self._settle(group)
            try:
                self._loop.call_soon_threadsafe(_deliver, outcomes)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            self._note_size(group)
            if last:
                return

    def _gather(self, first: Request) -> tuple[list[Request], bool]:
        group, size = [first], first.size
        for _ in range(min(self._queue.qsize(), MAX_GROUP - 1)):
            if size >= MAX_GROUP_BYTES:
                break
            request = self._queue.get()
            if request is None:
                return group, True
            group.append(request)
            size += request.size
        return group, False

    def _settle(self, group: list[Request]) -> list[Outcome]:
        """Commit `group`; where there is no space for all of it, each for itself."""
        error: Exception
        try:
            return self._transact(group)
        except Exception as failure:  # noqa: BLE001 - whoever waits has to hear of anything
            error = failure
        for known in (False, True):
            if not is_damage(error):
                break
            log.error(
                "journal.malformed",
                path=str(self._database.path),
                error=str(error),
                todo="look at the disk: dmesg, SMART; store.recovered follows",
            )
            try:
                self._reopen(known=known)
                return self._transact(group)
            except Exception as failure:  # noqa: BLE001 - as above
                error = failure
        told = explain(error, self._database.path)
        if len(group) > 1 and self._connection and isinstance(told, StoreFullError):
            return [outcome for request in group for outcome in self._settle([request])]
        if not self._failing:
            log.error(
                "journal.write_failed",
                error=str(told),
                todo="free space or mend the disk, and do not restart the hub before",
            )
        self._failing = True
        return [(request, told) for request in group]

    def _transact(self, group: list[Request]) -> list[Outcome]:
        connection = self._connection or self._reopen(known=False)
        self._database.look()
        begun = self._clock.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [(request, self._attempt(connection, request)) for request in group]
            numbers = last_numbers(connection)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        self._committed(self._clock.monotonic() - begun, len(group))
        self._numbers = numbers
        if self._failing and connection.total_changes > self._changes:
            log.info("journal.write_works_again", path=str(self._database.path))
            self._failing = False
        self._changes = connection.total_changes
        return outcomes

    def _attempt(self, connection: sqlite3.Connection, request: Request) -> Any:
        try:
            return request.work(connection, *request.args)
        except Exception as error:
            if not is_callers(error):
                raise
            return explain(error, self._database.path)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop()  # whatever state it is in, a new connection starts clean

    def _reopen(self, *, known: bool) -> sqlite3.Connection:
        """Open the file anew; a damaged one is moved aside, and a fresh one begun."""
        # First, as closing deletes the side files by name: they may be another hub's by now.
        self._database.keep_lock()
        with ExitStack() as halted:
            for lane in self._lanes:
                halted.enter_context(lane.halt())
                lane.drop()
            self._drop()
            connection = self._database.reopen(self._numbers, damaged=known)
        self._connection, self._changes = connection, connection.total_changes
        # Also one that an earlier try began, and then could not open, is still to be told of.
        if self._database.made != self._made:
            self._made = self._database.made
            self._loop.call_soon_threadsafe(self._recovered, self._database.moved_aside)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note_size(self, group: list[Request]) -> None:
        self._since_checkpoint += sum(request.size + ROW_BYTES for request in group)
        if self._since_checkpoint >= CHECKPOINT_BYTES:
            self._since_checkpoint = 0
            self._checkpoint()


def _deliver(outcomes: list[Outcome]) -> None:
    for request, result in outcomes:
        if request.future.done():
            continue
        if isinstance(result, Exception):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)
