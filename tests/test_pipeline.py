# SPDX-License-Identifier: Apache-2.0
"""The way of one event through the core, step by step."""

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from hub.config import Service
from hub.documents import (
    attack_row,
    mitigation_row,
    read_attack,
    read_memory,
    read_mitigation,
)
from hub.effects import Effects
from hub.errors import RefusedError
from hub.intake.envelope import Envelope
from hub.intake.model import Scope
from hub.mitigations.executor import Order, Verb
from hub.mitigations.model import MitigationState
from hub.pipeline import answers, operating
from hub.pipeline.events import resume, take_event, take_sighting, tick
from hub.pipeline.state import State
from hub.rules.ruleset import RuleSet
from tests.support.core import config, rule_set, sighting, state

NOW = 1_000_000.0


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """The two rules of the support module."""
    return rule_set(tmp_path)


def begin(core: State, now: float = NOW) -> Order:
    """Feed a ban and let the engine apply it; return the order."""
    effects = take_sighting(core, sighting(at=now), now)
    (order,) = effects.orders
    answers.applied(core, order, now + 0.01)
    return order


def names(effects: Effects) -> list[str]:
    """Return the log events in order."""
    return [line.event for line in effects.lines]


def test_ban_when_rule_matches_then_intent_order_and_reasons(rules: RuleSet) -> None:
    """One event gives one intent, one order, one line a change, and an audit record."""
    effects = take_sighting(state(rules), sighting(), NOW)
    assert [order.verb for order in effects.orders] == [Verb.APPLY]
    row = effects.orders[0].mitigation
    assert (str(row.target), row.action.kind, row.engine) == ("192.0.2.10/32", "tcp", "nftables")
    assert row.deadline == NOW + 600
    assert names(effects) == ["event.processed", "attack.began", "mitigation.applying"]
    kinds = [entry.kind for entry in effects.audit]
    assert kinds == ["attack.began", "decision", "mitigation.applying"]


def test_decision_when_recorded_then_shows_the_failing_clause(rules: RuleSet) -> None:
    """P8: the audit record alone says why each rule matched or did not."""
    udp = sighting(attack_type="udp_flood", protocol="udp")
    effects = take_sighting(state(rules), udp, NOW)
    (decision,) = [entry for entry in effects.audit if entry.kind == "decision"]
    document = json.loads(decision.doc)
    assert document["reason"] == "matched: rest"
    assert "protocol" in document["trace"][0]
    assert document["trace"][1] == "rest: matched"
    assert document["rules_version"] == rules.version


def test_ban_when_outgoing_then_nothing_is_done(rules: RuleSet) -> None:
    """A judgement of `outgoing` alone cuts nobody off."""
    effects = take_sighting(state(rules), sighting(direction="outgoing"), NOW)
    assert effects.orders == []


def test_ban_when_repeated_then_one_mitigation_and_no_second_order(rules: RuleSet) -> None:
    """P5 in the core: the same report again applies nothing twice."""
    core = state(rules)
    begin(core)
    again = take_sighting(core, sighting(at=NOW + 1, number=2), NOW + 1)
    assert again.orders == []
    assert len(core.ledger) == 1


def test_ban_when_repeated_much_later_then_lease_is_renewed(rules: RuleSet) -> None:
    """Fresh evidence moves the deadline, by a new order with a new revision."""
    core = state(rules)
    first = begin(core)
    again = take_sighting(core, sighting(at=NOW + 100, number=2), NOW + 100)
    (order,) = again.orders
    assert order.mitigation.id == first.mitigation.id
    assert order.mitigation.deadline == NOW + 700
    assert order.mitigation.revision > first.mitigation.revision


def test_unban_when_linger_is_over_then_released(rules: RuleSet) -> None:
    """Everything is off again after the end and the linger."""
    core = state(rules)
    order = begin(core)
    take_sighting(core, sighting("unban", at=NOW + 10, number=2), NOW + 10)
    assert tick(core, NOW + 39).orders == []
    effects = tick(core, NOW + 41)
    (release,) = effects.orders
    assert (release.verb, release.mitigation.id) == (Verb.RELEASE, order.mitigation.id)
    answers.released(core, release, NOW + 41)
    assert len(core.ledger) == 0
    assert len(core.tracker) == 0


def test_deadline_when_passed_then_released_though_attack_goes_on(rules: RuleSet) -> None:
    """P2 with the hub alive: past the deadline the release is ordered within a tick."""
    core = state(rules)
    begin(core)
    effects = tick(core, NOW + 600)
    assert [order.verb for order in effects.orders] == [Verb.RELEASE]
    assert [line.level for line in effects.lines] == ["warning"]


