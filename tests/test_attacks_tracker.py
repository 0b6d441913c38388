# SPDX-License-Identifier: Apache-2.0
"""The life of an attack: holders, order, tombstones, lifetimes, flapping."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from hub.attacks.change import Outcome, Sighting
from hub.attacks.model import AttackState
from hub.attacks.tracker import Tracker
from hub.config import Attacks
from hub.intake.model import Scope, Stamp
from tests.support.core import sighting

NOW = 1_000_000.0


@pytest.fixture
def tracker() -> Tracker:
    """A tracker that has seen nothing."""
    return Tracker(Attacks())


def test_ban_when_new_then_attack_begins(tracker: Tracker) -> None:
    """The first ban begins an attack that the detector holds."""
    change = tracker.fold(sighting(), NOW)
    assert change.outcome is Outcome.BEGAN
    assert change.attack is not None
    assert [holder.detector for holder in change.attack.holders] == ["fnm1"]


def test_ban_when_repeated_then_refreshed_not_doubled(tracker: Tracker) -> None:
    """The same ban again extends the attack's life and begins no second one."""
    first = tracker.fold(sighting(at=1.0), NOW)
    again = tracker.fold(sighting(at=2.0, number=2), NOW + 5)
    assert again.outcome is Outcome.REFRESHED
    assert first.attack is not None
    assert again.attack is not None
    assert again.attack.id == first.attack.id
    assert again.attack.ends_at == first.attack.ends_at + 5
    assert len(tracker) == 1


def test_unban_when_two_detectors_hold_then_last_one_ends_it(tracker: Tracker) -> None:
    """An attack ends when the last detector that reported it lets go."""
    tracker.fold(sighting(detector="fnm1", at=1.0), NOW)
    tracker.fold(sighting(detector="fnm2", at=1.1), NOW)
    first = tracker.fold(sighting("unban", detector="fnm1", at=9.0), NOW + 8)
    assert first.outcome is Outcome.HOLDER_LEFT
    last = tracker.fold(sighting("unban", detector="fnm2", at=9.1), NOW + 8)
    assert last.outcome is Outcome.ENDED


def test_unban_when_it_overtakes_its_ban_then_ban_is_cancelled(tracker: Tracker) -> None:
    """An unban that arrives before its older ban cancels it."""
    assert tracker.fold(sighting("unban", at=2.0), NOW).outcome is Outcome.NOTHING
    assert tracker.fold(sighting("ban", at=1.0), NOW + 0.01).outcome is Outcome.CANCELLED
    assert len(tracker) == 0


def test_ban_when_newer_than_an_unban_then_it_counts(tracker: Tracker) -> None:
    """A genuine re-ban a few milliseconds after an unban is an attack."""
    tracker.fold(sighting(at=1.0), NOW)
    tracker.fold(sighting("unban", at=5.0), NOW + 4)
    assert tracker.fold(sighting(at=5.004), NOW + 4.01).outcome is Outcome.BEGAN


def test_unban_when_older_than_the_reban_that_holds_then_ignored(tracker: Tracker) -> None:
    """A late unban of the first episode does not end the second."""
    tracker.fold(sighting(at=1.0), NOW)
    tracker.fold(sighting(at=9.0), NOW + 8)
    late = tracker.fold(sighting("unban", at=5.0), NOW + 8.1)
    assert late.outcome is Outcome.STALE
    assert len(tracker) == 1


def test_unban_when_wall_clock_stepped_back_then_it_still_ends_the_attack(
    tracker: Tracker,
) -> None:
    """Within one boot of the detector's host, order is by its steady clock."""
    ban, unban = sighting(), sighting("unban")
    tracker.fold(replace(ban, stamp=Stamp(5000.0, 10.0, "boot")), NOW)
    gone = tracker.fold(replace(unban, stamp=Stamp(1000.0, 20.0, "boot")), NOW + 10)
    assert gone.outcome is Outcome.ENDED


def test_unban_when_uuid_is_known_then_only_that_attack_is_left(tracker: Tracker) -> None:
    """With attack ids one detector may hold the same host twice."""
    tracker.fold(sighting(uuid="u1", at=1.0), NOW)
    tracker.fold(sighting(uuid="u2", at=2.0), NOW)
    change = tracker.fold(sighting("unban", uuid="u1", at=3.0), NOW)
    assert change.outcome is Outcome.HOLDER_LEFT
    assert change.attack is not None
    assert [holder.key for holder in change.attack.holders] == ["u2"]


