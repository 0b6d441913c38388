# SPDX-License-Identifier: Apache-2.0
"""Carries changes out one transaction at a time; those that wait meanwhile share the next."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from hub.clock import Clock
from hub.engines.nftables.expr import Json
from hub.engines.nftables.mirror import Mirror, Wanted, whole_seconds
from hub.engines.nftables.nft import Nft, NftStateError
from hub.engines.nftables.sysctl import TcpTracking
from hub.engines.nftables.table import Table
from hub.errors import EngineError, EnginePermanentError, EngineTemporaryError

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 3
BATCH: Final = 256
"""Most changes in one transaction, so that it stays within a command's time limit."""
PROXY_GATE: Final = "syn"


@dataclass(slots=True, eq=False)
class Change:
    """One apply, or release where `wanted` is None, on its way into the kernel.

    Attributes:
        mitigation_id: whose elements.
        wanted: what shall be there.
        done: whether it has been decided.
        error: why it was not carried out.
    """

    mitigation_id: str
    wanted: Wanted | None
    done: bool = False
    error: EngineError | None = None

    @property
    def proxies(self) -> bool:
        """Whether it needs conntrack to be strict."""
        return self.wanted is not None and PROXY_GATE in self.wanted.profile.gates

    def end(self, error: EngineError | None = None) -> None:
        """Decide it."""
        self.done, self.error = True, error


class Batches:
    """The only writer of the table's elements.

    Args:
        nft: runs nft.
        table: ours.
        tracking: the setting that the SYN proxy needs.
        clock: times elements.
    """

    def __init__(self, nft: Nft, table: Table, tracking: TcpTracking, clock: Clock) -> None:
        self._nft, self._table, self._tracking, self._clock = nft, table, tracking, clock
        self._lock = asyncio.Lock()
        self._waiting: list[Change] = []
        self._mirror: Mirror | None = None

    async def carry_out(self, change: Change) -> None:
        """Return once the kernel holds `change`; raise its error otherwise."""
        self._waiting.append(change)
        try:
            async with self._lock:
                while not change.done:
                    batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                    await self._decide(batch)
        finally:
            if not change.done and change in self._waiting:
                self._waiting.remove(change)
        if change.error is not None:
            raise change.error

    async def check(self, wanted: Wanted) -> Mirror:
        """Let the kernel check the transaction of `wanted`; return what stands beside it."""
        async with self._lock:
            for _ in range(ATTEMPTS - 1):
                mirror = (await self._look([Change(wanted.mitigation_id, wanted)])).copy()
                try:
                    await self._nft.check(self._commands(mirror, wanted))
                except NftStateError:
                    self._mirror = None
                else:
                    return mirror
            mirror = (await self._look([])).copy()
            await self._nft.check(self._commands(mirror, wanted))
            return mirror

    @asynccontextmanager
    async def looked_up(self) -> AsyncIterator[tuple[Mirror, tuple[str, ...]]]:
        """Yield what the kernel holds now and what is foreign, while nothing changes."""
        async with self._lock:
            self._mirror = None
            self._mirror, foreign = await self._table.load()
            yield self._mirror, foreign
            await self._sweep(self._mirror)
            await self._settle(self._mirror, hold=True)

    async def idle(self) -> None:
        """Return when no transaction is under way."""
        async with self._lock:
            return

    def _commands(self, mirror: Mirror, wanted: Wanted) -> list[Json]:
        remaining = wanted.deadline - self._clock.time()
        if remaining <= 0:
            raise EnginePermanentError(
                "its deadline has passed",
                where=f"mitigation {wanted.mitigation_id}",
                todo="ask for a new one",
            )
        return mirror.apply(wanted, self._clock.monotonic(), whole_seconds(remaining))

    async def _decide(self, batch: Sequence[Change]) -> None:
        try:
            await self._hold(batch)
            await self._attempt(batch)
            if self._mirror is not None:
                await self._settle(self._mirror, hold=False)
        except EngineError as error:
            self._mirror = None
            self._fail(batch, error)
        finally:
            # Only a cancelled or broken call comes here undecided; the kernel may have it or not.
            if any(not change.done for change in batch):
                self._mirror = None
            self._fail(batch, EngineTemporaryError("interrupted", where="nftables"))

    @staticmethod
    def _fail(batch: Sequence[Change], error: EngineError) -> None:
        for change in batch:
            if not change.done:
                change.end(error)

    async def _hold(self, batch: Sequence[Change]) -> None:
        proxies = [change for change in batch if change.proxies]
        if not proxies:
            return
        try:
            await self._look(batch)  # the setting exists only once the table tracks
            await self._tracking.hold()
        except EngineError as error:
            self._fail(proxies, error)

    async def _attempt(self, batch: Sequence[Change]) -> None:
        failure: EngineError = EngineTemporaryError("not tried", where="nftables")
        for attempt in range(ATTEMPTS):
            try:
                await self._transaction(batch, sweep=attempt == 0)
            except NftStateError as error:
                self._mirror = None
                failure = error
            except EnginePermanentError as error:
                failure = error
                break
            else:
                return
        open_changes = [change for change in batch if not change.done]
        if len(open_changes) < 2:  # noqa: PLR2004 - one change has nobody to blame but itself
            raise failure
        for change in open_changes:
            try:
                await self._attempt([change])
            except EngineError as error:
                change.end(error)

    async def _transaction(self, batch: Sequence[Change], *, sweep: bool) -> None:
        mirror = (await self._look(batch)).copy()
        commands: list[Json] = []
        carried: list[Change] = []
        for change in batch:
            if change.done:
                continue
            try:
                if change.wanted is None:
                    commands += mirror.release(change.mitigation_id)
                else:
                    commands += self._commands(mirror, change.wanted)
                carried.append(change)
            except EngineError as error:
                change.end(error)
        # An element that has ended may hold its chain until the kernel collects it: then the
        # profile stays, and the next inventory removes it.
        if sweep and any(change.wanted is None for change in carried):
            commands += mirror.sweep()
        if commands:
            started = self._clock.monotonic()
            await self._nft.commit(commands)
            took = round((self._clock.monotonic() - started) * 1000, 1)
            log.debug("nftables.committed", changes=len(carried), ms=took)
        self._mirror = mirror
        for change in carried:
            change.end()

    async def _look(self, batch: Sequence[Change]) -> Mirror:
        """Return what the kernel holds, read anew where that is in doubt."""
        now = self._clock.monotonic()
        mirror = self._mirror
        if mirror is None or any(
            mirror.doubtful(one.mitigation_id, one.wanted.target if one.wanted else None, now)
            for one in batch
        ):
            mirror, _ = await self._table.load()
            self._mirror = mirror
        mirror.expire(now)
        return mirror

    async def _sweep(self, mirror: Mirror) -> None:
        swept = mirror.copy()
        commands = swept.sweep()
        if not commands:
            return
        try:
            await self._nft.commit(commands)
            self._mirror = swept
        except NftStateError:
            log.debug("nftables.sweep_later", commands=len(commands))

    async def _settle(self, mirror: Mirror, *, hold: bool) -> None:
        """Bring the setting in line with what stands; a failure is told, and tried again later."""
        try:
            if not mirror.protects(PROXY_GATE):
                await self._tracking.restore()
            elif hold:
                await self._tracking.hold()
        except EngineError as error:
            log.error(
                "nftables.sysctl_failed",
                reason=str(error),
                todo="set net.netfilter.nf_conntrack_tcp_loose=0 by hand for a tcp",
            )
