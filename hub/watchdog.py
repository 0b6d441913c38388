# SPDX-License-Identifier: Apache-2.0
"""Tells systemd that the hub works, only after something has gone the whole way of an event."""

import asyncio
from typing import Final

import structlog

from hub.clock import Clock
from hub.engine_watch import EngineWatch
from hub.runner import Runner
from hub.systemd import ALIVE, Manager, status
from hub.tasks import Tasks

log = structlog.get_logger(__name__)

_MOST_S: Final = 5.0
_SHARE: Final = 6


async def feed(
    manager: Manager, runner: Runner, watch: EngineWatch, clock: Clock, tasks: Tasks
) -> None:
    """Send pulses for ever; the watchdog is fed after each that has come through.

    A hub that hangs for half of the watchdog's time says where it does, while it still can.
    """
    patience = manager.watchdog_s
    interval = _MOST_S if patience is None else min(_MOST_S, patience / _SHARE)
    while True:
        pulse = tasks.start("pulse", runner.pulse())
        if patience is not None:
            await asyncio.wait({pulse}, timeout=patience / 2)
            if not pulse.done():
                log.error(
                    "hub.hangs",
                    where=runner.pulse_at,
                    todo="systemd ends and restarts it; look at the disk, and keep what follows",
                )
        await pulse
        await manager.tell(ALIVE, status(summary(runner, watch)))
        await clock.sleep(interval)


def summary(runner: Runner, watch: EngineWatch) -> str:
    """Return the hub's state in one line: what it does, and what it cannot do."""
    state = runner.state
    mode = "dry-run" if state.dry_run else "enforcing"
    if state.memory.frozen is not None:
        mode += ", frozen"
    facts = [
        mode,
        f"{len(state.tracker)} attacks and {len(state.ledger)} mitigations are open",
        *watch.unready(),
    ]
    if runner.keeper.trouble:
        facts.append(f"the journal takes no writes: {runner.keeper.trouble}")
    return "; ".join(facts)