def test_ban_when_same_uuid_was_unbanned_then_cancelled_whatever_the_stamps(
    tracker: Tracker,
) -> None:
    """An attack id that is over does not come back: a new attack has a new id."""
    tracker.fold(sighting("unban", uuid="u1", at=1.0), NOW)
    assert tracker.fold(sighting(uuid="u1", at=2.0), NOW).outcome is Outcome.CANCELLED


def test_tombstone_when_expired_then_forgotten(tracker: Tracker) -> None:
    """An unban is remembered for a while only."""
    tracker.fold(sighting("unban", at=2.0), NOW)
    later = NOW + tracker.limits.tombstone + 1
    assert tracker.fold(sighting("ban", at=1.0), later).outcome is Outcome.BEGAN


def test_details_when_nothing_is_known_then_no_attack_begins(tracker: Tracker) -> None:
    """Details enrich an attack; they never begin one, since they may come after the end."""
    assert tracker.fold(sighting("attack_details"), NOW).outcome is Outcome.STALE
    assert len(tracker) == 0


def test_details_when_they_show_more_then_attack_changes(tracker: Tracker) -> None:
    """Better evidence replaces `unknown`, and the higher rate stays."""
    tracker.fold(sighting(attack_type="unknown", protocol="unknown", pps=10), NOW)
    change = tracker.fold(sighting("attack_details", number=2, at=1000.5, pps=90), NOW + 1)
    assert change.outcome is Outcome.CHANGED
    assert change.attack is not None
    assert (change.attack.protocol, change.attack.pps) == ("tcp", 90)


def test_status_when_ban_was_lost_then_attack_begins(tracker: Tracker) -> None:
    """A detector that says the host is still banned is believed."""
    assert tracker.fold(sighting("attack_status", uuid="u1"), NOW).outcome is Outcome.BEGAN


def test_lifetime_when_no_unban_comes_then_attack_ends_by_itself(tracker: Tracker) -> None:
    """A lifetime on everything, because an unban may never come."""
    tracker.fold(sighting(), NOW)
    assert tracker.advance(NOW + tracker.limits.lifetime - 1) == []
    changes = tracker.advance(NOW + tracker.limits.lifetime)
    assert [change.outcome for change in changes] == [Outcome.ENDED]
    assert changes[0].attack is not None
    assert changes[0].attack.end_reason == "lifetime"


def test_ending_when_linger_is_set_then_protection_stays_that_long(tracker: Tracker) -> None:
    """Hysteresis: after the last holder has left, the attack lingers."""
    begun = tracker.fold(sighting(at=1.0), NOW)
    assert begun.attack is not None
    tracker.set_linger(begun.attack.id, 30.0)
    ending = tracker.fold(sighting("unban", at=9.0), NOW + 8)
    assert ending.attack is not None
    assert (ending.outcome, ending.attack.ends_at) == (Outcome.ENDING, NOW + 38)
    assert tracker.advance(NOW + 37.9) == []
    assert [change.outcome for change in tracker.advance(NOW + 38)] == [Outcome.ENDED]


def test_return_when_lingering_then_same_attack_with_one_more_episode(tracker: Tracker) -> None:
    """A flapping detector does not make a new attack each time; the hold grows."""
    begun = tracker.fold(sighting(at=1.0), NOW)
    assert begun.attack is not None
    tracker.set_linger(begun.attack.id, 30.0)
    tracker.fold(sighting("unban", at=2.0), NOW + 1)
    back = tracker.fold(sighting(at=3.0), NOW + 2)
    assert back.outcome is Outcome.RETURNED
    assert back.attack is not None
    assert (back.attack.id, back.attack.episodes) == (begun.attack.id, 2)
    assert 54.0 <= tracker.hold(back.attack) <= 66.0


def test_hold_when_flapping_for_long_then_never_above_the_limit(tracker: Tracker) -> None:
    """Repeated attacks hold longer, growing up to max_hold and its jitter."""
    begun = tracker.fold(sighting(at=1.0), NOW)
    assert begun.attack is not None
    attack = replace(begun.attack, linger=30.0, episodes=500)
    assert tracker.hold(attack) <= tracker.limits.max_hold * 1.1


def test_new_attack_when_soon_after_an_ended_one_then_counts_as_next_episode(
    tracker: Tracker,
) -> None:
    """Episodes are counted across attacks within the flap window."""
    tracker.fold(sighting(at=1.0), NOW)
    tracker.fold(sighting("unban", at=2.0), NOW + 1)
    again = tracker.fold(sighting(at=3.0), NOW + 2)
    assert again.attack is not None
    assert again.attack.episodes == 2


