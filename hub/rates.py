# SPDX-License-Identifier: Apache-2.0
"""What an engine measures of one countermeasure, or of all on one attack."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

RATES = ("hostile_pps", "dropped_pps", "passed_pps", "syn_pps", "cookie_good_pps")
"""Numbers that rules may ask for."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Packets a second over the engine's last whole window, unless said otherwise.

    Attributes:
        hostile_pps: dropped, or answered and never proven: what an attack looks like here.
        dropped_pps: dropped, without what was answered.
        passed_pps: let through to the target.
        syn_pps: SYNs that came in.
        cookie_good_pps: clients that proved themselves.
        cookie_bad_pps: segments without a valid cookie.
        pps: all that was judged.
        bps: bits a second of the same.
        packets: by verdict reason, since the countermeasure began.
    """

    hostile_pps: int = 0
    dropped_pps: int = 0
    passed_pps: int = 0
    syn_pps: int = 0
    cookie_good_pps: int = 0
    cookie_bad_pps: int = 0
    pps: int = 0
    bps: int = 0
    packets: Mapping[str, int] = field(default_factory=dict)


NONE = Rates()
_NUMBERS = tuple(name for name in Rates.__dataclass_fields__ if name != "packets")


def total(rates: Iterable[Rates]) -> Rates:
    """Return the sum of several; packets that several countermeasures judge count for each."""
    found = list(rates)
    if len(found) == 1:
        return found[0]
    packets: dict[str, int] = {}
    for one in found:
        for reason, count in one.packets.items():
            packets[reason] = packets.get(reason, 0) + count
    numbers = {name: sum(getattr(one, name) for one in found) for name in _NUMBERS}
    return Rates(**numbers, packets=packets)
