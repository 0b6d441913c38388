# SPDX-License-Identifier: Apache-2.0
"""The model of the translating mode: the data plane, and what clients' segments meet there."""

import struct
from typing import Final

from tests.support import model_splice_bytes as wire
from tests.support import model_splice_cookie as cookies
from tests.support.model import Model
from tests.support.model_answer import Offered, answer, asks_ecn, read_options
from tests.support.model_known import DROP, PASS, PROBE, TX, Judgement, age, in_ports, seconds
from tests.support.model_packet import Packet
from tests.support.model_rules import key_of
from tests.support.model_scene import Rate, Scene, Slot, Tcp
from tests.support.model_splice_state import (
    AGAIN_MS,
    ASKED_S,
    ELSEWHERE_MS,
    HELD_BYTES,
    IDLE_S,
    Backend,
    Keeper,
    Spliced,
    moment,
    prefilter_bit,
    since,
)
from tests.support.packets import ACK, CWR, ECE, FIN, ICMP, ICMP6, RST, SYN, TCP

Verdict = tuple[str, str, bytes | None]
_U16: Final = 0xFFFF
_LEAST_MSS: Final = 216
_U32: Final = 0xFFFFFFFF
_NS: Final = 1_000_000
_NO_MSS: Final = {4: 536, 6: 1220}
_ERRORS: Final = {4: frozenset({3, 11, 12}), 6: frozenset({1, 2, 3, 4})}


def is_icmp_error(packet: Packet) -> bool:
    """Return whether a packet tells an error about another one."""
    usual = ICMP if packet.family == 4 else ICMP6
    if packet.protocol != usual or packet.is_fragment:
        return False
    return packet.frame[packet.at] in _ERRORS[packet.family]


def syn_options(
    agreed: cookies.Agreed, mss: int, tsval: int, tsecr: int, scale: int | None
) -> bytes:
    """Return the options of a SYN or SYN-ACK."""
    made = struct.pack("!BBH", 2, 4, mss)
    if agreed.timestamps:
        made += b"\4\2" if agreed.sack else b"\1\1"
        made += struct.pack("!BBII", 8, 10, tsval, tsecr)
    elif agreed.sack:
        made += b"\1\1\4\2"
    if agreed.wscale is not None and scale is not None:
        made += bytes([1, 3, 3, scale])
    return made


