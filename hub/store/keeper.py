# SPDX-License-Identifier: Apache-2.0
"""Writes batches, and keeps what the journal could not take until it can."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import structlog

from hub.errors import StoreError
from hub.store.journal import Journal
from hub.store.records import AuditRow, Batch, EventResult, Row

log = structlog.get_logger(__name__)

_MOST_AUDIT: Final = 20_000


@dataclass(eq=False, slots=True)
class _Save:
    """One write under way, and the names of what later ones hold in a newer state."""

    superseded: set[str] = field(default_factory=set)


def _names(batch: Batch) -> set[str]:
    rows = (*batch.attacks, *batch.mitigations)
    return {*(row.id for row in rows), *batch.settings}


class Keeper:
    """Stands between the core and the journal, so that a full disk stops no protection.

    What could not be written stays in memory, the newest state of each row only, and goes along
    with the next write. Audit rows beyond 20,000 are given up, oldest first, and counted.

    Attributes:
        failures: writes that the journal did not take since the start.
        lost_audit: audit rows given up.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._saving: list[_Save] = []
        self._events: dict[int, EventResult] = {}
        self._attacks: dict[str, Row] = {}
        self._mitigations: dict[str, Row] = {}
        self._settings: dict[str, str | None] = {}
        self._audit: deque[AuditRow] = deque()
        self.failures = 0
        self.lost_audit = 0
        self.trouble = ""

    @property
    def waiting(self) -> bool:
        """Tell whether something is still to be written."""
        kept = (self._events, self._attacks, self._mitigations, self._settings, self._audit)
        return any(kept)

    async def save(self, batch: Batch) -> bool:
        """Write `batch` and all that waits; return whether it is durable. Never raises."""
        whole = self._take(batch)
        save = _Save()
        names = _names(whole)
        for earlier in self._saving:
            earlier.superseded |= names
        self._saving.append(save)
        try:
            await self._journal.write(whole)
        except StoreError as error:
            self._put_back(whole, save.superseded)
            self.failures += 1
            if not self.trouble:
                log.error(
                    "store.write_failed",
                    why=str(error),
                    todo="free space or mend the disk; protection goes on, the record waits",
                )
            self.trouble = str(error)
            return False
        finally:
            self._saving.remove(save)
        if self.trouble:
            log.warning(
                "store.write_resumed",
                lost_audit=self.lost_audit,
                todo="nothing; what it gave up, if anything, is in lost_audit",
            )
            self.trouble = ""
        return True

    async def flush(self) -> bool:
        """Try again to write what waits; return whether nothing waits any more."""
        return await self.save(Batch()) if self.waiting else True

    def _take(self, batch: Batch) -> Batch:
        if not self.waiting:
            return batch
        self._merge(batch)
        whole = Batch(
            events=tuple(self._events.values()),
            attacks=tuple(self._attacks.values()),
            mitigations=tuple(self._mitigations.values()),
            settings=dict(self._settings),
            audit=tuple(self._audit),
        )
        for kept in (self._events, self._attacks, self._mitigations, self._settings, self._audit):
            kept.clear()
        return whole

    def _merge(self, batch: Batch) -> None:
        self._events |= {result.number: result for result in batch.events}
        self._attacks |= {row.id: row for row in batch.attacks}
        self._mitigations |= {row.id: row for row in batch.mitigations}
        self._settings |= batch.settings
        self._audit.extend(batch.audit)
        self._trim()

    def _put_back(self, batch: Batch, superseded: set[str]) -> None:
        """Keep `batch`, but for what a later save has written or holds already: that is newer."""
        attacks = {row.id: row for row in batch.attacks if row.id not in superseded}
        rows = {row.id: row for row in batch.mitigations if row.id not in superseded}
        settings = {key: text for key, text in batch.settings.items() if key not in superseded}
        self._events = {result.number: result for result in batch.events} | self._events
        self._attacks = attacks | self._attacks
        self._mitigations = rows | self._mitigations
        self._settings = settings | self._settings
        self._audit.extendleft(reversed(batch.audit))
        self._trim()

    def _trim(self) -> None:
        while len(self._audit) > _MOST_AUDIT:
            self._audit.popleft()
            self.lost_audit += 1
