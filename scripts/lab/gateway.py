# SPDX-License-Identifier: Apache-2.0
"""What the gateway's kernel holds of the hub's, read with nft and not through the hub."""

import json
from typing import Final

from scripts.lab.network import Network

TABLE: Final = "fnm_hub"


def gates(network: Network) -> dict[str, str]:
    """Return the hub's open gates, the maps that send a target's packets to a countermeasure.

    Only they decide: with all of them empty, no packet is treated differently from before.

    Returns:
        name of each map that holds anything, with its elements as JSON text.
    """
    tables = json.loads(network.run("gateway", "nft", "-j", "list", "tables"))["nftables"]
    if not any(item.get("table", {}).get("name") == TABLE for item in tables):
        return {}
    listing = json.loads(network.run("gateway", "nft", "-j", "list", "table", "inet", TABLE))
    maps = [item["map"] for item in listing["nftables"] if "map" in item]
    return {item["name"]: json.dumps(item["elem"]) for item in maps if item.get("elem")}
