# SPDX-License-Identifier: Apache-2.0
"""A service under attack: what clients see with each defence and strength of the flood."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.dataplane_lab import (
    ATTACK_CPU,
    BUILT,
    OTHER_CPU,
    PORT,
    SERVER,
    Program,
    Veth,
)
from tests.support.netns import inside

CONNECTIONS_PER_SECOND: Final = 200
STREAM_PORT: Final = 81
_SETTLE_SECONDS: Final = 0.5
_TCP_INFO_SCALES: Final = 6
_SHARES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients saw of a service.

    Attributes:
        served_pct: visits that ended with the whole reply.
        p50_ms: of the time from `connect` to the connection.
        p99_ms: the same.
        stream_mb_per_s: bytes a second of one long flow, which asks for 16 MiB.
        sent_mpps: what the flood really sent.
        answered_mpps: how much of it was answered; the rest found the queue full.
        cpus: how each CPU spent the time.
    """

    served_pct: float
    p50_ms: float
    p99_ms: float
    stream_mb_per_s: float
    sent_mpps: float
    answered_mpps: float
    cpus: tuple[str, ...]


def service_under(defence: str, per_second: float, seconds: float) -> Seen:
    """Let clients visit a server for some seconds while a flood of `per_second` runs."""
    with Veth() as veth, _server(veth):
        veth.own_threads()
        # A listener takes cookies only after it has sent one: these connections see to that.
        veth.sysctl("net/ipv4/tcp_syncookies", "2")
        wscale = _window_scale(veth)
        with veth.defence(defence, wscale):
            generator = veth.generator(per_second, seconds + 2 * _SETTLE_SECONDS)
            try:
                return _visit(veth, generator, seconds)
            finally:
                generator.kill()


def _visit(veth: Veth, generator: Program, seconds: float) -> Seen:
    argv = (*_service("client"), str(CONNECTIONS_PER_SECOND), f"{seconds:.2f}")
    client = Program(veth.in_outside(*argv))
    try:
        before = _cpu_times()
        client.begin()
        found = client.result()
        cpus = tuple(_shares(*pair) for pair in zip(before, _cpu_times(), strict=True))
    finally:
        client.kill()
    attack = generator.result()
    return _seen(found, attack, cpus)


def _seen(found: dict[str, Any], attack: dict[str, Any], cpus: tuple[str, ...]) -> Seen:
    return Seen(
        served_pct=100 * found["served"] / found["opened"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        stream_mb_per_s=found["stream_bytes_per_s"] / 1e6,
        sent_mpps=attack["sent"] / attack["seconds"] / 1e6,
        answered_mpps=attack["answered"] / attack["seconds"] / 1e6,
        cpus=cpus,
    )


@contextmanager
def _server(veth: Veth) -> Iterator[None]:
    server = Program(veth.in_dut(*_service("server")))
    try:
        yield
    finally:
        server.kill()


def _service(role: str) -> tuple[str, ...]:
    where = (SERVER, str(PORT), str(STREAM_PORT))
    # One CPU is the world outside, clients and flood; the other is the machine under attack.
    cpu = ATTACK_CPU if role == "client" else OTHER_CPU
    return (str(BUILT / "bench-service"), role, str(cpu), *where)


def _window_scale(veth: Veth) -> int:
    """Return the window scale that the server announces."""

    def connect() -> int:
        socket.create_connection((SERVER, STREAM_PORT), timeout=5).close()
        with socket.create_connection((SERVER, PORT), timeout=5) as made:
            info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SCALES + 1)
            return info[_TCP_INFO_SCALES] & 15

    return inside(veth.outside, connect)


def _cpu_times() -> list[list[int]]:
    lines = Path("/proc/stat").read_text().splitlines()
    return [
        [int(word) for word in line.split()[1 : len(_SHARES) + 1]]
        for line in lines
        if line.startswith("cpu") and not line.startswith("cpu ")
    ]


def _shares(before: list[int], after: list[int]) -> str:
    spent = [late - early for early, late in zip(before, after, strict=True)]
    whole = sum(spent) or 1
    shares = {name: 100 * part / whole for name, part in zip(_SHARES, spent, strict=True)}
    return " ".join(f"{name} {share:.0f}%" for name, share in shares.items() if share >= 1)
