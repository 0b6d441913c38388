# SPDX-License-Identifier: Apache-2.0
"""An attack that its countermeasures hide from the detector ends by the engine's own rates."""

from pathlib import Path

import pytest

from hub.attacks.model import Attack, AttackState
from hub.attacks.tracker import HELD, UNMEASURED
from hub.documents import attack_row, read_attack
from hub.effects import Effects
from hub.mitigations.executor import Verb
from hub.mitigations.model import Mitigation
from hub.pipeline import answers, operating
from hub.pipeline.events import resume, take_sighting, tick
from hub.pipeline.holding import measure
from hub.pipeline.state import State
from hub.rates import Rates
from tests.support.core import HIDING, config, rule_set, sighting, state

NOW = 1_000_000.0
LOUD = 900
QUIET = 5


class World:
    """A core with one mitigation by an engine in XDP, and a clock of whole seconds."""

    def __init__(self, core: State) -> None:
        self.core, self.now, self.number = core, NOW, 0
        self.said: list[str] = []

    def event(self, action: str, pps: int = 1000) -> None:
        """A detector says something; the engine obeys."""
        self.number += 1
        one = sighting(action, at=self.now, number=self.number, pps=pps)
        self.carry_out(take_sighting(self.core, one, self.now))

    def seconds(self, count: int, hostile: int | None) -> None:
        """Let time pass, each second with one measurement, None where the engine is silent."""
        for _ in range(count):
            self.now += 1
            rows = [row.id for row in self.core.ledger]
            rates = None if hostile is None else {row: Rates(hostile_pps=hostile) for row in rows}
            self.carry_out(measure(self.core, "native", rates, self.now))
            self.carry_out(tick(self.core, self.now))

    def carry_out(self, effects: Effects) -> None:
        """Do at once what is ordered."""
        self.said += [line.event for line in effects.lines]
        for order in effects.orders:
            done = answers.applied if order.verb is Verb.APPLY else answers.released
            done(self.core, order, self.now)

    @property
    def attack(self) -> Attack:
        """Return the one attack."""
        (attack,) = self.core.tracker
        return attack

    @property
    def row(self) -> Mitigation:
        """Return the one mitigation."""
        (row,) = self.core.ledger
        return row


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An attack that is met, for ten seconds."""
    made = World(state(rule_set(tmp_path), engines=HIDING))
    made.event("ban")
    assert made.row.engine == "native"
    made.seconds(10, LOUD)
    return made


def test_unban_when_the_flood_goes_on_then_nothing_ends(world: World) -> None:
    """The detector is blind; ten minutes later protection stands, and no attack was added."""
    world.event("unban")
    world.seconds(600, LOUD)
    assert (world.attack.state, world.attack.held) == (AttackState.ENDING, HELD)
    assert world.attack.episodes == 1
    assert world.said.count("attack.began") == 1
    assert "mitigation.releasing" not in world.said


def test_flood_when_dry_run_was_switched_on_then_nothing_is_prolonged(world: World) -> None:
    """What is in force runs out by itself."""
    world.core.config = world.core.config.model_copy(update={"dry_run": True})
    world.event("unban")
    world.seconds(600, LOUD)
    assert "mitigation.renewed" not in world.said
    assert len(world.core.ledger) == 0


def test_flood_when_it_ends_then_it_is_noticed_at_once_and_the_linger_follows(
    world: World,
) -> None:
    """Quiet for five seconds, then the rule's linger of 30 s, and nothing more."""
    world.event("unban")
    world.seconds(60, LOUD)
    world.seconds(QUIET - 1, 0)
    assert "attack.quiet" not in world.said
    world.seconds(1, 0)
    assert "attack.quiet" in world.said
    assert world.attack.held == ""
    world.seconds(29, 0)
    assert len(world.core.ledger) == 1
    world.seconds(1, 0)
    assert len(world.core.ledger) == len(world.core.tracker) == 0


