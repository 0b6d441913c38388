# SPDX-License-Identifier: Apache-2.0
"""A threshold per source: who exceeds it is blocked for a while.

The burst is one second's worth, so a source is blocked once it has sent twice the threshold within
a second. IPv6 sources are told apart by address, and besides by /64 at a higher threshold: whoever
owns a /64 could send every packet from another address.
"""

import math
from typing import Any, Final

from hub.engines.nftables.expr import (
    DROP,
    RETURN,
    Json,
    above,
    concat,
    count,
    field,
    goto,
    is_,
    is_not,
    masked,
    meta,
    remember,
)
from hub.engines.nftables.layout import address_type, protocol, whole
from hub.engines.nftables.profile import OWN, Draft
from hub.errors import EnginePermanentError
from hub.net import IPNetwork
from hub.rules.actions import Sorb

METER_SECONDS: Final = 2
"""Who sends nothing for so long is below any threshold of a packet a second."""
SITE_MASK: Final = "ffff:ffff:ffff:ffff::"
SITE_FACTOR: Final = 16


def sorb_draft(target: IPNetwork, action: Sorb, interface: str | None, max_sources: int) -> Draft:
    """Return the meters of `action` for the family and width of `target`.

    Args:
        target: sources are counted for the whole prefix, not for each address in it.
        action: threshold and time of the block.
        interface: where the attack comes from, None for anywhere.
        max_sources: bound of each set; sources beyond it are not counted and pass.
    """
    version = target.version
    source = field(protocol(version), "saddr")
    threshold = _threshold(action, target)
    meters = [("", source, threshold)]
    if version == 6:  # noqa: PLR2004
        meters.append(("64", masked(source, SITE_MASK), threshold * SITE_FACTOR))
    seconds = math.ceil(action.block)
    rules: list[list[Json]] = []
    chains: dict[str, list[list[Json]]] = {"": rules}
    if interface:
        rules.append([is_not(meta("iifname"), interface), RETURN])
    for suffix, who, _ in meters:
        key = concat(whole(target), who)
        rules.append([is_(key, f"@{OWN}_block{suffix}"), count("sorb_dropped"), DROP])
    for suffix, who, pps in meters:
        key = concat(whole(target), who)
        metered = remember(f"{OWN}_rate{suffix}", key, METER_SECONDS, above(pps, pps))
        rules.append([metered, goto(f"{OWN}_over{suffix}")])
        # In a chain of its own: a full block list must not let the packet pass.
        chains[f"_over{suffix}"] = [
            [remember(f"{OWN}_block{suffix}", key, seconds), count("sorb_blocked")],
            [count("sorb_dropped"), DROP],
        ]
    pair: str | list[str] = [address_type(version)] * 2
    names = [f"_{what}{suffix}" for what in ("rate", "block") for suffix, _, _ in meters]
    return Draft(
        kind="sorb",
        version=version,
        chains=chains,
        gates={"flt": ""},
        sets=dict.fromkeys(names, (pair, max_sources)),
        steps=_steps(threshold, seconds, version, max_sources),
    )


def _threshold(action: Sorb, target: IPNetwork) -> int:
    if action.pps is None or action.bps is not None:
        raise EnginePermanentError(
            "a threshold in bits per second is nothing that nftables can do",
            where=str(target),
            todo="give pps alone, or enable engines.native",
        )
    return action.pps


def _steps(pps: int, seconds: int, version: int, max_sources: int) -> tuple[str, ...]:
    site: tuple[Any, ...] = ()
    if version == 6:  # noqa: PLR2004
        site = (f"and each /64 that exceeds {pps * SITE_FACTOR} packets/s",)
    return (
        f"block each source that exceeds {pps} packets/s for {seconds} s",
        *site,
        f"count at most {max_sources} sources at a time",
    )