class SpliceModel(Model):
    """The data plane with a scene in force, spliced flows included."""

    def __init__(self, scene: Scene, now_ms: int, seed: int = 0x5EED) -> None:
        super().__init__(scene, now_ms)
        self.splices: dict[bytes, Spliced] = {}
        self.backends: dict[bytes, Backend] = {}
        self.held = Keeper(seed)
        self.probe = Rate(scene.probe.interval, scene.probe.burst, scene.probe.tat)
        # It is known of one in 65,536 addresses only, and may so be taken for granted of others.
        self._translated = {prefilter_bit(key_of(network)[0]) for network in scene.translated}

    # what is known

    def _translates(self, server: bytes) -> bool:
        return prefilter_bit(server) in self._translated

    def find(self, flow: bytes) -> Spliced | None:
        """Return the spliced flow of a client's segment, if it lives."""
        found = self.splices.get(flow)
        if found is None:
            return None
        kept = self.scene.flow_closing if found.over else IDLE_S
        kept = kept if found.open else ASKED_S
        return found if age(seconds(self.now), found.seen) <= kept else None

    def slot_of(self, flow: Spliced) -> int:
        """Return the mitigation that a flow is counted for; 0 where that is no more."""
        slot = self.scene.slots.get(flow.slot)
        return flow.slot if slot is not None and slot.generation == flow.generation else 0

    def backend(self, packet: Packet) -> Backend | None:
        """Return what is known of the port that a client's segment goes to."""
        return self.backends.get(packet.key + packet.ports[2:])

    # SYNs

    def _offered(self, packet: Packet) -> tuple[Offered, frozenset[str]]:
        options = read_options(packet.options, _NO_MSS[packet.family])
        named = {
            "sack": options.sack,
            "wscale": options.wscale is not None,
            "timestamps": options.tsval is not None,
            "ecn": packet.flags & (ECE | CWR) == ECE | CWR,
        }
        return options, frozenset(name for name, there in named.items() if there)

    def _probes(self, packet: Packet) -> bool:
        """Return whether a SYN goes to its server as it came, and remember it."""
        _, offered = self._offered(packet)
        known = self.backend(packet)
        if known is not None and not known.wants(offered, self.now):
            return False
        if not self.probe.take(self.now * _NS):
            return False
        if known is None:
            known = self.backends[packet.key + packet.ports[2:]] = Backend()
        if known.state != "open":
            known.ask(self.now)
        known.probed = moment(self.now)
        known.client = packet.flow
        known.offered = offered
        self._enter_flow(packet)
        if self._is_known(packet):
            self.flows[packet.flow] |= PROBE
        return True

    def _goes_on(self, packet: Packet) -> None:
        """Draw the conclusion when a client goes on in a flow whose SYN was let through."""
        if not self.flows[packet.flow] & PROBE:
            return
        known = self.backend(packet)
        waits = known is not None and known.asked is not None and known.client == packet.flow
        if known is not None and waits and known.asked is not None:
            if since(self.now, known.asked) < ELSEWHERE_MS:
                return
            known.state = "asymmetric"
        self.flows[packet.flow] &= ~PROBE

    def _probe_in_peace(self, packet: Packet) -> None:
        if packet.flags & (SYN | ACK | RST) == SYN:
            self._probes(packet)
        elif self._is_known(packet):
            self._goes_on(packet)

    def _answer(self, tcp: Tcp, packet: Packet) -> Verdict:
        if tcp.mode != "splice":
            return super()._answer(tcp, packet)
        known = self.backend(packet)
        around = known is not None and known.state == "asymmetric"
        if around and self._proven(tcp, packet):
            self._enter_flow(packet)
            return PASS, "proven_syn", None
        if self._probes(packet):
            return PASS, "splice_probe", None
        if known is not None and not around:
            if known.is_silent(self.now):
                return DROP, "splice_silent", None
            if known.refuses(self.now):
                refusal = answer(tcp.ttl, packet, seq=0, ack=packet.seq + 1, flags=RST | ACK)
                return TX, "splice_refused", refusal
        return TX, "cookie_sent", self._syn_ack_for(tcp, packet)

    def _agreed(self, tcp: Tcp, packet: Packet, known: Backend | None) -> cookies.Agreed:
        options, _ = self._offered(packet)

        def takes(name: str) -> bool:
            if known is not None and name in known.known:
                return name in known.taken
            return bool(getattr(tcp, f"has_{name}"))

        timestamps = options.tsval is not None and takes("timestamps")
        return cookies.Agreed(
            options.mss,
            options.wscale if takes("wscale") else None,
            sack=options.sack and takes("sack"),
            timestamps=timestamps,
            ecn=timestamps and takes("ecn") and asks_ecn(packet),
        )

    def _syn_ack_for(self, tcp: Tcp, packet: Packet) -> bytes:
        known = self.backend(packet)
        if known is not None and known.answered is None:
            known = None
        agreed = self._agreed(tcp, packet, known)
        options, _ = self._offered(packet)
        own = tcp.mss4 if packet.family == 4 else tcp.mss6
        mss, window, ttl = own, tcp.window, tcp.ttl
        if known is not None:
            mss, window, ttl = known.mss, known.window, known.ttl
        tsval = cookies.tsval(tcp, packet, agreed, self.now)
        scale = self._own_scale(tcp, known)
        told = syn_options(agreed, mss, tsval, options.tsval or 0, scale)
        return answer(
            ttl,
            packet,
            seq=cookies.make(tcp, packet, agreed, self.now, isn=packet.seq),
            ack=packet.seq + 1,
            flags=SYN | ACK | (ECE if agreed.ecn else 0),
            # Two segments, as so many are kept until the server answers.
            window=min(window, 2 * self._piece(agreed, mss), _U16),
            options=told.ljust(packet.header - 20, b"\0"),
        )

    @staticmethod
    def _piece(agreed: cookies.Agreed, mss: int) -> int:
        """Return the data of a full segment of the client."""
        return max(_LEAST_MSS, min(mss, agreed.mss)) - (12 if agreed.timestamps else 0)

    @staticmethod
    def _own_scale(tcp: Tcp, known: Backend | None) -> int:
        if known is not None and known.answered is not None and "wscale" in known.taken:
            return known.wscale
        return tcp.wscale

    # the ACK that opens

    def _opened(self, tcp: Tcp, packet: Packet) -> Verdict | None:
        if tcp.mode != "splice":
            return super()._opened(tcp, packet)
        return self._open(self.by, tcp, packet)

    def _open(self, index: int, tcp: Tcp, packet: Packet) -> Verdict | None:
        options = read_options(packet.options)
        agreed = cookies.read(
            tcp, packet, self.now, None if options.tsval is None else options.tsecr
        )
        if agreed is None:
            return None
        known = self.backend(packet)
        if known is not None and known.state == "asymmetric":
            self._prove(packet)
            return TX, "reset_sent", answer(tcp.ttl, packet, seq=packet.ack, flags=RST)
        flow = Spliced(
            slot=index,
            generation=self.scene.slots[index].generation,
            client_isn=packet.seq - 1 & _U32,
            cookie_isn=packet.ack - 1 & _U32,
            window=struct.unpack_from("!H", packet.frame, packet.at + 14)[0],
            mss=agreed.mss,
            wscale=agreed.wscale,
            own_wscale=self._own_scale(tcp, known),
            sack=agreed.sack,
            timestamps=agreed.timestamps,
            ecn=agreed.ecn,
            ts_cookie=options.tsecr,
            client_ts=options.tsval or 0,
            asked_ms=moment(self.now),
            seen=seconds(self.now),
        )
        self.splices[packet.flow] = flow
        # What an earlier connection by the same name has sent is none of this one's.
        self.held.drop(packet.flow, 0)
        self.held.drop(packet.flow, 1)
        self._keep(packet, flow, ahead=0)
        if known is not None:
            known.ask(self.now)
        return PASS, "splice_open", self._syn_for(packet, flow)

    def _keep(self, packet: Packet, flow: Spliced, *, ahead: int) -> bool:
        data = packet.frame[packet.at + packet.header : packet.end]
        if not data and not packet.flags & FIN:
            return False
        return self.held.keep(
            packet.flow,
            data,
            ahead=ahead,
            most=flow.piece,
            flags=packet.flags,
            now=self.now,
            good=lambda kept: not wire.segment_error(packet, kept),
        )

    @staticmethod
    def _syn_for(packet: Packet, flow: Spliced) -> bytes:
        agreed = cookies.Agreed(flow.mss, flow.wscale, sack=flow.sack, timestamps=flow.timestamps)
        return wire.opening(
            packet,
            seq=flow.client_isn,
            flags=SYN | (ECE | CWR if flow.ecn else 0),
            # The window of a SYN is never scaled (RFC 7323 section 2.2).
            window=min(flow.window << (flow.wscale or 0), _U16),
            options=syn_options(agreed, flow.mss, flow.client_ts, 0, flow.wscale),
        )

    # what follows

    def _spliced(self, packet: Packet) -> Judgement | None:
        if packet.is_fragment:
            return None
        if packet.protocol == TCP:
            return self._client(packet)
        if is_icmp_error(packet):
            self._quotation_in(packet)
        return None

    def _client(self, packet: Packet) -> Judgement | None:
        flow = self.find(packet.flow)
        if flow is None:
            return None
        by = self.slot_of(flow)
        if packet.flags & (SYN | ACK) == SYN:
            # The server answers it as RFC 9293 section 3.10.7.4 demands.
            if not flow.open or flow.over:
                return None
            return Judgement(PASS, "splice_client", by, packet.frame)
        if not flow.open:
            return self._early(packet, flow, by)
        # What was sent again is of the old one: nothing is to be asked for twice.
        if flow.over and (packet.seq, packet.ack) != flow.first and (new := self._anew(packet)):
            return new
        flow.seen = seconds(self.now)
        flow.end(packet, by="client")
        return Judgement(PASS, "splice_client", by, self._to_server(packet, flow))

    def _early(self, packet: Packet, flow: Spliced, by: int) -> Judgement:
        done = self._wait(packet, flow)
        if done is None:
            return self._anew(packet) or Judgement(DROP, "splice_early", by, packet.frame)
        return Judgement(done[0], done[1], by, done[2] or packet.frame)

    @staticmethod
    def _to_server(packet: Packet, flow: Spliced) -> bytes:
        shift = wire.Shift(
            tsecr=-flow.ts_delta if flow.timestamps else 0,
            edges=-flow.delta,
        )
        ack = -flow.delta if packet.flags & ACK else 0
        return wire.moved(packet, ack=ack, window=flow.to_server, shift=shift)

    def _wait(self, packet: Packet, flow: Spliced) -> Verdict | None:
        """Return what becomes of a segment whose server has not answered; None: of another flow."""
        if packet.flags & ACK and packet.ack != flow.cookie_isn + 1 & _U32:
            return None
        ahead = packet.seq - flow.client_isn - 1 & _U32
        if packet.flags & RST:
            if ahead <= _U16:
                flow.ended.add("reset")
            return DROP, "splice_early", None
        kept = ahead <= HELD_BYTES and self._keep(packet, flow, ahead=ahead)
        if since(self.now, flow.asked_ms) < AGAIN_MS:
            return DROP, "splice_held" if kept else "splice_early", None
        flow.asked_ms = moment(self.now)
        flow.seen = seconds(self.now)
        return PASS, "splice_open", self._syn_for(packet, flow)

    def _anew(self, packet: Packet) -> Judgement | None:
        """Return what an ACK does that opens another flow by the same name."""
        policy = self._policy(packet.key)
        if policy is None or packet.flags & (ACK | RST) != ACK:
            return None
        slots: list[tuple[int, Slot]] = self._live(policy.tcp)
        for index, slot in slots:
            if not in_ports(slot.ports, packet.dport):
                continue
            tcp = slot.settings
            if not isinstance(tcp, Tcp) or tcp.mode != "splice":
                return None
            opened = self._open(index, tcp, packet)
            if opened is None:
                return None
            verdict, reason, frame = opened
            return Judgement(verdict, reason, index, packet.frame if frame is None else frame)
        return None

    def _quotation_in(self, packet: Packet) -> None:
        """Translate an error about what the server has sent."""
        told = wire.quoted(packet)
        if told is None or told.source != packet.key:
            return
        flow = self.find(told.turned)
        if flow is None or not flow.open:
            return
        packet.frame = wire.moved_quotation(packet, told.at + 4, -flow.delta)
        packet.translated = True

    # time

    def grow_older(self, milliseconds: int, ticks: int) -> None:
        """Let everything that was seen have been so much earlier."""
        for flow in self.splices.values():
            flow.asked_ms -= milliseconds
            flow.seen = _before(flow.seen, ticks)
        for known in self.backends.values():
            for name in ("asked", "probed", "answered", "profiled"):
                then = getattr(known, name)
                if then is not None:
                    setattr(known, name, then - milliseconds)
        for piece in self.held.places.values():
            piece.at -= milliseconds
        self.flows = {flow: _before(seen, ticks) for flow, seen in self.flows.items()}
        for one in self.sightings.values():
            one.seen = _before(one.seen, ticks)
        self.probe.tat = max(0, self.probe.tat - milliseconds * _NS)


def _before(seen: int, ticks: int) -> int:
    kept = 0x3FFFFFFF
    return seen & ~kept & _U32 | (seen - 2 * ticks) & kept
