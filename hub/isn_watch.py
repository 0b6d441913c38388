# SPDX-License-Identifier: Apache-2.0
"""Keeps what is in force by ISN sync true: its keys, its clocks, and whether it may go on."""

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from hub.effects import Effects
from hub.engines.native.engine import NativeEngine
from hub.engines.native.modes import Choice
from hub.errors import EngineError
from hub.mitigations.model import Mitigation, MitigationState
from hub.pipeline.words import audit
from hub.rules.actions import Tcp
from hub.runner import Runner

if TYPE_CHECKING:
    from hub.isn_sync.sync import IsnSync

log = structlog.get_logger(__name__)

_INTERVAL: Final = 5.0
_LIVE: Final = frozenset({MitigationState.APPLYING, MitigationState.ACTIVE})


class IsnWatch:
    """Compares what agents and probes say with what the native engine was given.

    Args:
        sync: knows the keys.
        engine: was given them.
        runner: owns the ledger.
    """

    def __init__(self, sync: "IsnSync", engine: NativeEngine, runner: Runner) -> None:
        self._sync, self._engine, self._runner = sync, engine, runner
        self._said: dict[str, str] = {}

    async def watch(self) -> None:
        """Look every few seconds, and whenever something has changed, for ever."""
        while True:
            self._sync.changed.clear()
            try:
                await self.sweep()
            except Exception:
                log.exception("isn.defect", todo="report it; what is in force stays as it is")
            try:
                async with asyncio.timeout(_INTERVAL):
                    await self._sync.changed.wait()
            except TimeoutError:
                continue

    async def sweep(self) -> None:
        """Bring everything in force up to date once."""
        now = self._runner.clock.time()
        rows = [row for row in self._runner.state.ledger if self._is_ours(row)]
        self._sync.rely((row, row.deadline - now) for row in rows)
        for row in rows:
            if row.state is MitigationState.ACTIVE and row.deadline > now:
                await self._refresh(row)
        for gone in self._said.keys() - {row.id for row in rows}:
            del self._said[gone]

    def _is_ours(self, row: Mitigation) -> bool:
        return (
            row.engine == self._engine.name
            and row.state in _LIVE
            and isinstance(row.action, Tcp)
            and row.action.wants_keys
        )

    async def _refresh(self, row: Mitigation) -> None:
        try:
            changed = await self._engine.refresh(row)
        except EngineError as error:
            now = self._runner.state.ledger.get(row.id)
            if now is None or now.revision != row.revision:
                return  # released or renewed meanwhile
            if self._said.get(row.id) != str(error):
                log.warning(
                    "isn.not_refreshed",
                    **_about(row),
                    why=str(error),
                    todo="see why; tried again every 5 s",
                )
            self._said[row.id] = str(error)
            return
        self._said.pop(row.id, None)
        if changed is not None:
            await self._say_changed(row, changed)

    async def _say_changed(self, row: Mitigation, now: Choice) -> None:
        target, why = str(row.target), now.why
        log.info("isn.mode_changed", **_about(row), target=target, mode=now.mode, why=why)
        effects = Effects()
        reason = f"goes on by {now.mode}" + (f": {why}" if why else "")
        details = {"mode": now.mode, "down": list(now.down)}
        at = self._runner.clock.time()
        audit(effects, at, "mitigation.mode", reason, mitigation=row, details=details)
        await self._runner.carry_out(effects)


def _about(row: Mitigation) -> dict[str, str]:
    return {"mitigation": row.id, "delivery": row.delivery}
