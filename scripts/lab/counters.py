# SPDX-License-Identifier: Apache-2.0
"""Counting attack packets where they leave and where they arrive, by nft counters of the lab."""

import json
from dataclasses import dataclass
from typing import Final

from scripts.lab.network import CLIENT, SERVER, Network

_MATCHES: Final = {
    "syn": "tcp flags syn / fin,syn,rst,ack",
    "icmp": "icmp type echo-request",
    "udp": "meta l4proto udp",
}
_PLACES: Final = {
    "attacker": f"type filter hook output priority 0; ip daddr != {SERVER} return",
    "server": f"type filter hook prerouting priority -300; ip saddr {CLIENT} return",
}
_SWITCH: Final = f'type filter hook ingress device "eth0" priority 0; ip saddr {CLIENT} return'


@dataclass(frozen=True, slots=True)
class Count:
    """Attack packets of one kind so far."""

    sent: int
    arrived: int

    def __sub__(self, earlier: "Count") -> "Count":
        """Return what came since `earlier`."""
        return Count(self.sent - earlier.sent, self.arrived - earlier.arrived)


def install(network: Network, *, switched: bool = False) -> None:
    """Put the counters on the attacker's way out and the server's way in.

    Args:
        network: the lab's.
        switched: the server's namespace passes frames on to a guest.
    """
    for node, start in _PLACES.items():
        family = "ip"
        if switched and node == "server":
            family, start = "netdev", _SWITCH  # noqa: PLW2901 - this node alone
        objects = "\n".join(f"counter {kind}_flood {{ }}" for kind in _MATCHES)
        rules = "\n".join(
            f'{match} counter name "{kind}_flood"' for kind, match in _MATCHES.items()
        )
        table = f"table {family} lab {{\n{objects}\nchain count {{\n{start}\n{rules}\n}}\n}}\n"
        network.run(node, "nft", "-f", "-", stdin=table)


def count(network: Network, kind: str) -> Count:
    """Return the packets of `kind` (`syn`, `icmp`, `udp`) so far."""
    # In this order: what has arrived by now has been sent by now.
    arrived = _read(network, "server", kind)
    return Count(sent=_read(network, "attacker", kind), arrived=arrived)


def _read(network: Network, node: str, kind: str) -> int:
    answer = json.loads(network.run(node, "nft", "-j", "list", "counters"))
    counters = [item["counter"] for item in answer["nftables"] if "counter" in item]
    return next(int(one["packets"]) for one in counters if one["name"] == f"{kind}_flood")
