# SPDX-License-Identifier: Apache-2.0
"""What rules decide about an attack, and the trace that explains it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.attacks.model import Attack
from hub.errors import ConfigError
from hub.intake.model import Reported
from hub.rules.ruleset import RuleSet
from tests.support.rules import SERVICES, attack, attacks, load_text, whens

SYN = attack()


def holds(folder: Path, when: str, seen: Attack = SYN, service: str | None = None) -> bool:
    """Tell whether a rule with this condition matches."""
    text = f"rules: [{{name: a, when: {when}, then: [tcp], ttl: 1m}}]"
    return load_text(folder, text).evaluate(seen, service).chosen != ()


@pytest.mark.parametrize(
    ("when", "seen", "service", "expected"),
    [
        ("always", SYN, None, True),
        ("{direction: incoming}", SYN, None, True),
        ("{direction: [outgoing, unknown]}", SYN, None, False),
        ("{attack_type: [udp_flood, syn_flood]}", SYN, None, True),
        ("{protocol: tcp}", SYN, None, True),
        ("{protocol: TCP}", SYN, None, True),
        ("{protocol: ipv6-icmp}", attack(protocol="ipv6_icmp"), None, True),
        ("{protocol: ipv6_icmp}", attack(protocol="IPv6-ICMP"), None, True),
        ("{service: web}", SYN, "web", True),
        ("{service: web}", SYN, "dns", False),
        ("{service: web}", SYN, None, False),
        ("{not: {service: [web, dns]}}", SYN, None, True),
        ("{scope: host}", SYN, None, True),
        ("{scope: hostgroup, hostgroup: g1}", attack(hostgroup="g1"), None, True),
        ("{hostgroup: g1}", SYN, None, False),
        ("{target: 192.0.2.0/24}", SYN, None, True),
        ("{target: 192.0.2.10}", SYN, None, True),
        ("{target: 192.0.2.0/29}", SYN, None, False),
        ("{target: 192.0.2.0/24}", attack(targets=("192.0.2.0/25", "203.0.113.0/24")), None, False),
        ("{target: [192.0.2.0/24, 198.51.100.0/24]}",
         attack(targets=("192.0.2.0/25", "198.51.100.0/24")), None, True),
        ("{target: 192.0.2.0/25}", attack(targets=("192.0.2.0/24",)), None, False),
        ("{target: 0.0.0.0/0}", attack(targets=("2001:db8::1/128",)), None, False),
        ("{target: '::/0'}", SYN, None, False),
        ("{target: 0.0.0.0/0}", attack(targets=()), None, False),
        ("{family: 4}", SYN, None, True),
        ("{family: 6}", attack(targets=("2001:db8::1/128",)), None, True),
        ("{family: [4, 6]}", attack(targets=("2001:db8::1/128", "192.0.2.1/32")), None, False),
        ("{pps: '>= 100k'}", SYN, None, True),
        ("{pps: '> 100k'}", SYN, None, False),
        ("{pps: '< 100k'}", SYN, None, False),
        ("{pps: '<= 0.1M'}", SYN, None, True),
        ("{pps: '== 100k'}", SYN, None, True),
        ("{pps: '>= 50k, < 1M'}", SYN, None, True),
        ("{bps: '> 1M'}", SYN, None, False),
        ("{episodes: '>= 2'}", attack(episodes=2), None, True),
        ("{detector: [fnm2, fnm1]}", attack(detectors=("fnm0", "fnm1")), None, True),
        ("{detector: fnm1}", attack(detectors=()), None, False),
        ("{reported: {direction: outgoing}}", SYN, None, False),
        ("{reported: {direction: other, protocol: TCP}}",
         attack(reported=Reported("OTHER", None, "tcp")), None, True),
        ("{not: {reported: {attack_type: syn_flood}}}", attack(reported=Reported()), None, True),
        ("{any: [{protocol: udp}, {pps: '> 1k', protocol: tcp}]}", SYN, None, True),
        ("{any: [{protocol: udp}, {pps: '< 1k', protocol: tcp}]}", SYN, None, False),
        ("{all: [{protocol: tcp}, {not: {any: [always]}}]}", SYN, None, False),
        ("{all: [{protocol: tcp}, {not: {not: always}}]}", SYN, None, True),
    ],
)  # fmt: skip
def test_when_evaluated_then_holds_as_documented(
    tmp_path: Path, when: str, seen: Attack, service: str | None, *, expected: bool
) -> None:
    """Each clause holds exactly when docs/rules.md says so."""
    assert holds(tmp_path, when, seen, service) is expected


def test_evaluate_when_several_match_then_the_first_decides_unless_it_passes_on(
    tmp_path: Path,
) -> None:
    """The first match ends the search; `continue` adds its actions and lets the search go on."""
    text = (
        "rules:\n"
        "  - {name: a, when: {protocol: tcp}, then: [notify: {to: oncall}], continue: true}\n"
        "  - {name: b, when: {protocol: udp}, then: [sorb], ttl: 1m}\n"
        "  - {name: c, when: {direction: incoming}, then: [tcp], ttl: 5m, linger: 7s,\n"
        "     dry_run: true, engine: nftables}\n"
        "  - {name: d, when: always, then: [sorb], ttl: 1m}\n"
    )
    rules = load_text(tmp_path, text)
    decision = rules.evaluate(SYN, None)
    assert [each.rule for each in decision.chosen] == ["a", "c"]
    assert [each.rule.name for each in decision.looked] == ["a", "b", "c"]
    last = decision.chosen[1]
    assert (last.ttl, last.linger, last.dry_run, last.engine) == (300.0, 7.0, True, "nftables")
    assert rules.evaluate(attack(direction="outgoing", protocol="gre"), None).chosen[0].rule == "d"


def test_evaluate_when_nothing_matches_then_nothing_is_chosen(tmp_path: Path) -> None:
    """No match is no action, and the trace still shows why."""
    decision = load_text(
        tmp_path, "rules: [{name: a, when: {protocol: udp}, then: [sorb], ttl: 1m}]"
    ).evaluate(SYN, None)
    assert decision.chosen == ()
    assert decision.to_json()["trace"][0]["matched"] is False
    assert RuleSet().evaluate(SYN, None).chosen == ()


def test_to_json_when_rendered_then_each_clause_with_value_seen_and_wanted(tmp_path: Path) -> None:
    """The trace names the rule, the first clause that failed, what was seen and what wanted."""
    text = (
        "rules:\n"
        "  - name: a\n"
        "    when: {direction: incoming, pps: '> 1M', protocol: udp}\n"
        "    then: [sorb]\n"
        "    ttl: 1m\n"
        "  - name: b\n"
        "    when: {any: [{protocol: udp}, {service: web, pps: '> 5'}], not: {family: 4}}\n"
        "    then: [sorb]\n"
        "    ttl: 1m\n"
        "  - {name: c, when: always, then: [sorb: {pps: 5}], ttl: 1m}\n"
        "  - {name: d, when: {pps: '> 5'}, then: [], continue: true}\n"
    )
    with pytest.raises(ConfigError):  # d is never reached; c passes on below
        load_text(tmp_path, text)
    rules = load_text(tmp_path, text.replace("[sorb: {pps: 5}]", "[tcp]").replace(
        "  - {name: d, when: {pps: '> 5'}, then: [], continue: true}\n", ""))  # fmt: skip
    shown = rules.evaluate(SYN, None).to_json()
    assert json.loads(json.dumps(shown)) == {
        "rules_version": rules.version,
        "attack": "a-0123456789",
        "chosen": [
            {
                "rule": "c",
                "actions": [{"kind": "tcp", "mode": "auto", "fallback": "splice"}],
                "ttl": 60.0,
                "linger": 30.0,
                "engine": None,
                "dry_run": False,
                "escalate": [],
            }
        ],
        "trace": [
            {
                "rule": "a",
                "place": f"{tmp_path}/a.yaml:2",
                "matched": False,
                "clauses": [
                    {"clause": "direction", "wanted": ["incoming"], "seen": "incoming",
                     "held": True},
                    {"clause": "protocol", "wanted": ["udp"], "seen": "tcp", "held": False,
                     "failed_first": True},
                ],
            },
            {
                "rule": "b",
                "place": f"{tmp_path}/a.yaml:6",
                "matched": False,
                "clauses": [
                    {
                        "clause": "any",
                        "wanted": "(protocol udp or service web and pps > 5)",
                        "seen": "protocol tcp, service none, pps 100000",
                        "held": False,
                        "failed_first": True,
                        "clauses": [
                            {"clause": "protocol", "wanted": ["udp"], "seen": "tcp",
                             "held": False},
                            {
                                "clause": "all",
                                "wanted": "service web and pps > 5",
                                "seen": "service none, pps 100000",
                                "held": False,
                                "clauses": [
                                    {"clause": "service", "wanted": ["web"], "seen": None,
                                     "held": False, "failed_first": True},
                                ],
                            },
                        ],
                    },
                ],
            },
            {
                "rule": "c",
                "place": f"{tmp_path}/a.yaml:10",
                "matched": True,
                "clauses": [{"clause": "always", "wanted": "any attack", "seen": "an attack",
                             "held": True}],
            },
        ],
        "not_looked_at": 0,
        "not_asked": [],
    }  # fmt: skip
    full = rules.evaluate(SYN, None).to_json(full=True)
    assert [each["clause"] for each in full["trace"][0]["clauses"]] == [
        "direction",
        "protocol",
        "pps",
    ]


def loaded(folder: Path, conditions: list[Any], *, passing: bool) -> RuleSet | None:
    """Return rules with these conditions; None where loading refuses them."""
    rules = [
        {"name": f"r{number}", "when": when, "then": [], "continue": passing}
        for number, when in enumerate(conditions)
    ]
    try:
        return load_text(folder, yaml.safe_dump({"rules": rules}))
    except ConfigError:
        return None


def holds_in(trace: dict[str, Any]) -> bool:
    """Recompute from the trace alone whether its clause holds."""
    inner = [holds_in(each) for each in trace.get("clauses", ())]
    outcomes = {"any": any(inner), "all": all(inner), "not": not all(inner)}
    outcome = outcomes.get(trace["clause"], trace["held"])
    assert outcome == trace["held"]
    return bool(outcome)


@settings(max_examples=150, deadline=None)
@given(
    conditions=st.lists(whens, min_size=1, max_size=4),
    seen=attacks,
    service=st.sampled_from(SERVICES),
    passing=st.booleans(),
)
def test_trace_when_any_rules_and_attack_then_it_agrees_with_the_outcome(
    conditions: list[Any],
    seen: Attack,
    service: str | None,
    tmp_path_factory: pytest.TempPathFactory,
    *,
    passing: bool,
) -> None:
    """Evaluating twice decides the same, and the trace alone proves each rule's outcome."""
    rules = loaded(tmp_path_factory.getbasetemp(), conditions, passing=passing)
    if rules is None:
        return
    decision = rules.evaluate(seen, service)
    shown = decision.to_json(full=True)
    assert rules.evaluate(seen, service).to_json(full=True) == shown
    for each, looked in zip(shown["trace"], decision.looked, strict=True):
        outcomes = [holds_in(clause) for clause in each["clauses"]]
        assert each["matched"] == all(outcomes)
        first = outcomes.index(False) if False in outcomes else -1
        assert looked.failed == first
        marked = [n for n, clause in enumerate(each["clauses"]) if clause.get("failed_first")]
        assert marked == ([first] if first >= 0 else [])
    matched = [each["rule"] for each in shown["trace"] if each["matched"]]
    assert [each["rule"] for each in shown["chosen"]] == matched
    assert passing or len(matched) <= 1
