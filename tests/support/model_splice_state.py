# SPDX-License-Identifier: Apache-2.0
"""What the translating mode remembers: spliced flows, servers, and the first data of clients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.support.model_answer import Offered
from tests.support.model_packet import Packet
from tests.support.packets import FIN, PSH, RST

OFFERS: Final = frozenset({"sack", "wscale", "timestamps"})
PLACES: Final = 1024
HELD_BYTES: Final = 1460
HELD_MS: Final = 3000
PROBE_PAUSE_MS: Final = 1000
PROFILE_MS: Final = 30_000
SILENT_MS: Final = 3000
SILENT_UNTIL_MS: Final = 13_000
REFUSES_UNTIL_MS: Final = 10_000
REFUSES_MS: Final = 1000
ELSEWHERE_MS: Final = 1000
AGAIN_MS: Final = 200
ASKED_S: Final = 20
IDLE_S: Final = 7440

_U64: Final = 0xFFFFFFFFFFFFFFFF
_MAPPED: Final = bytes(10) + b"\xff\xff"


def moment(now_ms: int) -> int:
    """Return a moment as it is kept: odd, as 0 means never."""
    return now_ms | 1


def since(now_ms: int, then: int) -> int:
    """Return the milliseconds that have passed."""
    return max(0, moment(now_ms) - then)


def mix(first: int, second: int) -> int:
    """Return the hash of two words of 64 bits by which rows are placed."""
    left = (first ^ 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93 & _U64
    right = (second ^ 0xC2B2AE3D27D4EB4F) * 0xFF51AFD7ED558CCD & _U64
    made = left ^ (right << 32 & _U64 | right >> 32)
    made = (made ^ made >> 32) * 0xC4CEB9FE1A85EC53 & _U64
    made = (made ^ made >> 29) * 0x94D049BB133111EB & _U64
    return made ^ made >> 32


def prefilter_bit(address: bytes) -> int:
    """Return the bit of an address where a set of addresses is told by one of 65,536."""
    w = [int.from_bytes(address[at : at + 4], "little") for at in (0, 4, 8, 12)]
    mixed = ((w[0] ^ w[2]) << 32 | (w[1] ^ w[3])) * 0x9E3779B97F4A7C15
    return (mixed & _U64) >> 48


def flow_hash(seed: int, flow: bytes) -> int:
    """Return the hash of a flow: client, server, and ports as in the client's segments."""
    ports = int.from_bytes(flow[32:], "little")
    if flow.startswith(_MAPPED):
        source, destination = (int.from_bytes(flow[at : at + 4], "little") for at in (12, 28))
        return mix(source << 32 | ports, destination << 32 | seed)

    def address(salt: int, at: int) -> int:
        first = int.from_bytes(flow[at : at + 8], "little") ^ salt << 17
        return mix(first, int.from_bytes(flow[at + 8 : at + 16], "little"))

    return mix(address(seed, 0), address(seed ^ ports, 16))


@dataclass(slots=True)
class Spliced:
    """One flow; numbers are those of its two sides."""

    slot: int
    generation: int
    client_isn: int
    cookie_isn: int
    window: int
    mss: int
    wscale: int | None
    own_wscale: int
    sack: bool
    timestamps: bool
    ecn: bool
    ts_cookie: int
    client_ts: int
    asked_ms: int
    seen: int
    open: bool = False
    delta: int = 0
    ts_delta: int = 0
    to_client: int = 0
    to_server: int = 0
    ended: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Return whether both sides, or one that resets, have ended it."""
        return "reset" in self.ended or {"client", "server"} <= self.ended

    @property
    def piece(self) -> int:
        """Return the most that one kept segment may carry behind the server's options."""
        return min(self.mss - (12 if self.timestamps else 0), HELD_BYTES)

    @property
    def first(self) -> tuple[int, int]:
        """Return the numbers of the ACK that has opened it."""
        return self.client_isn + 1 & 0xFFFFFFFF, self.cookie_isn + 1 & 0xFFFFFFFF

    def end(self, packet: Packet, *, by: str) -> None:
        """Note who ends it, or goes on."""
        if packet.flags & FIN:
            self.ended.add(by)
        if packet.flags & RST:
            self.ended.add("reset")
        elif packet.end > packet.at + packet.header:
            # A RST after which there are data was none that its receiver believed.
            self.ended.discard("reset")

    def offered(self) -> frozenset[str]:
        """Return what the SYN for the server offers."""
        scales = self.wscale is not None
        named = {"sack": self.sack, "wscale": scales, "timestamps": self.timestamps}
        return frozenset(name for name, there in {**named, "ecn": self.ecn}.items() if there)


