# SPDX-License-Identifier: Apache-2.0
"""What table tests of spliced flows need: both directions, through program and model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.support import bpf_abi as abi
from tests.support.bpf_bench import V4, V6, Ends, agree, engine
from tests.support.bpf_engine import Engine, Outcome
from tests.support.bpf_splice import make_older, ticks_of
from tests.support.bpf_splice_net import OwnNetwork, without_tag
from tests.support.model_answer import Offered, read_options
from tests.support.model_packet import Packet, find_ip, read_ip, read_transport
from tests.support.model_scene import Rate, Scene, Slot, Tcp, none_at_all
from tests.support.model_splice_out import WholeModel
from tests.support.packets import (
    ACK,
    NOP,
    SYN,
    TCP,
    Datagram,
    Link,
    Segment,
    checksum,
    linux,
    mss,
    pseudo_header,
    timestamps,
)

CLIENT_ISN: Final = 0xFFFFFFFE
SERVER_ISN: Final = 0x80000000
CLIENT_CLOCK: Final = 0xFFFFFFF0
SERVER_CLOCK: Final = 0x00000005
SERVER_MAC: Final = bytes.fromhex("0200000000a1")
ROUTER_MAC: Final = bytes.fromhex("020000000002")
BACK: Final = Link(source_mac=SERVER_MAC, destination_mac=ROUTER_MAC)
_U32: Final = 0xFFFFFFFF


def splicing(**fields: Any) -> Slot:
    """Return a mitigation that splices."""
    deadline = fields.pop("deadline", None)
    slot = Slot(settings=Tcp(mode="splice", cookie_offset=0, ts_offset=0, scheme="host", **fields))
    return slot if deadline is None else replace(slot, deadline=deadline)


def read(frame: bytes) -> Packet:
    """Return a frame that was read; its checksums are right."""
    packet = find_ip(frame)
    assert packet is not None
    read_ip(packet)
    read_transport(packet)
    if packet.family == 4:
        assert checksum(frame[packet.start : packet.at]) == 0
    if packet.protocol == TCP:
        segment = frame[packet.at : packet.end]
        pseudo = pseudo_header(packet.source, packet.destination, TCP, len(segment))
        assert checksum(pseudo + segment) == 0
    return packet


def window_of(packet: Packet) -> int:
    """Return the window of a segment."""
    return int.from_bytes(packet.frame[packet.at + 14 : packet.at + 16], "big")


def data_of(packet: Packet) -> bytes:
    """Return what a segment carries."""
    return packet.frame[packet.at + packet.header : packet.end]


@dataclass
class Conversation:
    """A connection that was spliced: the numbers of both of its sides."""

    ends: Ends
    syn: Segment
    number: int
    """The first sequence number that the client was told."""
    told: int | None
    """The TSval that the client was told."""
    asked: Segment
    """The client's segment that opened it."""
    server_isn: int = SERVER_ISN
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def delta(self) -> int:
        """Return what is added to the server's sequence numbers."""
        return self.number - self.server_isn & _U32

    @property
    def ts_delta(self) -> int:
        """Return what is added to the server's timestamps."""
        return (self.told or 0) - SERVER_CLOCK & _U32

    def out(self, **fields: Any) -> Segment:
        """Return a segment of the client, in the numbers that it knows."""
        usual = {"seq": self.syn.seq + 1, "ack": self.number + 1, "flags": ACK, "options": b""}
        return replace(self.syn, **{**usual, **fields})

    def back(self, **fields: Any) -> Segment:
        """Return a segment of the server, in its own numbers."""
        usual = Segment(
            source=self.ends.server,
            destination=self.ends.client,
            sport=self.syn.dport,
            dport=self.syn.sport,
            seq=self.server_isn + 1,
            ack=self.syn.seq + 1,
            flags=ACK,
            link=BACK,
        )
        return replace(usual, **fields)


