# SPDX-License-Identifier: Apache-2.0
"""A core with a configuration and rules of its own, and the events to feed it."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

from hub.attacks.change import Sighting
from hub.attacks.model import Attack
from hub.attacks.tracker import Tracker
from hub.config import Caps, Config, Guard, Service
from hub.documents import Memory
from hub.intake.model import (
    Action,
    AttackType,
    Derived,
    Direction,
    Report,
    Reported,
    Scope,
    Stamp,
)
from hub.mitigations.engine import Capabilities
from hub.mitigations.ledger import Ledger
from hub.mitigations.model import Mitigation
from hub.pipeline.state import State
from hub.rules.able import FEATURES, KINDS, NATIVE, NFTABLES
from hub.rules.load import load_rules
from hub.rules.ruleset import RuleSet
from hub.rules.words import known_of

ENGINES: Mapping[str, Capabilities] = {
    NFTABLES: Capabilities(KINDS, leases=True, hides_traffic=False, features=FEATURES[NFTABLES])
}
HIDING: Mapping[str, Capabilities] = {
    NATIVE: Capabilities(KINDS, leases=True, hides_traffic=True, features=FEATURES[NATIVE]),
    **ENGINES,
}

RULES = """
rules:
  - name: tcp
    when: {direction: [incoming, unknown], protocol: tcp}
    then: [tcp]
    ttl: 10m
    linger: 30s
  - name: rest
    when: {direction: [incoming, unknown]}
    then: [{sorb: {pps: 100, block: 10m}}]
    ttl: 10m
    linger: 30s
"""


def config(
    own: Iterable[str] = ("192.0.2.0/24", "2001:db8::/32"),
    never: Iterable[str] = (),
    total: int = 1000,
    services: tuple[Service, ...] = (),
    *,
    dry_run: bool = False,
) -> Config:
    """Return a configuration that enforces, with these guards."""
    guard = Guard(
        own_prefixes=tuple(ip_network(prefix) for prefix in own),
        never_block=tuple(ip_network(prefix) for prefix in never),
        caps=Caps(total=total),
    )
    return Config(dry_run=dry_run, guard=guard, services=services)


def rule_set(folder: Path, text: str = RULES, using: Config | None = None) -> RuleSet:
    """Return the rules in `text`."""
    path = folder / "rules.yaml"
    path.write_text(text)
    return load_rules([path], known_of(using or config()))


def state(
    rules: RuleSet,
    using: Config | None = None,
    *,
    attacks: Iterable[Attack] = (),
    rows: Iterable[Mitigation] = (),
    memory: Memory | None = None,
    engines: Mapping[str, Capabilities] = ENGINES,
) -> State:
    """Return a core as after a start."""
    settings = using or config()
    tracker = Tracker(settings.attacks, attacks)
    return State(settings, rules, engines, tracker, Ledger(rows), memory or Memory())


def sighting(
    action: str = "ban",
    target: str = "192.0.2.10",
    *,
    number: int = 1,
    detector: str = "fnm1",
    at: float = 1000.0,
    uuid: str | None = None,
    direction: str = "incoming",
    attack_type: str = "syn_flood",
    protocol: str = "tcp",
    pps: int = 1000,
) -> Sighting:
    """Return one understood event on a host."""
    evidence = Derived(Direction(direction), AttackType(attack_type), protocol)
    if action == "unban":
        evidence = Derived()
    report = Report(
        action=Action(action),
        scope=Scope.HOST,
        target=ip_address(target),
        dialect="community-b",
        attack_uuid=uuid,
        reported=Reported(direction=direction, pps=pps),
        derived=evidence,
    )
    return Sighting(number, detector, Stamp(at), report)
