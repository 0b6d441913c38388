# SPDX-License-Identifier: Apache-2.0
"""One attack from calm to calm, step by step, with what was measured on the way."""

from dataclasses import dataclass, field
from typing import Final

from hub.clock import Clock
from scripts.lab.commands import Process
from scripts.lab.counters import Count, count
from scripts.lab.engines import LabEngine
from scripts.lab.floods import Flood, raging
from scripts.lab.network import SERVER
from scripts.lab.parts import Lab
from scripts.lab.timeline import Timeline
from scripts.lab.visits import Served, Visits
from scripts.lab.watch import Watch

DETECT: Final = 10.0
ACTIVATE: Final = 5.0
FLOOD_END: Final = 60.0
UNBAN: Final = 20.0
RELEASE: Final = 60.0
MIN_SERVED: Final = 99.0
MAX_LEAK: Final = 0.1
VISITS_PER_SECOND: Final = 10
MIN_VISITS: Final = 0.8


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the parts of one attack take, seconds: the calm before and after, the flood."""

    calm: float = 5.0
    flood: float = 12.0


@dataclass(slots=True)
class Outcome:
    """What one attack showed; None where it did not get that far.

    Attributes:
        detected_s: from the flood's start to FastNetMon's call, seconds.
        notify_to_active_ms: from the start of fnm-notify to the countermeasure in the kernel.
        unprotected: attack packets up to then.
        protected: attack packets from then on.
        unban_s: from the flood's end to FastNetMon's second call, seconds.
        off_s: from the later of the two until nothing was in force any more, seconds.
        verdicts: packets of the countermeasure by the engine's verdict, where it counts them.
        broken: what did not hold, in words; empty when all went well.
    """

    flood: Flood
    detected_s: float | None = None
    notify_to_active_ms: float | None = None
    unprotected: Count | None = None
    protected: Count | None = None
    before: Served | None = None
    during: Served | None = None
    after: Served | None = None
    unban_s: float | None = None
    off_s: float | None = None
    verdicts: dict[str, int] = field(default_factory=dict)
    finished: bool = False
    broken: list[str] = field(default_factory=list)


class Story:
    """Runs attacks in a lab and tells them."""

    def __init__(
        self,
        lab: Lab,
        engine: LabEngine,
        watch: Watch,
        timeline: Timeline,
        *,
        clock: Clock,
        pace: Pace,
    ) -> None:
        self._lab, self._watch, self._timeline, self._clock = lab, watch, timeline, clock
        self._engine, self._pace = engine, pace
        self._visits = Visits(lab.visits)
        self._live = ""

    def attack(self, outcome: Outcome) -> None:
        """Run the attack of `outcome` and write there what is measured, as soon as it is.

        Raises:
            LabError: a step did not happen.
        """
        flood = outcome.flood
        calm_from = self._clock.time()
        self._watch.during(self._pace.calm)
        began = self._clock.time()
        outcome.before = self._tell_served(calm_from, began, "before the attack")
        outcome.broken += self._unserved(outcome.before, began - calm_from, "before")
        base = count(self._lab.network, flood.key)
        senders = len(flood.commands(self._pace.flood))
        self._timeline.say(
            "attacker", f"{flood.title} at {senders * flood.pps} packets/s: {flood.story}"
        )
        with raging(self._lab.network, flood, self._lab.logs, self._pace.flood) as processes:
            active_at_count = self._defend(outcome, began, base)
            ended = self._flood_end(flood, processes)
        total = count(self._lab.network, flood.key) - base
        outcome.protected = total - active_at_count
        self._timeline.say("attacker", f"the flood ends after {total.sent:,} packets")
        outcome.during = self._tell_served(began, ended, "during the attack")
        outcome.broken += self._unserved(outcome.during, ended - began, "during")
        outcome.broken += _leak(outcome.protected)
        off = self._calm_down(outcome, began, ended)
        self._watch.during(self._pace.calm)
        outcome.after = self._tell_served(off, off + self._pace.calm, "after the attack")
        outcome.broken += self._unserved(outcome.after, self._pace.calm, "after")
        outcome.finished = True

    def _defend(self, outcome: Outcome, began: float, base: Count) -> Count:
        kind = outcome.flood.countermeasure
        ban = self._watch.until(
            "FastNetMon calls fnm-notify with a ban",
            lambda: self._watch.event("ban", began),
            seconds=DETECT,
            todo="see fastnetmon.log, and fastnetmon.out for what fnm-notify said",
        )
        outcome.detected_s = ban["stamp"] - began
        live = self._watch.until(
            f"the countermeasure {kind} goes live",
            lambda: self._watch.active(kind, began),
            seconds=ACTIVATE,
            todo="see hub.log for the rule and the guard that decided",
        )
        outcome.notify_to_active_ms = 1000 * (live["active_at"] - ban["stamp"])
        outcome.unprotected = count(self._lab.network, outcome.flood.key) - base
        self._live = str(live["id"])
        held = self._watch.until(
            f"{self._engine.shows} has something in force for {SERVER}",
            lambda: [name for name, text in self._held().items() if SERVER in text] or None,
            seconds=ACTIVATE,
        )
        self._timeline.say(
            "gateway",
            f"{self._engine.shows} shows it for {SERVER} ({', '.join(held)}), live "
            f"{outcome.notify_to_active_ms:.0f} ms after the call; "
            f"{outcome.unprotected.arrived:,} attack packets had arrived by then",
        )
        return outcome.unprotected

    def _flood_end(self, flood: Flood, processes: list[Process]) -> float:
        # hping3 stays a second longer for answers: the end is when packets stop.
        sent, stopped = -1, self._clock.time()

        def over() -> float | None:
            nonlocal sent, stopped
            now = count(self._lab.network, flood.key).sent
            if now != sent:
                sent, stopped = now, self._clock.time()
            return None if any(process.running for process in processes) else stopped

        return self._watch.until("the flood ends by itself", over, seconds=FLOOD_END)

    def _calm_down(self, outcome: Outcome, began: float, ended: float) -> float:
        outcome.verdicts = self._engine.verdicts(self._lab, self._live)
        # Blind, it calls in the middle of the attack, and must not be believed.
        since = began if self._engine.blinds else ended - 1
        unban = self._watch.until(
            "FastNetMon calls fnm-notify with an unban",
            lambda: self._watch.event("unban", since),
            seconds=UNBAN,
            todo="see fastnetmon.log",
        )
        outcome.unban_s = unban["stamp"] - ended
        off: float = self._watch.until(
            "every countermeasure is off",
            lambda: None if self._watch.unfinished() else self._clock.time(),
            seconds=RELEASE,
            todo="see hub.log",
        )
        self._watch.until(
            f"{self._engine.shows} has nothing of the hub's in force any more",
            lambda: None if self._held() else True,
            seconds=ACTIVATE,
        )
        outcome.off_s = off - max(unban["stamp"], ended)
        outcome.broken += self._flapping(began)
        self._timeline.say(
            "gateway", f"{self._engine.shows} shows nothing any more: packets flow as before"
        )
        return off

    def _flapping(self, began: float) -> list[str]:
        attacks, bans = self._watch.attacks(began), self._watch.bans(began)
        if not self._engine.blinds or (attacks, bans) == (1, 1):
            return []
        return [f"one flood was {attacks} attacks, reported {bans} times"]

    def _held(self) -> dict[str, str]:
        return self._engine.held(self._lab)

    def _tell_served(self, start: float, end: float, when: str) -> Served:
        served = self._visits.between(start, end)
        self._timeline.say("client", f"{when}: {served}")
        return served

    def _unserved(self, served: Served, seconds: float, when: str) -> list[str]:
        if served.asked < MIN_VISITS * VISITS_PER_SECOND * seconds:
            return [f"the client managed only {served.asked} visits {when} the attack"]
        if served.percent < MIN_SERVED:
            return [f"only {served.percent:.1f} % of the client's pages came {when} the attack"]
        return []


def _leak(protected: Count) -> list[str]:
    if protected.arrived <= MAX_LEAK * protected.sent:
        return []
    what = f"{protected.arrived:,} of {protected.sent:,} attack packets reached the server"
    return [f"{what} although the countermeasure was live"]