class SpliceBench:
    """A scene in force in the program and in the model; each packet goes to both."""

    def __init__(
        self,
        slot: Slot | None = None,
        *,
        probe: Rate | None = None,
        on: Engine | None = None,
        watched: bool = False,
        **fields: Any,
    ) -> None:
        self.slots = {1: slot or splicing()}
        if watched:
            self.slots[1] = Slot(settings=None)
        self.scene = Scene(
            slots=self.slots,
            targets=dict.fromkeys((V4.target, V6.target), (1,)),
            translated=(V4.target, V6.target),
            # Without a token every SYN is answered, whatever is known of the server.
            probe=none_at_all() if probe is None else probe,
            **fields,
        )
        self.engine = on or engine()
        self.engine.apply(self.scene)
        self.model = WholeModel(self.scene, self.engine.now())
        self.network: OwnNetwork | None = None
        self.passed = 0

    @contextmanager
    def heard(self) -> Iterator[OwnNetwork]:
        """Hear what the host is given beside the packet itself."""
        with OwnNetwork() as network:
            self.network = network
            try:
                yield network
            finally:
                self.network = None

    def enter(self, packet: Segment | Datagram | bytes) -> Outcome:
        """Run a packet that comes in; the model must agree in everything."""
        frame = packet if isinstance(packet, bytes) else packet.frame()
        self.model.now = self.engine.now()
        found = self.engine.run(frame)
        agree(found, self.model.judge(frame))
        return found

    def leave(self, packet: Segment | Datagram | bytes) -> Outcome:
        """Run a packet that leaves; the model must agree in everything."""
        frame = packet if isinstance(packet, bytes) else packet.frame()
        self.model.now = self.engine.now()
        found = self.engine.run_out(frame)
        wanted = self.model.leave(frame)
        agree(found, wanted)
        if self.network is not None:
            heard = self.network.heard(len(wanted.before))
            assert heard == [without_tag(one) for one in wanted.before]
        else:
            assert wanted.before == []
        return found

    def reasons(self, *packets: Segment | Datagram | bytes) -> list[str]:
        """Return why packets that come in are judged so."""
        return [self.enter(packet).reason for packet in packets]

    def pass_time(self, milliseconds: int) -> None:
        """Let everything that was seen have been so much earlier; an even number."""
        before, self.passed = self.passed, self.passed + milliseconds
        ticks = ticks_of(before, self.passed)
        make_older(self.engine.object, milliseconds, ticks)
        self.model.grow_older(milliseconds, ticks)

    def expire(self) -> None:
        """End the mitigation."""
        self.slots[1].deadline = 1
        self.engine.object.maps["slots"].view(abi.Slot, 1).deadline = 1

    # opening

    def answered(self, syn: Segment) -> tuple[Packet, Offered]:
        """Return the answer to a SYN, and what its options say."""
        outcome = self.enter(syn)
        assert (outcome.verdict, outcome.reason) == ("TX", "cookie_sent")
        packet = read(outcome.frame)
        return packet, read_options(packet.options)

    def ask(
        self, ends: Ends, *, syn: Segment | None = None, stamps: bytes | None = None, **fields: Any
    ) -> Conversation:
        """Have a client prove itself; its server is asked, and has not answered."""
        made = syn or ends.syn(seq=CLIENT_ISN, options=linux(CLIENT_CLOCK), window=64240)
        packet, options = self.answered(made)
        if stamps is None:
            stamps = b""
            if options.tsval is not None:
                stamps = NOP + NOP + timestamps(CLIENT_CLOCK + 1, options.tsval)
        usual = {"seq": made.seq + 1, "ack": packet.seq + 1, "flags": ACK, "options": stamps}
        ack = replace(made, **{**usual, **fields})
        outcome = self.enter(ack)
        assert (outcome.verdict, outcome.reason) == ("PASS", "splice_open")
        talk = Conversation(ends, made, packet.seq, options.tsval, ack)
        talk.extra["syn"] = outcome.frame
        return talk

    def syn_ack(self, talk: Conversation, **fields: Any) -> Segment:
        """Return the server's answer; it takes what it is offered, unless `options` say more."""
        options = mss(1400) + b"\4\2" + timestamps(SERVER_CLOCK, CLIENT_CLOCK + 1)
        options += NOP + b"\3\3\7"
        if talk.told is None:
            options = mss(1400)
        usual = {"seq": talk.server_isn, "flags": SYN | ACK, "options": options, "window": 65000}
        return talk.back(**{**usual, **fields})

    def open(self, ends: Ends, **fields: Any) -> Conversation:
        """Return a connection that is open on both sides."""
        answer = fields.pop("answer", {})
        talk = self.ask(ends, **fields)
        outcome = self.leave(self.syn_ack(talk, **answer))
        assert (outcome.verdict, outcome.reason) == ("REDIRECT", "splice_answered")
        talk.extra["ack"] = outcome.frame
        return talk


__all__ = ["SYN", "Conversation", "SpliceBench", "data_of", "read", "splicing", "window_of"]
