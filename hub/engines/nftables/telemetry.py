# SPDX-License-Identifier: Apache-2.0
"""Counters under stable names, from nft's named counters and the kernel's SYNPROXY statistics."""

from collections.abc import Mapping
from typing import Final

NAMES: Final = {
    "acl_dropped": "acl.dropped",
    "acl_limited": "acl.limited",
    "sorb_blocked": "sorb.blocked",
    "sorb_dropped": "sorb.dropped",
    "tcp_ack": "tcp.ack_packets",
    "tcp_invalid": "tcp.invalid_dropped",
    "tcp_known": "tcp.known_passed",
    "tcp_syn": "tcp.syn_packets",
    "tcp_unknown": "tcp.unknown_passed",
}
WITH_BYTES: Final = ("acl_dropped", "acl_limited", "sorb_dropped")
STATISTICS: Final = {
    "cookie_invalid": "tcp.cookie_invalid",
    "cookie_valid": "tcp.cookie_valid",
    "cookie_retrans": "tcp.cookie_retransmits",
    "conn_reopened": "tcp.reopened",
}


def counted(counters: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Return the packets, and where they matter the bytes, of the table's counters.

    Args:
        counters: packets and bytes by the name in nft.
    """
    result = {name: counters[key][0] for key, name in NAMES.items() if key in counters}
    for key in WITH_BYTES:
        if key in counters:
            result[f"{NAMES[key]}_bytes"] = counters[key][1]
    return result


def synproxy(text: str) -> dict[str, int]:
    """Return the sums over all processors of /proc/net/stat/synproxy.

    Args:
        text: of the file: a line of names, then a line of hexadecimal numbers a processor.
    """
    head, *rows = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    result: dict[str, int] = {}
    for column, key in enumerate(head):
        if key in STATISTICS:
            values = [int(row[column], 16) for row in rows if column < len(row)]
            result[STATISTICS[key]] = sum(values)
    return result
