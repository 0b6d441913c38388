# SPDX-License-Identifier: Apache-2.0
"""What table tests need: the program and the model side by side, both families, shared loading."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_network
from typing import Any, Final

import pytest

from tests.support import bpf_abi as abi
from tests.support.bpf_engine import FROZEN, REAL, Engine, Outcome
from tests.support.model import Model
from tests.support.model_cookie import MINUTE_MS, cookie
from tests.support.model_known import Judgement
from tests.support.model_scene import Network, Rule, Scene, Slot, Tcp
from tests.support.native_build import built
from tests.support.packets import ACK, FRAGMENT, UDP, Datagram, Segment, packed, udp

_U64: Final = (1 << 64) - 1


@dataclass(frozen=True)
class Ends:
    """A client, a protected server and one that is not, of one family."""

    family: int
    client: bytes
    server: bytes
    stranger: bytes
    """Another client, from another /24 or /48."""
    neighbour: bytes
    """A host that nothing protects."""
    target: Network

    def syn(self, **fields: Any) -> Segment:
        """Return a segment from the client to the server; without fields a bare SYN."""
        return Segment(**{"source": self.client, "destination": self.server, **fields})

    def ip(self, protocol: int, payload: bytes, **fields: Any) -> Datagram:
        """Return any packet from the client to the server."""
        kept = {"source": self.client, "destination": self.server, **fields}
        return Datagram(protocol=protocol, payload=payload, **kept)


V4: Final = Ends(
    family=4,
    client=packed("198.51.100.7"),
    server=packed("192.0.2.10"),
    stranger=packed("203.0.113.9"),
    neighbour=packed("192.0.2.11"),
    target=ip_network("192.0.2.10/32"),
)
V6: Final = Ends(
    family=6,
    client=packed("2001:db8:1::7"),
    server=packed("2001:db8:2::10"),
    stranger=packed("2001:db8:9::9"),
    neighbour=packed("2001:db8:2::11"),
    target=ip_network("2001:db8:2::10/128"),
)
FAMILIES: Final = pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])


def engine(*, verify: bool = False, milliseconds: int = FROZEN, sets: int = 1024) -> Engine:
    """Return the program, loaded once a session for each way to build it."""
    return _loaded(verify, milliseconds, sets)


@cache
def _loaded(verify: bool, milliseconds: int, sets: int) -> Engine:  # noqa: FBT001 - a cache's key
    path = built("build/bpf/engine.bpf.o") / "bpf" / "engine.bpf.o"
    return Engine(path, verify=verify, milliseconds=milliseconds, sets=sets, room=1 << 16)


@cache
def faulty(faults: int) -> Engine:
    """Return a build of the program in which chosen helpers fail."""
    path = built("build/tests/engine-faults.bpf.o") / "tests" / "engine-faults.bpf.o"
    return Engine(path, faults=faults, sets=1024)


def agree(found: Outcome, wanted: Judgement) -> None:
    """Fail unless program and model say the same of a packet, in everything."""
    agreed = (wanted.verdict, wanted.reason, wanted.slot, wanted.frame.hex())
    assert (found.verdict, found.reason, found.slot, found.frame.hex()) == agreed


class Bench:
    """A scene in force in the program and in the model; each packet goes to both."""

    def __init__(
        self,
        *slots: Slot,
        targets: Mapping[str, tuple[int, ...]] | None = None,
        on: Engine | None = None,
        verify: bool = False,
        **fields: Any,
    ) -> None:
        self.slots = dict(enumerate(slots, 1))
        everything = tuple(self.slots)
        named = {ip_network(name): at for name, at in (targets or {}).items()}
        guarded = (
            named if targets is not None else dict.fromkeys((V4.target, V6.target), everything)
        )
        self.scene = Scene(slots=self.slots, targets=guarded, verify=verify, **fields)
        self.engine = engine(verify=verify) if on is None else on
        self.engine.apply(self.scene)
        self.model = Model(self.scene, self.engine.now())

    def run(self, packet: Segment | Datagram | bytes) -> Outcome:
        """Run a packet through the program; the model must agree in everything."""
        frame = packet if isinstance(packet, bytes) else packet.frame()
        self.model.now = self.engine.now()
        outcome = self.engine.run(frame)
        agree(outcome, self.model.judge(frame))
        return outcome

    def reason(self, packet: Segment | Datagram | bytes) -> str:
        """Return only why; a packet that is not answered is left as it came."""
        frame = packet if isinstance(packet, bytes) else packet.frame()
        outcome = self.run(frame)
        if outcome.verdict != "TX":
            assert outcome.frame == frame
        return outcome.reason

    def tcp(self, slot: int = 1) -> Tcp:
        """Return the settings of a tcp slot."""
        settings = self.slots[slot].settings
        assert isinstance(settings, Tcp)
        return settings

    def cookie(self, segment: Segment, *, index: int = 0, age: int = 0, slot: int = 1) -> int:
        """Return the cookie of the flow and sequence number of a SYN, some minutes old."""
        tcp = self.tcp(slot)
        keys = tcp.keys.cookie if len(segment.source) == 4 else tcp.keys.cookie6
        minute = (self.engine.now() + tcp.cookie_offset & _U64) // MINUTE_MS
        ports = segment.sport.to_bytes(2, "big") + segment.dport.to_bytes(2, "big")
        return cookie(
            keys,
            segment.source,
            segment.destination,
            ports,
            client_seq=segment.seq,
            count=minute - age,
            index=index,
        )

    def ack(self, syn: Segment, **fields: Any) -> Segment:
        """Return the ACK that ends the handshake which `syn` began."""
        known = {name: fields.pop(name) for name in ("index", "age", "slot") if name in fields}
        acked = self.cookie(syn, **known) + 1
        kept = {"seq": syn.seq + 1, "ack": acked, "flags": ACK, "options": b"", **fields}
        return replace(syn, **kept)

    def pass_time(self, milliseconds: int, slot: int = 1) -> None:
        """Let the server's clocks go on, as seen by the slot."""
        tcp = self.tcp(slot)
        tcp.cookie_offset += milliseconds
        tcp.ts_offset += milliseconds
        row = self.engine.object.maps["slots"].view(abi.Slot, slot)
        row.tcp.cookie_offset, row.tcp.ts_offset = tcp.cookie_offset, tcp.ts_offset


