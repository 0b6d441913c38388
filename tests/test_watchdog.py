# SPDX-License-Identifier: Apache-2.0
"""The watchdog is fed while an event could go its whole way, and not when some part of it hangs."""

import asyncio
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import structlog

from hub.clock import SystemClock
from hub.engine_watch import EngineWatch
from hub.metrics import Metrics
from hub.rules.ruleset import RuleSet
from hub.runner import Runner
from hub.store.settings import Settings
from hub.stream import Stream
from hub.systemd import ALIVE, Manager
from hub.tasks import Tasks
from hub.watchdog import feed
from tests.support.core import rule_set, state
from tests.support.hub_process import HubProcess, until
from tests.support.manager import Listener
from tests.support.store import opened
from tests.test_app import fill

PATIENCE_S = 0.6


class HeldClock(SystemClock):
    """A clock whose sleepers can be kept asleep."""

    def __init__(self) -> None:
        self.held = False

    async def sleep(self, seconds: float) -> None:
        """Wait, and for ever while held."""
        await super().sleep(min(seconds, 0.05))
        while self.held:
            await super().sleep(0.05)


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    """Return rules."""
    return rule_set(tmp_path)


@asynccontextmanager
async def fed(folder: Path, rules: RuleSet) -> AsyncIterator[tuple[Runner, HeldClock, Listener]]:
    """Run a runner with its loops on a journal, and feed a watchdog."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(Listener(folder / "notify"))
        manager = Manager.of(listener.environment(PATIENCE_S))
        stack.callback(manager.close)
        journal = await stack.enter_async_context(opened(folder / "journal"))
        core, settings = state(rules), await Settings.read(journal)
        clock = HeldClock()
        runner = Runner(core, journal, settings, clock=clock, metrics=Metrics(), stream=Stream())
        tasks = await stack.enter_async_context(Tasks())
        tasks.run("take events", runner.take_events())
        tasks.run("tick", runner.tick_for_ever())
        watch = EngineWatch({}, runner)
        tasks.run("watchdog", feed(manager, runner, watch, SystemClock(), tasks))
        yield runner, clock, listener


async def alive(listener: Listener) -> list[str]:
    """Wait until the watchdog is fed; return all that was said."""
    return await asyncio.to_thread(listener.wait, ALIVE)


async def silent(listener: Listener) -> None:
    """Wait until what was on its way is through; then for longer than systemd would."""
    await SystemClock().sleep(PATIENCE_S / 2)
    listener.heard()
    await SystemClock().sleep(PATIENCE_S)
    assert ALIVE not in listener.heard()


async def test_watchdog_when_all_goes_round_then_fed_again_and_again(
    tmp_path: Path, rules: RuleSet
) -> None:
    """Each time with the state in one line."""
    async with fed(tmp_path, rules) as (_, _clock, listener):
        lines = [await alive(listener) for _ in range(3)][-1]
        assert lines[-1] == "STATUS=enforcing; 0 attacks and 0 mitigations are open"


@pytest.mark.parametrize("part", ["writer", "reader", "tick"])
async def test_watchdog_when_a_part_hangs_then_starved_and_said_where(
    tmp_path: Path, rules: RuleSet, part: str
) -> None:
    """The journal's writer, the reader that the runner waits for, the loop in which time passes."""
    where = {
        "writer": "the journal's writer",
        "reader": "taking events in",
        "tick": "letting time pass",
    }
    go_on = threading.Event()
    with structlog.testing.capture_logs() as logs:
        async with fed(tmp_path, rules) as (runner, clock, listener):
            await alive(listener)
            match part:
                case "writer":
                    _ = runner.journal._writer.submit(lambda _: go_on.wait(30))
                case "reader":
                    runner.journal._reader.start(lambda _: go_on.wait(30))
                case _:
                    clock.held = True
            try:
                await silent(listener)
                hung = [line for line in logs if line["event"] == "hub.hangs"]
                assert [line["where"] for line in hung] == [where[part]]
            finally:
                go_on.set()
                clock.held = False
            await alive(listener)


@pytest.mark.beside
def test_watchdog_when_the_disk_is_full_then_fed_all_the_same(folder: Path) -> None:
    """Protection goes on without the journal, so that a restart would only lose what waits."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        with Listener(folder / "notify") as listener:
            hub = HubProcess(folder, store=disk / "journal.sqlite3")
            hub.environment = listener.environment(3)
            with hub:
                said = listener.wait("READY=1")
                assert said[0].startswith("EXTEND_TIMEOUT_USEC=")
                assert said[1].startswith("STATUS=starting")
                hub.send("ban")
                until("active", hub.active)
                fill(disk / "filler")
                assert hub.send("ban", "192.0.2.11")[0] == 503
                until("it says so", lambda: _troubled(hub))
                listener.heard()
                lines = [listener.wait(ALIVE) for _ in range(3)][-1]
                assert "the journal takes no writes" in lines[-1]
                hub.hang_up()
                listener.wait("RELOADING=1")
                listener.wait("READY=1")
                with hub.stopped():
                    listener.heard()
                    listener.quiet(2.0)
                (disk / "filler").unlink()
                hub.kill(15)
                assert "STOPPING=1" in listener.heard()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _troubled(hub: HubProcess) -> bool:
    # The keeper meets the full disk with the next thing that the core wants written.
    hub.post("/v1/freeze", reason="test")
    return bool(hub.get("/v1/status")["store"]["trouble"])
