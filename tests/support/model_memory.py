# SPDX-License-Identifier: Apache-2.0
"""Flows, proven sources and sightings, as the model of the data plane remembers them."""

from typing import Final

from tests.support.model_known import (
    CLOSING,
    PROBE,
    Known,
    Sighting,
    age,
    near,
    newest,
    seconds,
)
from tests.support.model_packet import Packet
from tests.support.model_scene import Rate, Scene, Tcp
from tests.support.packets import ACK, FIN, RST, SYN

_NS: Final = 1_000_000


class Memory:
    """What was seen under a scene."""

    def __init__(self, scene: Scene, now_ms: int) -> None:
        self.scene = scene
        self.now = now_ms
        self.flows: dict[bytes, int] = {}
        self.sources: dict[bytes, Known] = {}
        self.sightings: dict[bytes, Sighting] = {}
        self.inserts = (0, 0)

    def _is_known(self, packet: Packet) -> bool:
        seen = self.flows.get(packet.flow)
        if seen is None:
            return False
        idle = self.scene.flow_closing if seen & CLOSING else self.scene.flow_idle
        return age(seconds(self.now), seen) <= idle

    def _touch(self, packet: Packet, flags: int) -> None:
        has_data = packet.end > packet.at + packet.header
        if flags & (FIN | RST):
            closing = CLOSING
        else:
            closing = 0 if flags & SYN or has_data else self.flows[packet.flow] & CLOSING
        probe = self.flows[packet.flow] & PROBE
        self.flows[packet.flow] = seconds(self.now) | closing | probe

    def _enter_flow(self, packet: Packet) -> None:
        second, number = self.inserts
        if second != self.now >> 10:
            number = 0
        if number < self.scene.inserts_per_second:
            self.flows[packet.flow] = seconds(self.now)
            number += 1
        self.inserts = (self.now >> 10, number)

    def _prove(self, packet: Packet) -> None:
        now = seconds(self.now)
        known = self.sources.get(packet.source_key)
        if known is None:
            self.sources[packet.source_key] = Known(Rate(), now)
        else:
            known.seen = now

    def _proven(self, tcp: Tcp, packet: Packet) -> bool:
        known = self.sources.get(packet.source_key)
        now = seconds(self.now)
        if known is None or age(now, known.seen) > self.scene.source_idle:
            return False
        bucket = Rate(tcp.source.interval, tcp.source.burst, known.bucket.tat)
        if not bucket.take(self.now * _NS):
            return False
        known.bucket.tat = bucket.tat
        known.seen = now
        return True

    def _sighted(self, tcp: Tcp, packet: Packet) -> str:
        sighting = self._fitting(packet)
        if sighting is None:
            return ""
        if sighting.answer:
            return "syn_ack_in" if tcp.syn_ack_in.take(self.now * _NS) else ""
        return "learned_flow" if tcp.learned.take(self.now * _NS) else ""

    def _fitting(self, packet: Packet) -> Sighting | None:
        sighting = self.sightings.get(packet.flow)
        now = seconds(self.now)
        if sighting is None or not sighting.learned:
            return None
        ack = packet.ack if packet.flags & ACK else sighting.ack
        fits = near(ack, sighting.ack) and near(packet.seq, sighting.seq)
        if age(now, sighting.seen) > self.scene.flow_idle or not fits:
            return None
        sighting.ack = newest(sighting.ack, ack)
        sighting.seq = newest(sighting.seq, packet.seq)
        sighting.seen = now
        return sighting

    def _note(self, packet: Packet, *, answer: bool = False) -> None:
        now = seconds(self.now)
        sighting = self.sightings.get(packet.flow)
        if sighting is None or answer:
            only = answer and (sighting is None or not sighting.learned or sighting.answer)
            self.sightings[packet.flow] = Sighting(packet.ack, packet.seq, now, answer, only)
            return
        before = sighting.ack, sighting.seq
        sighting.ack = newest(sighting.ack, packet.ack)
        sighting.seq = newest(sighting.seq, packet.seq)
        sighting.learned |= before != (sighting.ack, sighting.seq)
        sighting.seen = now
