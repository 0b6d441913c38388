# SPDX-License-Identifier: Apache-2.0
"""Mitigations that several attacks hold, that return while they end, or whose engine refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from hub.documents import mitigation_row, read_mitigation
from hub.effects import Effects
from hub.mitigations.engine import Capabilities
from hub.mitigations.executor import Order, Verb
from hub.mitigations.ledger import Ledger
from hub.mitigations.model import MitigationState
from hub.pipeline import answers, operating
from hub.pipeline.events import resume, take_sighting, tick
from hub.pipeline.renewing import renew_if_attacked
from hub.pipeline.state import State
from hub.rules.ruleset import RuleSet
from tests.support.core import RULES, config, rule_set, sighting, state

NOW = 1_000_000.0
BOTH = RULES.replace("direction: [incoming, unknown]", "direction: [incoming, outgoing]")


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """The two rules of the support module."""
    return rule_set(tmp_path)


def apply(core: State, effects: Effects, now: float) -> Order:
    """Let the engine do the one thing that was ordered."""
    (order,) = effects.orders
    answers.applied(core, order, now)
    return order


def shared(tmp_path: Path) -> tuple[State, Effects]:
    """Return a core in which two attacks hold one mitigation, and what the first's end did."""
    core = state(rule_set(tmp_path, BOTH))
    apply(core, take_sighting(core, sighting(at=NOW), NOW), NOW)
    other = sighting(at=NOW, number=2, detector="fnm2", direction="outgoing")
    take_sighting(core, other, NOW)
    (row,) = core.ledger
    assert len(row.attacks) == 2
    take_sighting(core, sighting("unban", at=NOW + 1, number=3), NOW + 1)
    return core, tick(core, NOW + 40)


def test_unban_when_mitigation_came_back_while_releasing_then_it_ends_with_the_new_attack(
    rules: RuleSet,
) -> None:
    """P7: a row that was rejoined is not held by the attack that had ended."""
    core = state(rules)
    apply(core, take_sighting(core, sighting(at=NOW), NOW), NOW)
    take_sighting(core, sighting("unban", at=NOW + 1, number=2), NOW + 1)
    assert [one.verb for one in tick(core, NOW + 40).orders] == [Verb.RELEASE]
    apply(core, take_sighting(core, sighting(at=NOW + 41, number=3), NOW + 41), NOW + 41)
    take_sighting(core, sighting("unban", at=NOW + 50, number=4), NOW + 50)
    assert [one.verb for one in tick(core, NOW + 200).orders] == [Verb.RELEASE]


def test_end_when_another_attack_holds_on_then_that_is_written(tmp_path: Path) -> None:
    """P7 across a restart: the journal knows who still holds a shared mitigation."""
    core, effects = shared(tmp_path)
    (row,) = effects.mitigations.values()
    (attack,) = core.tracker
    assert row.attacks == (attack.id,)
    assert effects.orders == []


def test_resume_when_no_holder_is_open_any_more_then_released(tmp_path: Path) -> None:
    """A row whose attack ended just before the kill is released by the next run."""
    core, _ = shared(tmp_path)
    rows = [read_mitigation(mitigation_row(row, NOW)) for row in core.ledger]
    again = state(core.rules, rows=rows)
    assert [one.verb for one in resume(again, NOW + 50).orders] == [Verb.RELEASE]
    kept = state(core.rules, rows=rows)
    assert resume(kept, NOW + 50, complete=False).orders == []


def test_missing_when_row_was_released_meanwhile_then_not_brought_back(rules: RuleSet) -> None:
    """An older look at a mitigation undoes no release, neither by repair nor by renewal."""
    core = state(rules)
    order = apply(core, take_sighting(core, sighting(at=NOW), NOW), NOW)
    (seen,) = core.ledger
    operating.release_one(core, order.mitigation.id, "op", "", NOW + 400)
    assert answers.missing(core, seen, NOW + 400).orders == []
    assert renew_if_attacked(core, seen, 9000.0, NOW + 400).orders == []
    (row,) = core.ledger
    assert row.state is MitigationState.RELEASING


