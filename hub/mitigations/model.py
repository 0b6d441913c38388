# SPDX-License-Identifier: Apache-2.0
"""One countermeasure on one target by one engine, with a lifetime: the ledger's row."""

from dataclasses import dataclass
from enum import StrEnum

from hub.config import Service
from hub.net import IPNetwork
from hub.rules.actions import Action


class MitigationState(StrEnum):
    """Where a mitigation is in its life; intents are `applying` and `releasing`."""

    APPLYING = "applying"
    ACTIVE = "active"
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, slots=True)
class Mitigation:
    """The ledger's row.

    Attributes:
        id: `m-` and ten characters; tags what the engine installs.
        target: the protected prefix.
        action: the countermeasure with its parameters.
        engine: name of the engine that carries it out.
        service: the service that covers the target, None where there is none.
        rule: name of the rule that asked for it, `manual` for an operator.
        attacks: ids of the attacks that hold it.
        created_at: Unix seconds.
        deadline: Unix seconds; past it nothing of it may be in force, whatever has died.
        ttl: the rule's, seconds; a renewal moves the deadline this far ahead.
        lease_until: the deadline that the engine last confirmed, Unix seconds.
        active_at: when the engine first said that it is in force, Unix seconds.
        reason: why it is being released or was: `attack ended`, `deadline`, `never_block`, ...
        revision: grows with each change; engines ignore older ones.
        error: why it failed, for the operator.
        delivery: of the event that it goes back to; empty where there is none on record.
        drill: id of the drill that it belongs to, empty for a real one.
    """

    id: str
    target: IPNetwork
    action: Action
    engine: str
    service: Service | None
    rule: str
    state: MitigationState
    created_at: float
    deadline: float
    ttl: float
    attacks: tuple[str, ...] = ()
    revision: int = 1
    error: str = ""
    lease_until: float = 0.0
    active_at: float | None = None
    released_at: float | None = None
    reason: str = ""
    delivery: str = ""
    drill: str = ""
