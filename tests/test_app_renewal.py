# SPDX-License-Identifier: Apache-2.0
"""A whole hub under a steady flood reported once: protection outlives its first deadline."""

import json
import socket
import time
from pathlib import Path

import pytest

from tests.support.hub_process import HubProcess, pause, until
from tests.support.netns import inside

FLOOD = 300
"""Packets a second."""


def spray(namespace: str, seconds: float) -> None:
    """Send paced UDP packets to the target within the hub's own namespace."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            end = time.monotonic() + seconds  # noqa: TID251 - paces a flood
            while time.monotonic() < end:  # noqa: TID251
                for _ in range(FLOOD // 50):
                    source.sendto(b"x", ("192.0.2.10", 9))
                pause(1 / 50)

    inside(namespace, send)


@pytest.mark.beside
def test_flood_when_it_outlasts_the_ttl_then_protection_goes_on_and_ends_with_it(
    folder: Path,
) -> None:
    """The engine's own counts renew the deadline; when they stop, the deadline ends it."""
    with HubProcess(folder, ttl="6s") as hub:
        hub.ip("addr", "add", "192.0.2.10/32", "dev", "lo")
        hub.send("ban", udp=True, pps=FLOOD)
        until("active", hub.active)
        first = hub.active()[0]["deadline"]
        spray(hub.namespace, 9.0)
        (row,) = hub.active()
        assert row["deadline"] > first + 3
        assert hub.kernel() != []
        assert any("packets/s" in line["why"] for line in hub.logged("mitigation.renewed"))
        until("over at its deadline", lambda: not hub.kernel(), seconds=12)
        assert json.dumps(hub.logged("mitigation.releasing")[0]).count("deadline")
