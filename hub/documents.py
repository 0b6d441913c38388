# SPDX-License-Identifier: Apache-2.0
"""The journal's JSON documents: attacks, mitigations and what the core remembers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import TypeAdapter

from hub.attacks.model import Attack, AttackState
from hub.drills.model import Drill, Result
from hub.effects import Effects
from hub.fields import STORED
from hub.mitigations.ledger import LIVE
from hub.mitigations.model import Mitigation
from hub.store.records import Batch, Row

T = TypeVar("T")

_ATTACK: TypeAdapter[Attack] = TypeAdapter(Attack)
_MITIGATION: TypeAdapter[Mitigation] = TypeAdapter(Mitigation)


@dataclass(frozen=True, slots=True)
class Switch:
    """A brake that an operator has put on.

    Attributes:
        since: Unix seconds.
    """

    since: float
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Arming:
    """What an operator last said of dry-run: armed, or not.

    Attributes:
        since: Unix seconds.
        drill: id of the drill that it rests on; empty when disarmed.
    """

    armed: bool
    since: float
    actor: str
    reason: str
    drill: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """What must survive a restart besides attacks and mitigations.

    Attributes:
        frozen: no new mitigations, if set.
        draining: everything is being released, if set.
        hold_offs: mitigation keys an operator released, and until when they stay released.
        orphans: ids found in force after the journal was lost, left alone until they end.
        arming: what an operator last said of dry-run, None if nobody has.
        drill: the drill that is under way.
        drilled: how the newest drill went.
        passed: the newest that passed.
    """

    frozen: Switch | None = None
    draining: Switch | None = None
    hold_offs: dict[str, float] = field(default_factory=dict)
    orphans: tuple[str, ...] = ()
    arming: Arming | None = None
    drill: Drill | None = None
    drilled: Result | None = None
    passed: Result | None = None


MEMORY_KEY = "memory"
CLOCK_KEY = "clock"
ADOPTED = "adopted:"
"""Settings `adopted:ENGINE`: this journal knows what was in force by that engine before it."""
RESTORED_KEY = "restored"
"""Is set while a journal that was put back from a backup has not been compared with engines."""
_MEMORY: TypeAdapter[Memory] = TypeAdapter(Memory)


def attack_row(attack: Attack) -> Row:
    """Return the journal's row for `attack`."""
    doc = _ATTACK.dump_json(attack).decode()
    return Row(attack.id, attack.state is not AttackState.ENDED, attack.updated_at, doc)


def mitigation_row(mitigation: Mitigation, now: float) -> Row:
    """Return the journal's row for `mitigation`."""
    doc = _MITIGATION.dump_json(mitigation).decode()
    return Row(mitigation.id, mitigation.state in LIVE, now, doc)


def read_attack(row: Row) -> Attack:
    """Return the attack of a journal row."""
    return _ATTACK.validate_json(row.doc, context=STORED)


def read_mitigation(row: Row) -> Mitigation:
    """Return the mitigation of a journal row."""
    return _MITIGATION.validate_json(row.doc, context=STORED)


def readable(rows: Iterable[Row], read: Callable[[Row], T]) -> tuple[list[T], list[str]]:
    """Return what can be read of `rows`, and the ids of those whose document is damaged."""
    found: list[T] = []
    lost: list[str] = []
    for row in rows:
        try:
            found.append(read(row))
        except ValueError:
            lost.append(row.id)
    return found, lost


def dump_memory(memory: Memory) -> str:
    """Return `memory` as the journal's setting."""
    return _MEMORY.dump_json(memory).decode()


def read_memory(text: str | None) -> Memory:
    """Return what the setting holds; nothing when it is not there."""
    return Memory() if text is None else _MEMORY.validate_json(text, context=STORED)


def batch_of(effects: Effects, now: float) -> Batch:
    """Return the one transaction that makes `effects` durable."""
    return Batch(
        events=tuple(effects.events),
        attacks=tuple(attack_row(attack) for attack in effects.attacks.values()),
        mitigations=tuple(mitigation_row(row, now) for row in effects.mitigations.values()),
        settings=effects.settings,
        audit=tuple(effects.audit),
    )
