# SPDX-License-Identifier: Apache-2.0
"""Which engine for traffic can do which countermeasure, known before any engine runs."""

from collections.abc import Iterator, Mapping
from typing import Final

from hub.config import MOST_PPS
from hub.rules.actions import Acl, AclRule, Action, Sorb, Tcp

NATIVE: Final = "native"
NFTABLES: Final = "nftables"
KINDS: Final = frozenset({"tcp", "acl", "sorb"})
FEATURES: Final[Mapping[str, frozenset[str]]] = {
    NATIVE: frozenset({"tcp.isn-sync", "tcp.splice", "tcp.reset", "sorb.bps"}),
    NFTABLES: frozenset({"tcp.kernel"}),
}
"""What not every engine can do, by engine; all of them carry out `KINDS`."""
_LEAST_BPS: Final = 1000
_MOST_BPS: Final = 400_000_000_000
_MOST_LINES: Final = 128
"""Of synproxyd: native/src/rate.h, and FNM_ACL_RULES in native/bpf/abi.h."""


def needs(action: Action) -> frozenset[str]:
    """Return the features without which an engine cannot carry out `action`."""
    match action:
        case Tcp() if action.mode != "auto":
            return frozenset({f"tcp.{action.mode}"})
        case Sorb() if action.bps is not None:
            return frozenset({"sorb.bps"})
        case _:
            return frozenset()


def too_much_for_native(action: Action) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Return what synproxyd would refuse as too much or too little: where, and what it takes."""
    match action:
        case Sorb():
            if action.pps is not None and action.pps > MOST_PPS:
                yield ("sorb", "pps"), _pps(action.pps)
            if action.bps is not None and not _LEAST_BPS <= action.bps <= _MOST_BPS:
                limits = f"from {_LEAST_BPS} to {_MOST_BPS}"
                yield ("sorb", "bps"), f"{action.bps} bit/s; engine native takes {limits}"
        case Acl():
            for number, line in enumerate(action.rules):
                if line.pps is not None and line.pps > MOST_PPS:
                    yield ("acl", "rules", number, "pps"), _pps(line.pps)
            made = max(sum(_lines(line, version) for line in action.rules) for version in (4, 6))
            if made > _MOST_LINES:
                what = f"{made} lines once the lists in them are multiplied out"
                yield ("acl", "rules"), f"{what}; engine native takes {_MOST_LINES}"
        case _:
            return


def _pps(given: int) -> str:
    return f"{given} packets/s; engine native takes {MOST_PPS} at most"


def _lines(line: AclRule, version: int) -> int:
    sources = sum(source.version == version for source in line.sources) if line.sources else 1
    ports = (len(line.source_ports) or 1) * (len(line.destination_ports) or 1)
    return sources * ports * (len(line.icmp_types) or 1)
