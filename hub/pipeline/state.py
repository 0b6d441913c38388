# SPDX-License-Identifier: Apache-2.0
"""What the core knows: one object that every stage works on."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from hub.attacks.model import Attack
from hub.attacks.tracker import Tracker
from hub.config import UNTIL_ARMED, Config
from hub.documents import MEMORY_KEY, Memory, dump_memory
from hub.drills.model import Course, Drill
from hub.effects import Effects
from hub.mitigations.engine import Capabilities
from hub.mitigations.ledger import Ledger
from hub.mitigations.model import Mitigation, MitigationState
from hub.net import IPNetwork
from hub.rates import NONE, Rates, total
from hub.rules.ruleset import Chosen, RuleSet

_IN_FORCE = (MitigationState.APPLYING, MitigationState.ACTIVE)


@dataclass(slots=True)
class Seen:
    """What engines see of an attack that they hide from its detector.

    Attributes:
        loud_at: when it last was above what counts as hostile, Unix seconds.
        known_at: when it was last measured.
        hostile: packets per second at that time.
        quiet: it has been below for long enough.
    """

    loud_at: float
    known_at: float
    hostile: int = 0
    quiet: bool = False


@dataclass(slots=True)
class Escalating:
    """A matching rule that may go on to more countermeasures.

    Attributes:
        fired: numbers of the steps that have been taken.
        begun: parts of steps that have been begun, by number of the step and key of the proposal.
    """

    chosen: Chosen
    service: str | None
    targets: tuple[IPNetwork, ...]
    fired: set[int] = field(default_factory=set)
    begun: set[tuple[int, str]] = field(default_factory=set)


@dataclass(slots=True)
class State:
    """Everything the decisions rest on.

    Attributes:
        config: services, guards and limits in force.
        rules: the rule set in force.
        engines: capabilities by engine name, in the order of preference.
        memory: brakes, hold-offs and orphans; survives a restart.
        told: refusals already logged, by attack, so that a repeated report does not repeat them.
        waiting: attacks of which a full cap or a hold-off refused something, oldest first.
        decided: how the newest decision went, by attack and service.
        near_caps: caps that the operator has been warned about.
        made: how many mitigations this run has begun.
        rates: newest measurement by engine and mitigation; what cannot be asked is not there.
        seen: what the measurements say, by attack.
        escalating: rules that may go on to more, by attack, and by service and rule.
        evaluating: is entered around each evaluation of the rules, by whoever measures it.
        course: what has been seen of the drill under way.
    """

    config: Config
    rules: RuleSet
    engines: Mapping[str, Capabilities]
    tracker: Tracker
    ledger: Ledger
    memory: Memory
    told: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    decided: dict[str, dict[str | None, object]] = field(default_factory=dict)
    near_caps: set[str] = field(default_factory=set)
    made: int = 0
    rates: dict[str, Mapping[str, Rates]] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    escalating: dict[str, dict[tuple[str | None, str], Escalating]] = field(default_factory=dict)
    evaluating: Callable[[], AbstractContextManager[object]] = nullcontext
    course: Course | None = None

    def __post_init__(self) -> None:
        """Let the tracker ask what only all parts together know."""
        self.tracker.unseen = self.unseen

    @property
    def dry_run(self) -> bool:
        """Tell whether nothing is applied: the configuration says so, or nobody has armed."""
        arming = self.memory.arming
        if self.config.dry_run == UNTIL_ARMED:
            return arming is None or not arming.armed
        return self.config.dry_run or (arming is not None and not arming.armed)

    def drill_of(self, attack: Attack) -> Drill | None:
        """Return the drill that an attack is, None for a real one."""
        drill = self.memory.drill
        return drill if drill is not None and attack.drill == drill.id else None

    def hiding(self, attack_id: str) -> list[Mitigation]:
        """Return what is in force and hides an attack from its detector."""
        rows = (self.ledger.get(one) for one in self.ledger.held_by(attack_id))
        return [row for row in rows if row is not None and self._hides(row)]

    def _hides(self, row: Mitigation) -> bool:
        if row.active_at is None or row.state not in _IN_FORCE:
            return False
        capabilities = self.engines.get(row.engine)
        return capabilities is not None and capabilities.hides_traffic

    def unseen(self, attack_id: str) -> bool:
        """Tell whether a detector cannot see an attack, and engines have not seen its end."""
        attack = self.tracker.get(attack_id)
        if attack is not None and attack.drill:
            return False  # there is no traffic that anybody could see
        seen = self.seen.get(attack_id)
        return not (seen is not None and seen.quiet) and bool(self.hiding(attack_id))

    def measured(self, attack_id: str) -> Rates:
        """Return what engines measure now of all countermeasures on an attack."""
        if not self.rates:
            return NONE
        rows = (self.ledger.get(one) for one in self.ledger.held_by(attack_id))
        found = (self.rates_of(row) for row in rows if row is not None)
        return total(one for one in found if one is not None)

    def rates_of(self, row: Mitigation) -> Rates | None:
        """Return what its engine measures of one mitigation, None where it does not."""
        return self.rates.get(row.engine, {}).get(row.id)

    def remember(self, memory: Memory, effects: Effects) -> None:
        """Replace what survives a restart."""
        self.memory = memory
        effects.settings[MEMORY_KEY] = dump_memory(memory)

    def lasting(self, engine: str) -> bool:
        """Tell whether an engine does something to traffic; unknown engines count as such."""
        capabilities = self.engines.get(engine)
        return capabilities is None or capabilities.lasting