def test_direction_when_different_then_two_attacks(tracker: Tracker) -> None:
    """One attack is one direction; two detectors may see both."""
    tracker.fold(sighting(detector="a", direction="incoming"), NOW)
    tracker.fold(sighting(detector="b", direction="outgoing"), NOW)
    assert len(tracker) == 2


def test_unban_when_partial_block_of_another_rule_then_that_one_stays(tracker: Tracker) -> None:
    """Each flow spec rule holds by itself."""

    def partial(action: str, rule: str, at: float) -> Sighting:
        one = sighting(action, uuid="u1", at=at)
        return replace(one, report=replace(one.report, flow_spec_rules=({"uuid": rule},)))

    tracker.fold(partial("partial_block", "r1", 1.0), NOW)
    tracker.fold(partial("partial_block", "r2", 2.0), NOW)
    left = tracker.fold(partial("partial_unblock", "r1", 3.0), NOW)
    assert left.outcome is Outcome.HOLDER_LEFT
    assert tracker.fold(partial("partial_unblock", "r2", 4.0), NOW).outcome is Outcome.ENDED


def test_fold_when_too_many_attacks_are_open_then_refused() -> None:
    """Memory is bounded, and the refusal says by what."""
    tracker = Tracker(Attacks(max_active=1))
    tracker.fold(sighting(target="192.0.2.1"), NOW)
    change = tracker.fold(sighting(target="192.0.2.2", number=2), NOW)
    assert change.outcome is Outcome.REFUSED
    assert "max_active" in change.why


def test_state_when_ended_then_attack_says_when(tracker: Tracker) -> None:
    """The ended attack carries its end for the record."""
    tracker.fold(sighting(at=1.0), NOW)
    change = tracker.fold(sighting("unban", at=2.0), NOW + 3)
    assert change.attack is not None
    assert (change.attack.state, change.attack.ended_at) == (AttackState.ENDED, NOW + 3)


def test_unban_when_an_older_one_comes_later_then_the_newer_still_cancels(
    tracker: Tracker,
) -> None:
    """Two unbans out of order: the newest stamp is the one that counts."""
    tracker.fold(sighting("unban", at=20.0), NOW)
    tracker.fold(sighting("unban", at=5.0), NOW)
    assert tracker.fold(sighting("ban", at=10.0), NOW + 1).outcome is Outcome.CANCELLED


def test_ban_when_it_waited_in_a_spool_for_minutes_then_still_cancelled(tracker: Tracker) -> None:
    """Under overload bans wait while their unbans pass; stamps are compared for long."""
    tracker.fold(sighting("unban", at=20.0), NOW)
    assert tracker.fold(sighting("ban", at=10.0), NOW + 300).outcome is Outcome.CANCELLED


def test_unban_when_detector_spoke_with_and_without_id_then_nothing_stays_held(
    tracker: Tracker,
) -> None:
    """A report with an id takes over the word that the same detector gave without one."""
    tracker.fold(sighting(at=1.0), NOW)
    tracker.fold(sighting(uuid="u1", at=2.0, number=2), NOW)
    assert tracker.fold(sighting("unban", uuid="u1", at=3.0), NOW).outcome is Outcome.ENDED


def test_unban_when_it_has_no_id_then_both_directions_are_let_go(tracker: Tracker) -> None:
    """One unban without an id ends all that this detector held on the host."""
    tracker.fold(sighting(uuid="u1", at=1.0), NOW)
    tracker.fold(sighting(uuid="u2", at=1.0, direction="outgoing", number=2), NOW)
    change = tracker.fold(sighting("unban", at=3.0), NOW)
    assert [one.outcome for one in (change, *change.also)] == [Outcome.ENDED, Outcome.ENDED]
    assert len(tracker) == 0


def test_hostgroup_when_networks_come_later_then_they_become_targets(tracker: Tracker) -> None:
    """A first report without networks does not leave the attack without targets."""
    one = sighting()
    bare = replace(one.report, scope=Scope.HOSTGROUP, target=None, hostgroup="customers")
    tracker.fold(replace(one, report=bare), NOW)
    full = replace(bare, networks=(ip_network("192.0.2.0/25"),))
    change = tracker.fold(replace(one, report=full, number=2), NOW)
    assert change.attack is not None
    assert change.attack.targets == (ip_network("192.0.2.0/25"),)
