# SPDX-License-Identifier: Apache-2.0
"""A whole hub under a steady flood reported once: protection outlives its first deadline."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from hub.clock import SystemClock
from tests.support.hub_process import HubProcess, until
from tests.support.netns import inside

REPORTED = 300
"""Packets a second, of which the engine must go on seeing half."""
SENT = 1500
"""Packets a second; by far more, so that a busy machine sends enough."""


@contextmanager
def flood(namespace: str) -> Iterator[None]:
    """Send paced UDP packets to the target within the hub's own namespace."""
    over = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            while not over.wait(1 / 50):
                for _ in range(SENT // 50):
                    source.sendto(b"x", ("192.0.2.10", 9))

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(inside, namespace, send)
        try:
            yield
        finally:
            over.set()
        sending.result()


@pytest.mark.beside
def test_flood_when_it_outlasts_the_ttl_then_protection_goes_on_and_ends_with_it(
    folder: Path,
) -> None:
    """The engine's own counts renew the deadline; when they stop, the deadline ends it."""
    with HubProcess(folder, ttl="10s") as hub:
        hub.ip("addr", "add", "192.0.2.10/32", "dev", "lo")
        with flood(hub.namespace):
            hub.send("ban", udp=True, pps=REPORTED)
            first = until("active", hub.active)[0]["deadline"]
            until("its first deadline is over", lambda: SystemClock().time() > first + 0.5)
            (row,) = hub.active()
        assert row["deadline"] > first + 3
        assert hub.kernel() != []
        assert any("packets/s" in line["why"] for line in hub.logged("mitigation.renewed"))
        until("over at its deadline", lambda: not hub.kernel(), seconds=20)
        assert json.dumps(hub.logged("mitigation.releasing")[0]).count("deadline")
