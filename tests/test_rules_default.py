# SPDX-License-Identifier: Apache-2.0
"""The shipped rules do what FastNetMon's users know from MITIGATOR's integration, and no harm."""

from pathlib import Path

import pytest
from hypothesis import given, settings

from hub.attacks.model import Attack
from hub.intake.model import AttackType, Direction
from hub.rules.load import read_rules
from hub.rules.suite import read_suite
from hub.rules.testrun import SimulatorFactory, run_suite
from hub.rules.words import Known
from hub.simulator import CoreSimulator
from tests.support.rules import CONFIG, attack, attacks
from tests.support.rulesim import SmallHub

RULES = Path(__file__).parents[1] / "rules"
LOADED = read_rules([RULES / "default.yaml"], Known())


def kinds(seen: Attack) -> list[str]:
    """Return the countermeasures that the shipped rules begin."""
    decision = LOADED.rules.evaluate(seen, None)
    return [action.kind for chosen in decision.chosen for action in chosen.actions]


def test_default_when_loaded_then_no_warning() -> None:
    """The shipped rules are an example of how to write them."""
    assert LOADED.warnings == ()


@pytest.mark.parametrize("simulator", [SmallHub, CoreSimulator])
def test_default_when_its_tests_run_then_all_hold(simulator: SimulatorFactory) -> None:
    """The shipped tests pass, on the small hub of these tests and on the real core."""
    suite = read_suite(RULES / "default.test.yaml")
    assert run_suite(suite, LOADED.rules, CONFIG, simulator) == []


@settings(deadline=None)
@given(attacks)
def test_default_when_any_attack_then_the_integrations_scheme(seen: Attack) -> None:
    """SYN flood or TCP: tcp; ICMP: acl; else: sorb; and nothing at all when outgoing."""
    if seen.direction is Direction.OUTGOING:
        expected: list[str] = []
    elif seen.attack_type is AttackType.SYN_FLOOD or seen.protocol == "tcp":
        expected = ["tcp"]
    elif seen.attack_type is AttackType.ICMP_FLOOD or seen.protocol in {"icmp", "ipv6_icmp"}:
        expected = ["acl"]
    else:
        expected = ["sorb"]
    assert kinds(seen) == expected


def test_default_when_icmp_or_other_then_the_parameters_of_the_scheme() -> None:
    """ICMP is dropped whole; any source above 100 packets per second is blocked for 10 minutes."""
    icmp = attack(attack_type="icmp_flood", protocol="icmp")
    (chosen,) = LOADED.rules.evaluate(icmp, None).chosen
    assert chosen.to_json()["actions"][0]["rules"][0] | {"sources": []} == {
        "action": "drop",
        "protocol": "icmp",
        "sources": [],
        "source_ports": [],
        "destination_ports": [],
        "fragments": None,
        "length": None,
        "flags": None,
        "icmp_types": [],
        "pps": None,
    }
    udp = attack(attack_type="udp_flood", protocol="udp")
    (chosen,) = LOADED.rules.evaluate(udp, None).chosen
    sorb = {"kind": "sorb", "pps": 100, "bps": None, "block": 600.0}
    assert chosen.to_json()["actions"] == [sorb]
    assert (chosen.ttl, chosen.linger) == (3600.0, 30.0)