def test_unban_when_it_was_quiet_before_then_the_linger_begins_at_once(world: World) -> None:
    """What the rates have shown need not be waited for again."""
    world.seconds(QUIET, 0)
    assert "attack.quiet" in world.said
    assert world.attack.state is AttackState.ACTIVE
    world.event("unban")
    assert world.attack.held == ""
    world.seconds(30, 0)
    assert len(world.core.tracker) == 0


def test_noise_when_below_the_share_then_quiet_and_a_pause_does_not_count(world: World) -> None:
    """A quarter of the alarm's rate is loud, less is quiet; a pause of four seconds is none."""
    world.event("unban")
    for _ in range(5):
        world.seconds(QUIET - 1, 249)
        world.seconds(1, 250)
    assert world.attack.held == HELD
    world.seconds(QUIET, 249)
    assert world.attack.held == ""


def test_flood_when_it_returns_during_the_linger_then_it_is_held_again(world: World) -> None:
    """Hysteresis: what was quiet is loud again from twice that rate on; no longer hold follows."""
    world.event("unban")
    world.seconds(QUIET, 0)
    world.seconds(5, 499)
    assert world.attack.held == ""
    world.seconds(60, 500)
    assert world.attack.held == HELD
    assert world.said.count("attack.loud") == 1
    assert world.attack.episodes == 1


def test_ban_when_the_attack_is_held_then_it_is_the_same_episode(world: World) -> None:
    """A detector that sees again what was held has seen nothing new: no longer linger."""
    world.event("unban")
    world.seconds(5, LOUD)
    world.event("ban")
    assert (world.attack.state, world.attack.held) == (AttackState.ACTIVE, "")
    assert world.attack.episodes == 1


def test_alarm_when_huge_then_the_floor_still_holds(tmp_path: Path) -> None:
    """A flood that sinks below a quarter of its peak is still one from 1,000 packets/s on."""
    made = World(state(rule_set(tmp_path), engines=HIDING))
    made.event("ban", pps=5_000_000)
    made.event("unban")
    made.seconds(60, 1000)
    assert made.attack.held == HELD
    made.seconds(QUIET, 999)
    assert made.attack.held == ""


def test_rule_when_it_has_no_linger_then_a_blind_unban_does_not_end_it(tmp_path: Path) -> None:
    """Without a linger the unban would release at once."""
    text = "rules: [{name: a, when: always, then: [tcp], ttl: 10m, linger: 0s}]"
    made = World(state(rule_set(tmp_path, text), engines=HIDING))
    made.event("ban")
    made.event("unban")
    made.seconds(60, LOUD)
    assert len(made.core.ledger) == 1
    made.seconds(QUIET + 1, 0)
    assert len(made.core.ledger) == 0


def test_deadline_when_the_engine_meets_the_flood_then_it_moves_on_without_a_detector(
    world: World,
) -> None:
    """A blind detector is no reason to let the deadline of 10 min end protection."""
    world.event("unban")
    world.seconds(2000, LOUD)
    assert world.row.deadline > world.now
    world.seconds(QUIET + 30, 0)
    assert len(world.core.ledger) == 0


def test_hold_when_it_lasts_as_long_as_an_attack_may_then_it_ends(tmp_path: Path) -> None:
    """`attacks.lifetime` bounds it: rates alone never keep anything for ever."""
    limits = config().attacks.model_copy(update={"lifetime": 900.0})
    made = World(
        state(rule_set(tmp_path), config().model_copy(update={"attacks": limits}), engines=HIDING)
    )
    made.event("ban")
    made.event("unban")
    made.seconds(899, LOUD)
    assert len(made.core.ledger) == 1
    made.seconds(2, LOUD)
    assert len(made.core.ledger) == 0


