# SPDX-License-Identifier: Apache-2.0
"""Rules from text, attacks from a few words, and strategies for both."""

from ipaddress import ip_network
from pathlib import Path

from hypothesis import strategies as st

from hub.attacks.model import Attack, AttackState, Holder
from hub.config import Config, Guard
from hub.intake.model import AttackType, Direction, Reported, Stamp
from hub.rules.load import read_rules
from hub.rules.ruleset import RuleSet
from hub.rules.words import Known

CONFIG = Config(
    guard=Guard(own_prefixes=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))),
)
KNOWN = Known(
    services=frozenset({"web", "dns"}),
    notify=frozenset({"oncall", "script"}),
    commands=frozenset({"script"}),
)


def load_text(folder: Path, text: str, known: Known = KNOWN) -> RuleSet:
    """Return the rules that `text` describes, through a file `a.yaml` in `folder`."""
    path = folder / "a.yaml"
    path.write_text(text)
    return read_rules([path], known).rules


def attack(
    *,
    targets: tuple[str, ...] = ("192.0.2.10/32",),
    direction: str = "incoming",
    attack_type: str = "syn_flood",
    protocol: str = "tcp",
    pps: int = 100_000,
    bps: int = 1_000_000,
    hostgroup: str | None = None,
    detectors: tuple[str, ...] = ("fnm1",),
    episodes: int = 1,
    reported: Reported | None = None,
) -> Attack:
    """Return an attack that is going on."""
    stamp = Stamp(1.0)
    return Attack(
        id="a-0123456789",
        subject="host:192.0.2.10",
        targets=tuple(ip_network(target) for target in targets),
        direction=Direction(direction),
        attack_type=AttackType(attack_type),
        protocol=protocol,
        reported=reported or Reported(direction, attack_type, protocol, pps),
        state=AttackState.ACTIVE,
        started_at=1.0,
        updated_at=1.0,
        ends_at=3601.0,
        hostgroup=hostgroup,
        pps=pps,
        bps=bps,
        holders=tuple(Holder(name, "", direction, stamp, stamp) for name in detectors),
        episodes=episodes,
    )


DIRECTIONS = [each.value for each in Direction]
TYPES = [each.value for each in AttackType]
PROTOCOLS = ["tcp", "udp", "icmp", "gre", "unknown"]
PREFIXES = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.10/32", "2001:db8::/32", "0.0.0.0/0", "::/0"]
TARGETS = ["192.0.2.10/32", "192.0.2.200/32", "198.51.100.1/32", "2001:db8::1/128"]
AMOUNTS = [0, 1, 5, 10, 11, 20]
SERVICES = ["web", "dns", None]

attacks: st.SearchStrategy[Attack] = st.builds(
    attack,
    targets=st.lists(st.sampled_from(TARGETS), max_size=2, unique=True).map(tuple),
    direction=st.sampled_from(DIRECTIONS),
    attack_type=st.sampled_from(TYPES),
    protocol=st.sampled_from(PROTOCOLS),
    pps=st.sampled_from(AMOUNTS),
    bps=st.sampled_from(AMOUNTS),
    hostgroup=st.sampled_from([None, "g1", "g2"]),
    detectors=st.lists(st.sampled_from(["fnm1", "fnm2"]), max_size=2, unique=True).map(tuple),
    episodes=st.sampled_from([1, 2, 3]),
    reported=st.builds(
        Reported,
        direction=st.sampled_from([None, "incoming", "Outgoing"]),
        attack_type=st.sampled_from([None, "syn_flood"]),
        protocol=st.sampled_from([None, "tcp"]),
        pps=st.none(),
    ),
)


def _some(values: list[str]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.sampled_from(values), st.lists(st.sampled_from(values), min_size=1, max_size=3)
    )


def _comparison() -> st.SearchStrategy[str]:
    part = st.builds(
        lambda sign, number: f"{sign} {number}",
        st.sampled_from([">=", ">", "<=", "<", "=="]),
        st.sampled_from(AMOUNTS),
    )
    return st.lists(part, min_size=1, max_size=2).map(", ".join)


_clauses = st.fixed_dictionaries(
    {},
    optional={
        "direction": _some(DIRECTIONS),
        "attack_type": _some(TYPES),
        "protocol": _some(PROTOCOLS),
        "service": _some(["web", "dns"]),
        "scope": _some(["host", "hostgroup"]),
        "hostgroup": _some(["g1", "g2"]),
        "target": _some(PREFIXES),
        "family": st.sampled_from([4, 6]),
        "pps": _comparison(),
        "bps": _comparison(),
        "episodes": _comparison(),
        "detector": _some(["fnm1", "fnm2"]),
        "reported": st.fixed_dictionaries(
            {"direction": _some(["incoming", "outgoing"])},
            optional={"protocol": _some(["tcp", "udp"])},
        ),
    },
)


def _deeper(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    groups = st.lists(inner, min_size=1, max_size=2)
    return st.builds(
        lambda plain, more: {**plain, **more},
        _clauses,
        st.fixed_dictionaries({}, optional={"any": groups, "all": groups, "not": inner}),
    )


whens: st.SearchStrategy[object] = st.recursive(
    st.one_of(_clauses, st.just("always")), _deeper, max_leaves=6
)
"""Conditions as they stand in a file; a few never hold or say nothing, which loading refuses."""
