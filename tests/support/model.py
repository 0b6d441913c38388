# SPDX-License-Identifier: Apache-2.0
"""An independent model of the data plane's whole decision, one packet at a time.

It keeps in dictionaries what the program keeps in its tables, so the two agree as long as
no table overflows; what happens then is tested by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.model_answer import cookie_valid, reset, syn_ack
from tests.support.model_packet import (
    MalformedError,
    Packet,
    checksums_right,
    find_ip,
    read_ip,
    read_transport,
)
from tests.support.model_rules import fits, key_of
from tests.support.model_scene import Ports, Rate, Scene, Slot, Sorb, Tcp
from tests.support.packets import ACK, FIN, ICMP, ICMP6, PSH, RST, SYN, TCP, URG

PASS: Final = "PASS"
DROP: Final = "DROP"
TX: Final = "TX"

_NS: Final = 1_000_000
_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_CLOSING: Final = 0x80000000
_TIME: Final = 0x3FFFFFFF
_JUDGED_FLAGS: Final = FIN | SYN | RST | PSH | ACK | URG
_XMAS: Final = FIN | URG | PSH
_ICMP_ERRORS: Final = {4: frozenset({3, 11, 12}), 6: frozenset({1, 2, 3, 4})}
_NEAR_AHEAD: Final = 1 << 25
_NEAR_BEHIND: Final = 1 << 20
_PROGRESS: Final = 1 << 30
_WIDE_TIMES: Final = 16
_KINDS: Final = ("acl", "sorb", "tcp", "watch")


@dataclass(slots=True)
class Judgement:
    """What becomes of a packet."""

    verdict: str
    reason: str
    slot: int
    frame: bytes


@dataclass(slots=True)
class Known:
    """A proven source."""

    bucket: Rate
    seen: int


@dataclass(slots=True)
class Sighting:
    """A flow that was seen but not proven."""

    ack: int
    seq: int
    seen: int
    learned: bool
    answer: bool
    """Only an answer to a SYN of the server's own made it."""


@dataclass(slots=True)
class Talker:
    """A source that a sorb counts."""

    pps: Rate
    bps: Rate
    blocked_until: int = 0


@dataclass(slots=True)
class Policy:
    """The slots of a target by kind."""

    acl: list[int] = field(default_factory=list)
    sorb: list[int] = field(default_factory=list)
    tcp: list[int] = field(default_factory=list)
    watch: list[int] = field(default_factory=list)

    def enforcing(self) -> list[int]:
        """Return the slots that drop; the first in force stands for the whole policy."""
        return [*self.acl, *self.sorb, *self.tcp]


def seconds(now_ms: int) -> int:
    """Return the time as the tables keep it."""
    return now_ms >> 10 & ~_CLOSING & _U32 | 1


def age(now: int, seen: int) -> int:
    """Return how long ago `seen` was; what lies ahead is new."""
    passed = now - seen & _TIME
    return 0 if passed > _TIME >> 1 else passed


def in_ports(ports: Ports, port: int) -> bool:
    """Return whether a port is in a list; the empty list holds all."""
    return not ports or any(low <= port <= high for low, high in ports)


