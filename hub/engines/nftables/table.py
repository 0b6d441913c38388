# SPDX-License-Identifier: Apache-2.0
"""Our table in the kernel: installs, adopts or replaces it, reads it and commits changes to it."""

import structlog

from hub.clock import Clock
from hub.engines.nftables.expr import FAMILY, Commands
from hub.engines.nftables.inventory import Standing, layout_tag, read_gates, read_structure
from hub.engines.nftables.judged import Hits, read_hits
from hub.engines.nftables.layout import VERSIONS, base, gate_names, hits
from hub.engines.nftables.mirror import Mirror
from hub.engines.nftables.nft import Nft, NftStateError
from hub.engines.nftables.upgrade import upgrade

log = structlog.get_logger(__name__)


class Table:
    """The table `inet NAME`, and nothing else of the ruleset.

    Args:
        nft: runs nft.
        name: of the table.
        clock: times elements.
    """

    def __init__(self, nft: Nft, name: str, clock: Clock) -> None:
        self._nft, self._name, self._clock = nft, name, clock
        self._base = base(name)
        self._layout = layout_tag(self._base)
        self._make = Commands(name)

    @property
    def name(self) -> str:
        """Name as nft shows it."""
        return f"{FAMILY} {self._name}"

    async def standing(self) -> Standing | None:
        """Return what is there, None without a table."""
        return read_structure(await self._nft.structure(), self._name)

    def fits(self, standing: Standing) -> bool:
        """Tell whether the table is whole and of this version's layout."""
        return standing.whole and standing.layout == self._layout

    async def load(self) -> tuple[Mirror, tuple[str, ...]]:
        """Make sure of our layout; return what stands in it, and what is foreign in words."""
        standing = await self.standing()
        if standing is None:
            await self._nft.commit(self._base)
            log.info("nftables.table_installed", table=self.name, layout=self._layout)
            return Mirror(self._name), ()
        if not self.fits(standing):
            return await self._replace(standing), ()
        mirror, foreign = await self._gates(standing)
        return mirror, (*standing.foreign, *foreign)

    async def counters(self) -> dict[str, tuple[int, int]]:
        """Return packets and bytes of each named counter."""
        standing = await self.standing()
        found = standing.counters if standing else ()
        return {one["name"]: (one["packets"], one["bytes"]) for one in found}

    async def hits(self) -> Hits:
        """Return what filters have dropped, by target and profile."""
        names = [hits(version) for version in VERSIONS]
        return read_hits(
            await self._nft.read([self._make.list_elements("set", name) for name in names])
        )

    async def _gates(self, standing: Standing) -> tuple[Mirror, list[str]]:
        now = self._clock.monotonic()
        there = {one["map"]["name"] for one in standing.objects if "map" in one}
        names = [name for name in gate_names() if name in there]
        objects = await self._nft.read([self._make.list_elements("map", name) for name in names])
        return read_gates(objects, self._name, standing, now)

    async def _replace(self, standing: Standing) -> Mirror:
        """Put our layout in place of another one, with what is live in it."""
        former: Mirror | None = None
        try:
            former, _ = await self._gates(standing)
            await self._nft.commit(upgrade(standing.objects, self._base, self._name))
        except NftStateError as error:
            # What was live comes back by the ledger; a table that does not work must not stay.
            log.warning(
                "nftables.table_not_upgraded",
                table=self.name,
                reason=str(error),
                todo="see that mitigation.active follows for what was live",
            )
            former = None
            await self._nft.commit([self._make.delete_table(), *self._base])
        log.warning(
            "nftables.table_replaced",
            table=self.name,
            was=standing.layout,
            now=self._layout,
            foreign=list(standing.foreign),
            todo="expected after an upgrade; else find out who changed it",
        )
        found = await self.standing()
        if found is None or not self.fits(found):
            raise NftStateError("changed while it was installed", where=self.name)
        mirror, _ = await self._gates(found)
        return mirror if former is None else await self._restore(mirror, former)

    async def _restore(self, mirror: Mirror, former: Mirror) -> Mirror:
        """Put back what was live in gates that had to be made anew."""
        restored = mirror.copy()
        commands = restored.restore(former, self._clock.monotonic())
        try:
            if commands:
                await self._nft.commit(commands)
        except NftStateError as error:
            log.warning(
                "nftables.not_restored",
                table=self.name,
                reason=str(error),
                todo="see that mitigation.active follows for what was live",
            )
            return mirror
        return restored
