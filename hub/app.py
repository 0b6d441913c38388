# SPDX-License-Identifier: Apache-2.0
"""Wiring and life cycle of the daemon: what is built once, in which order, and taken down."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import structlog

from hub import __version__
from hub.api.server import Bound, serve
from hub.attacks.tracker import Tracker
from hub.clock import Anchor, SteadyClock, SystemClock
from hub.config import Config
from hub.daemon import HubDaemon
from hub.documents import MEMORY_KEY, read_attack, read_memory, read_mitigation, readable
from hub.engine_watch import EngineWatch
from hub.engines.build import build_engines
from hub.errors import ConfigError, HubError, IntakeError, StoreError
from hub.intake.envelope import decode, encode
from hub.intake.spool import Spool
from hub.loading import read_all
from hub.log import configure
from hub.metrics import Metrics
from hub.mitigations.executor import Executor
from hub.mitigations.ledger import Ledger
from hub.pipeline.events import remember_unban, resume
from hub.pipeline.state import State
from hub.rules.ruleset import RuleSet
from hub.runner import Runner
from hub.store.journal import Journal
from hub.store.records import Batch
from hub.stream import Stream
from hub.tasks import Tasks

log = structlog.get_logger(__name__)

_CLOCK_KEY: Final = "clock"
_PRUNE_INTERVAL: Final = 600.0
_SPOOL_AT_ONCE: Final = 256


class Settings:
    """The engines' own small memory, kept in the journal under `engine:`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def get(self, key: str) -> str | None:
        """Return what was put under `key`."""
        return (await self._journal.settings()).get(f"engine:{key}")

    async def put(self, key: str, value: str | None) -> None:
        """Keep `value` durably; None forgets the key."""
        await self._journal.write(Batch(settings={f"engine:{key}": value}))


def run(config_path: Path) -> int:
    """Run the daemon until SIGTERM or SIGINT; return its exit status.

    Mistakes in the configuration are printed one a line, before anything is started.
    """
    try:
        config, rules = read_all(config_path)
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        return 1
    configure(config.log.level, config.log.format)
    try:
        asyncio.run(_main(config_path, config, rules))
    except HubError as error:
        log.error("hub.stopped", why=str(error))
        return 1
    return 0


async def _main(config_path: Path, config: Config, rules: RuleSet) -> None:
    async with running(config_path, config, rules) as (daemon, _bound, tasks):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tasks.finish)
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.run("reload", _reload(daemon)))
        await tasks.wait()
        log.info("hub.stopping", why="a signal asked for it; what protects stays in force")


async def _reload(daemon: HubDaemon) -> None:
    try:
        await daemon.reload(actor="SIGHUP")
    except ConfigError:
        return


@asynccontextmanager
async def running(
    config_path: Path, config: Config, rules: RuleSet
) -> AsyncIterator[tuple[HubDaemon, Bound, Tasks]]:
    """Run every part of the hub until the context ends; what protects stays in force."""
    async with AsyncExitStack() as stack:
        journal = await Journal.open(config.store.path, clock=SystemClock())
        stack.push_async_callback(journal.close)
        clock = await _steady_clock(journal)
        tasks = await stack.enter_async_context(Tasks())
        metrics, stream = Metrics(), Stream()
        engines = build_engines(config, clock=clock, kept=Settings(journal))
        for engine in engines.values():
            stack.push_async_callback(engine.close)
        state = await _restore(journal, config, rules)
        state.engines = {name: engine.capabilities() for name, engine in engines.items()}
        runner = Runner(state, journal, clock=clock, metrics=metrics, stream=stream)
        runner.executor = Executor(
            engines,
            tasks=tasks,
            clock=clock,
            current=runner.current,
            allowed=runner.guard_again,
            report=runner.answered,
        )
        await _remember_unbans(journal, state, clock.time())
        await runner.find_pending()
        watch = EngineWatch(engines, runner)
        spool = Spool(config.intake.spool, clock)
        daemon = HubDaemon(config_path, runner, watch, spool, clock)
        journal.on_recovery = lambda moved: _on_recovery(runner, tasks, moved)
        await watch.start_engines()
        if journal.recovered_from is not None:
            _say_recovered(journal.recovered_from)
            await watch.adopt_orphans()
        await runner.carry_out(resume(state, clock.time()))
        tasks.run("take events", runner.take_events())
        tasks.run("tick", runner.tick_for_ever())
        tasks.run("watch engines", watch.watch())
        tasks.run("reconcile", watch.reconcile_for_ever(config.reconcile_interval))
        tasks.run("spool", _drain_spool(daemon, spool, clock, config.intake.spool_interval))
        tasks.run("prune", _prune_for_ever(journal, config, clock))
        bound = await stack.enter_async_context(serve(config, daemon, clock))
        daemon.serving = True
        log.info(
            "hub.started",
            version=__version__,
            dry_run=config.dry_run,
            rules=rules.version,
            attacks=len(state.tracker),
            mitigations=len(state.ledger),
            intake=str(bound.intake),
            api=str(bound.api),
        )
        yield daemon, bound, tasks
        daemon.serving = False


