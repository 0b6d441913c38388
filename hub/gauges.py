# SPDX-License-Identifier: Apache-2.0
"""What is true at the moment of the question: sets the gauges, and looks at disks and files."""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hub import __version__
from hub.clock import SteadyClock, SystemClock
from hub.engine_watch import EngineWatch
from hub.errors import StoreError
from hub.figures import begin_at_zero
from hub.guard.checks import Usage, cap_usage
from hub.intake.spool import Spool
from hub.lag import watch_lag
from hub.mitigations.executor import Verb
from hub.mitigations.model import MitigationState
from hub.runner import Runner
from hub.tasks import Tasks

if TYPE_CHECKING:
    from hub.isn_sync.sync import IsnSync

_LOOK_INTERVAL: Final = 15.0
_FINDINGS: Final = ("missing", "withdrawn", "foreign")


@dataclass(frozen=True, slots=True)
class _Disk:
    """Bytes by file of the journal, free bytes and size by place, time of the newest file."""

    files: dict[str, int]
    free: dict[str, int]
    size: dict[str, int]
    changed: float


class Gauges:
    """Sets what is not counted while it happens.

    Args:
        config_path: of the configuration in force.
        clock: the hub's steady clock.
        isn: agents, None where none are configured.
    """

    def __init__(
        self,
        config_path: Path,
        runner: Runner,
        watch: EngineWatch,
        spool: Spool,
        clock: SteadyClock,
        *,
        isn: "IsnSync | None",
    ) -> None:
        self._config_path, self._isn = config_path, isn
        self._runner, self._watch, self._spool, self._clock = runner, watch, spool, clock
        self._metrics = runner.metrics
        self._metrics.hub.build.labels(__version__).set(1)
        engines = tuple(runner.state.engines)
        begin_at_zero(self._metrics.changes, engines, map(str, MitigationState))
        begin_at_zero(self._metrics.engine_errors, engines, map(str, Verb), ("yes", "no"))
        begin_at_zero(self._metrics.reconciled, engines, _FINDINGS)
        self.loaded()

    def loaded(self) -> None:
        """Note that the configuration and rules in force are those of now."""
        self._metrics.hub.loaded.set(SystemClock().time())
        self._metrics.hub.rules.clear()
        self._metrics.hub.rules.labels(self._runner.state.rules.version).set(1)
        for rule in self._runner.state.rules.rules:
            self._metrics.core.decisions.labels(rule.name)

    async def render(self) -> bytes:
        """Set every gauge and return the text exposition format."""
        self._set_counts()
        self._set_ways_in()
        self._set_caps()
        self._set_ages()
        metrics, state = self._metrics, self._runner.state
        metrics.dry_run.set(int(state.dry_run))
        metrics.drill_running.set(int(state.memory.drill is not None))
        passed = state.memory.passed
        metrics.drill_passed.set(0.0 if passed is None else passed.ended_at)
        metrics.frozen.set(int(state.memory.frozen is not None))
        metrics.hub.draining.set(int(state.memory.draining is not None))
        metrics.clock_skew.set(self._clock.skew())
        if self._isn is not None:
            self._isn.show_metrics()
        # The process's own figures are read from /proc.
        return await asyncio.to_thread(metrics.render)

    def start(self, tasks: Tasks) -> None:
        """Begin what goes on besides the questions."""
        tasks.run("look at disks", self.look_for_ever())
        tasks.run("measure the loop", watch_lag(self._clock, self._metrics.hub.lag.observe))

    async def look_for_ever(self) -> None:
        """Look at disks and files now and then: beside the questions, as a disk may hang."""
        while True:
            await self._look()
            await self._clock.sleep(_LOOK_INTERVAL)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many attacks, mitigations and events there are, by state; drills apart."""
        attacks: dict[str, int] = {"active": 0, "ending": 0}
        for attack in self._runner.state.tracker:
            if attack.drill:
                continue
            attacks[str(attack.state)] = attacks.get(str(attack.state), 0) + 1
            if attack.held:
                attacks["held"] = attacks.get("held", 0) + 1
        mitigations: dict[str, int] = {}
        for row in self._runner.state.ledger:
            if not row.drill:
                mitigations[str(row.state)] = mitigations.get(str(row.state), 0) + 1
        events = {
            "accepted": self._runner.accepted,
            "pending": self._runner.pending,
            "not_understood": self._runner.not_understood,
        }
        return {"attacks": attacks, "mitigations": mitigations, "events": events}

    def _set_counts(self) -> None:
        metrics, counts = self._metrics, self.counts()
        for state in ("active", "ending"):
            metrics.attacks.labels(state).set(counts["attacks"].get(state, 0))
        for state in ("applying", "active", "releasing", "dry_run"):
            metrics.mitigations.labels(state).set(counts["mitigations"].get(state, 0))
        metrics.attacks_held.set(counts["attacks"].get("held", 0))
        executor = self._runner.executor
        metrics.core.orders.set(0 if executor is None else executor.waiting)

    def _set_ways_in(self) -> None:
        metrics, journal, keeper = self._metrics, self._runner.journal, self._runner.keeper
        metrics.pending.set(self._runner.pending)
        metrics.spool_waiting.set(self._spool.waiting)
        metrics.intake.spool_bad.put(value=self._spool.bad)
        metrics.intake.spool_usable.set(int(self._spool.problem is None))
        metrics.journal.trouble.set(int(bool(keeper.trouble)))
        metrics.journal.lost_audit.put(value=keeper.lost_audit)
        replaced = journal.recovered_from is not None or journal.taken_away
        metrics.journal.replaced.set(int(replaced))

    def _set_caps(self) -> None:
        core = self._metrics.core
        core.cap_used.clear()
        core.cap_limit.clear()
        for usage in self._caps():
            core.cap_used.labels(usage.cap).set(usage.used)
            core.cap_limit.labels(usage.cap).set(usage.limit)

    def _caps(self) -> Iterable[Usage]:
        state = self._runner.state
        live, policy = state.ledger.live(), state.config.guard
        engines = sorted(policy.caps.per_engine) or [""]
        rules = [rule.name for rule in state.rules.rules] or [""]
        pairs = [(engine, rules[0]) for engine in engines] + [(engines[0], one) for one in rules]
        found = {use.cap: use for pair in pairs for use in cap_usage(*pair, live, policy)}
        return found.values()

    def _set_ages(self) -> None:
        now = self._clock.time()
        oldest = {"applying": 0.0, "active": 0.0}
        for row in self._runner.state.ledger:
            if row.drill:
                continue
            if row.state is MitigationState.APPLYING and row.active_at is None:
                oldest["applying"] = max(oldest["applying"], now - row.created_at)
            elif row.active_at is not None and row.state is not MitigationState.RELEASING:
                oldest["active"] = max(oldest["active"], now - row.active_at)
        for state, age in oldest.items():
            self._metrics.core.oldest.labels(state).set(age)

    async def _look(self) -> None:
        config = self._runner.state.config
        files = (self._config_path, *config.rules)
        disk = await asyncio.to_thread(
            _look_at, self._runner.journal.path, config.intake.spool, files
        )
        journal = self._metrics.journal
        for file, size in disk.files.items():
            journal.bytes.labels(file).set(size)
        for place in disk.size:
            journal.free.labels(place).set(disk.free[place])
            journal.size.labels(place).set(disk.size[place])
        self._metrics.hub.files_changed.set(disk.changed)
        try:
            rows = await self._runner.journal.rows()
        except StoreError:
            return  # its trouble is a metric of its own
        for table, count in rows.items():
            journal.rows.labels(table).set(count)


def _look_at(journal: Path, spool: Path, files: Iterable[Path]) -> _Disk:
    sizes = {"database": _size(journal), "wal": _size(journal.with_name(f"{journal.name}-wal"))}
    free: dict[str, int] = {}
    size: dict[str, int] = {}
    for place, path in (("journal", journal.parent), ("spool", spool)):
        try:
            found = os.statvfs(path)
        except OSError:
            continue  # spool and journal say themselves that they cannot be used
        free[place] = found.f_bavail * found.f_frsize
        size[place] = found.f_blocks * found.f_frsize
    return _Disk(sizes, free, size, max(map(_changed, files)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
