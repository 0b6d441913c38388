# SPDX-License-Identifier: Apache-2.0
"""Statements that change the journal; each runs inside the writer's transaction."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from hub.store.records import Batch, Row

_APPEND: Final = """
    INSERT INTO events (delivery_id, detector, stamp, received_at, via, status, raw)
    VALUES (?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT (delivery_id) DO NOTHING
"""
_RESULT: Final = """
    UPDATE events SET status = ?, action = ?, target = ?, attack = ?, note = ? WHERE number = ?
"""
_AUDIT: Final = """
    INSERT INTO audit (at, kind, actor, event, attack, mitigation, doc)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_SET: Final = """
    INSERT INTO settings (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_OPEN: Final = "(SELECT id FROM attacks WHERE open = 1)"
_OLD_EVENTS: Final = f"""
    DELETE FROM events WHERE number IN (
        SELECT number FROM events INDEXED BY events_received_at
        WHERE received_at < ? AND status <> 'pending' AND attack NOT IN {_OPEN}
        ORDER BY received_at LIMIT ?)
"""  # noqa: S608 - put together from constants alone
_OLD_AUDIT: Final = f"""
    DELETE FROM audit WHERE seq IN (
        SELECT seq FROM audit INDEXED BY audit_at
        WHERE at < ? AND attack NOT IN {_OPEN}
            AND mitigation NOT IN (SELECT id FROM mitigations WHERE open = 1)
        ORDER BY at LIMIT ?)
"""  # noqa: S608
FREE_PAGES: Final = 4096
"""Free pages (16 MiB) that the file keeps for its next rows before it shrinks."""


def append(connection: sqlite3.Connection, *values: str | float | bytes) -> tuple[int, bool]:
    """Add an event; return its number, and whether it is new.

    Args:
        connection: in a transaction.
        values: delivery id, detector, stamp, time of receipt, way in, raw bytes.
    """
    cursor = connection.execute(_APPEND, values)
    if cursor.rowcount == 1 and cursor.lastrowid is not None:
        return cursor.lastrowid, True
    query = "SELECT number FROM events WHERE delivery_id = ?"
    (number,) = connection.execute(query, values[:1]).fetchone()
    return number, False


def write_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Write all of `batch`, or nothing of it and raise; the transaction goes on either way."""
    connection.execute("SAVEPOINT batch")
    try:
        _write(connection, batch)
    except BaseException:
        # A full disk may have rolled everything back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK TO batch")
            connection.execute("RELEASE batch")
        raise
    connection.execute("RELEASE batch")


def prune_step(
    connection: sqlite3.Connection, events_before: float, audit_before: float, limit: int
) -> int:
    """Delete at most `limit` rows that are past their time; return how many."""
    steps: tuple[tuple[str, float], ...] = (
        (_OLD_EVENTS, events_before),
        (_OLD_AUDIT, audit_before),
        (_old_rows("attacks"), audit_before),
        (_old_rows("mitigations"), audit_before),
    )
    gone = 0
    for statement, before in steps:
        if gone < limit:
            gone += connection.execute(statement, (before, limit - gone)).rowcount
    return gone


def shrink_step(connection: sqlite3.Connection, pages: int) -> bool:
    """Give at most `pages` free pages back to the file system; tell whether more could go."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    spare = free - FREE_PAGES
    if spare > 0:
        connection.execute(f"PRAGMA incremental_vacuum({min(spare, pages):d})").fetchall()
    return bool(spare > pages)


def last_numbers(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the highest event and audit number ever given out."""
    rows = dict(connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    return rows.get("events", 0), rows.get("audit", 0)


def touch(connection: sqlite3.Connection) -> None:
    """Read one thing, so that the way to the file is known to be open."""
    connection.execute("PRAGMA schema_version").fetchone()


def _write(connection: sqlite3.Connection, batch: Batch) -> None:
    results = (
        (row.status, row.action, row.target, row.attack, row.note, row.number)
        for row in batch.events
    )
    connection.executemany(_RESULT, results)
    _put(connection, "attacks", batch.attacks)
    _put(connection, "mitigations", batch.mitigations)
    for name, value in batch.settings.items():
        if value is None:
            connection.execute("DELETE FROM settings WHERE name = ?", (name,))
        else:
            connection.execute(_SET, (name, value))
    audit = (
        (row.at, row.kind, row.actor, row.event, row.attack, row.mitigation, row.doc)
        for row in batch.audit
    )
    connection.executemany(_AUDIT, audit)


def _put(connection: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    statement = f"""
        INSERT INTO {table} (id, open, updated_at, doc) VALUES (?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE
        SET open = excluded.open, updated_at = excluded.updated_at, doc = excluded.doc
    """  # noqa: S608 - the table's name is ours
    values = ((row.id, int(row.open), row.updated_at, row.doc) for row in rows)
    connection.executemany(statement, values)


def _old_rows(table: str) -> str:
    return f"""
        DELETE FROM {table} WHERE number IN (
            SELECT number FROM {table} WHERE open = 0 AND updated_at < ?
            ORDER BY updated_at LIMIT ?)
    """  # noqa: S608 - the table's name is ours
