# SPDX-License-Identifier: Apache-2.0
"""Wiring and life cycle of the daemon: what is built once, in which order, and taken down."""

import asyncio
import faulthandler
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from hub import __version__, arming_file
from hub.api.server import Bound, serve
from hub.attacks.tracker import Tracker
from hub.clock import Anchor, SteadyClock, SystemClock
from hub.config import Config
from hub.daemon import HubDaemon
from hub.documents import (
    CLOCK_KEY,
    MEMORY_KEY,
    RESTORED_KEY,
    Memory,
    read_attack,
    read_memory,
    read_mitigation,
    readable,
)
from hub.engine_watch import EngineWatch
from hub.engines.build import build_engines
from hub.engines.native.engine import NativeEngine
from hub.errors import ConfigError, HubError, IntakeError, StoreError
from hub.intake.envelope import decode, encode
from hub.intake.model import Action
from hub.intake.spool import Spool
from hub.isn_watch import IsnWatch
from hub.loading import read_all
from hub.log import configure
from hub.loop import Loop
from hub.meter import Meter
from hub.metrics import Metrics
from hub.mitigations.engine import Capabilities, Engine
from hub.mitigations.executor import Executor
from hub.mitigations.ledger import Ledger
from hub.needs import Needs
from hub.pipeline.events import remember_unban, resume
from hub.pipeline.operating import redecide
from hub.pipeline.restored import take_up
from hub.pipeline.state import State
from hub.rules.able import NATIVE
from hub.rules.ruleset import RuleSet
from hub.runner import Runner
from hub.store.journal import Journal
from hub.store.records import Row, StoredEvent
from hub.store.settings import Section, Settings
from hub.stream import Stream
from hub.systemd import READY, STOPPING, Manager
from hub.tasks import Tasks
from hub.watchdog import feed

if TYPE_CHECKING:
    from hub.isn_sync.prober import Prober
    from hub.isn_sync.sync import IsnSync

log = structlog.get_logger(__name__)

_PRUNE_INTERVAL: Final = 600.0
_SPOOL_AT_ONCE: Final = 256
_PAGE: Final = 500


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
    # The watchdog ends a hub that hangs by SIGABRT: where each thread was is worth knowing.
    faulthandler.enable()
    manager = Manager.of(os.environ)
    try:
        with _probing(config) as prober, asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(_main(config_path, config, rules, prober, manager))
    except HubError as error:
        log.error(
            "hub.stopped",
            why=str(error),
            todo="mend what why names, then start it; deadlines hold meanwhile",
        )
        return 1
    finally:
        manager.close()
    return 0


def _probing(config: Config) -> "AbstractContextManager[Prober | None]":
    if not _has_agents(config):
        return nullcontext()
    from hub.isn_sync.rights import probing  # noqa: PLC0415 - for these hubs alone

    return probing(SystemClock())


async def _main(
    config_path: Path, config: Config, rules: RuleSet, prober: "Prober | None", manager: Manager
) -> None:
    async with AsyncExitStack() as stack:
        hub = running(config_path, config, rules, prober, manager=manager)
        # A long journal takes its time to be looked at, and a long spool to be taken.
        async with manager.waiting_for("starting: the journal, the engines and the sockets"):
            daemon, _bound, tasks = await stack.enter_async_context(hub)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tasks.finish)
        loop.add_signal_handler(
            signal.SIGHUP, lambda: tasks.run("reload", _reload(daemon, manager))
        )
        await manager.tell(READY)
        try:
            await tasks.wait()
        finally:
            await manager.tell(STOPPING)
        log.info("hub.stopping", why="a signal asked for it; what protects stays in force")


async def _reload(daemon: HubDaemon, manager: Manager) -> None:
    await manager.reloading()
    try:
        await daemon.reload(actor="SIGHUP")
    except ConfigError:
        return
    except Exception:
        log.exception("rules.reload_defect", todo="nothing has changed; report it with the files")
    finally:
        await manager.tell(READY)


@asynccontextmanager
async def running(
    config_path: Path,
    config: Config,
    rules: RuleSet,
    prober: "Prober | None" = None,
    *,
    manager: Manager | None = None,
) -> AsyncIterator[tuple[HubDaemon, Bound, Tasks]]:
    """Run every part of the hub until the context ends; what protects stays in force."""
    async with AsyncExitStack() as stack:
        journal = await Journal.open(config.store.path, clock=SystemClock())
        stack.push_async_callback(journal.close)
        settings = await Settings.read(journal)
        left = _Left(await journal.open_attacks(), await journal.open_mitigations())
        clock = await _steady_clock(settings, left)
        metrics, stream = Metrics(), Stream()
        isn = None
        if _has_agents(config):
            from hub.isn_sync.sync import IsnSync as Agents  # noqa: PLC0415 - it loads asyncssh

            opened = Agents.opened(config.isn_sync, config.services, clock, metrics, prober)
            isn = await stack.enter_async_context(opened)
        engines = build_engines(config, clock=clock, kept=Section(settings, "engine:"), keys=isn)
        for engine in engines.values():
            stack.push_async_callback(engine.close)
        tasks = await stack.enter_async_context(Tasks())
        able = {name: engine.capabilities() for name, engine in engines.items()}
        state, complete = _restore(left, settings, config, rules, able)
        runner = Runner(state, journal, settings, clock=clock, metrics=metrics, stream=stream)
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
        meter = Meter(engines, runner, watch.hurry)
        spool = Spool(config.intake.spool, clock)
        needs = Needs(config.intake.spool, journal, settings, tasks=tasks, clock=clock)
        daemon = HubDaemon(config_path, runner, watch, spool, clock, needs=needs, isn=isn)
        journal.on_recovery = lambda moved: _on_recovery(runner, tasks, moved)
        await watch.start_engines()
        if journal.recovered_from is not None:
            _say_recovered(journal.recovered_from)
        await _go_on(runner, watch, complete=complete)
        if isn is not None:
            _start_isn(isn, engines.get(NATIVE), runner, tasks)
        tasks.run("take events", runner.take_events())
        tasks.run("tick", runner.tick_for_ever())
        watch.run(tasks, config.reconcile_interval)
        tasks.run("look at the machine", needs.watch())
        tasks.run("measure", meter.measure_for_ever())
        daemon.gauges.start(tasks)
        tasks.run("spool", _drain_spool(daemon, spool, clock, config.intake.spool_interval))
        tasks.run("prune", _prune_for_ever(journal, config, clock))
        bound = await stack.enter_async_context(serve(config, daemon, clock))
        daemon.serving = True
        if manager is not None and manager.listens:
            tasks.run("watchdog", feed(manager, runner, watch, clock, tasks))
        log.info(
            "hub.started",
            version=__version__,
            dry_run=state.dry_run,
            rules=rules.version,
            attacks=len(state.tracker),
            mitigations=len(state.ledger),
            intake=str(bound.intake),
            api=str(bound.api),
        )
        yield daemon, bound, tasks
        daemon.serving = False


