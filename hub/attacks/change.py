# SPDX-License-Identifier: Apache-2.0
"""What goes into the tracker and what comes out: sightings and changes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hub.attacks.model import Attack
from hub.intake.model import Report, Stamp


class Outcome(StrEnum):
    """What an event or the passing of time did to an attack."""

    BEGAN = "began"
    RETURNED = "returned"
    CHANGED = "changed"
    REFRESHED = "refreshed"
    HOLDER_LEFT = "holder_left"
    ENDING = "ending"
    ENDED = "ended"
    CANCELLED = "cancelled"
    STALE = "stale"
    REFUSED = "refused"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One understood event as the tracker sees it.

    Attributes:
        number: the event's number in the journal.
        detector: who sent it.
        stamp: when the sender took it up.
        delivery: the sender's name for this delivery, by which its way can be followed.
        received_at: when we took it, Unix seconds by our clock; None where nobody knows.
        drill: id of the drill whose mark it bears, empty for a real one.
    """

    number: int
    detector: str
    stamp: Stamp
    report: Report
    delivery: str = ""
    received_at: float | None = None
    drill: str = ""

    @property
    def origin(self) -> dict[str, Any]:
        """Return where it comes from, for the audit record."""
        return {
            "delivery": self.delivery,
            "detector": self.detector,
            "stamp": self.stamp.time,
            "received_at": self.received_at,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """What happened, in words that stand in the log and the audit record.

    Attributes:
        also: what the same event did to other attacks on the same target.
    """

    outcome: Outcome
    attack: Attack | None
    why: str
    also: tuple["Change", ...] = ()


@dataclass(frozen=True, slots=True)
class Tombstone:
    """An `unban` that is remembered because its `ban` may arrive after it.

    Attributes:
        stamp: the unban's; what is older than it is cancelled.
        made_at: when it was remembered, Unix seconds of the hub.
    """

    detector: str
    subject: str
    key: str
    stamp: Stamp
    made_at: float
