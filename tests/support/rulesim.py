# SPDX-License-Identifier: Apache-2.0
"""The smallest hub that rule tests can run against: rules for real, everything else in a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from hub.attacks.change import Sighting
from hub.attacks.model import Attack, AttackState, Holder
from hub.config import Config
from hub.intake.model import Action, Report
from hub.net import IPAddress, IPNetwork, covers, overlap
from hub.rates import Rates
from hub.rules.actions import Action as Countermeasure
from hub.rules.actions import Command, Notify
from hub.rules.ruleset import Chosen, RuleSet
from hub.rules.testrun import Effect


@dataclass(slots=True)
class _Open:
    """One attack and when protection ends after its last detector let go."""

    attack: Attack
    holders: set[str]
    linger: float = 0.0
    ends_at: float | None = None


@dataclass(slots=True)
class _Live:
    """One countermeasure in force."""

    effect: Effect
    deadline: float
    subject: str


@dataclass(slots=True)
class SmallHub:
    """Holders, tombstones, linger, lifetimes and the guards, each in its simplest form."""

    rules: RuleSet
    config: Config
    attacks: dict[str, _Open] = field(default_factory=dict)
    live: list[_Live] = field(default_factory=list)
    tombstones: dict[tuple[str, str], float] = field(default_factory=dict)

    def advance(self, now: float) -> Sequence[Effect]:
        """Take back what is over by `now`."""
        ended = {s for s, a in self.attacks.items() if a.ends_at is not None and a.ends_at <= now}
        over = [each for each in self.live if each.deadline <= now or each.subject in ended]
        self.live = [each for each in self.live if each not in over]
        for subject in ended:
            del self.attacks[subject]
        return [
            Effect("off", each.effect.kind, each.effect.target, each.effect.rule)
            for each in over
            if each.effect.kind != "notify"
        ]

    def feed(self, sighting: Sighting, now: float) -> Sequence[Effect]:
        """Take in one event."""
        report = sighting.report
        subject = str(report.target or report.hostgroup)
        stone = self.tombstones.get((sighting.detector, subject))
        if report.action is Action.UNBAN:
            self.tombstones[sighting.detector, subject] = sighting.stamp.time
            self._let_go(subject, sighting.detector, now)
            return []
        if stone is not None and sighting.stamp.time < stone:
            return []
        known = self.attacks.get(subject)
        if known is not None:
            known.holders.add(sighting.detector)
            return []
        attack = _attack(sighting, report, subject, now)
        self.attacks[subject] = _Open(attack, {sighting.detector})
        service = self.config.service_of(attack.targets[0])
        decision = self.rules.evaluate(attack, service.name if service else None)
        effects: list[Effect] = []
        for chosen in decision.chosen:
            self.attacks[subject].linger = max(self.attacks[subject].linger, chosen.linger)
            for action in chosen.actions:
                effects += [
                    self._begin(chosen, action, target, subject, now) for target in attack.targets
                ]
        return effects

    def measure(self, rates: Rates, target: IPAddress | None, now: float) -> Sequence[Effect]:
        """Ignore what the engine measures: this hub is not about that."""
        del rates, target, now
        return []

    def _let_go(self, subject: str, detector: str, now: float) -> None:
        known = self.attacks.get(subject)
        if known is not None:
            known.holders.discard(detector)
            if not known.holders:
                known.ends_at = now + known.linger

    def _begin(
        self, chosen: Chosen, action: Countermeasure, target: IPNetwork, subject: str, now: float
    ) -> Effect:
        guard = self._refusal(action, target)
        if guard:
            return Effect("refused", action.kind, target, chosen.rule, guard=guard)
        name = ""
        if isinstance(action, Notify):
            name = action.to
        elif isinstance(action, Command):
            name = action.run
        effect = Effect("on", action.kind, target, chosen.rule, name=name)
        if self.config.dry_run or chosen.dry_run:
            effect = replace(effect, what="would")
        self.live.append(_Live(effect, now + (chosen.ttl or 0), subject))
        return effect

    def _refusal(self, action: Countermeasure, target: IPNetwork) -> str:
        guard = self.config.guard
        least = guard.min_prefix_v4 if target.version == 4 else guard.min_prefix_v6
        if isinstance(action, Notify):
            return ""
        if not any(covers(prefix, target) for prefix in guard.own_prefixes):
            return "own_prefixes"
        if any(overlap(prefix, target) for prefix in guard.never_block):
            return "never_block"
        if target.prefixlen < least:
            return "width"
        return "cap" if len(self.live) >= guard.caps.total else ""


def _attack(sighting: Sighting, report: Report, subject: str, now: float) -> Attack:
    derived = report.derived
    total = report.counters["incoming"]["total"]
    return Attack(
        id=f"a-{sighting.number}",
        subject=subject,
        targets=report.networks if report.target is None else (ip_network(report.target),),
        direction=derived.direction,
        attack_type=derived.attack_type,
        protocol=derived.protocol,
        reported=report.reported,
        state=AttackState.ACTIVE,
        started_at=now,
        updated_at=now,
        ends_at=now + 3600,
        hostgroup=report.hostgroup,
        pps=total.pps or 0,
        bps=total.bps or 0,
        holders=(Holder(sighting.detector, "", None, sighting.stamp, sighting.stamp),),
    )