def _start_isn(isn: "IsnSync", native: Engine | None, runner: Runner, tasks: Tasks) -> None:
    if isinstance(native, NativeEngine):
        isn.start(tasks)
        tasks.run("watch isn-sync", IsnWatch(isn, native, runner).watch())


async def _go_on(runner: Runner, watch: EngineWatch, *, complete: bool) -> None:
    """Go on from where the journal ends."""
    state, now = runner.state, runner.clock.time
    if RESTORED_KEY in runner.settings.known:
        await runner.carry_out(take_up(state, await watch.standing(), now()))
        await runner.settings.put(RESTORED_KEY, None)
    begun = resume(state, now(), complete=complete)
    await arming_file.adopt(state, begun)
    redecide(state, "hub", now(), begun, unasked=True)
    await runner.carry_out(begun)


def _has_agents(config: Config) -> bool:
    return config.engines.native.enabled and bool(config.isn_sync.inventory().agents)


@dataclass(frozen=True, slots=True)
class _Left:
    """What an earlier run left open."""

    attacks: list[Row]
    mitigations: list[Row]


async def _steady_clock(settings: Settings, left: _Left) -> SteadyClock:
    kept = settings.known.get(CLOCK_KEY)
    clock = SteadyClock(Anchor(**json.loads(kept)) if kept else None)
    if not left.attacks and not left.mitigations:
        # Nothing hangs on the old time: follow the wall clock, which may have been wrong at boot.
        clock = SteadyClock()
    await settings.put(CLOCK_KEY, json.dumps(asdict(clock.anchor)))
    return clock


def _restore(
    left: _Left,
    settings: Settings,
    config: Config,
    rules: RuleSet,
    engines: Mapping[str, Capabilities],
) -> tuple[State, bool]:
    memory = _memory(settings)
    attacks, gone = readable(left.attacks, read_attack)
    rows, lost = readable(left.mitigations, read_mitigation)
    for row_id in (*gone, *lost):
        log.error(
            "store.row_unreadable",
            id=row_id,
            todo="what it describes ends at its deadline; keep a copy of the journal",
        )
    if lost:
        # What they describe may be in force: it is left alone, as after the loss of the journal.
        memory = replace(memory, orphans=tuple(sorted({*memory.orphans, *lost})))
    messengers = [name for name, able in engines.items() if not able.lasting]
    ledger = Ledger(rows, messengers)
    state = State(config, rules, engines, Tracker(config.attacks, attacks), ledger, memory)
    return state, not gone


def _memory(settings: Settings) -> Memory:
    try:
        return read_memory(settings.known.get(MEMORY_KEY))
    except ValueError:
        log.error(
            "store.memory_unreadable",
            todo="freeze, drain and hold-offs are forgotten: set them again if they are needed",
        )
        return Memory()


async def _remember_unbans(journal: Journal, state: State, now: float) -> None:
    since = now - state.config.attacks.tombstone
    found: list[StoredEvent] = []
    before: int | None = None
    while page := await journal.events(before=before, limit=_PAGE):
        found += [one for one in page if one.received_at >= since and _is_unban(one)]
        before = page[-1].number
        if page[-1].received_at < since:
            break
    for event in reversed(found):
        with suppress(IntakeError):
            remember_unban(state, event.number, decode(event.raw), event.received_at)


def _is_unban(event: StoredEvent) -> bool:
    return event.status == "done" and event.action in (Action.UNBAN, Action.PARTIAL_UNBLOCK)


def _on_recovery(runner: Runner, tasks: Tasks, moved: Path) -> None:
    if runner.journal.taken_away:
        log.error(
            "store.taken_away",
            path=str(moved),
            todo="find out who deleted it; a new one was begun, engines stay as they are",
        )
    else:
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
            log.warning(
                "spool.waits",
                why=why,
                waiting=len(files) - len(taken),
                todo="mend the cause: see fnm-hub status; the files stay",
            )
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
        now, total = clock.time(), 0
        try:
            while gone := await journal.prune(
                events_before=now - config.store.keep_events,
                audit_before=now - config.store.keep_audit,
            ):
                total += gone
        except StoreError as error:
            log.warning(
                "store.prune_failed",
                why=str(error),
                todo="make room on the disk; tried again in 10 min",
            )
        if total:
            log.info("store.pruned", rows=total)
