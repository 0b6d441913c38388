# SPDX-License-Identifier: Apache-2.0
"""Putting a journal back from a backup, while no hub runs.

What is in force then goes on: the next start of the hub compares the old ledger with what engines
really have, see `hub.pipeline.restored`. Nothing of the present journal is deleted.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hub.backup import bundle, snapshot
from hub.clock import Anchor, Clock, SteadyClock
from hub.documents import ADOPTED, CLOCK_KEY, RESTORED_KEY
from hub.errors import StoreError
from hub.store import files
from hub.store.database import connect
from hub.store.faults import explain

PENDING_SECONDS: Final = 600.0
"""An event that waited in the backup is acted on if it is not older than this."""
_NEW: Final = ".restored"
_STOP: Final = "systemctl stop fnm-hub, restore, systemctl start fnm-hub"
_NOTE: Final = "waited when the backup was made; too old to be acted on after the restore"


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done.

    Attributes:
        manifest: what the backup says of itself.
        path: the journal that stands now.
        moved_to: where the former one is, None where there was none.
        too_old: events that waited in the backup and are not acted on any more.
    """

    manifest: bundle.Manifest
    path: Path
    moved_to: Path | None
    too_old: int


def restore(backup: Path, journal: Path, clock: Clock, actor: str) -> Restored:
    """Put the journal of a backup in place of the present one, which is moved aside.

    Raises:
        BundleError: it is no backup, or a damaged one.
        StoreError: a hub runs, the journal in the backup is not sound or of a newer hub, or the
            place cannot be written; what stood there still stands.
    """
    manifest = bundle.check(backup)
    new = files.beside(journal, _NEW)
    try:
        files.make_place(journal)
        journal = journal.resolve()
        new = files.beside(journal, _NEW)
        with _held(journal):
            files.discard(new)
            bundle.unpack(backup, {bundle.JOURNAL: new})
            snapshot.prove(new)
            too_old = _prepare(new, journal, manifest, clock, actor)
            _give(new, journal)
            moved_to = None
            if journal.exists():
                moved_to = files.move_aside(journal, clock.time(), why="replaced")
            files.put_in_place(new, journal)
    except (OSError, sqlite3.Error) as error:
        raise explain(error, journal) from error
    finally:
        files.discard(new)
    return Restored(manifest, journal, moved_to, too_old)


@contextmanager
def _held(journal: Path) -> Iterator[None]:
    """Keep every hub off the journal, and leave the lock to the hub's own user."""
    try:
        lock = files.lock(journal)
    except StoreError as error:
        raise StoreError(error.what, where=error.where, todo=_STOP) from error
    try:
        status = journal.parent.stat()
        if os.geteuid() == 0:
            os.fchown(lock, status.st_uid, status.st_gid)
        yield
    finally:
        os.close(lock)


def _give(new: Path, journal: Path) -> None:
    """Let the copy belong to whom the former journal, or else its folder, belongs."""
    status = (journal if journal.exists() else journal.parent).stat()
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid)


def _prepare(new: Path, journal: Path, manifest: bundle.Manifest, clock: Clock, actor: str) -> int:
    """Tell the next start that its journal is an old one; return how many events are too old."""
    numbers = _last_numbers(journal)
    with closing(connect(new, "rw")) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        now = _time_of(connection)
        # Engines are to be looked at as with a journal that has not seen them yet.
        connection.execute(f"DELETE FROM settings WHERE name GLOB '{ADOPTED}*'")  # noqa: S608
        told = json.dumps({"made_at": manifest.made_at, "restored_at": clock.time()})
        connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (RESTORED_KEY, told))
        gone = connection.execute(
            "UPDATE events SET status = 'done', note = ? WHERE status = 'pending'"
            " AND received_at < ?",
            (_NOTE, now - PENDING_SECONDS),
        ).rowcount
        doc = {"outcome": "ok", "reason": f"the journal of {manifest.made_at:.0f}", "trace": []}
        connection.execute(
            "INSERT INTO audit (at, kind, actor, event, attack, mitigation, doc)"
            " VALUES (?, 'journal.restored', ?, NULL, '', '', ?)",
            (now, actor, json.dumps(doc)),
        )
        for name, number in numbers.items():
            connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (number, name)
            )
        connection.execute("COMMIT")
    return gone


def _time_of(connection: sqlite3.Connection) -> float:
    """Return now in the time of that journal."""
    row = connection.execute("SELECT value FROM settings WHERE name = ?", (CLOCK_KEY,)).fetchone()
    try:
        return SteadyClock(Anchor(**json.loads(row[0])) if row else None).time()
    except (ValueError, TypeError):
        return SteadyClock().time()


def _last_numbers(journal: Path) -> dict[str, int]:
    """Return the numbers that the present journal has given out, so that none is used again."""
    if not journal.exists():
        return {}
    try:
        with closing(connect(journal, "ro")) as connection:
            rows = connection.execute("SELECT name, seq FROM sqlite_sequence")
            return {str(name): int(seq) for name, seq in rows if name in ("events", "audit")}
    except (sqlite3.Error, ValueError, TypeError):
        # Damaged, perhaps: that is why it is replaced.
        return {}