def test_release_when_attack_returns_meanwhile_then_taken_back(rules: RuleSet) -> None:
    """A release that has not happened yet is overtaken by the attack's return."""
    core = state(rules)
    begin(core)
    take_sighting(core, sighting("unban", at=NOW + 10, number=2), NOW + 10)
    (release,) = tick(core, NOW + 41).orders
    back = take_sighting(core, sighting(at=NOW + 42, number=3), NOW + 42)
    (apply,) = back.orders
    assert apply.mitigation.id == release.mitigation.id
    assert answers.released(core, release, NOW + 42).mitigations == {}
    answers.applied(core, apply, NOW + 42)
    (row,) = core.ledger
    assert row.state is MitigationState.ACTIVE


def test_ban_when_guard_forbids_then_refused_once_and_logged(rules: RuleSet) -> None:
    """A refusal is a logged decision; repeating the report does not repeat the line."""
    core = state(rules, config(never=["192.0.2.10/32"]))
    first = take_sighting(core, sighting(), NOW)
    again = take_sighting(core, sighting(at=1001, number=2), NOW + 1)
    assert first.orders == []
    assert names(first)[-1] == "mitigation.refused"
    assert "mitigation.refused" not in names(again)


def test_dry_run_when_on_then_planned_and_nothing_applied(rules: RuleSet) -> None:
    """Dry-run executes every check and the engine's own plan, and applies nothing."""
    core = state(rules, config(dry_run=True))
    effects = take_sighting(core, sighting(), NOW)
    (order,) = effects.orders
    assert (order.verb, order.mitigation.state) == (Verb.PLAN, MitigationState.DRY_RUN)
    planned = answers.planned(core, order, ["add element"], NOW)
    assert names(planned) == ["mitigation.would_apply"]
    take_sighting(core, sighting("unban", at=1010, number=2), NOW + 10)
    over = tick(core, NOW + 60)
    assert over.orders == []
    assert len(core.ledger) == 0


def test_dry_run_when_switched_off_then_open_attacks_are_protected(rules: RuleSet) -> None:
    """Leaving dry-run replaces what was only planned."""
    core = state(rules, config(dry_run=True))
    take_sighting(core, sighting(), NOW)
    operating.adopt(core, config(), rules, "op", NOW + 1)
    effects = Effects()
    operating.redecide(core, "op", NOW + 1, effects)
    assert [order.verb for order in effects.orders] == [Verb.APPLY]


def test_freeze_when_on_then_nothing_new_but_live_ones_stay(rules: RuleSet) -> None:
    """Freeze lets nothing begin and takes nothing away."""
    core = state(rules)
    begin(core)
    operating.freeze(core, "op", "maintenance", NOW + 1)
    effects = take_sighting(core, sighting(target="192.0.2.11", number=2), NOW + 2)
    assert effects.orders == []
    assert effects.lines[-1].fields["guard"] == "freeze"
    assert len(core.ledger) == 1


def test_unfreeze_when_attacks_wait_then_they_are_protected(rules: RuleSet) -> None:
    """What was refused by the freeze is decided anew."""
    core = state(rules)
    operating.freeze(core, "op", "", NOW)
    take_sighting(core, sighting(), NOW + 1)
    effects = operating.unfreeze(core, "op", "", NOW + 2)
    assert [order.verb for order in effects.orders] == [Verb.APPLY]


def test_drain_when_ordered_then_all_released_and_nothing_new(rules: RuleSet) -> None:
    """Drain empties the ledger and stays a freeze until taken off."""
    core = state(rules)
    begin(core)
    effects = operating.drain(core, "op", "test", NOW + 1)
    (order,) = effects.orders
    assert order.verb is Verb.RELEASE
    answers.released(core, order, NOW + 1)
    done = tick(core, NOW + 2)
    assert "switch.drained" in names(done)
    assert core.memory.draining is None
    assert core.memory.frozen is not None
    blocked = take_sighting(core, sighting(number=2, at=1001), NOW + 3)
    assert blocked.orders == []


def test_freeze_when_hub_restarts_then_still_on(rules: RuleSet) -> None:
    """The brakes survive a restart."""
    effects = operating.freeze(state(rules), "op", "why", NOW)
    kept = read_memory(effects.settings["memory"])
    core = state(rules, memory=kept)
    assert take_sighting(core, sighting(), NOW + 1).orders == []


def test_release_by_hand_when_attack_goes_on_then_held_off(rules: RuleSet) -> None:
    """What an operator releases is not put back at once, and later it is."""
    core = state(rules)
    order = begin(core)
    effects = operating.release_one(core, order.mitigation.id, "op", "customer asked", NOW + 1)
    answers.released(core, effects.orders[0], NOW + 1)
    again = take_sighting(core, sighting(at=NOW + 2, number=2), NOW + 2)
    assert again.orders == []
    assert again.lines[-1].fields["guard"] == "hold_off"
    later = NOW + 3 + core.config.guard.hold_off
    assert tick(core, later).orders == []
    again = take_sighting(core, sighting(at=later, number=3), later)
    assert [one.verb for one in again.orders] == [Verb.APPLY]


def test_release_by_hand_when_id_is_unknown_then_refused(rules: RuleSet) -> None:
    """An operator gets to know that there is nothing of that id."""
    with pytest.raises(RefusedError, match="m-nothing"):
        operating.release_one(state(rules), "m-nothing", "op", "", NOW)