@dataclass(slots=True)
class Backend:
    """What is known of one port of a server; None is never."""

    asked: int | None = None
    probed: int | None = None
    answered: int | None = None
    profiled: int | None = None
    client: bytes = b""
    """The flow whose SYN was let through last."""
    offered: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    mss: int = 0
    window: int = 0
    wscale: int = 15
    ttl: int = 0
    state: str = "unknown"

    def is_silent(self, now: int) -> bool:
        """Return whether it has not answered for too long."""
        return self.asked is not None and SILENT_MS <= since(now, self.asked) < SILENT_UNTIL_MS

    def refuses(self, now: int) -> bool:
        """Return whether it has refused within ten seconds."""
        lately = self.answered is not None and since(now, self.answered) < REFUSES_UNTIL_MS
        return self.state == "closed" and lately

    def ask(self, now: int) -> None:
        """Note that it is asked, unless it was before and may answer still."""
        if self.asked is None or since(now, self.asked) >= SILENT_UNTIL_MS:
            self.asked = moment(now)

    def wants(self, offered: frozenset[str], now: int) -> bool:
        """Return whether a SYN that offers this would teach something."""
        if self.probed is not None and since(now, self.probed) < PROBE_PAUSE_MS:
            return False
        if self.is_silent(now):
            return True
        if self.state != "open":
            return self.answered is None or since(now, self.answered) >= REFUSES_MS
        if offered - self.known:
            return True
        old = self.profiled is None or since(now, self.profiled) >= PROFILE_MS
        return offered >= OFFERS and old

    def learn(
        self,
        options: Offered,
        offered: frozenset[str],
        now: int,
        *,
        window: int,
        ttl: int,
        ecn: bool,
    ) -> None:
        """Take over what a SYN-ACK says; what was not offered could not be taken."""
        named = {
            "sack": options.sack,
            "wscale": options.wscale is not None,
            "timestamps": options.tsval is not None,
            "ecn": ecn,
        }
        taken = frozenset(name for name, there in named.items() if there)
        known = offered | taken
        self.known |= known
        self.taken = self.taken - known | taken
        if options.wscale is not None:
            self.wscale = options.wscale
        self.mss, self.window, self.ttl = options.mss, window, ttl
        self.answered = moment(now)
        if known >= OFFERS:
            self.profiled = self.answered
        self.asked = None
        self.state = "open"


@dataclass(slots=True)
class Piece:
    """A segment that is kept."""

    flow: bytes
    at: int
    data: bytes
    flags: int = 0


class Keeper:
    """The places where segments are kept, two for each of so many hashes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.places: dict[tuple[int, int], Piece] = {}

    def of(self, flow: bytes, which: int, now: int) -> Piece | None:
        """Return what is kept of a flow."""
        piece = self.places.get(self._place(flow, which))
        if piece is None or piece.flow != flow or since(now, piece.at) >= HELD_MS:
            return None
        return piece

    def take(self, flow: bytes, which: int, now: int) -> Piece | None:
        """Return what is kept of a flow, which is kept no longer."""
        piece = self.of(flow, which, now)
        if piece is not None:
            self.drop(flow, which)
        return piece

    def drop(self, flow: bytes, which: int) -> None:
        """Forget a segment."""
        place = self._place(flow, which)
        if place in self.places and self.places[place].flow == flow:
            del self.places[place]

    def _place(self, flow: bytes, which: int) -> tuple[int, int]:
        return flow_hash(self.seed, flow) % PLACES, which

    def _part(self, flow: bytes, which: int, data: bytes, now: int) -> bool:
        place = self._place(flow, which)
        there = self.places.get(place)
        if there is not None and since(now, there.at) < HELD_MS:
            return there.flow == flow
        self.places[place] = Piece(flow, moment(now), data)
        return True

    def keep(
        self,
        flow: bytes,
        data: bytes,
        *,
        ahead: int,
        most: int,
        flags: int,
        now: int,
        good: Callable[[bytes], bool],
    ) -> bool:
        """Keep what a segment carries, `ahead` bytes after the client's first; False: it is lost.

        A longer one is kept in two pieces. What is kept must be `good` by the segment's checksum.
        """
        which = 1 if ahead else 0
        if ahead:
            first = self.of(flow, 0, now)
            if first is None or len(first.data) != ahead:
                return False
        if not ahead and self.of(flow, 0, now) is None:
            self.drop(flow, 0)
            self.drop(flow, 1)
        part, rest = data[:most], data[most:]
        if not self._part(flow, which, part, now):
            return False
        piece = self.of(flow, which, now)
        if piece is None or len(piece.data) != len(part):
            return True
        last, whole = piece, piece.data
        if rest:
            second = self._second(flow, rest, now) if not which and len(rest) <= most else None
            if second is None:
                self.drop(flow, which)
                return False
            last, whole = second, whole + second.data
        if not good(whole):
            self.drop(flow, which)
            if rest:
                self.drop(flow, 1)
            return False
        last.flags = flags & (FIN | PSH)
        return True

    def _second(self, flow: bytes, rest: bytes, now: int) -> Piece | None:
        piece = self.of(flow, 1, now) if self._part(flow, 1, rest, now) else None
        return piece if piece is not None and len(piece.data) == len(rest) else None