__all__ = ["FAMILIES", "FROZEN", "REAL", "V4", "V6", "Bench", "Ends", "Outcome", "engine", "faulty"]


MODES: Final = pytest.mark.parametrize("mode", ["isn-sync", "reset"])


def bench_of(**fields: Any) -> Bench:
    """Return a bench with one tcp countermeasure on both servers."""
    return Bench(Slot(settings=Tcp(**fields)))


def good(mode: str) -> str:
    """Return the reason for a valid cookie."""
    return "cookie_good" if mode == "isn-sync" else "reset_sent"


def sent_number(frame: bytes, ends: Ends) -> int:
    """Return the sequence number in a frame without tags."""
    at = (34 if ends.family == 4 else 54) + 4
    return int.from_bytes(frame[at : at + 4], "big")


def acl(*rules: Rule, **fields: Any) -> Slot:
    """Return a filter."""
    return Slot(settings=list(rules), **fields)


def query(
    ends: Ends, sport: int = 40000, dport: int = 53, size: int = 0, **fields: Any
) -> Datagram:
    """Return a UDP datagram to the server."""
    source = fields.get("source", ends.client)
    content = udp(source, ends.server, sport, dport, b"q" * size)
    return ends.ip(UDP, content, **fields)


def later_fragment(ends: Ends, protocol: int = UDP) -> Datagram:
    """Return a fragment that is not the first."""
    if ends.family == 4:
        return ends.ip(protocol, bytes(16), fragment=1)
    return ends.ip(protocol, bytes(16), extensions=((FRAGMENT, bytes([0, 0, 0, 8, 0, 0, 0, 1])),))
