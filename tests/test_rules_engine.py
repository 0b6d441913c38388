# SPDX-License-Identifier: Apache-2.0
"""Rule tests in which the engine measures: escalation and holding, on the real core."""

from pathlib import Path

import pytest

from hub.config import Config, Engines, NativeEngine
from hub.errors import ConfigError, Problem
from hub.rules.load import read_rules
from hub.rules.suite import read_suite
from hub.rules.testrun import run_suite
from hub.rules.words import known_of
from hub.simulator import CoreSimulator
from tests.support.rules import CONFIG

NATIVE = CONFIG.model_copy(update={"engines": Engines(native=NativeEngine(enabled=True))})
RULES = """
rules:
  - name: web
    when: {protocol: tcp}
    then: [tcp]
    ttl: 10m
    linger: 10s
    escalate:
      - after: 60s
        if: {engine: {dropped_pps: ">= 2M"}}
        then: [{sorb: {pps: 100}}]
"""
BAN = "{action: ban, target: 192.0.2.10, protocol: tcp, direction: incoming, pps: 3M}"
UNBAN = "{action: unban, target: 192.0.2.10}"


def problems(folder: Path, steps: str, using: Config = NATIVE) -> list[Problem]:
    """Return what a test with these steps finds wrong."""
    (folder / "a.yaml").write_text(RULES)
    (folder / "a.test.yaml").write_text(f"tests:\n  - name: t\n    steps:\n{steps}")
    rules = read_rules([folder / "a.yaml"], known_of(NATIVE)).rules
    return run_suite(read_suite(folder / "a.test.yaml"), rules, using, CoreSimulator)


def test_steps_when_the_engine_measures_then_escalated_and_held(tmp_path: Path) -> None:
    """From the ban over a blind unban and an escalation to the real end."""
    steps = f"""
      - {{at: 0s, event: {BAN}, expect: [on: tcp]}}
      - {{at: 1s, engine: {{hostile_pps: 3M, dropped_pps: 1M}}, expect: []}}
      - {{at: 20s, event: {UNBAN}, expect: []}}
      - {{at: 70s, expect: []}}
      - {{at: 70s, engine: {{hostile_pps: 3M, dropped_pps: 3M}}, expect: [{{on: sorb, rule: web}}]}}
      - {{at: 25m, expect: []}}
      - {{at: 25m, engine: {{}}, expect: []}}
      - {{at: 25m14s, expect: []}}
      - {{at: 25m15s, expect: [off: tcp, off: sorb]}}
"""
    assert problems(tmp_path, steps) == []


def test_steps_when_one_target_is_measured_then_the_other_goes_its_way(tmp_path: Path) -> None:
    """`target` narrows a measurement to one attack."""
    other = BAN.replace("2.10", "2.11")
    steps = f"""
      - {{at: 0s, event: {BAN}, expect: [on: tcp]}}
      - {{at: 0s, event: {other}, expect: [on: tcp]}}
      - {{at: 0s, engine: {{target: 192.0.2.11, hostile_pps: 3M}}, expect: []}}
      - {{at: 30s, event: {UNBAN}, expect: []}}
      - {{at: 30s, event: {UNBAN.replace("2.10", "2.11")}, expect: []}}
      - {{at: 40s, expect: [{{off: tcp, target: 192.0.2.10}}]}}
      - {{at: 5m, expect: []}}
"""
    assert problems(tmp_path, steps) == []


def test_steps_when_nothing_is_measured_then_engines_hide_nothing(tmp_path: Path) -> None:
    """A test that is not about it need not know of it, whatever engine is enabled."""
    steps = f"""
      - {{at: 0s, event: {BAN}, expect: [on: tcp]}}
      - {{at: 2s, event: {UNBAN}, expect: []}}
      - {{at: 12s, expect: [off: tcp]}}
"""
    assert problems(tmp_path, steps) == []


def test_steps_when_no_enabled_engine_measures_then_the_step_is_a_mistake(tmp_path: Path) -> None:
    """A measurement that nothing could make would prove nothing."""
    steps = f"""
      - {{at: 0s, event: {BAN}, expect: [on: tcp]}}
      - {{at: 1s, engine: {{hostile_pps: 3M}}, expect: []}}
"""
    (problem,) = problems(tmp_path, steps, CONFIG)
    assert problem.what == "tests[0].steps[1].engine: no enabled engine measures"
    assert problem.line == 6


def test_steps_when_an_escalation_is_not_expected_then_it_is_shown(tmp_path: Path) -> None:
    """The check itself can fail."""
    steps = f"""
      - {{at: 0s, event: {BAN}, expect: [on: tcp]}}
      - {{at: 70s, engine: {{dropped_pps: 2M}}, expect: []}}
"""
    (problem,) = problems(tmp_path, steps)
    assert "also happened: {on: sorb" in problem.what


PORTS = ", ".join(map(str, range(1, 66)))
LONG = f"{{action: drop, source_ports: [{PORTS}], destination_ports: [1, 2]}}"


@pytest.mark.parametrize(
    ("step", "at", "what"),
    [
        ("sorb: {pps: 11M}", "sorb.pps", "11000000 packets/s; engine native takes 10000000"),
        ("sorb: {bps: 900}", "sorb.bps", "900 bit/s; engine native takes from 1000 to"),
        ("sorb: {bps: 401G}", "sorb.bps", "401000000000 bit/s; engine native takes from"),
        (
            "acl: {rules: [{action: limit, pps: 11M}]}",
            "acl.rules[0].pps",
            "11000000 packets/s; engine native takes 10000000",
        ),
        (
            f"acl: {{rules: [{LONG}]}}",
            "acl.rules",
            "130 lines once the lists in them are multiplied out; engine native takes 128",
        ),
    ],
)
def test_rule_when_native_would_refuse_it_then_a_mistake_before_any_attack(
    tmp_path: Path, step: str, at: str, what: str
) -> None:
    """In `then` and in `escalate`, unless another engine is named that takes it."""
    text = (
        "rules:\n  - name: a\n    when: {direction: incoming}\n    ttl: 5m\n"
        f"    then: [{{{step}}}]\n    escalate: [{{after: 1m, then: [{{{step}}}]}}]\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_rules([tmp_path / "r.yaml"], known_of(NATIVE))
    places = [f"rules[0].{place}then[0].{at}: " for place in ("", "escalate[0].")]
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == len(places)
    for place, problem in zip(places, said, strict=True):
        assert f"{place}{what}" in problem
    if "bps" not in step:
        assert read_rules([tmp_path / "r.yaml"], known_of(CONFIG)).rules.rules
