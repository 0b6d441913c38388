# SPDX-License-Identifier: Apache-2.0
"""A drill in the core: marked, apart from what is real, and over in time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.config import Attacks, Config
from hub.effects import Effects
from hub.errors import IntakeError, RefusedError
from hub.intake.envelope import Envelope, encode
from hub.mitigations.executor import Verb
from hub.mitigations.model import MitigationState
from hub.pipeline import answers
from hub.pipeline.drilling import Wish, begin_drill, end_drill
from hub.pipeline.events import remember_unban, take_event, take_sighting, tick
from hub.pipeline.holding import measure
from hub.pipeline.operating import unfreeze
from hub.pipeline.renewing import renew_if_attacked
from hub.pipeline.state import State
from hub.rates import Rates
from hub.rules.ruleset import RuleSet
from tests.support.core import HIDING, config, rule_set, sighting, state

NOW = 1_000_000.0
TARGET = "192.0.2.10"


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """The usual rules."""
    return rule_set(tmp_path)


def begin(core: State, now: float = NOW, **wish: object) -> str:
    """Begin a drill and return its token."""
    plain = Wish(target=TARGET, enforce=f"{TARGET}/32")
    token, _ = begin_drill(core, replace(plain, **wish), "op", "", now)  # type: ignore[arg-type]
    return token


def call(token: str, action: str, target: str = TARGET, at: float = NOW) -> Envelope:
    """Return a marked call."""
    args = (target, "incoming", "1000", action)
    return Envelope(f"delivery-{action}", "fnm1", at, args, b"", drill=token)


def drilled(core: State, now: float = NOW, **wish: object) -> str:
    """Begin a drill and let its ban come; return its token."""
    token = begin(core, now, **wish)
    take_event(core, 1, call(token, "ban", at=now), now)
    return token


def real(core: State, action: str = "ban", now: float = NOW + 1, **fields: object) -> Effects:
    """Let a real event come."""
    values = {"target": TARGET, "at": now, **fields}
    return take_sighting(core, sighting(action, **values), now)  # type: ignore[arg-type]


def marks(core: State) -> list[tuple[str, bool]]:
    """Return subject and mark of every attack."""
    return [(attack.subject, bool(attack.drill)) for attack in core.tracker]


def test_drill_when_the_real_attack_comes_then_they_never_merge(rules: RuleSet) -> None:
    """The real one begins anew, is applied, and the drill with all of its own is over."""
    core = state(rules, config())
    drilled(core)
    effects = real(core)
    assert marks(core) == [(f"host:{TARGET}", False)]
    verbs = {order.verb: bool(order.mitigation.drill) for order in effects.orders}
    assert verbs == {Verb.RELEASE: True, Verb.APPLY: False}
    assert core.memory.drill is None
    assert core.memory.drilled is not None
    assert core.memory.drilled.passed is False


def test_drill_when_its_unban_comes_then_real_attacks_elsewhere_stay(rules: RuleSet) -> None:
    """A drill's unban ends its own attack at once, without lingering, and leaves no tombstone."""
    core = state(rules, config())
    token = drilled(core)
    real(core, target="192.0.2.11")
    take_event(core, 2, call(token, "unban", at=NOW + 5), NOW + 5)
    assert marks(core) == [("host:192.0.2.11", False)]
    # Older than the drill's unban: a tombstone of it would cancel this ban.
    real(core, at=NOW + 3, now=NOW + 6)
    assert (f"host:{TARGET}", False) in marks(core)
    assert (
        next(attack for attack in core.tracker if attack.subject == f"host:{TARGET}").episodes == 1
    )


@pytest.mark.parametrize("enforce", [f"{TARGET}/32", None])
def test_drill_when_decided_anew_then_its_deadline_stays(
    rules: RuleSet, enforce: str | None
) -> None:
    """An operator's brake, let go, has every attack decided anew; that prolongs no drill."""
    core = state(rules, config())
    drilled(core, enforce=enforce, seconds=30.0)
    (before,) = core.ledger
    unfreeze(core, "op", "", NOW + 6)
    (after,) = core.ledger
    assert after.deadline == before.deadline == NOW + 30


def test_unban_of_a_drill_when_the_hub_starts_then_not_remembered(rules: RuleSet) -> None:
    """A marked unban of before the restart cancels no real ban."""
    core = state(rules, config())
    remember_unban(core, 1, call("token", "unban", at=NOW + 5), NOW + 5)
    real(core, at=NOW + 1)
    assert marks(core) == [(f"host:{TARGET}", False)]


def test_caps_when_a_drill_runs_then_real_attacks_have_all_of_them(rules: RuleSet) -> None:
    """Neither the cap of mitigations nor that of attacks has a place for a drill."""
    limits = {"attacks": Attacks(max_active=2)}
    core = state(rules, config(total=2).model_copy(update=limits))
    drilled(core)
    for index, target in enumerate(("192.0.2.11", "192.0.2.12")):
        effects = real(core, target=target, number=10 + index)
        assert [order.verb for order in effects.orders] == [Verb.APPLY]
    assert core.ledger.live().total == 2
    refused = real(core, target="192.0.2.13", number=13)
    assert [line.event for line in refused.lines if line.level == "error"] == ["attack.refused"]


def test_drill_when_caps_are_full_then_that_stage_says_it(rules: RuleSet) -> None:
    """A drill shows what a real attack would meet."""
    core = state(rules, config(total=1))
    real(core, target="192.0.2.11")
    token = begin(core)
    effects = take_event(core, 1, call(token, "ban"), NOW + 1)
    assert [line.fields["guard"] for line in effects.lines if "guard" in line.fields] == ["cap"]
    assert core.waiting == {}