def test_renewal_when_the_engine_refuses_for_good_then_former_lease_goes_on(
    rules: RuleSet,
) -> None:
    """What is in force stays so until the deadline that the engine knows, and is then released."""
    core = state(rules)
    apply(core, take_sighting(core, sighting(at=NOW), NOW), NOW)
    (renewal,) = take_sighting(core, sighting(at=NOW + 100, number=2), NOW + 100).orders
    answers.failed(core, renewal, "refused", NOW + 100)
    (row,) = core.ledger
    assert (row.state, row.deadline, row.error) == (MitigationState.ACTIVE, NOW + 600, "refused")
    assert [one.verb for one in tick(core, NOW + 600).orders] == [Verb.RELEASE]


def test_failure_when_it_answers_an_older_order_then_ignored(rules: RuleSet) -> None:
    """A late refusal does not close what is being released."""
    core = state(rules)
    (order,) = take_sighting(core, sighting(at=NOW), NOW).orders
    operating.release_one(core, order.mitigation.id, "op", "", NOW + 1)
    assert answers.failed(core, order, "refused", NOW + 2).mitigations == {}
    (row,) = core.ledger
    assert row.state is MitigationState.RELEASING


def test_failure_when_the_engine_has_no_leases_then_taken_back(rules: RuleSet) -> None:
    """What a program may have half begun is undone by its `off`."""
    core = state(rules)
    program = Capabilities(frozenset({"tcp"}), leases=False, hides_traffic=False)
    core.engines = {"nftables": program}
    (order,) = take_sighting(core, sighting(at=NOW), NOW).orders
    effects = answers.failed(core, order, "exit status 1", NOW)
    assert [one.verb for one in effects.orders] == [Verb.RELEASE]


def test_dry_run_when_switched_on_then_nothing_is_begun_again_or_prolonged(
    rules: RuleSet,
) -> None:
    """Back in dry-run, what is in force runs out by itself."""
    core = state(rules)
    apply(core, take_sighting(core, sighting(at=NOW), NOW), NOW)
    operating.adopt(core, config(dry_run=True), rules, "op", NOW + 1)
    assert take_sighting(core, sighting(at=NOW + 300, number=2), NOW + 300).orders == []
    take_sighting(core, sighting("unban", at=NOW + 310, number=3), NOW + 310)
    assert [one.verb for one in tick(core, NOW + 400).orders] == [Verb.RELEASE]
    assert take_sighting(core, sighting(at=NOW + 401, number=4), NOW + 401).orders == []


def test_cap_when_room_is_made_then_the_waiting_attack_is_protected(rules: RuleSet) -> None:
    """Community says nothing more after its ban: what a full cap refused is asked for again."""
    core = state(rules, config(total=1))
    apply(core, take_sighting(core, sighting(at=NOW), NOW), NOW)
    waiting = sighting(target="192.0.2.11", at=NOW, number=2)
    assert take_sighting(core, waiting, NOW).orders == []
    take_sighting(core, sighting("unban", at=NOW + 1, number=3), NOW + 1)
    (release,) = tick(core, NOW + 40).orders
    answers.released(core, release, NOW + 40)
    (order,) = tick(core, NOW + 41).orders
    assert str(order.mitigation.target) == "192.0.2.11/32"


def test_caps_when_messages_are_sent_then_they_count_in_none(rules: RuleSet) -> None:
    """P4 is about what touches traffic: messages take no room from it."""
    core = state(rules)
    row = take_sighting(core, sighting(at=NOW), NOW).orders[0].mitigation
    ledger = Ledger([row, replace(row, id="m-note", engine="oncall")], ["oncall"])
    assert (ledger.live().total, len(ledger)) == (1, 2)
