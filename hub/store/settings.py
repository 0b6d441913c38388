# SPDX-License-Identifier: Apache-2.0
"""Small things that parts of the hub remember across restarts, by name."""

from hub.store.journal import Journal
from hub.store.keeper import Keeper
from hub.store.records import Batch


class Settings:
    """Names and texts: read once, kept in memory, written through the keeper.

    Attributes:
        known: everything, so that a fresh journal can be given it again.
        keeper: holds what the journal cannot take now.
    """

    def __init__(self, known: dict[str, str], keeper: Keeper) -> None:
        self.known, self.keeper = known, keeper

    @classmethod
    async def read(cls, journal: Journal) -> "Settings":
        """Return what an earlier run left.

        Raises:
            StoreError: the journal cannot be read.
        """
        return cls(await journal.settings(), Keeper(journal))

    async def put(self, key: str, value: str | None) -> None:
        """Keep `value`, None forgets the key; durable on return while the journal takes writes."""
        if value is None:
            self.known.pop(key, None)
        else:
            self.known[key] = value
        await self.keeper.save(Batch(settings={key: value}))


class Section:
    """The settings of one part, under a prefix of its own."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings, self._prefix = settings, prefix

    async def get(self, key: str) -> str | None:
        """Return what was put under `key`."""
        return self._settings.known.get(self._prefix + key)

    async def put(self, key: str, value: str | None) -> None:
        """Keep `value`; None forgets the key."""
        await self._settings.put(self._prefix + key, value)
