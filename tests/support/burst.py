# SPDX-License-Identifier: Apache-2.0
"""Many notifications at once."""

import http.client
import socket
import uuid
from pathlib import Path

from hub.intake.envelope import Envelope, encode


def fill_spool(folder: Path, count: int) -> None:
    """Write `count` calls into the spool, as fnm-notify leaves them: bans and their unbans."""
    for index in range(count):
        action = "unban" if index % 2 else "ban"
        target = f"192.0.2.{1 + (index // 2) % 60}"
        stamp = 1_790_000_000.0 + index / 1000
        envelope = Envelope(
            id=uuid.uuid4().hex,
            detector="burst",
            stamp=stamp,
            args=(target, "incoming", "1000", action),
            stdin=b"",
        )
        name = f"{int(stamp * 1e9):020d}-{envelope.id}.json"
        (folder / name).write_bytes(encode(envelope))


def send_many(path: Path, count: int) -> None:
    """Report `count` different hosts of 10.0.0.0/8 over one connection to the intake socket."""
    connection = http.client.HTTPConnection("hub", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    text = b"Total incoming pps: 900 packets per second\nIncoming udp pps: 900 packets per second\n"
    for index in range(count):
        target = f"10.{1 + index // 62500}.{index // 250 % 250}.{1 + index % 250}"
        envelope = Envelope(
            uuid.uuid4().hex, "burst", 1.0, (target, "incoming", "900", "ban"), text
        )
        connection.request("POST", "/v1/events/fastnetmon", encode(envelope))
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.ACCEPTED:
            msg = f"event {index} was answered with {answer.status}"
            raise AssertionError(msg)
    connection.close()
