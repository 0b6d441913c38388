# SPDX-License-Identifier: Apache-2.0
"""What an attack is."""

from dataclasses import dataclass
from enum import StrEnum

from hub.intake.model import AttackType, Direction, Reported, Stamp
from hub.net import IPNetwork


class AttackState(StrEnum):
    """Where an attack is in its life."""

    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Holder:
    """One detector's word that the attack goes on.

    Attributes:
        detector: name of the FastNetMon instance.
        key: its id of the attack or of the flow spec rule; empty for Community, which has none.
        direction: the direction it reported.
        since: stamp of the event that began it.
        stamp: stamp of its newest event.
    """

    detector: str
    key: str
    direction: str | None
    since: Stamp
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Attack:
    """What one or more events say is happening to one target in one direction.

    Attributes:
        id: `a-` and ten characters; in every log line and row that concerns the attack.
        subject: what is attacked, `host:ADDRESS` or `group:NAME`.
        targets: one host prefix, or a host group's networks.
        hostgroup: name of the attacked host group, None for a host.
        ends_at: ACTIVE: when it counts as over unless something arrives; ENDING: when the
            linger is over. Unix seconds.
        pps: highest packet rate any event showed, packets per second.
        bps: highest bit rate any event showed, bits per second.
        linger: how long protection stays after the last holder left, seconds.
        holders: who says that it goes on; empty from `ending` on.
        episodes: how often it began within the flap window, 1 at first.
        events: journal numbers of the newest events, newest last, at most 32.
        end_reason: why it ended: `unban`, `lifetime`, `operator` or `restored`.
        held: why it does not end although no detector reports it any more; empty when it does.
        delivery: of the event that began it; empty where a release did not keep it.
        drill: id of the drill that it is, empty for a real one.
    """

    id: str
    subject: str
    targets: tuple[IPNetwork, ...]
    direction: Direction
    attack_type: AttackType
    protocol: str
    reported: Reported
    state: AttackState
    started_at: float
    updated_at: float
    ends_at: float
    hostgroup: str | None = None
    ended_at: float | None = None
    pps: int = 0
    bps: int = 0
    linger: float = 0.0
    holders: tuple[Holder, ...] = ()
    episodes: int = 1
    events: tuple[int, ...] = ()
    end_reason: str = ""
    held: str = ""
    delivery: str = ""
    drill: str = ""

    @property
    def goes_on(self) -> bool:
        """Tell whether a detector reports it, or it is held although none does."""
        return bool(self.holders or self.held)
