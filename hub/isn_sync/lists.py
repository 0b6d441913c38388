# SPDX-License-Identifier: Apache-2.0
"""Reads what an agent says of its connections and its time. Pure."""

from ipaddress import ip_address
from typing import Final

from hub.engines.native.keys import Flow
from hub.isn_sync.link import CommandError
from hub.isn_sync.report import Report

MOST_NAMES: Final = 64
"""Ports or listeners that an agent takes in one command."""


def skew_of(report: Report, wall: float) -> int | None:
    """Return how far the server's UTC is ahead of `wall`, ms; None where it is not told."""
    if report.utc_ms is None:
        return None
    ahead = report.utc_ms - round(1000 * wall)
    # A time in whole seconds may be up to one behind.
    return 0 if -report.utc_step_ms < ahead <= 0 else ahead


def read_flows(text: str) -> list[Flow]:
    """Return the connections in an answer to `flows`.

    Raises:
        CommandError: a line is not as agreed.
    """
    found: list[Flow] = []
    for line in text.splitlines():
        name, _, rest = line.partition(": ")
        if name != "flow":
            continue
        try:
            client, sport, server, dport = rest.split()
            found.append((ip_address(client), int(sport), ip_address(server), int(dport)))
        except ValueError:
            raise CommandError("its list of connections cannot be understood") from None
    return found