def ceiling_place(source: bytes) -> int:
    """Return where the ceiling of a source's /24 or /48 is kept; prefixes may share a place."""
    if len(source) == 4:
        prefix = int.from_bytes(source[:3], "little")
    else:
        prefix = int.from_bytes(source[:4], "little") << 32 | int.from_bytes(source[4:6], "little")
    first = (prefix ^ 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93 & _U64
    second = 0xC2B2AE3D27D4EB4F * 0xFF51AFD7ED558CCD & _U64
    mixed = first ^ (second << 32 & _U64 | second >> 32)
    mixed = (mixed ^ mixed >> 32) * 0xC4CEB9FE1A85EC53 & _U64
    mixed = (mixed ^ mixed >> 29) * 0x94D049BB133111EB & _U64
    return (mixed ^ mixed >> 32) >> 48


class Model:
    """The data plane with a scene in force."""

    def __init__(self, scene: Scene, now_ms: int) -> None:
        self.scene = scene
        self.now = now_ms
        self.flows: dict[bytes, int] = {}
        self.sources: dict[bytes, Known] = {}
        self.sightings: dict[bytes, Sighting] = {}
        self.talkers: dict[tuple[bytes, bool, int], Talker] = {}
        self.ceilings: dict[int, int] = {}
        self.inserts = (0, 0)
        self._targets: dict[int, dict[bytes, Policy]] = {}
        for network in scene.targets:
            address, bits = key_of(network)
            policy = Policy(**{kind: scene.of_kind(network, kind) for kind in _KINDS})
            self._targets.setdefault(bits, {})[address] = policy
        self._lengths = sorted(self._targets, reverse=True)

    def judge(self, frame: bytes) -> Judgement:
        """Return what becomes of a frame and remember what it teaches."""
        packet = find_ip(frame)
        if packet is None:
            return Judgement(PASS, "not_ip", 0, frame)
        policy = self._policy(packet.key)
        if policy is None:
            return Judgement(PASS, "unprotected", 0, frame)
        first = next((at for at in policy.enforcing() if self._alive(at)), 0)
        try:
            read_ip(packet)
            read_transport(packet)
        except MalformedError as error:
            if first:
                return Judgement(DROP, str(error), first, frame)
            return Judgement(PASS, "unprotected", 0, frame)
        return (
            self._acls(policy, packet)
            or self._sorbs(policy, packet)
            or self._tcps(policy, packet)
            or self._watches(policy, packet)
            or Judgement(PASS, "not_concerned" if first else "unprotected", first, frame)
        )

    def _policy(self, address: bytes) -> Policy | None:
        whole = int.from_bytes(address, "big")
        for bits in self._lengths:
            masked = whole >> (128 - bits) << (128 - bits)
            found = self._targets[bits].get(masked.to_bytes(16, "big"))
            if found is not None:
                return found
        return None

    def _alive(self, index: int) -> bool:
        return self.scene.slots[index].deadline > self.now

    def _live(self, indices: Sequence[int]) -> list[tuple[int, Slot]]:
        return [(index, self.scene.slots[index]) for index in indices if self._alive(index)]

    # acl

    def _acls(self, policy: Policy, packet: Packet) -> Judgement | None:
        for index, slot in self._live(policy.acl):
            rules = slot.settings
            if not isinstance(rules, Sequence):
                continue
            rule = next((rule for rule in rules if fits(rule, packet)), None)
            if rule is None:
                continue
            if rule.action == "drop":
                return Judgement(DROP, "acl_drop", index, packet.frame)
            if rule.action == "pass":
                return Judgement(PASS, "acl_pass", index, packet.frame)
            if rule.limit is not None and not rule.limit.take(self.now * _NS):
                return Judgement(DROP, "acl_limited", index, packet.frame)
        return None

    # sorb

    def _sorbs(self, policy: Policy, packet: Packet) -> Judgement | None:
        for index, slot in self._live(policy.sorb):
            sorb = slot.settings
            if not isinstance(sorb, Sorb):
                continue
            counted = [(packet.source_key, False)]
            if packet.family == 6:
                counted.append((packet.source_key[:8] + bytes(8), True))
            for address, wide in counted:
                reason = self._count(slot, sorb, address, packet.length, wide=wide)
                if reason:
                    return Judgement(DROP, reason, index, packet.frame)
        return None

    def _count(self, slot: Slot, sorb: Sorb, address: bytes, length: int, *, wide: bool) -> str:
        now = self.now * _NS
        talker = self.talkers.get((address, wide, slot.generation))
        if talker is None:
            talker = Talker(
                Rate(sorb.pps.interval, sorb.pps.burst), Rate(sorb.bps.interval, sorb.bps.burst)
            )
            self.talkers[address, wide, slot.generation] = talker
        if talker.blocked_until > self.now:
            return "sorb_blocked"
        times = _WIDE_TIMES if wide else 1
        packet, byte = talker.pps.interval // times, (length * talker.bps.interval >> 10) // times
        if talker.pps.take(now, packet) and talker.bps.take(now, byte):
            return ""
        talker.blocked_until = self.now + sorb.block_ms
        return "sorb_over"

    # tcp

    def _tcps(self, policy: Policy, packet: Packet) -> Judgement | None:
        slots = self._live(policy.tcp)
        if not slots:
            return None
        if packet.protocol != TCP:
            return self._icmp(slots[0], packet)
        if packet.is_fragment:
            return Judgement(DROP, "fragment", slots[0][0], packet.frame)
        for index, slot in slots:
            if isinstance(slot.settings, Tcp) and in_ports(slot.ports, packet.dport):
                return self._tcp(index, slot.settings, packet)
        return None

    def _icmp(self, first: tuple[int, Slot], packet: Packet) -> Judgement | None:
        index, slot = first
        wanted = ICMP if packet.family == 4 else ICMP6
        if packet.protocol != wanted or packet.is_fragment or not isinstance(slot.settings, Tcp):
            return None
        if packet.frame[packet.at] not in _ICMP_ERRORS[packet.family]:
            return None
        if slot.settings.icmp.take(self.now * _NS):
            return Judgement(PASS, "icmp_error", index, packet.frame)
        return Judgement(DROP, "icmp_limited", index, packet.frame)

    def _tcp(self, index: int, tcp: Tcp, packet: Packet) -> Judgement:
        verdict, reason, frame = self._judge_tcp(tcp, packet)
        return Judgement(verdict, reason, index, packet.frame if frame is None else frame)

    def _judge_tcp(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        flags = packet.flags & _JUDGED_FLAGS
        impossible = self._impossible(packet, flags)
        if impossible:
            return DROP, impossible, None
        known = self._is_known(packet)
        opens = flags & (SYN | ACK) == SYN
        if known and (not opens or self._admits_syn(tcp, packet)):
            self._touch(packet, flags)
            return PASS, "known_flow", None
        if flags & SYN:
            return (
                self._syn_ack(tcp, packet) if flags & ACK else self._syn(tcp, packet, known=known)
            )
        if flags & RST:
            return self._rst(tcp, packet)
        # Without ACK no stack sends it, and no server takes it (RFC 9293 section 3.10.7.4).
        return self._segment(tcp, packet) if flags & ACK else (DROP, "cookie_bad", None)

    def _impossible(self, packet: Packet, flags: int) -> str:
        if _flags_impossible(flags):
            return "bad_flags"
        if _not_genuine(packet):
            return "bad_source"
        if self.scene.verify and not checksums_right(packet):
            return "bad_checksum"
        return ""

    def _syn_ack(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        if not tcp.syn_ack_in.take(self.now * _NS):
            return DROP, "syn_ack_limited", None
        self._note(packet, answer=True)
        return PASS, "syn_ack_in", None

    def _rst(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        if reason := self._sighted(tcp, packet):
            return PASS, reason, None
        # What answers a SYN of the server's own (RFC 9293 section 3.10.7.1).
        if not packet.flags & ACK or packet.seq:
            return DROP, "rst_unknown", None
        if tcp.syn_ack_in.take(self.now * _NS):
            return PASS, "syn_ack_in", None
        return DROP, "syn_ack_limited", None

    def _is_known(self, packet: Packet) -> bool:
        seen = self.flows.get(packet.flow)
        if seen is None:
            return False
        idle = self.scene.flow_closing if seen & _CLOSING else self.scene.flow_idle
        return age(seconds(self.now), seen) <= idle

    def _admits_syn(self, tcp: Tcp, packet: Packet) -> bool:
        """Return whether a SYN in a known flow finds a token of its source, or of the unknown."""
        if self._proven(tcp, packet):
            return True
        return bool(tcp.unknown.interval and tcp.unknown.take(self.now * _NS))

    def _touch(self, packet: Packet, flags: int) -> None:
        has_data = packet.end > packet.at + packet.header
        if flags & (FIN | RST):
            closing = _CLOSING
        else:
            closing = 0 if flags & SYN or has_data else self.flows[packet.flow] & _CLOSING
        self.flows[packet.flow] = seconds(self.now) | closing

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

    def _syn(self, tcp: Tcp, packet: Packet, *, known: bool) -> tuple[str, str, bytes | None]:
        if not known and self._proven(tcp, packet):
            self._enter_flow(packet)
            return PASS, "proven_syn", None
        if tcp.ceiling.interval:
            place = ceiling_place(packet.source)
            tat = self.ceilings.get(place, 0)
            bucket = Rate(tcp.ceiling.interval, tcp.ceiling.burst, tat)
            if not bucket.take(self.now * _NS):
                return DROP, "cookie_limited", None
            self.ceilings[place] = bucket.tat
        return TX, "cookie_sent", syn_ack(tcp, packet, self.now)

    def _segment(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        if cookie_valid(tcp, packet, self.now):
            self._prove(packet)
            if tcp.mode == "reset":
                return TX, "reset_sent", reset(tcp, packet)
            self._enter_flow(packet)
            return PASS, "cookie_good", None
        reason = self._unproven(tcp, packet)
        return (PASS, reason, None) if reason else (DROP, "cookie_bad", None)

    def _unproven(self, tcp: Tcp, packet: Packet) -> str:
        if reason := self._sighted(tcp, packet):
            return reason
        if self._proven(tcp, packet):
            self._enter_flow(packet)
            return "proven_ack"
        if self.now >= tcp.grace_until:
            allowed = tcp.unknown.interval and tcp.unknown.take(self.now * _NS)
            return "unknown_ack" if allowed else ""
        if tcp.grace.take(self.now * _NS):
            self._note(packet)
            return "grace"
        return ""

    # sightings

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
        near = _near(ack, sighting.ack) and _near(packet.seq, sighting.seq)
        if age(now, sighting.seen) > self.scene.flow_idle or not near:
            return None
        sighting.ack = _newest(sighting.ack, ack)
        sighting.seq = _newest(sighting.seq, packet.seq)
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
        sighting.ack = _newest(sighting.ack, packet.ack)
        sighting.seq = _newest(sighting.seq, packet.seq)
        sighting.learned |= before != (sighting.ack, sighting.seq)
        sighting.seen = now

    def _watches(self, policy: Policy, packet: Packet) -> Judgement | None:
        if packet.is_fragment or packet.protocol != TCP:
            return None
        for index, slot in self._live(policy.watch):
            if not in_ports(slot.ports, packet.dport):
                continue
            if packet.flags & (ACK | SYN | RST) == ACK:
                self._note(packet)
            return Judgement(PASS, "watched", index, packet.frame)
        return None


def _near(number: int, known: int) -> bool:
    ahead = number - known & _U32
    return ahead <= _NEAR_AHEAD or (known - number & _U32) <= _NEAR_BEHIND


def _newest(known: int, number: int) -> int:
    return number if 0 < (number - known & _U32) < _PROGRESS else known


def _flags_impossible(flags: int) -> bool:
    if not flags:
        return True
    pairs = (SYN | FIN, SYN | RST, FIN | RST)
    if any(flags & pair == pair for pair in pairs):
        return True
    return flags & _XMAS == _XMAS and not flags & ACK


def _not_genuine(packet: Packet) -> bool:
    source = packet.source
    if packet.source_key == packet.key or not packet.sport or not packet.dport:
        return True
    if packet.family == 4:
        return source[0] in {0, 127} or source[0] >= 224
    never = (bytes(16), bytes(15) + b"\1")
    return source in never or source[0] == 0xFF or source[:12] == bytes(10) + b"\xff\xff"