def test_release_by_hand_when_the_engine_refuses_then_given_up(rules: RuleSet) -> None:
    """A release that never succeeds can be closed by the operator who has seen to it."""
    core = state(rules)
    order = begin(core)
    (release,) = operating.release_one(core, order.mitigation.id, "op", "", NOW + 1).orders
    with pytest.raises(RefusedError):
        operating.release_one(core, order.mitigation.id, "op", "", NOW + 2)
    answers.trouble(core, release, "the other side is gone", NOW + 2)
    effects = operating.release_one(core, order.mitigation.id, "op", "done by hand", NOW + 3)
    assert names(effects) == ["mitigation.given_up"]
    assert len(core.ledger) == 0


def test_reload_when_never_block_covers_a_live_one_then_withdrawn(rules: RuleSet) -> None:
    """The never-block list holds for live mitigations as well."""
    core = state(rules)
    begin(core)
    effects = operating.adopt(core, config(never=["192.0.2.0/28"]), rules, "op", NOW + 1)
    assert [order.verb for order in effects.orders] == [Verb.RELEASE]


def test_caps_when_reached_then_the_next_one_is_refused(rules: RuleSet) -> None:
    """P4 in the core, with the warning before it."""
    core = state(rules, config(total=2))
    lines = []
    for index in range(3):
        target = f"192.0.2.{20 + index}"
        lines += take_sighting(core, sighting(target=target, number=index), NOW).lines
    assert len(core.ledger) == 2
    events = [line.event for line in lines]
    assert events.index("guard.cap_near") < events.index("mitigation.refused")


def test_engine_failure_when_permanent_then_failed_and_tried_at_next_report(
    rules: RuleSet,
) -> None:
    """A failed mitigation is closed with its reason; a new report tries again."""
    core = state(rules)
    (order,) = take_sighting(core, sighting(), NOW).orders
    effects = answers.failed(core, order, "kernel has no synproxy", NOW)
    assert [row.state for row in effects.mitigations.values()] == [MitigationState.FAILED]
    assert len(core.ledger) == 0
    assert take_sighting(core, sighting(at=1001, number=2), NOW + 1).orders != []


def test_answer_when_outdated_then_ignored(rules: RuleSet) -> None:
    """An engine's late answer to an older order changes nothing."""
    core = state(rules)
    (order,) = take_sighting(core, sighting(), NOW).orders
    take_sighting(core, sighting(at=NOW + 200, number=2), NOW + 200)
    assert answers.applied(core, order, NOW + 201).mitigations == {}


def test_resume_when_intents_are_unfinished_then_ordered_again(rules: RuleSet) -> None:
    """After a kill at any step the next start finishes what was intended."""
    core = state(rules)
    (applying,) = take_sighting(core, sighting(), NOW).orders
    rows = [read_mitigation(mitigation_row(row, NOW)) for row in core.ledger]
    attacks = [read_attack(attack_row(attack)) for attack in core.tracker]
    assert rows == list(core.ledger)
    assert attacks == list(core.tracker)
    again = state(rules, attacks=attacks, rows=rows)
    effects = resume(again, NOW + 1)
    assert [order.mitigation.id for order in effects.orders] == [applying.mitigation.id]


def test_service_when_address_is_covered_then_the_longest_prefix_wins(rules: RuleSet) -> None:
    """The service is found by the attacked address."""
    wide = Service(name="wide", prefixes=(ip_network("192.0.2.0/24"),))
    near = Service(name="near", prefixes=(ip_network("192.0.2.8/29"),))
    core = state(rules, config(services=(wide, near)))
    (order,) = take_sighting(core, sighting(), NOW).orders
    assert order.mitigation.service is not None
    assert order.mitigation.service.name == "near"


def test_hostgroup_when_attacked_then_each_network_is_asked_for(rules: RuleSet) -> None:
    """A host group's networks are targets; the width guard decides on them."""
    one = sighting()
    group = replace(
        one.report,
        scope=Scope.HOSTGROUP,
        target=None,
        hostgroup="customers",
        networks=(ip_network("192.0.2.0/25"), ip_network("192.0.2.200/32")),
    )
    effects = take_sighting(state(rules), replace(one, report=group), NOW)
    assert [str(order.mitigation.target) for order in effects.orders] == ["192.0.2.200/32"]
    assert effects.lines[-1].event in {"mitigation.refused", "mitigation.applying"}


def test_event_when_not_understood_then_kept_and_said(rules: RuleSet) -> None:
    """Bytes of no known shape change nothing and are pointed at."""
    envelope = Envelope("0123456789abcdef", "fnm1", 1.0, ("what",), b"\xff\x00")
    effects = take_event(state(rules), 7, envelope, NOW)
    assert [result.status for result in effects.events] == ["not_understood"]
    assert names(effects) == ["event.not_understood"]
    assert effects.lines[0].fields["number"] == 7
