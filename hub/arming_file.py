# SPDX-License-Identifier: Apache-2.0
"""The operator's word on dry-run beside the journal, for a start whose journal has been lost.

A damaged journal must not end protection (P9); without this file the next start would know of no
`arm`, and meet no new attack until somebody noticed.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import structlog
from pydantic import TypeAdapter

from hub.documents import Arming
from hub.effects import Effects
from hub.isn_sync.files import FileError, write_whole
from hub.pipeline.state import State

log = structlog.get_logger(__name__)

_ARMING: TypeAdapter[Arming] = TypeAdapter(Arming)


async def keep(state: State) -> None:
    """Write down what an operator has just said; a failure is logged, the journal has it too."""
    path, arming = _path(state), state.memory.arming
    if arming is None:
        return
    try:
        await asyncio.to_thread(write_whole, path, _ARMING.dump_json(arming) + b"\n")
    except FileError as error:
        log.warning(
            "switch.not_kept",
            path=str(path),
            why=error.what,
            todo="the journal has it; if that is lost, the next start does not know of it",
        )


async def adopt(state: State, effects: Effects) -> None:
    """Take up what was said before, where the journal knows of nothing that was ever said."""
    if state.memory.arming is not None:
        return
    path = _path(state)
    try:
        arming = _ARMING.validate_json(await asyncio.to_thread(path.read_bytes))
    except (OSError, ValueError):
        return  # nobody has ever said anything, or it cannot be told: dry-run is what is safe
    state.remember(replace(state.memory, arming=arming), effects)
    effects.log(
        "warning",
        "switch.kept",
        armed=arming.armed,
        actor=arming.actor,
        path=str(path),
        why="the journal is a new one and knows of no arm or disarm",
        todo="see what became of the journal",
    )


def _path(state: State) -> Path:
    store = state.config.store.path
    return store.with_name(f"{store.name}.arming")
