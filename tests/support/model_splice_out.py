# SPDX-License-Identifier: Apache-2.0
"""The model of the translating mode on the other side: what servers send to spliced clients."""

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support import model_splice_bytes as wire
from tests.support.model_answer import Offered, read_options
from tests.support.model_known import PASS, Judgement, seconds
from tests.support.model_packet import MalformedError, Packet, find_ip, read_ip, read_transport
from tests.support.model_splice import SpliceModel, is_icmp_error
from tests.support.model_splice_state import AGAIN_MS, Backend, Spliced, moment
from tests.support.packets import ACK, ECE, FIN, RST, SYN, TCP

SHOT: Final = "SHOT"
REDIRECT: Final = "REDIRECT"

_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_NO_MSS: Final = {4: 536, 6: 1220}
_QUOTED_ACK: Final = 14


@dataclass(slots=True)
class Departure(Judgement):
    """What becomes of a packet that leaves; what goes on untouched has no reason."""

    before: list[bytes] = field(default_factory=list)
    """Frames that the host was given ahead of this one."""


def _turned(packet: Packet) -> bytes:
    """Return the flow of a server's segment as its client's segments name it."""
    return packet.key + packet.source_key + packet.ports[2:] + packet.ports[:2]


def _window(packet: Packet) -> int:
    return int(struct.unpack_from("!H", packet.frame, packet.at + 14)[0])


