# SPDX-License-Identifier: Apache-2.0
"""Addresses as detectors spell them, made canonical."""

import re
from ipaddress import IPv6Address, ip_address
from typing import Final

from hub.net import IPAddress

_LONGEST: Final = 64
_HEADLESS: Final = re.compile(r":[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,5}", re.ASCII | re.IGNORECASE)
_ZERO_RUN: Final = re.compile(r"(?:0000:){2,}")


def parse_address(text: str) -> IPAddress | None:
    """Return the address that `text` spells, canonical; None when it spells no single host.

    Accepted: both families, a suffix of full width (`/32`, `/128`), and FastNetMon's own IPv6
    spelling, in which an address that begins with zero groups prints as `:0001`: only one
    colon is left of them. IPv4-mapped IPv6 becomes IPv4. Refused: shorter prefixes, zones.
    """
    if len(text) > _LONGEST:
        return None
    host, slash, width = text.partition("/")
    if _HEADLESS.fullmatch(host):
        host = f":{host}"
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if slash and width != str(address.max_prefixlen):
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def spellings(address: IPAddress, *given: str) -> frozenset[bytes]:
    """Return the ways in which a report may write `address`, lower case.

    Packet lines are compared with these instead of being parsed, because a report can hold a
    hundred thousand of them.

    Args:
        address: the canonical address.
        given: spellings already seen, e.g. that of the arguments.
    """
    exploded = address.exploded
    squeezed = _ZERO_RUN.sub(":", exploded, count=1)
    texts = {str(address), exploded, squeezed, *given}
    return frozenset(text.lower().encode("ascii", "replace") for text in texts)
