# SPDX-License-Identifier: Apache-2.0
"""The tables of the journal, and the steps from each version of them to the next.

A version that has been released is never edited: a change is a new entry in `MIGRATIONS`. Its
statements are CREATE, DROP and ADD COLUMN: what SQLite keeps of these is the same in each of its
versions, and a file is compared with it when it is opened.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from hub.errors import StoreError

APPLICATION_ID: Final = 0x464E4D48
"""`FNMH` in the file's header, so that another program's database is never taken for ours."""

_PLAUSIBLE: Final = 100
"""Versions that a newer hub may be ahead; further away is damage."""
TABLES: Final = frozenset({"events", "attacks", "mitigations", "audit", "settings"})

# The blob stands last in its row: what comes before it is read without its overflow pages.
# AUTOINCREMENT keeps the number of a pruned row from being given out again: the audit names it.
_VERSION_1: Final = (
    """
    CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        delivery_id TEXT NOT NULL UNIQUE,
        detector TEXT NOT NULL,
        stamp REAL NOT NULL,
        received_at REAL NOT NULL,
        via TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('pending', 'done', 'not_understood')),
        action TEXT NOT NULL DEFAULT '',
        target TEXT NOT NULL DEFAULT '',
        attack TEXT NOT NULL DEFAULT '',
        note TEXT NOT NULL DEFAULT '',
        raw BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX events_pending ON events (number) WHERE status = 'pending'",
    "CREATE INDEX events_attack ON events (attack) WHERE attack <> ''",
    "CREATE INDEX events_received_at ON events (received_at)",
    """
    CREATE TABLE attacks (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        open INTEGER NOT NULL CHECK (open IN (0, 1)),
        updated_at REAL NOT NULL,
        doc TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX attacks_open ON attacks (number) WHERE open = 1",
    "CREATE INDEX attacks_updated_at ON attacks (updated_at)",
    """
    CREATE TABLE mitigations (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        open INTEGER NOT NULL CHECK (open IN (0, 1)),
        updated_at REAL NOT NULL,
        doc TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX mitigations_open ON mitigations (number) WHERE open = 1",
    "CREATE INDEX mitigations_updated_at ON mitigations (updated_at)",
    """
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        actor TEXT NOT NULL,
        event INTEGER,
        attack TEXT NOT NULL,
        mitigation TEXT NOT NULL,
        doc TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX audit_at ON audit (at)",
    "CREATE INDEX audit_event ON audit (event) WHERE event IS NOT NULL",
    "CREATE INDEX audit_attack ON audit (attack) WHERE attack <> ''",
    "CREATE INDEX audit_mitigation ON audit (mitigation) WHERE mitigation <> ''",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1,)
"""Statements that lead from version 0 to 1, from 1 to 2, and so on."""


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the tables, 0 for an empty file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def identify(connection: sqlite3.Connection, path: Path) -> str:
    """Return what is wrong with the file's marks, empty when it is a journal that we can use.

    Raises:
        StoreError: a newer fnm-hub wrote it, or another program.
        sqlite3.Error: it cannot be read.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    version = version_of(connection)
    found = _objects(connection)
    has_tables, marked = found.keys() >= TABLES, application == APPLICATION_ID
    if not has_tables and not marked:
        raise StoreError(
            "an SQLite database of another program",
            where=str(path),
            todo="set store.path to a file of its own; nothing was changed",
        )
    if not marked:
        return "the header's marks are overwritten"
    if not 1 <= version <= len(MIGRATIONS) + _PLAUSIBLE:
        return f"of version {version}, which nobody wrote"
    if version > len(MIGRATIONS):
        raise StoreError(
            f"written by a newer fnm-hub: version {version}, this one knows {len(MIGRATIONS)}",
            where=str(path),
            todo="run the newer fnm-hub, or put back the backup of before the upgrade; nothing was"
            " changed",
        )
    wrong = sorted(name for name, text in _wanted(version).items() if found.get(name) != text)
    return f"{wrong[0]} is missing, or not what we made" if wrong else ""


def _objects(connection: sqlite3.Connection) -> dict[str, str]:
    query = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    return {name: "".join(text.split()) for name, text in connection.execute(query)}


def _wanted(version: int) -> dict[str, str]:
    """Return what a sound file of `version` holds; an operator's own index may stand beside it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                connection.execute(statement)
        return _objects(connection)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to the newest version, each step whole or not at all.

    Raises:
        sqlite3.Error: a step failed; the file is at the version before that step.
    """
    for version in range(version_of(connection), len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1:d}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
