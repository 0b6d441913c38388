# SPDX-License-Identifier: Apache-2.0
"""A copy of the journal as it is at one moment, taken beside the hub that goes on writing."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from hub.errors import StoreError
from hub.store import files, schema
from hub.store.database import connect, inspect
from hub.store.faults import explain

PAGES: Final = 2048
"""Pages (8 MiB) copied in one go."""
_REST: Final = 0.005
"""Seconds between two of them, so that the hub's own writes have the disk."""
_COUNTS: Final = {
    "events": "SELECT count(*) FROM events",
    "pending": "SELECT count(*) FROM events WHERE status = 'pending'",
    "open_attacks": "SELECT count(*) FROM attacks WHERE open = 1",
    "open_mitigations": "SELECT count(*) FROM mitigations WHERE open = 1",
    "audit": "SELECT count(*) FROM audit",
}


def take(journal: Path, copy: Path) -> None:
    """Copy the journal at `journal` to a new file at `copy`, mode 0600, as of now.

    One read transaction spans the whole of it: what the hub commits meanwhile waits for nothing,
    and is not in the copy.

    Raises:
        StoreError: there is no journal, it is damaged, or the copy cannot be written.
    """
    if not journal.is_file():
        raise StoreError(
            "there is no journal", where=str(journal), todo="look at store.path, or name --config"
        )
    try:
        if fault := inspect(journal):
            raise StoreError(f"damaged: {fault}", where=str(journal), todo="see docs/operations.md")
        files.make_private(copy)
        with closing(connect(journal, "ro")) as source, closing(connect(copy, "rw")) as target:
            source.execute("BEGIN")
            schema.version_of(source)
            source.backup(target, pages=PAGES, progress=_rest)
            # A file of its own: nothing of it is to be looked for in a log beside it.
            target.execute("PRAGMA journal_mode = DELETE")
        prove(copy)
    except (OSError, sqlite3.Error) as error:
        raise explain(error, copy) from error


def prove(path: Path) -> dict[str, Any]:
    """Read through a whole copy, indexes included; return its version and what is in it.

    Raises:
        StoreError: something in it is wrong, or it is newer than this hub.
    """
    try:
        with closing(connect(path, "ro")) as connection:
            if fault := schema.identify(connection, path):
                raise StoreError(f"is no sound journal: {fault}", where=str(path))
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise StoreError(f"is no sound journal: {verdict}", where=str(path))
            found = {
                name: int(connection.execute(query).fetchone()[0])
                for name, query in _COUNTS.items()
            }
            return {"schema": schema.version_of(connection), **found}
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _rest(_status: int, remaining: int, _total: int) -> None:
    if remaining:
        threading.Event().wait(_REST)