def test_drill_when_not_enforced_then_only_planned_also_when_armed(rules: RuleSet) -> None:
    """Without a prefix nothing is applied; with one, also in dry-run."""
    core = state(rules, config())
    token = begin(core, enforce=None)
    effects = take_event(core, 1, call(token, "ban"), NOW)
    assert [order.verb for order in effects.orders] == [Verb.PLAN]
    dry = state(rules, config(dry_run=True))
    token = begin(dry)
    effects = take_event(dry, 1, call(token, "ban"), NOW)
    assert [order.verb for order in effects.orders] == [Verb.APPLY]


def test_drill_when_it_is_in_force_then_nothing_prolongs_or_holds_it(rules: RuleSet) -> None:
    """Neither packet counts nor rates of the engine let it stay; its lease is short."""
    core = state(rules, config(), engines=HIDING)
    token = begin(core, seconds=30.0)
    (order,) = take_event(core, 1, call(token, "ban"), NOW).orders
    answers.applied(core, order, NOW)
    row = order.mitigation
    assert row.deadline == NOW + 30
    active = core.ledger.get(row.id)
    assert active is not None
    assert renew_if_attacked(core, active, 1e6, NOW + 25).orders == []
    loud = {row.id: Rates(hostile_pps=100_000)}
    assert measure(core, "native", loud, NOW + 25).orders == []
    take_event(core, 2, call(token, "unban", at=NOW + 26), NOW + 26)
    assert marks(core) == []
    assert [one.state for one in core.ledger] == [MitigationState.RELEASING]


def test_drill_when_nobody_ends_it_then_time_does(rules: RuleSet) -> None:
    """After its time it is over, and has failed."""
    core = state(rules, config())
    drilled(core, seconds=30.0)
    assert tick(core, NOW + 29).orders == []
    assert [order.verb for order in tick(core, NOW + 30).orders] == [Verb.RELEASE]
    assert core.memory.drilled is not None
    assert "nobody ended it within 30 s" in core.memory.drilled.why


@pytest.mark.parametrize(
    ("target", "action", "why"),
    [
        ("192.0.2.11", "ban", "the drill about 192.0.2.10"),
        (TARGET, "attack_details", "it is no ban or unban"),
        (TARGET, "ban", "has been taken already"),
    ],
)
def test_mark_when_used_for_anything_else_then_kept_and_refused(
    rules: RuleSet, target: str, action: str, why: str
) -> None:
    """What bears the right mark in the wrong place is neither a drill nor an attack."""
    core = state(rules, config())
    token = drilled(core)
    before = marks(core)
    effects = take_event(core, 2, call(token, action, target), NOW + 1)
    (result,) = effects.events
    assert (result.status, why in result.note) == ("not_understood", True)
    assert [line.event for line in effects.lines] == ["event.drill_refused"]
    assert marks(core) == before


def test_mark_when_no_drill_is_under_way_then_refused(rules: RuleSet) -> None:
    """A detector that marks its events hides them alone; the next without a mark is met."""
    core = state(rules, config())
    assert take_event(core, 1, call("anything", "ban"), NOW).orders == []
    assert [order.verb for order in real(core).orders] == [Verb.APPLY]


def test_token_when_a_drill_runs_then_kept_nowhere(rules: RuleSet) -> None:
    """What is written down of a drill would not let anybody wear its mark."""
    core = state(rules, config())
    token, effects = begin_drill(core, Wish(), "op", "", NOW)
    text = repr((effects.settings, effects.audit, effects.lines, core.memory))
    assert token not in text
    assert token.encode() in encode(call(token, "ban"))


def test_rules_when_changed_in_the_middle_then_it_has_not_passed(rules: RuleSet) -> None:
    """A result speaks for one version of rules and configuration."""
    core = state(rules, config())
    drilled(core)
    core.config = Config(dry_run=False, guard=config(never=["192.0.2.66/32"]).guard)
    result = end_drill(core, "", NOW + 1, Effects())
    assert result is not None
    assert not result.passed


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"kind": "gre"}, IntakeError),
        ({"seconds": 5.0}, IntakeError),
        ({"seconds": float("nan")}, IntakeError),
        ({"target": "192.0.2"}, IntakeError),
        ({"target": "192.0.2.11"}, RefusedError),
        ({"target": None, "enforce": "198.51.100.0/24"}, RefusedError),
        ({"target": None, "enforce": "0.0.0.0/0"}, RefusedError),
    ],
)
def test_wish_when_it_cannot_be_then_refused(
    rules: RuleSet, wish: dict[str, Any], error: type[Exception]
) -> None:
    """Nothing begins that makes no sense, or that may not be there."""
    core = state(rules, config())
    with pytest.raises(error):
        begin(core, **wish)
    assert core.memory.drill is None


def test_wish_when_its_target_is_under_attack_then_another_is_chosen(rules: RuleSet) -> None:
    """A drill does not come upon a real attack; one that is left to choose takes the next."""
    core = state(rules, config())
    real(core, target="192.0.2.1")
    with pytest.raises(RefusedError, match="under a real attack"):
        begin(core, target="192.0.2.1", enforce=None)
    begin(core, target=None, enforce=None)
    assert core.memory.drill is not None
    assert str(core.memory.drill.target) == "192.0.2.2"
