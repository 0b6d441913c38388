# SPDX-License-Identifier: Apache-2.0
"""Folds events into attacks: holders, order, tombstones, lifetimes, flapping."""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from hub.attacks.change import Change, Outcome, Sighting, Tombstone
from hub.attacks.evidence import (
    holder_of,
    key_of,
    leaving,
    peak_of,
    reshape,
    shape_of,
    subject_of,
    targets_of,
    with_holder,
)
from hub.attacks.model import Attack, AttackState
from hub.config import Attacks as Limits
from hub.intake.model import Action, Direction, Scope

_POSITIVE: Final = frozenset(
    {Action.BAN, Action.ATTACK_STATUS, Action.ATTACK_DETAILS, Action.PARTIAL_BLOCK}
)
_KEPT_EVENTS: Final = 32
_JITTER: Final = 0.1
_SAME_ID: Final = 10.0
HELD: Final = "held by engine rates"
UNMEASURED: Final = "held, while the engine cannot be asked"


class Tracker:
    """All attacks that are not over. Synchronous; every method takes the time as an argument.

    Args:
        limits: lifetimes and flap handling.
        attacks: what an earlier run left open.

    Attributes:
        unseen: tells of an attack that its countermeasures hide it from detectors, and that
            nothing else has shown its end; then a detector's word does not end it.
    """

    def __init__(
        self,
        limits: Limits,
        attacks: Iterable[Attack] = (),
    ) -> None:
        self.limits = limits
        self.unseen: Callable[[str], bool] = lambda _: False
        self._attacks: dict[str, Attack] = {}
        self._drills: set[str] = set()
        self._by_subject: dict[str, list[str]] = {}
        self._tombstones: OrderedDict[tuple[str, str, str], Tombstone] = OrderedDict()
        self._recent: OrderedDict[tuple[str, Direction], deque[float]] = OrderedDict()
        for attack in attacks:
            self._put(attack)

    def __iter__(self) -> Iterator[Attack]:
        """Iterate over the attacks that are not over, oldest first."""
        return iter(tuple(self._attacks.values()))

    def __len__(self) -> int:
        """Return the number of attacks that are not over."""
        return len(self._attacks)

    def get(self, attack_id: str) -> Attack | None:
        """Return an attack that is not over."""
        return self._attacks.get(attack_id)

    def bury(self, sighting: Sighting, now: float) -> None:
        """Remember an unban, so that a ban which it overtook is cancelled."""
        subject = subject_of(sighting)
        if subject is not None:
            self._bury(sighting, subject, now)

    def fold(self, sighting: Sighting, now: float) -> Change:
        """Fold one event in and return what it did."""
        self._forget(now)
        subject = subject_of(sighting)
        if subject is None:
            return Change(Outcome.NOTHING, None, "the report names no host and no host group")
        if sighting.report.action in _POSITIVE:
            return self._positive(sighting, subject, now)
        return self._unban(sighting, subject, now)

    def set_linger(self, attack_id: str, linger: float) -> Attack | None:
        """Let protection stay `linger` seconds after the last holder has left.

        Returns the attack if that changed it.
        """
        attack = self._attacks.get(attack_id)
        if attack is None or attack.linger == linger:
            return None
        return self._put(replace(attack, linger=linger))

    def hold_on(self, attack_id: str, why: str, until: float) -> Attack | None:
        """Keep an attack that no detector reports any more, because `why`, to `until` at most."""
        attack = self._attacks.get(attack_id)
        if attack is None or attack.state is not AttackState.ENDING:
            return None
        return self._put(replace(attack, held=why, ends_at=until))

    def let_linger(self, attack_id: str, now: float) -> Attack | None:
        """End the hold of an attack: its linger begins."""
        attack = self._attacks.get(attack_id)
        if attack is None or not attack.held:
            return None
        return self._put(replace(attack, held="", ends_at=now + self.hold(attack)))

    def touch(self, attack_id: str, now: float) -> Attack | None:
        """Extend an attack's life: something other than its detector shows that it goes on."""
        attack = self._attacks.get(attack_id)
        if attack is None or not attack.holders:
            return None
        return self._put(replace(attack, updated_at=now, ends_at=now + self.limits.lifetime))

    def forget(self, attack_id: str, now: float, reason: str) -> Change | None:
        """End an attack at once, whoever reports it: what is known of it is of another time."""
        attack = self._attacks.get(attack_id)
        if attack is None:
            return None
        return self._end(replace(attack, holders=(), held="", end_reason=reason), now)

    def advance(self, now: float) -> list[Change]:
        """Let time pass: lifetimes and lingers that are over by `now`."""
        self._forget(now)
        changes: list[Change] = []
        for attack in tuple(self._attacks.values()):
            if attack.ends_at > now:
                continue
            if attack.state is AttackState.ENDING:
                changes.append(self._end(attack, now))
            else:
                why = "no detector said anything within the lifetime; its unban never came"
                changes.append(self._ending(replace(attack, holders=()), now, "lifetime", why))
        return changes

    def next_deadline(self) -> float | None:
        """Return when `advance` has something to do, Unix seconds."""
        return min((attack.ends_at for attack in self._attacks.values()), default=None)

    def _positive(self, sighting: Sighting, subject: str, now: float) -> Change:
        if stone := self._cancelling(sighting, subject, now):
            why = f"an unban of the same attack, stamped {stone.stamp.time:.3f}, came before it"
            return Change(Outcome.CANCELLED, None, why)
        attack = self._held_by(sighting, subject) or self._same_way(sighting, subject)
        if attack is not None:
            if sighting.report.action is Action.ATTACK_DETAILS and not attack.holders:
                why = "details of an attack whose end is already known"
                return Change(Outcome.STALE, attack, why)
            return self._refresh(attack, sighting, now)
        if sighting.report.action is Action.ATTACK_DETAILS:
            return Change(Outcome.STALE, None, "details of an attack that is not known or over")
        return self._begin(sighting, subject, now)

    def _begin(self, sighting: Sighting, subject: str, now: float) -> Change:
        if len(self._attacks) - len(self._drills) >= self.limits.max_active:
            why = f"attacks.max_active ({self.limits.max_active}) attacks are open already"
            return Change(Outcome.REFUSED, None, why)
        report = sighting.report
        direction = report.derived.direction
        attack = Attack(
            id=self._new_id(sighting),
            subject=subject,
            targets=targets_of(report),
            direction=direction,
            attack_type=report.derived.attack_type,
            protocol=report.derived.protocol,
            reported=report.reported,
            state=AttackState.ACTIVE,
            started_at=now,
            updated_at=now,
            ends_at=now + self.limits.lifetime,
            hostgroup=report.hostgroup if report.scope is Scope.HOSTGROUP else None,
            pps=peak_of(report, "pps"),
            bps=peak_of(report, "bps"),
            holders=(holder_of(sighting),),
            episodes=1 + self._begun_recently(subject, direction, now),
            events=(sighting.number,),
            delivery=sighting.delivery,
            drill=sighting.drill,
        )
        self._remember(subject, direction, now)
        self._put(attack)
        return Change(Outcome.BEGAN, attack, f"{sighting.detector} reports {report.action}")

    def _refresh(self, attack: Attack, sighting: Sighting, now: float) -> Change:
        report = sighting.report
        returned = attack.state is AttackState.ENDING
        # One that is held has not ended in between: no flap, no longer hold.
        again = returned and not attack.held
        if again:
            self._remember(attack.subject, attack.direction, now)
        shaped = reshape(attack, report)
        after = replace(
            shaped,
            state=AttackState.ACTIVE,
            targets=targets_of(report) or attack.targets,
            holders=with_holder(attack.holders, sighting),
            updated_at=now,
            ends_at=now + self.limits.lifetime,
            pps=max(attack.pps, peak_of(report, "pps")),
            bps=max(attack.bps, peak_of(report, "bps")),
            episodes=attack.episodes + int(again),
            events=(*attack.events, sighting.number)[-_KEPT_EVENTS:],
            end_reason="",
            held="",
        )
        self._put(after)
        if returned:
            why = f"{sighting.detector} reports it again while protection lingered"
            return Change(Outcome.RETURNED, after, why)
        if shape_of(after) != shape_of(attack):
            why = f"{sighting.detector} now shows {after.attack_type} {after.protocol}"
            return Change(Outcome.CHANGED, after, why)
        return Change(Outcome.REFRESHED, after, f"{sighting.detector} reports it again")

    def _unban(self, sighting: Sighting, subject: str, now: float) -> Change:
        ids = self._by_subject.get(subject, ())
        held = [self._attacks[one] for one in ids]
        held = [attack for attack in held if leaving(attack.holders, sighting)]
        changes = [self._let_go(attack, sighting, now) for attack in held]
        if not changes or any(change.outcome is not Outcome.STALE for change in changes):
            self._bury(sighting, subject, now)
        if not changes:
            return Change(Outcome.NOTHING, None, "no attack is held by this detector; remembered")
        return replace(changes[0], also=tuple(changes[1:]))

    def _let_go(self, attack: Attack, sighting: Sighting, now: float) -> Change:
        gone = tuple(
            holder
            for holder in leaving(attack.holders, sighting)
            if not sighting.stamp.before(holder.since)
        )
        if not gone:
            return Change(
                Outcome.STALE, attack, "an unban older than the ban that holds the attack"
            )
        staying = tuple(holder for holder in attack.holders if holder not in gone)
        after = replace(
            attack,
            holders=staying,
            updated_at=now,
            events=(*attack.events, sighting.number)[-_KEPT_EVENTS:],
        )
        if staying:
            self._put(after)
            names = ", ".join(sorted({holder.detector for holder in staying}))
            return Change(Outcome.HOLDER_LEFT, after, f"still reported by {names}")
        why = f"{sighting.detector} reports {sighting.report.action}"
        return self._ending(after, now, "unban", why)

    def _ending(self, attack: Attack, now: float, reason: str, why: str) -> Change:
        unseen = self.unseen(attack.id)
        hold = self.limits.lifetime if unseen else self.hold(attack)
        after = replace(
            attack,
            state=AttackState.ENDING,
            updated_at=now,
            ends_at=now + hold,
            end_reason=reason,
            held=HELD if unseen else "",
        )
        if unseen:
            self._put(after)
            return Change(Outcome.ENDING, after, f"{why}; {HELD}, the detector is blind now")
        if hold <= 0:
            return self._end(after, now)
        self._put(after)
        return Change(Outcome.ENDING, after, f"{why}; protection lingers {hold:.1f} s")

    def _end(self, attack: Attack, now: float) -> Change:
        after = replace(attack, state=AttackState.ENDED, updated_at=now, ended_at=now)
        del self._attacks[attack.id]
        self._drills.discard(attack.id)
        ids = self._by_subject[attack.subject]
        ids.remove(attack.id)
        if not ids:
            del self._by_subject[attack.subject]
        return Change(Outcome.ENDED, after, attack.end_reason)

    def hold(self, attack: Attack) -> float:
        """Return how long protection stays after the last holder left, seconds.

        Grows with each episode within the flap window up to the limit; the jitter of one tenth
        is fixed by the attack's id and episode, so that an attacker cannot time the release.
        """
        grown = attack.linger * self.limits.hold_growth ** min(attack.episodes - 1, 64)
        if attack.episodes == 1 or attack.linger == 0:
            return attack.linger
        seed = hashlib.sha256(f"{attack.id}/{attack.episodes}".encode()).digest()[0] / 255
        limit = max(self.limits.max_hold, attack.linger)
        return min(grown, limit) * (1 - _JITTER + 2 * _JITTER * seed)

    def _held_by(self, sighting: Sighting, subject: str) -> Attack | None:
        for attack_id in self._by_subject.get(subject, ()):
            attack = self._attacks[attack_id]
            if leaving(attack.holders, sighting):
                return attack
        return None

    def _same_way(self, sighting: Sighting, subject: str) -> Attack | None:
        way = sighting.report.derived.direction
        for attack_id in self._by_subject.get(subject, ()):
            attack = self._attacks[attack_id]
            if way is attack.direction or Direction.UNKNOWN in (way, attack.direction):
                return attack
        return None

    def _cancelling(self, sighting: Sighting, subject: str, now: float) -> Tombstone | None:
        for key in {key_of(sighting.report), ""}:
            stone = self._tombstones.get((sighting.detector, subject, key))
            if stone is None:
                continue
            # An id that is over does not come back; stamps need not be asked for a moment.
            same_id = bool(key) and sighting.report.action is not Action.PARTIAL_BLOCK
            if same_id and now - stone.made_at <= _SAME_ID:
                return stone
            if sighting.stamp.before(stone.stamp):
                return stone
        return None

    def _bury(self, sighting: Sighting, subject: str, now: float) -> None:
        key = (sighting.detector, subject, key_of(sighting.report))
        former = self._tombstones.pop(key, None)
        stamp = sighting.stamp
        if former is not None and stamp.before(former.stamp):
            stamp = former.stamp
        self._tombstones[key] = Tombstone(*key, stamp, now)

    def _forget(self, now: float) -> None:
        while self._tombstones:
            first = next(iter(self._tombstones.values()))
            if first.made_at + self.limits.tombstone > now:
                break
            self._tombstones.popitem(last=False)
        while self._recent:
            place, times = next(iter(self._recent.items()))
            if times[-1] > now - self.limits.flap_window:
                break
            del self._recent[place]

    def _remember(self, subject: str, direction: Direction, now: float) -> None:
        times = self._recent.setdefault((subject, direction), deque(maxlen=64))
        times.append(now)
        self._recent.move_to_end((subject, direction))

    def _begun_recently(self, subject: str, direction: Direction, now: float) -> int:
        times = self._recent.get((subject, direction), ())
        return sum(1 for time in times if time > now - self.limits.flap_window)

    def _put(self, attack: Attack) -> Attack:
        if attack.id not in self._attacks:
            self._by_subject.setdefault(attack.subject, []).append(attack.id)
            self._drills |= {attack.id} if attack.drill else set()
        self._attacks[attack.id] = attack
        return attack

    def _new_id(self, sighting: Sighting) -> str:
        text = f"{sighting.number}/{sighting.detector}/{sighting.stamp.time}"
        return "a-" + hashlib.sha256(text.encode()).hexdigest()[:10]
