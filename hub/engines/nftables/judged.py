# SPDX-License-Identifier: Apache-2.0
"""How many packets each mitigation has judged, by which one sees that an attack goes on (pure)."""

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from hub.engines.nftables.acl import counts
from hub.engines.nftables.expr import Json
from hub.engines.nftables.layout import COUNTED
from hub.engines.nftables.mirror import Mirror, Piece
from hub.engines.nftables.profile import number_of

Hits = dict[tuple[IPv4Address | IPv6Address, int], int]
"""Packets dropped by a target's first address and the number of a profile."""


def read_hits(objects: Iterable[Json]) -> Hits:
    """Return what `list set` says of the sets that count what filters drop."""
    found: Hits = {}
    for one in objects:
        for element in one.get("set", {}).get("elem", ()):
            try:
                body = element["elem"]
                address, number = body["val"]["concat"]
                found[ip_address(address), number] = body["counter"]["packets"]
            except (KeyError, TypeError, ValueError):
                continue  # somebody else's
    return found


def judged(pieces: Mapping[str, Piece], name: str, mirror: Mirror, hits: Hits) -> int | None:
    """Return how many packets one mitigation has judged, None where nothing counts them.

    Of `tcp` these are the packets to the target that come to the proxy: SYNs, and what fits no
    flow that conntrack or the server knows. Of `acl` those that were dropped, at once or beyond
    a limit. Of `sorb` all to the target. What an earlier mitigation drops is not seen.

    Args:
        pieces: its elements by the name of their gate.
        name: of its profile.
        mirror: the rest of the table.
        hits: what filters have dropped.
    """
    if name.startswith("acl"):
        if not counts(name, mirror.chains):
            return None
        target = next(iter(pieces.values())).target
        return hits.get((target.network_address, number_of(name)), 0)
    return next((one.packets for gate, one in pieces.items() if gate.startswith(COUNTED)), None)


class Totals:
    """Goes on where a counter has begun anew, as that of an element does when it is renewed.

    Unknown is what was counted between the last look and the renewal.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def add(self, mitigation_id: str, packets: int) -> int:
        """Return the total of a mitigation whose counter now shows `packets`."""
        before, last = self._seen.get(mitigation_id, (0, 0))
        if packets < last:
            before += last
        self._seen[mitigation_id] = before, packets
        return before + packets

    def keep(self, mitigation_ids: Collection[str]) -> None:
        """Forget all the others."""
        self._seen = {key: one for key, one in self._seen.items() if key in mitigation_ids}
