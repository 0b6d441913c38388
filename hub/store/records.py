# SPDX-License-Identifier: Apache-2.0
"""What the journal keeps: rows as they go in and come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as it was accepted, and what became of it.

    Attributes:
        number: its place in the journal; grows, never used twice in one file.
        delivery_id: the sender's name for this delivery; the same one comes in only once.
        detector: name of the FastNetMon instance.
        stamp: when the sender took it, Unix seconds by the sender's clock.
        received_at: when we took it, Unix seconds by our clock.
        via: the way in (`unix`, `tcp`, `webhook`, `spool`).
        raw: the bytes as they came.
        status: `pending`, `done` or `not_understood`.
        action: what it asked for (`ban`, ...), empty while pending.
        target: the attacked prefix or host group, empty while pending.
        attack: id of the attack that it was folded into, empty where there is none.
        note: for the operator, such as why it was not understood.
    """

    number: int
    delivery_id: str
    detector: str
    stamp: float
    received_at: float
    via: str
    raw: bytes = field(repr=False)
    status: str
    action: str
    target: str
    attack: str
    note: str


@dataclass(frozen=True, slots=True)
class EventResult:
    """What became of the event `number`; the fields are those of `StoredEvent`."""

    number: int
    status: str
    action: str = ""
    target: str = ""
    attack: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """An attack or a mitigation.

    Attributes:
        id: its id, which names the row: writing it again replaces the row.
        open: it is still to be dealt with after a restart, and is never pruned.
        updated_at: when it changed last, Unix seconds.
        doc: the whole of it as JSON text.
    """

    id: str
    open: bool
    updated_at: float
    doc: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that was done or decided, by whom, and the ids that join it to the rest.

    Attributes:
        at: Unix seconds.
        kind: a stable name of what happened.
        actor: the rule, the operator or the part of the hub that did it.
        event: journal number of the event behind it, None where there is none.
        attack: id of the attack, empty where there is none.
        mitigation: id of the mitigation, empty where there is none.
        doc: the details as JSON text.
        seq: its place in the audit record; given by the journal, ignored when written.
    """

    at: float
    kind: str
    actor: str
    event: int | None
    attack: str
    mitigation: str
    doc: str
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What has to become durable together, or not at all.

    Attributes:
        events: results of events that are in the journal already.
        attacks: rows to put in place of the older ones.
        mitigations: rows to put in place of the older ones.
        settings: values by name; None takes the name out.
        audit: rows to add.
    """

    events: tuple[EventResult, ...] = ()
    attacks: tuple[Row, ...] = ()
    mitigations: tuple[Row, ...] = ()
    settings: Mapping[str, str | None] = field(default_factory=dict)
    audit: tuple[AuditRow, ...] = ()
