# SPDX-License-Identifier: Apache-2.0
"""What the core knows: one object that every stage works on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.attacks.tracker import Tracker
from hub.config import Config
from hub.documents import MEMORY_KEY, Memory, dump_memory
from hub.effects import Effects
from hub.mitigations.engine import Capabilities
from hub.mitigations.ledger import Ledger
from hub.rules.ruleset import RuleSet


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

    def remember(self, memory: Memory, effects: Effects) -> None:
        """Replace what survives a restart."""
        self.memory = memory
        effects.settings[MEMORY_KEY] = dump_memory(memory)

    def lasting(self, engine: str) -> bool:
        """Tell whether an engine does something to traffic; unknown engines count as such."""
        capabilities = self.engines.get(engine)
        return capabilities is None or capabilities.lasting
