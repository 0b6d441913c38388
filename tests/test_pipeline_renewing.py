# SPDX-License-Identifier: Apache-2.0
"""A mitigation outlives its first deadline only while its own engine still sees the attack."""

from pathlib import Path

import pytest

from hub.mitigations.executor import Verb
from hub.mitigations.model import Mitigation
from hub.pipeline import answers
from hub.pipeline.events import take_sighting, tick
from hub.pipeline.renewing import renew_if_attacked
from hub.pipeline.state import State
from tests.support.core import rule_set, sighting, state

NOW = 1_000_000.0


@pytest.fixture
def core(tmp_path: Path) -> State:
    """A core with one mitigation in force, raised at 1,000 packets a second."""
    made = state(rule_set(tmp_path))
    (order,) = take_sighting(made, sighting(at=NOW, pps=1000), NOW).orders
    answers.applied(made, order, NOW)
    return made


def only(core: State) -> Mitigation:
    """Return the one mitigation."""
    (row,) = core.ledger
    return row


def test_renewal_when_the_engine_still_sees_the_attack_then_the_deadline_moves(
    core: State,
) -> None:
    """Half the rate of the alarm is enough, once half the lifetime is over."""
    effects = renew_if_attacked(core, only(core), 500.0, NOW + 301)
    assert [order.verb for order in effects.orders] == [Verb.APPLY]
    answers.applied(core, effects.orders[0], NOW + 301)
    assert only(core).deadline == NOW + 901
    assert [line.event for line in effects.lines] == ["mitigation.renewed"]


def test_renewal_when_the_attack_has_gone_quiet_then_the_deadline_stands(core: State) -> None:
    """P2: without evidence nothing is prolonged, and the deadline ends it."""
    assert renew_if_attacked(core, only(core), 499.0, NOW + 599).orders == []
    assert [order.verb for order in tick(core, NOW + 600).orders] == [Verb.RELEASE]


def test_renewal_when_much_time_is_left_then_nothing_is_done(core: State) -> None:
    """No transaction without need."""
    assert renew_if_attacked(core, only(core), 9000.0, NOW + 299).orders == []


def test_renewal_when_every_detector_has_let_go_then_the_linger_decides(core: State) -> None:
    """Packets that still come do not hold what the detector has ended."""
    take_sighting(core, sighting("unban", at=NOW + 310, number=2), NOW + 310)
    assert renew_if_attacked(core, only(core), 9000.0, NOW + 311).orders == []


def test_renewal_when_the_alarm_had_no_rate_then_nothing_is_prolonged(tmp_path: Path) -> None:
    """A ban set by hand has no rate to compare with."""
    made = state(rule_set(tmp_path))
    (order,) = take_sighting(made, sighting(at=NOW, pps=0), NOW).orders
    answers.applied(made, order, NOW)
    assert renew_if_attacked(made, only(made), 9000.0, NOW + 500).orders == []


def test_renewal_when_it_goes_on_then_the_attack_does_not_run_out_of_its_lifetime(
    core: State,
) -> None:
    """The lifetime of the attack follows the evidence as well."""
    renew_if_attacked(core, only(core), 900.0, NOW + 400)
    (attack,) = core.tracker
    assert attack.ends_at == NOW + 400 + core.config.attacks.lifetime
