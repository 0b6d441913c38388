# SPDX-License-Identifier: Apache-2.0
"""What random connections through the translating mode consist of."""

import random
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.support.model_scene import Scene
from tests.support.packets import (
    ACK,
    AE,
    CWR,
    ECE,
    EOL,
    FIN,
    NOP,
    PSH,
    SACK,
    SYN,
    URG,
    Link,
    Segment,
    mss,
    timestamps,
    wscale,
)
from tests.support.packets_random import Traffic

_U32: Final = 0xFFFFFFFF
_MSS: Final = (1, 216, 535, 536, 537, 1220, 1380, 1440, 1460, 1460, 1460, 1809, 1810, 8940, 9000)
_SIZES: Final = (0, 0, 0, 1, 2, 3, 10, 99, 204, 205, 536, 1000, 1448, 1460, 1461, 2000, 2920, 2950)


@dataclass
class Talk:
    """One connection: what its client and its server know of it."""

    client: bytes
    server: bytes
    sport: int
    dport: int
    link: Link
    back: Link
    isn: int = 0
    number: int = 0
    """Which the client was told."""
    told: int | None = None
    """TSval of the SYN-ACK that the client has."""
    clock: int = 0
    stage: str = "new"
    first: Segment | None = None
    server_isn: int = 0
    server_options: bytes = b""
    stamped: bool = False
    wants: bytes = b""
    """The frame that the server was sent last."""
    gets: bytes = b""
    """The frame that the client was sent last."""

    def out(self, **fields: Any) -> Segment:
        """Return a segment of the client."""
        base = Segment(
            source=self.client,
            destination=self.server,
            sport=self.sport,
            dport=self.dport,
            link=self.link,
        )
        return replace(base, **fields)

    def back_in(self, **fields: Any) -> Segment:
        """Return a segment of the server."""
        base = Segment(
            source=self.server,
            destination=self.client,
            sport=self.dport,
            dport=self.sport,
            link=self.back,
        )
        return replace(base, **fields)


@dataclass
class Step:
    """A frame, on its way in or out, and whose."""

    inward: bool
    frame: bytes
    what: str
    talk: Talk | None = None
    segment: Segment | None = None


@dataclass
class Parts:
    """What frames of connections are made of."""

    rng: random.Random
    scene: Scene
    now: int
    traffic: Traffic = field(init=False)

    def __post_init__(self) -> None:
        """Make what else there is on the wire."""
        self.traffic = Traffic(self.rng, self.scene, self.now)

    def _link(self) -> Link:
        return replace(self.traffic._link(), trailer=b"", pad_to=self.rng.choice((0, 0, 60)))

    def _stamps(self, talk: Talk, echo: int) -> bytes:
        talk.clock = talk.clock + self.rng.choice((0, 1, 1000)) & _U32
        return timestamps(talk.clock, echo)

    def _blocks(self, base: int) -> bytes:
        rng = self.rng
        made = b""
        for _ in range(rng.choice((1, 1, 2, 3, 4))):
            left = base + rng.choice((1, 1448, 1 << 20, rng.getrandbits(32))) & _U32
            made += left.to_bytes(4, "big") + (left + 1448 & _U32).to_bytes(4, "big")
        return bytes([5, len(made) + 2]) + made

    def _layout(self, stamps: bytes, blocks: bytes) -> bytes:
        """Return options in an order of their own, within 40 bytes."""
        rng = self.rng
        if stamps and not blocks and rng.random() < 0.7:
            return NOP + NOP + stamps
        if stamps and blocks and rng.random() < 0.5 and len(blocks) <= 26:
            return NOP + NOP + stamps + NOP + NOP + blocks
        parts = [part for part in (stamps, blocks) if part]
        parts += rng.choices((NOP, NOP, NOP, bytes([30, 4, 1, 2]), SACK), k=rng.randrange(4))
        rng.shuffle(parts)
        made = b""
        for part in parts:
            if len(made) + len(part) <= 40:
                made += part
        if rng.random() < 0.05 and len(made) < 38:
            made += rng.choice(
                (bytes([5, 7]), bytes([8, 9]), bytes([5, 30]), b"\5\1", b"\5\6\1\1\1\1")
            )
        made = made[:40]
        return made + rng.choice((NOP, EOL)) * (-len(made) % 4)

    def _data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice(_SIZES))

    def _finish(self, talk: Talk, segment: Segment, what: str, *, inward: bool) -> Step:
        rng = self.rng
        if rng.random() < 0.03:
            segment = replace(segment, checksum=rng.randrange(1, 65535))
        made = segment
        if rng.random() < 0.15:
            around = self.traffic._around(segment)
            made = around if isinstance(around, Segment) else segment
        frame = made.frame()
        if rng.random() < 0.02:
            frame = self.traffic._damaged(frame)
            return Step(inward, frame, what + ", damaged")
        return Step(inward, frame, what, talk, made)

    def _server_options(self, talk: Talk) -> bytes:
        rng = self.rng
        parts = [mss(rng.choice(_MSS))]
        if talk.stamped or rng.random() < 0.1:
            parts.append(timestamps(rng.choice((rng.getrandbits(32), _U32)), talk.clock))
        parts += rng.choice(([], [SACK], [wscale(rng.randrange(16))], [SACK, wscale(7)]))
        if rng.random() < 0.1:
            parts = []
        rng.shuffle(parts)
        made = b"".join(parts)
        return made + NOP * (-len(made) % 4)

    def _flags(self) -> int:
        rng = self.rng
        common = (ACK, ACK, ACK, ACK, ACK | PSH, ACK | PSH)
        rare = (
            ACK | FIN,
            ACK | URG,
            ACK | ECE,
            ACK | CWR | PSH,
            ACK | AE,
            PSH,
            0,
            rng.getrandbits(9),
        )
        return rng.choice(common) if rng.random() < 0.9 else rng.choice(rare) & ~SYN
