# SPDX-License-Identifier: Apache-2.0
"""A rule goes on to more countermeasures when its first ones are not enough."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from hub.config import Config, Engines, NativeEngine
from hub.effects import Effects
from hub.mitigations.executor import Verb
from hub.pipeline import answers, operating
from hub.pipeline.events import resume, take_sighting, tick
from hub.pipeline.holding import measure
from hub.pipeline.state import State
from hub.rates import Rates
from hub.rules.load import load_rules
from hub.rules.words import known_of
from tests.support.core import HIDING, config, rule_set, sighting, state

NOW = 1_000_000.0
RULES = """
rules:
  - name: web
    when: {protocol: tcp}
    then: [tcp]
    ttl: 10m
    linger: 0s
    escalate:
      - after: 60s
        if: {engine: {hostile_pps: ">= 2M"}}
        then: [{sorb: {pps: 100}}]
      - after: 5m
        then: [{acl: {rules: [{action: drop, protocol: udp}]}}]
"""


def using(**changes: object) -> Config:
    """Return a configuration with the native engine."""
    native = Engines(native=NativeEngine(enabled=True))
    return config().model_copy(update={"engines": native, **changes})


@pytest.fixture
def core(tmp_path: Path) -> State:
    """A core that has begun to meet an attack."""
    made = state(rule_set(tmp_path, RULES, using()), using(), engines=HIDING)
    obey(made, take_sighting(made, sighting(at=NOW), NOW), NOW)
    return made


def obey(core: State, effects: Effects, now: float) -> Effects:
    """Do what is ordered."""
    for order in effects.orders:
        done = answers.applied if order.verb is Verb.APPLY else answers.released
        done(core, order, now)
    return effects


def second(core: State, now: float, hostile: int) -> Effects:
    """Let the engine measure and time pass up to `now`."""
    rows = [row.id for row in core.ledger]
    rates = {
        row: Rates(hostile_pps=hostile if not number else 0) for number, row in enumerate(rows)
    }
    obey(core, measure(core, "native", rates, now), now)
    return obey(core, tick(core, now), now)


def kinds(core: State) -> list[str]:
    """Return what is in force."""
    return [row.action.kind for row in core.ledger]


def test_step_when_its_time_and_its_condition_hold_then_it_is_taken_once(core: State) -> None:
    """Both must hold; taken once, it is not taken again; the record says what was seen."""
    second(core, NOW + 59, 3_000_000)
    second(core, NOW + 60, 1_999_999)
    assert kinds(core) == ["tcp"]
    effects = second(core, NOW + 61, 2_000_000)
    assert kinds(core) == ["tcp", "sorb"]
    (row,) = [row for row in effects.audit if row.kind == "rule.escalated"]
    assert "engine.hostile_pps >= 2M (seen 2000000)" in row.doc
    assert second(core, NOW + 62, 5_000_000).orders == []


def test_step_when_only_time_is_asked_for_then_no_measurement_is_needed(core: State) -> None:
    """`after` alone, as with an engine that measures nothing."""
    obey(core, tick(core, NOW + 299), NOW + 299)
    assert kinds(core) == ["tcp"]
    obey(core, tick(core, NOW + 300), NOW + 300)
    assert kinds(core) == ["tcp", "acl"]


def test_attack_when_it_ends_then_what_was_escalated_goes_as_well(core: State) -> None:
    """Escalated countermeasures live as long as the attack."""
    second(core, NOW + 61, 2_000_000)
    for at in range(62, 70):
        second(core, NOW + at, 0)
    gone = take_sighting(core, sighting("unban", at=NOW + 70, number=2), NOW + 70)
    obey(core, gone, NOW + 70)
    assert kinds(core) == []
    assert second(core, NOW + 400, 9_000_000).orders == []


def test_attack_when_reported_again_then_what_was_escalated_is_renewed(core: State) -> None:
    """Its deadline moves with that of the rest."""
    second(core, NOW + 61, 2_000_000)
    again = sighting("attack_details", at=NOW + 400, number=2)
    obey(core, take_sighting(core, again, NOW + 400), NOW + 400)
    assert [row.deadline for row in core.ledger] == [NOW + 1000] * 2


def test_attack_when_it_lingers_then_nothing_is_escalated(tmp_path: Path) -> None:
    """What is over needs nothing more."""
    text = RULES.replace("linger: 0s", "linger: 9m")
    made = state(rule_set(tmp_path, text, using()), using(), engines=HIDING)
    obey(made, take_sighting(made, sighting(at=NOW), NOW), NOW)
    for at in range(1, 8):
        second(made, NOW + at, 0)
    obey(made, take_sighting(made, sighting("unban", at=NOW + 8, number=2), NOW + 8), NOW + 8)
    obey(made, tick(made, NOW + 400), NOW + 400)
    assert kinds(made) == ["tcp"]


def test_step_when_a_guard_refuses_then_it_is_taken_when_the_guard_lets_go(core: State) -> None:
    """Frozen at that moment: refused once in the log, and taken after `unfreeze`."""
    obey(core, operating.freeze(core, "op", "", NOW + 60), NOW + 60)
    first = second(core, NOW + 61, 2_000_000)
    assert [line.event for line in first.lines].count("mitigation.refused") == 1
    assert second(core, NOW + 62, 2_000_000).audit == []
    assert kinds(core) == ["tcp"]
    obey(core, operating.unfreeze(core, "op", "", NOW + 63), NOW + 63)
    second(core, NOW + 64, 2_000_000)
    assert kinds(core) == ["tcp", "sorb"]


def test_rules_when_reloaded_without_the_step_then_it_is_not_taken(
    core: State, tmp_path: Path
) -> None:
    """The rules in force decide."""
    plain = rule_set(tmp_path, RULES.partition("    escalate")[0], using())
    effects = operating.adopt(core, using(), plain, "op", NOW + 10)
    operating.redecide(core, "op", NOW + 10, effects)
    obey(core, effects, NOW + 10)
    second(core, NOW + 400, 9_000_000)
    assert kinds(core) == ["tcp"]


def test_attack_when_held_across_a_restart_then_it_still_escalates(core: State) -> None:
    """No detector reports it, as all of it is met: that is the usual case."""
    second(core, NOW + 1, 1_000_000)
    obey(core, take_sighting(core, sighting("unban", at=NOW + 2, number=2), NOW + 2), NOW + 2)
    made = state(core.rules, using(), attacks=core.tracker, rows=core.ledger, engines=HIDING)
    effects = resume(made, NOW + 3)
    operating.redecide(made, "hub", NOW + 3, effects, unasked=True)
    obey(made, effects, NOW + 3)
    for at in range(4, 62):
        second(made, NOW + at, 2_000_000)
    assert kinds(made) == ["tcp", "sorb"]


def test_rules_when_reloaded_while_the_attack_is_held_then_they_decide_anew(
    core: State, tmp_path: Path
) -> None:
    """An operator who adds a countermeasure in the middle of an attack gets it."""
    second(core, NOW + 1, 1_000_000)
    obey(core, take_sighting(core, sighting("unban", at=NOW + 2, number=2), NOW + 2), NOW + 2)
    more = rule_set(tmp_path, RULES.replace("then: [tcp]", "then: [tcp, sorb]"), using())
    effects = operating.adopt(core, using(), more, "op", NOW + 3)
    operating.redecide(core, "op", NOW + 3, effects)
    obey(core, effects, NOW + 3)
    assert kinds(core) == ["tcp", "sorb"]


def test_step_when_a_part_is_refused_for_long_then_the_rest_is_not_prolonged(
    tmp_path: Path,
) -> None:
    """P2: asking again for what is missing says nothing about what is there."""
    text = RULES.partition("    escalate")[0] + (
        "    escalate:\n"
        "      - after: 10s\n"
        "        then: [{sorb: {pps: 100}}, {acl: {rules: [{action: drop, protocol: udp}]}}]\n"
    )
    capped = using(guard=config(total=2).guard)
    made = state(rule_set(tmp_path, text, capped), capped, engines=HIDING)
    obey(made, take_sighting(made, sighting(at=NOW), NOW), NOW)
    for at in range(1, 1400):
        obey(made, tick(made, NOW + at), NOW + at)
    assert kinds(made) == []


def test_clause_when_a_rule_asks_what_the_engine_measures_then_the_next_report_decides(
    tmp_path: Path,
) -> None:
    """`engine` in `when` looks at the rates of what is in force already."""
    text = """
rules:
  - name: worse
    when: {protocol: tcp, engine: {hostile_pps: ">= 1M"}}
    then: [{sorb: {pps: 5}}]
    ttl: 10m
  - name: first
    when: {protocol: tcp}
    then: [tcp]
    ttl: 10m
"""
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    made = state(load_rules([path], known_of(using())), using(), engines=HIDING)
    obey(made, take_sighting(made, sighting(at=NOW), NOW), NOW)
    second(made, NOW + 1, 1_000_000)
    assert kinds(made) == ["tcp"]
    again = sighting("attack_details", at=NOW + 2, number=2)
    obey(made, take_sighting(made, again, NOW + 2), NOW + 2)
    assert kinds(made) == ["tcp", "sorb"]
    assert {str(row.target) for row in made.ledger} == {str(ip_network("192.0.2.10"))}