def test_engine_when_silent_then_the_hold_is_bounded_and_grows(world: World) -> None:
    """Nothing can be measured: a minute, two minutes the next time, never past the deadline."""
    world.event("unban")
    world.seconds(4, None)
    assert world.attack.held == UNMEASURED
    assert world.attack.ends_at == world.now + 60
    world.seconds(60, None)
    assert len(world.core.ledger) == 0
    world.event("ban")
    world.event("unban")
    world.seconds(5, None)
    assert world.attack.episodes == 2
    assert world.attack.ends_at == world.now + 120


def test_engine_when_silent_then_the_deadline_is_not_moved(world: World) -> None:
    """P2: without a measurement nothing is prolonged."""
    world.event("unban")
    deadline = world.row.deadline
    world.seconds(3, None)
    assert world.row.deadline == deadline


def test_engine_when_it_answers_again_then_its_rates_decide_again(world: World) -> None:
    """The hold that was bounded for want of an answer is open again while the flood goes on."""
    world.event("unban")
    world.seconds(10, None)
    assert world.attack.held == UNMEASURED
    world.seconds(300, LOUD)
    assert world.attack.held == HELD


def test_engine_when_it_was_silent_then_that_time_was_not_quiet(world: World) -> None:
    """Restarted, synproxyd has not counted a whole second yet: its first zero proves nothing."""
    world.event("unban")
    world.seconds(10, None)
    world.seconds(QUIET - 1, 0)
    assert "attack.quiet" not in world.said
    world.seconds(60, LOUD)
    assert world.attack.held == HELD


def test_operator_when_he_releases_then_the_hold_is_over(world: World) -> None:
    """Nothing hides the attack any more, so nothing holds it."""
    world.event("unban")
    world.carry_out(operating.release_one(world.core, world.row.id, "op", "", world.now))
    world.seconds(1, LOUD)
    assert world.attack.held == ""
    world.seconds(30, LOUD)
    assert len(world.core.tracker) == 0


def test_restart_when_an_attack_is_held_then_it_goes_on(world: World, tmp_path: Path) -> None:
    """What holds it is in the journal; the first measurement after the start decides."""
    world.event("unban")
    world.seconds(2, LOUD)
    stored = read_attack(attack_row(world.attack))
    again = World(state(rule_set(tmp_path), attacks=[stored], rows=[world.row], engines=HIDING))
    again.now = world.now
    again.carry_out(resume(again.core, again.now))
    assert again.attack.held == HELD
    again.seconds(60, LOUD)
    assert len(again.core.ledger) == 1
    again.seconds(QUIET + 30, 0)
    assert len(again.core.ledger) == 0


def test_engine_when_it_has_not_begun_yet_then_a_detectors_word_counts(tmp_path: Path) -> None:
    """Nothing is in force, so nobody is blind: synproxyd may be down."""
    core = state(rule_set(tmp_path), engines=HIDING)
    take_sighting(core, sighting(at=NOW), NOW)
    take_sighting(core, sighting("unban", at=NOW + 1, number=2), NOW + 1)
    (attack,) = core.tracker
    assert attack.held == ""


def test_engine_when_it_hides_nothing_then_a_detectors_word_ends_it(tmp_path: Path) -> None:
    """Behind the capture the detector sees what is met: as ever."""
    made = World(state(rule_set(tmp_path)))
    made.event("ban")
    made.event("unban")
    made.seconds(30, LOUD)
    assert len(made.core.tracker) == 0


def test_hold_when_it_begins_and_ends_then_the_audit_record_says_why(world: World) -> None:
    """P8: from the record alone."""
    world.number += 1
    effects = take_sighting(
        world.core, sighting("unban", at=world.now, number=world.number), world.now
    )
    assert any(HELD in row.doc for row in effects.audit)
    audits = []
    for hostile in (LOUD, 3, 3, 3, 3, 3):
        world.now += 1
        rates = {world.row.id: Rates(hostile_pps=hostile)}
        audits += measure(world.core, "native", rates, world.now).audit
    assert [row.kind for row in audits] == ["attack.quiet", "attack.ending"]
    assert "below 250 hostile packets/s" in audits[0].doc
