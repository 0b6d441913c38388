# SPDX-License-Identifier: Apache-2.0
"""The translating proxy against nftables' SYNPROXY and plain forwarding, through a whole gateway.

What is measured is one core that does everything: it makes the packets, takes them in at one end of
the gateway, routes them, sends them out at the other, and counts them there. So the share of the
proxy itself is smaller than the ratios say, and no proxy can be faster than forwarding.

- A *flow* is a real handshake of three segments, seen through by both sides: it counts once the
  client's ACK has come to the server in the server's numbers.
- A *packet* is an empty ACK of 66 bytes, with timestamps, of one of the flows that were just
  opened, each in its turn. It counts when it arrives with the sequence number, acknowledgement,
  timestamps and checksum that its receiver must see. Each direction is measured alone, and the
  worse of the two ratios is the figure. Segments with data cost the same but for what their
  bytes cost everywhere; those that a network card or GRO has joined are one packet to netfilter
  and to the way out, but several to XDP, which is not measured.

The gateways take turns, a tenth of a second each, as the machine may have other work.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from scripts.benchmarks.dataplane import QUICK
from scripts.benchmarks.dataplane_lab import build
from scripts.benchmarks.figure import Figure
from scripts.benchmarks.splice_lab import FORWARD, NFT, SPLICE, Route
from tests.support.native_build import built

_OPEN: Final = "open"
_DIRECTIONS: Final = ("to-server", "to-client")
_ACTIONS: Final = (_OPEN, *_DIRECTIONS)
_REASONS: Final = {"to-server": "splice_client", "to-client": "splice_server"}
# The share that may be: nobody sends again what the table of flows has had no room for.
_LOST_FLOWS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        labs: built one after the other; flows are never closed, so tables fill.
        rounds: of one lab, each with flows of its own.
        turns: that every gateway has in a round.
        flows: that each of them opens in a turn.
        seconds: of segments of all flows of the round, each way, in a turn.
    """

    labs: int
    rounds: int
    turns: int
    flows: int
    seconds: float


_FULL: Final = Effort(5, 2, 4, 2048, 0.1)
_LITTLE: Final = Effort(1, 1, 1, 512, 0.05)


@dataclass(slots=True)
class Rates:
    """What one gateway did in a second, turn by turn.

    Attributes:
        by_action: flows or packets a second, by `open`, `to-server` and `to-client`.
    """

    by_action: dict[str, list[float]] = field(
        default_factory=lambda: {action: [] for action in _ACTIONS}
    )


def compared() -> dict[str, Figure]:
    """Measure flows and packets a second through three gateways."""
    found = rates(_LITTLE if os.environ.get(QUICK) else _FULL)
    _show(found)
    return {
        "splice_pps_vs_nft": _worse(found, NFT, ">= 3"),
        "splice_pps_vs_forward": _worse(found, FORWARD, ">= 0.8"),
        "splice_cps_vs_nft": _ratio(found, NFT, _OPEN, ">= 3"),
    }


def rates(effort: Effort) -> dict[str, Rates]:
    """Return what each gateway did."""
    build()
    built()
    found = {proxy: Rates() for proxy in (FORWARD, NFT, SPLICE)}
    for _ in range(effort.labs):
        with ExitStack() as stack:
            routes = [stack.enter_context(Route(proxy)) for proxy in found]
            for number in range(effort.rounds):
                _one_round(routes, number, effort, found)
    return found


def _one_round(
    routes: Sequence[Route], number: int, effort: Effort, found: Mapping[str, Rates]
) -> None:
    whole = effort.turns * effort.flows
    first = number * whole
    for action in _ACTIONS:
        for turn in range(effort.turns):
            where = (first, whole, effort.seconds)
            if action == _OPEN:
                where = (first + turn * effort.flows, effort.flows, 0)
            # Nobody is always the first, who finds what the one before has left in the caches.
            for route in routes if turn % 2 else reversed(routes):
                rate = one_rate(route, action, *where)
                found[route.proxy].by_action[action].append(rate)


def one_rate(route: Route, action: str, first: int, count: int, seconds: float) -> float:
    """Return how much one gateway does in a second with `count` flows from the `first` on.

    Raises:
        RuntimeError: what came through was not what should have.
    """
    before = route.counts()
    seen = route.do(action, first, count, *(() if action == _OPEN else (seconds,)))
    now = route.counts()
    if action == _OPEN:
        least = count * (1 - _LOST_FLOWS)
        # Not translated is the one whose SYN synproxyd passes on, to learn of the server.
        proxied = seen["proxied"] == 0 if route.proxy == FORWARD else seen["proxied"] >= least - 1
        _require(route, seen, seen["opened"] >= least and proxied)
    else:
        reason = _REASONS[action]
        translated = now.get(reason, 0) - before.get(reason, 0)
        least = seen["done"] * (1 - _LOST_FLOWS) if route.proxy == SPLICE else 0
        _require(route, seen, seen["done"] > 0 and translated >= least)
    _require(route, seen, not seen["wrong"] and not seen["other"])
    rate: float = seen["done"] / seen["seconds"]
    return rate


def _require(route: Route, seen: dict[str, Any], right: bool) -> None:  # noqa: FBT001 - a condition
    if not right:
        msg = f"{route.proxy}: this is not what should come through: {seen}"
        raise RuntimeError(msg)


def _pairs(found: dict[str, Rates], other: str, action: str) -> list[float]:
    ours, its = (found[proxy].by_action[action] for proxy in (SPLICE, other))
    return [mine / theirs for mine, theirs in zip(ours, its, strict=True)]


def _ratio(found: dict[str, Rates], other: str, action: str, target: str) -> Figure:
    pairs = _pairs(found, other, action)
    return Figure(statistics.median(pairs), target, "x", len(pairs), (min(pairs), max(pairs)))


def _worse(found: dict[str, Rates], other: str, target: str) -> Figure:
    both = [_ratio(found, other, action, target) for action in _DIRECTIONS]
    return min(both, key=lambda figure: figure.value)


def _show(found: dict[str, Rates]) -> None:
    print(f"{'through a gateway, one core':<30}" + "".join(f"{one:>30}" for one in _ACTIONS))
    for proxy, one in found.items():
        text = f"  {proxy:<28}"
        for action in _ACTIONS:
            took, least = (
                1e9 / statistics.median(of.by_action[action]) for of in (one, found[FORWARD])
            )
            text += f"{1e6 / took:>9.0f}k/s {took:>6.0f} ns ({took - least:>+6.0f})"
        print(text, flush=True)