async def _steady_clock(journal: Journal) -> SteadyClock:
    kept = (await journal.settings()).get(_CLOCK_KEY)
    clock = SteadyClock(Anchor(**json.loads(kept)) if kept else None)
    if not await journal.open_attacks() and not await journal.open_mitigations():
        # Nothing hangs on the old time: follow the wall clock, which may have been wrong at boot.
        clock = SteadyClock()
    await journal.write(Batch(settings={_CLOCK_KEY: json.dumps(asdict(clock.anchor))}))
    return clock


async def _restore(journal: Journal, config: Config, rules: RuleSet) -> State:
    memory = read_memory((await journal.settings()).get(MEMORY_KEY))
    attacks, gone = readable(await journal.open_attacks(), read_attack)
    rows, lost = readable(await journal.open_mitigations(), read_mitigation)
    for row_id in (*gone, *lost):
        log.error(
            "store.row_unreadable",
            id=row_id,
            todo="what it describes ends at its deadline; keep a copy of the journal",
        )
    if lost:
        # What they describe may be in force: it is left alone, as after the loss of the journal.
        memory = replace(memory, orphans=tuple(sorted({*memory.orphans, *lost})))
    return State(config, rules, {}, Tracker(config.attacks, attacks), Ledger(rows), memory)


async def _remember_unbans(journal: Journal, state: State, now: float) -> None:
    for event in await journal.events(limit=1000):
        if event.received_at < now - state.config.attacks.tombstone:
            return
        try:
            envelope = decode(event.raw)
        except IntakeError:
            continue
        remember_unban(state, event.number, envelope, event.received_at)


def _on_recovery(runner: Runner, tasks: Tasks, moved: Path) -> None:
    _say_recovered(moved)
    tasks.run("rewrite the journal", runner.rewrite())


def _say_recovered(moved: Path) -> None:
    log.error(
        "store.recovered",
        moved_to=str(moved),
        todo="engines stay as they are; keep the old file, see docs/operations.md",
    )


async def _drain_spool(
    daemon: HubDaemon, spool: Spool, clock: SteadyClock, interval: float
) -> None:
    said = ""
    while True:
        files = await spool.take(_SPOOL_AT_ONCE)
        # Together, so that one commit carries them; they are numbered in this order.
        answers = await asyncio.gather(
            *(
                daemon.accept(file.envelope, raw=encode(file.envelope), via="spool")
                for file in files
            ),
            return_exceptions=True,
        )
        taken = [file for file, answer in zip(files, answers, strict=True) if _is_done(answer)]
        await spool.done(*taken)
        why = next((str(answer) for answer in answers if not _is_done(answer)), "")
        if why and why != said:
            log.warning("spool.waits", why=why, waiting=len(files) - len(taken))
        said = why
        if len(taken) < _SPOOL_AT_ONCE:
            await clock.sleep(interval)


def _is_done(answer: object) -> bool:
    if isinstance(answer, BaseException) and not isinstance(answer, HubError):
        raise answer
    return not isinstance(answer, HubError)


async def _prune_for_ever(journal: Journal, config: Config, clock: SteadyClock) -> None:
    while True:
        await clock.sleep(_PRUNE_INTERVAL)
        now = clock.time()
        try:
            gone = await journal.prune(
                events_before=now - config.store.keep_events,
                audit_before=now - config.store.keep_audit,
            )
        except StoreError as error:
            log.warning("store.prune_failed", why=str(error))
            continue
        if gone:
            log.info("store.pruned", rows=gone)
