# SPDX-License-Identifier: Apache-2.0
"""Parts of `status` and of the metrics that are told from the core alone."""

from dataclasses import asdict
from typing import Any, Final

from hub.clock import SteadyClock
from hub.config import UNTIL_ARMED
from hub.mitigations.model import MitigationState
from hub.pipeline.arming import drill_lacking
from hub.pipeline.state import State
from hub.runner import Runner

_CLOCK_STEP: Final = 2.0


def in_force(state: State) -> dict[str, Any]:
    """Return how much acts on traffic now, and until when at the latest (Unix seconds or None)."""
    rows = [
        row
        for row in state.ledger
        if row.state in (MitigationState.APPLYING, MitigationState.ACTIVE) and not row.drill
    ]
    return {"count": len(rows), "until": max((row.deadline for row in rows), default=None)}


def arming_view(state: State, now: float) -> dict[str, Any]:
    """Return whether the hub acts, who says so, and whether a drill speaks for it."""
    said = state.memory.arming
    return {
        "armed": not state.dry_run,
        "dry_run": state.dry_run,
        "config": state.config.dry_run,
        "operator": None if said is None else asdict(said),
        "drill_lacking": drill_lacking(state, now),
    }


def warnings_of_core(runner: Runner, clock: SteadyClock) -> list[str]:
    """Return what an operator should know, one text each."""
    state, journal, warnings = runner.state, runner.journal, list[str]()
    if state.dry_run:
        warnings.append(f"dry-run: nothing is applied; {_way_out(state)}")
    if state.memory.orphans:
        count = len(state.memory.orphans)
        warnings.append(f"{count} mitigation(s) of a lost journal are left to their deadlines")
    if journal.recovered_from:
        moved = journal.recovered_from
        warnings.append(f"the journal was damaged and moved to {moved}; a new one was begun")
    if journal.taken_away:
        warnings.append("the journal was deleted while in use; a new one was begun")
    if runner.keeper.trouble:
        warnings.append(f"the journal takes no writes: {runner.keeper.trouble}")
    if abs(clock.skew()) > _CLOCK_STEP:
        skew = clock.skew()
        warnings.append(
            f"the wall clock was set by {skew:+.0f} s; times shown here are the hub's own"
        )
    return warnings


def _way_out(state: State) -> str:
    if state.config.dry_run is True:
        return f"write dry_run: {UNTIL_ARMED}, reload, then: fnm-hub arm"
    said = state.memory.arming
    if said is not None:
        return f"{said.actor} disarmed it; to protect: fnm-hub arm"
    return "to protect: fnm-hub arm"
