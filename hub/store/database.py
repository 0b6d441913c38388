# SPDX-License-Identifier: Apache-2.0
"""The journal's SQLite file: checked when opened, made whole, moved aside when damaged."""

import os
import sqlite3
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import structlog

from hub.clock import Clock
from hub.errors import HubError, StoreError
from hub.store import files, schema
from hub.store.faults import DamageError, explain, is_damage

log = structlog.get_logger(__name__)

BUSY_SECONDS: Final = 5.0
WAL_LIMIT: Final = 64 * 2**20
"""Bytes that the write-ahead log shrinks back to after a burst."""
BACKSTOP_PAGES: Final = 16_384
"""Pages (64 MiB) of write-ahead log at which the writer itself copies them into the file."""

_HEADER: Final = 100
_FORMATS: Final = slice(18, 20)
"""Write and read format in SQLite's file header: a higher write format makes it read-only."""


class Database:
    """One journal file, locked for this process.

    Args:
        path: where it is, or is to be made.
        clock: names what is moved aside.

    Attributes:
        path: the file, without symbolic links.
        made: how many files were begun.
        moved_aside: where the damaged file went that the newest of them stands in for; None if
            there was no file, or it was taken away while in use.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.moved_aside: Path | None = None
        self.made = 0
        self._clock = clock
        self._moved: Path | None = None
        self._used = False
        self._lock: int | None = None
        self._eye: int | None = None

    def open(self) -> sqlite3.Connection:
        """Lock, check and if need be make the file; return the connection that writes.

        Raises:
            StoreError: not a place for a journal, in use, newer than us, or not ours.
            StoreFullError: no space to make it.
        """
        try:
            files.make_place(self.path)
            self.path = self.path.resolve()
            files.refuse_network(self.path)
            return self._open_locked()
        except (OSError, sqlite3.Error, HubError) as error:
            self.close()
            raise explain(error, self.path) from error

    def _open_locked(self) -> sqlite3.Connection:
        traces, first = files.has_traces(self.path), not files.has_lock(self.path)
        if not traces:
            files.refuse_foreign(self.path)
        self._lock = files.lock(self.path)
        try:
            if not traces:
                files.drop_empty(self.path)
            return self.reopen()
        except (OSError, sqlite3.Error, HubError):
            if first:
                # The next start would take it for a sign that the file here was a journal.
                files.delete_lock(self.path)
            raise

    def close(self) -> None:
        """Give up the lock; every connection must have been closed before."""
        self._close_eye()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def reopen(
        self, numbers: tuple[int, int] = (0, 0), *, damaged: bool = False
    ) -> sqlite3.Connection:
        """Check the file, move it aside if it is damaged, and return the connection that writes.

        No connection may be open: the last one to close deletes the side files by their name.

        Args:
            numbers: event and audit numbers given out so far; a new file goes on from there.
            damaged: it is known to be damaged, whatever the check finds.

        Raises:
            StoreError: newer than us, or not ours.
            sqlite3.Error: cannot be opened for another reason than damage.
            OSError: cannot be moved aside or made.
        """
        if self._exchanged():
            # The log is of the other file: SQLite would play it into this one.
            files.move_aside(self.path, self._clock.time(), files.SIDE_FILES)
        self._close_eye()
        # Of a file that was taken away while in use, at most the log is moved.
        whole = self.path.exists() or not self._used
        fault = self._fault(damaged=damaged)
        if fault:
            moved_to = files.move_aside(self.path, self._clock.time())
            self._moved = moved_to if whole else self._moved
            log.error(
                "journal.damaged",
                path=str(self.path),
                fault=fault,
                moved_to=str(moved_to),
                todo="look at the disk: dmesg, SMART; keep the old file",
            )
        if not self.path.exists():
            self._create(numbers)
            self.made += 1
            self.moved_aside = self._moved
        self._moved, self._used = None, True
        # Closing any descriptor of the file drops SQLite's locks: this one stays as long as they.
        self._eye = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._connect_writer()

    def look(self) -> None:
        """Look whether what is written still goes where the next start will find it.

        SQLite itself does not notice that its file was taken away, exchanged or overwritten.

        Raises:
            DamageError: it does not.
            StoreError: another hub has it by now, see `keep_lock`.
            OSError: the lock cannot be made again.
        """
        self.keep_lock()
        if self._eye is None:
            return
        if not self.path.exists():
            raise DamageError("taken away while in use")
        if self._exchanged():
            raise DamageError("exchanged while in use")
        if os.pread(self._eye, len(files.MAGIC), 0) != files.MAGIC:
            raise DamageError("header overwritten while in use")

    def keep_lock(self) -> None:
        """Make the lock again where its file was taken away, or nothing keeps other hubs off.

        Raises:
            StoreError: another hub has the journal by now.
            OSError: the lock cannot be made again.
        """
        if self._lock is None or files.holds(self._lock, self.path):
            return
        lost, self._lock = self._lock, files.lock(self.path)
        os.close(lost)

    def connect_reader(self) -> sqlite3.Connection:
        """Return a connection that cannot write.

        Raises:
            sqlite3.Error: cannot be opened.
        """
        connection = connect(self.path, "rw")
        connection.execute("PRAGMA query_only = ON")
        return connection

    def connect_checkpointer(self) -> sqlite3.Connection:
        """Return the connection that copies the write-ahead log into the file.

        Raises:
            sqlite3.Error: cannot be opened.
        """
        connection = connect(self.path, "rw")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _exchanged(self) -> bool:
        if self._eye is None:
            return False
        try:
            there = os.stat(self.path)  # noqa: PTH116 - on the way of every commit
        except FileNotFoundError:
            return False
        return not os.path.samestat(there, os.fstat(self._eye))

    def _close_eye(self) -> None:
        if self._eye is not None:
            os.close(self._eye)
            self._eye = None

    def _fault(self, *, damaged: bool) -> str:
        if self.path.exists():
            return "SQLite could not work with it" if damaged else inspect(self.path)
        # SQLite would play an orphaned log into the new file.
        orphans = [end for end in files.SIDE_FILES if files.beside(self.path, end).exists()]
        return f"missing, with its {orphans[0]} still there" if orphans else ""

    def _create(self, numbers: tuple[int, int]) -> None:
        new = files.beside(self.path, ".new")
        files.discard(new)
        try:
            files.make_private(new)
            connection = connect(new, "rw")
            try:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID:d}")
                schema.migrate(connection)
                rows = zip(("events", "audit"), numbers, strict=True)
                connection.executemany(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", rows
                )
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
            files.put_in_place(new, self.path)
        except (OSError, sqlite3.Error):
            files.discard(new)
            raise

    def _connect_writer(self) -> sqlite3.Connection:
        connection = connect(self.path, "rw")
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError(
                    f"SQLite refuses a write-ahead log here (it uses {mode!r})",
                    where=str(self.path),
                    todo="set store.path to a file on a local disk",
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {BACKSTOP_PAGES:d}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT:d}")
            connection.execute("PRAGMA secure_delete = OFF")
            schema.migrate(connection)
        except (sqlite3.Error, HubError):
            connection.close()
            raise
        return connection


def inspect(path: Path) -> str:
    """Return what is wrong with the file at `path`, empty when it is sound; change nothing.

    Raises:
        StoreError: newer than us, or another program's database.
        sqlite3.Error: it cannot be looked at.
    """
    with path.open("rb") as file:
        formats = file.read(_HEADER)[_FORMATS]
    if not formats:
        return "empty, or hardly more"
    if set(formats) - {1, 2}:
        return f"of no known file format {formats.hex()}"
    connection = connect(path, "ro")
    try:
        fault = schema.identify(connection, path)
        if not fault:
            check(connection)
    except sqlite3.DatabaseError as error:
        # What was asked is plain: a complaint about it comes from what stands in the file.
        if is_damage(error) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
            return str(error)
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return f"not what can stand in a journal: {error}"
    finally:
        connection.close()
    return fault


def check(connection: sqlite3.Connection) -> None:
    """Read through the whole file.

    Raises:
        DamageError: with the first thing that is wrong.
        sqlite3.Error: it cannot be read.
    """
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DamageError(verdict)


def _text(found: bytes) -> str:
    return found.decode("utf-8", "replace")


def connect(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Return a connection to the file at `path`, which must be there.

    Raises:
        sqlite3.Error: cannot be opened.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        # One broken letter, which no check finds, must not keep all the rest from being read.
        connection.text_factory = _text
        connection.execute("PRAGMA cell_size_check = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
