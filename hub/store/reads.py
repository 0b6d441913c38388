# SPDX-License-Identifier: Apache-2.0
"""Queries on the journal; each sees everything that was committed before it began."""

import json
import sqlite3
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final, Literal

from hub.net import IPNetwork, overlap
from hub.store.records import AuditRow, Row, StoredEvent

Table = Literal["attacks", "mitigations"]

_EVENT: Final = (
    "SELECT number, delivery_id, detector, stamp, received_at, via, raw,"
    " status, action, target, attack, note FROM events"
)
_AUDIT: Final = "SELECT at, kind, actor, event, attack, mitigation, doc, seq FROM audit"
_NEWEST: Final = 2**63 - 1
LOOKED_THROUGH: Final = 20_000
"""Newest rows that are looked through for an address, which no index knows."""
_NUMBERED: Final = {
    "events": "number",
    "attacks": "number",
    "mitigations": "number",
    "audit": "seq",
}


def pending_events(connection: sqlite3.Connection, limit: int, after: int) -> list[StoredEvent]:
    """Return pending events with numbers above `after`, oldest first."""
    query = f"{_EVENT} WHERE status = 'pending' AND number > ? ORDER BY number LIMIT ?"
    return [StoredEvent(*row) for row in connection.execute(query, (after, limit))]


def events(
    connection: sqlite3.Connection, before: int | None, limit: int, attack: str | None
) -> list[StoredEvent]:
    """Return events with numbers below `before`, newest first, of one attack if one is named."""
    # `attack <> ''` is what lets SQLite use the partial index.
    of_attack = "" if attack is None else "attack = ? AND attack <> '' AND"
    query = f"{_EVENT} WHERE {of_attack} number < ? ORDER BY number DESC LIMIT ?"
    values = [*([] if attack is None else [attack]), _NEWEST if before is None else before, limit]
    return [StoredEvent(*row) for row in connection.execute(query, values)]


def event(connection: sqlite3.Connection, number: int) -> StoredEvent | None:
    """Return one event."""
    row = connection.execute(f"{_EVENT} WHERE number = ?", (number,)).fetchone()
    return None if row is None else StoredEvent(*row)


def open_rows(connection: sqlite3.Connection, table: Table) -> list[Row]:
    """Return every open row in the order in which they were made."""
    return _rows(connection, table, "WHERE open = 1 ORDER BY number")


def newest_rows(connection: sqlite3.Connection, table: Table, limit: int) -> list[Row]:
    """Return rows, open or not, the one that changed last first."""
    return _rows(connection, table, "ORDER BY updated_at DESC, number DESC LIMIT ?", limit)


def row(connection: sqlite3.Connection, table: Table, name: str) -> Row | None:
    """Return the row of the attack or mitigation whose id is `name`."""
    return next(iter(_rows(connection, table, "WHERE id = ?", name)), None)


def attacks_on(connection: sqlite3.Connection, target: IPNetwork, limit: int) -> list[Row]:
    """Return the newest `limit` attacks on what shares an address with `target`."""
    found: list[Row] = []
    for one in newest_rows(connection, "attacks", LOOKED_THROUGH):
        if len(found) == limit:
            break
        if _touches(json.loads(one.doc).get("targets", ()), target):
            found.append(one)
    return found


def events_on(connection: sqlite3.Connection, target: IPNetwork, limit: int) -> list[StoredEvent]:
    """Return the newest `limit` events on what shares an address with `target`."""
    query = "SELECT number, target FROM events ORDER BY number DESC LIMIT ?"
    numbers: list[int] = []
    for number, text in connection.execute(query, (LOOKED_THROUGH,)):
        if len(numbers) == limit:
            break
        if text and _touches((text,), target):
            numbers.append(number)
    found = (event(connection, number) for number in numbers)
    return [one for one in found if one is not None]


def _touches(texts: Iterable[str], target: IPNetwork) -> bool:
    return any(overlap(one, target) for one in map(_network, texts) if one is not None)


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text)
    except ValueError:  # a host group's name
        return None


def settings(connection: sqlite3.Connection) -> dict[str, str]:
    """Return every setting."""
    return dict(connection.execute("SELECT name, value FROM settings ORDER BY name").fetchall())


def spans(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the span of numbers of each table that grows: its rows, and gaps of pruned ones."""
    found = {}
    for table, column in _NUMBERED.items():
        span = f"(SELECT max({column}) FROM {table}) - (SELECT min({column}) FROM {table}) + 1"  # noqa: S608 - names are ours
        found[table] = int(connection.execute(f"SELECT coalesce({span}, 0)").fetchone()[0])
    return found


def audit(
    connection: sqlite3.Connection,
    event_number: int | None,
    attack: str | None,
    mitigation: str | None,
    limit: int,
) -> list[AuditRow]:
    """Return the newest `limit` audit rows that match everything given, newest last."""
    wanted = {"event": event_number, "attack": attack, "mitigation": mitigation}
    given = {name: value for name, value in wanted.items() if value is not None}
    clauses = [f"{name} = ? AND {name} {_NOT_EMPTY[name]}" for name in given] or ["true"]
    query = f"{_AUDIT} WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?"
    found = connection.execute(query, [*given.values(), limit]).fetchall()
    return [AuditRow(*row) for row in reversed(found)]


_NOT_EMPTY: Final = {"event": "IS NOT NULL", "attack": "<> ''", "mitigation": "<> ''"}


def _rows(connection: sqlite3.Connection, table: Table, tail: str, *values: str | int) -> list[Row]:
    query = f"SELECT id, open, updated_at, doc FROM {table} {tail}"  # noqa: S608 - names are ours
    found = connection.execute(query, values)
    return [Row(name, bool(is_open), at, doc) for name, is_open, at, doc in found]