class WholeModel(SpliceModel):
    """Both directions."""

    def leave(self, frame: bytes) -> Departure:
        """Return what becomes of a frame that is about to leave."""
        go_on = Departure(PASS, "", 0, frame)
        packet = find_ip(frame)
        if packet is None or not self._translated:
            return go_on
        try:
            read_ip(packet)
            read_transport(packet)
        except MalformedError:
            return go_on
        if packet.is_fragment:
            return go_on
        if is_icmp_error(packet):
            return self._quotation_out(packet) or go_on
        if packet.protocol != TCP or not self._translates(packet.source_key):
            return go_on
        return self._server(packet) or go_on

    def _quotation_out(self, packet: Packet) -> Departure | None:
        """Translate an error about what a client has sent."""
        told = wire.quoted(packet)
        if told is None or not self._translates(told.destination):
            return None
        flow = self.find(told.flow)
        if flow is None or not flow.open:
            return None
        frame = packet.frame
        whole = told.at + _QUOTED_ACK <= packet.end
        if whole and frame[told.at + 13] & ACK:
            frame = wire.moved_quotation(packet, told.at + 8, flow.delta)
        return Departure(PASS, "splice_icmp", self.slot_of(flow), frame)

    def _server(self, packet: Packet) -> Departure | None:
        name = _turned(packet)
        flow = self.find(name)
        if flow is None:
            self._native(packet, name)
            return None
        by = self.slot_of(flow)
        if packet.flags & (SYN | ACK) == SYN | ACK:
            if not flow.open or packet.ack == flow.client_isn + 1 & _U32:
                return self._syn_ack_of(packet, name, flow, by)
            # The server had forgotten the flow, and has another one now.
            del self.splices[name]
            self._enter_named(name)
            self._native(packet, name)
            return None
        if not flow.open:
            return self._no(packet, flow, by)
        flow.seen = seconds(self.now)
        flow.end(packet, by="server")
        shift = wire.Shift(tsval=flow.ts_delta if flow.timestamps else 0)
        made = wire.moved(packet, seq=flow.delta, window=flow.to_client, shift=shift)
        return Departure(PASS, "splice_server", by, made)

    def _enter_named(self, name: bytes) -> None:
        second, number = self.inserts
        if second != self.now >> 10:
            number = 0
        if number < self.scene.inserts_per_second:
            self.flows[name] = seconds(self.now)
            number += 1
        self.inserts = (self.now >> 10, number)

    # servers

    def _known(self, packet: Packet) -> Backend | None:
        return self.backends.get(packet.source_key + packet.ports[:2])

    def _native(self, packet: Packet, name: bytes) -> None:
        """Learn from what a server answers to a SYN that it was given as it came."""
        known = self._known(packet)
        asked = known is not None and known.client == name
        if packet.flags & (SYN | ACK) == SYN | ACK:
            self._learn(packet, known.offered if known and asked else frozenset())
            return
        refused = packet.flags & RST and not packet.seq
        if known and asked and known.asked is not None and known.state != "open" and refused:
            self._refused(known)

    def _learn(self, packet: Packet, offered: frozenset[str]) -> Offered:
        options = read_options(packet.options, _NO_MSS[packet.family])
        place = packet.source_key + packet.ports[:2]
        known = self.backends.setdefault(place, Backend())
        known.learn(
            options,
            offered,
            self.now,
            window=_window(packet),
            ttl=packet.frame[packet.start + (8 if packet.family == 4 else 7)],
            ecn=bool(packet.flags & ECE),
        )
        return options

    def _refused(self, known: Backend) -> None:
        known.answered = moment(self.now)
        known.asked = None
        known.state = "closed"

    # answers to our SYN

    def _syn_ack_of(self, packet: Packet, name: bytes, flow: Spliced, by: int) -> Departure:
        has_data = packet.end != packet.at + packet.header
        if packet.ack != flow.client_isn + 1 & _U32 or has_data:
            return Departure(SHOT, "splice_over", by, packet.frame)
        options = read_options(packet.options, _NO_MSS[packet.family])
        if flow.open:
            if packet.seq != flow.cookie_isn - flow.delta & _U32:
                return Departure(SHOT, "splice_over", by, packet.frame)
        elif "reset" in flow.ended:
            return self._reset(packet, by)
        else:
            self._learn(packet, flow.offered())
            self._join(packet, flow, options)
        flow.seen = seconds(self.now)
        return self._acknowledge(packet, name, flow, options, by)

    @staticmethod
    def _join(packet: Packet, flow: Spliced, options: Offered) -> None:
        flow.delta = flow.cookie_isn - packet.seq & _U32
        flow.timestamps = flow.timestamps and options.tsval is not None
        if flow.timestamps and options.tsval is not None:
            flow.ts_delta = flow.ts_cookie - options.tsval & _U32
        client_scales = flow.wscale is not None
        told = flow.own_wscale if client_scales else 0
        flow.to_client = told - (options.wscale or 0)
        flow.to_server = -(flow.wscale or 0) if options.wscale is None else 0
        flow.open = True

    def _acknowledge(
        self, packet: Packet, name: bytes, flow: Spliced, options: Offered, by: int
    ) -> Departure:
        told = b""
        if flow.timestamps:
            told = struct.pack("!BBBBII", 1, 1, 8, 10, flow.client_ts, options.tsval or 0)
        first = self.held.take(name, 0, self.now)
        second = self.held.take(name, 1, self.now) if first is not None else None
        seq, before = flow.client_isn + 1, []
        pieces = [(piece.data, piece.flags) for piece in (first, second) if piece is not None]
        for data, flags in pieces or [(b"", 0)]:
            if flags & FIN:
                flow.ended.add("client")
            made = wire.reply(
                packet,
                seq=seq,
                ack=packet.seq + 1,
                flags=ACK | flags,
                window=min(flow.window << -flow.to_server, _U16),
                options=told,
                data=data,
            )
            seq += len(data)
            before.append(made)
        return Departure(REDIRECT, "splice_answered", by, before.pop(), before)

    def _reset(self, packet: Packet, by: int) -> Departure:
        if packet.end != packet.at + packet.header:
            return Departure(SHOT, "splice_over", by, packet.frame)
        made = wire.reply(packet, seq=packet.ack, ack=0, flags=RST)
        return Departure(REDIRECT, "splice_answered", by, made)

    def _no(self, packet: Packet, flow: Spliced, by: int) -> Departure:
        """Return what becomes of what a server answers, other than by a SYN-ACK, to our SYN."""
        over = Departure(SHOT, "splice_over", by, packet.frame)
        if not packet.flags & RST:
            # It knows another connection by that name, and asks (RFC 9293 section 3.5.1).
            flow.asked_ms = moment(self.now - AGAIN_MS)
            return self._reset(packet, by) if packet.flags & ACK else over
        if not packet.flags & ACK or packet.ack != flow.client_isn + 1 & _U32:
            return over
        known = self._known(packet)
        if known is not None:
            self._refused(known)
        flow.ended.add("reset")
        flow.open = True
        made = wire.reset_answer(packet, seq=flow.cookie_isn + 1)
        return replace(over, verdict=PASS, reason="splice_server", frame=made)
