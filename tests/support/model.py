# SPDX-License-Identifier: Apache-2.0
"""An independent model of the data plane's whole decision, one packet at a time.

It keeps in dictionaries what the program keeps in its tables, so the two agree as long as
no table overflows; what happens then is tested by itself.
"""

from collections.abc import Sequence
from typing import Final

from tests.support.model_answer import cookie_valid, reset, syn_ack
from tests.support.model_known import (
    DROP,
    PASS,
    TX,
    Judgement,
    Policy,
    Talker,
    ceiling_place,
    flags_impossible,
    in_ports,
    not_genuine,
)
from tests.support.model_memory import Memory
from tests.support.model_packet import (
    MalformedError,
    Packet,
    checksums_right,
    find_ip,
    read_ip,
    read_transport,
)
from tests.support.model_rules import fits, key_of
from tests.support.model_scene import Rate, Scene, Slot, Sorb, Tcp
from tests.support.packets import ACK, FIN, ICMP, ICMP6, PSH, RST, SYN, TCP, URG

_NS: Final = 1_000_000
_JUDGED_FLAGS: Final = FIN | SYN | RST | PSH | ACK | URG
_ICMP_ERRORS: Final = {4: frozenset({3, 11, 12}), 6: frozenset({1, 2, 3, 4})}
_WIDE_TIMES: Final = 16
_KINDS: Final = ("acl", "sorb", "tcp", "watch")


class Model(Memory):
    """The data plane with a scene in force."""

    def __init__(self, scene: Scene, now_ms: int) -> None:
        super().__init__(scene, now_ms)
        self.talkers: dict[tuple[bytes, bool, int], Talker] = {}
        self.ceilings: dict[int, int] = {}
        self.by = 0
        """The slot that judges."""
        self._targets: dict[int, dict[bytes, Policy]] = {}
        for network in scene.targets:
            address, bits = key_of(network)
            policy = Policy(**{kind: scene.of_kind(network, kind) for kind in _KINDS})
            self._targets.setdefault(bits, {})[address] = policy
        self._lengths = sorted(self._targets, reverse=True)

    def drop_targets(self) -> None:
        """Protect nobody any more; what is known stays."""
        self._targets.clear()
        self._lengths.clear()

    def judge(self, frame: bytes) -> Judgement:
        """Return what becomes of a frame and remember what it teaches."""
        packet = find_ip(frame)
        if packet is None:
            return Judgement(PASS, "not_ip", 0, frame)
        policy = self._policy(packet.key)
        concerned = self._translates(packet.key)
        if policy is None and not concerned:
            return Judgement(PASS, "unprotected", 0, frame)
        policy = policy or Policy()
        first = next((at for at in policy.enforcing() if self._alive(at)), 0)
        try:
            read_ip(packet)
            read_transport(packet)
        except MalformedError as error:
            if first:
                return Judgement(DROP, str(error), first, frame)
            return Judgement(PASS, "unprotected", 0, frame)
        return self._judge(policy, packet, first, concerned=concerned)

    def _judge(self, policy: Policy, packet: Packet, first: int, *, concerned: bool) -> Judgement:
        filtered = self._acls(policy, packet) or self._sorbs(policy, packet)
        if concerned and (filtered is None or filtered.reason == "acl_pass"):
            spliced = self._spliced(packet)
            if spliced is not None:
                return spliced
        if filtered is not None:
            filtered.frame = packet.frame
            return filtered
        return (
            self._tcps(policy, packet)
            or self._watches(policy, packet)
            or self._undecided(packet, first, guarded=bool(policy.every()))
        )

    # What the translating mode adds; model_splice says what.

    def _translates(self, _server: bytes) -> bool:
        return False

    def _spliced(self, _packet: Packet) -> Judgement | None:
        return None

    def _probe_in_peace(self, _packet: Packet) -> None:
        pass

    def _goes_on(self, _packet: Packet) -> None:
        pass

    def _undecided(self, packet: Packet, first: int, *, guarded: bool) -> Judgement:
        if packet.translated and not guarded:
            return Judgement(PASS, "splice_icmp", 0, packet.frame)
        reason = "not_concerned" if first else "unprotected"
        return Judgement(PASS, reason, first, packet.frame)

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
            reason = "splice_icmp" if packet.translated else "icmp_error"
            return Judgement(PASS, reason, index, packet.frame)
        return Judgement(DROP, "icmp_limited", index, packet.frame)

    def _tcp(self, index: int, tcp: Tcp, packet: Packet) -> Judgement:
        self.by = index
        verdict, reason, frame = self._judge_tcp(tcp, packet)
        return Judgement(verdict, reason, index, packet.frame if frame is None else frame)

    def _judge_tcp(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        flags = packet.flags & _JUDGED_FLAGS
        impossible = self._impossible(packet, flags)
        if impossible:
            return DROP, impossible, None
        known = self._is_known(packet)
        opens = flags & (SYN | ACK) == SYN
        if known and not opens:
            self._goes_on(packet)
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
        if flags_impossible(flags):
            return "bad_flags"
        if not_genuine(packet):
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

    def _admits_syn(self, tcp: Tcp, packet: Packet) -> bool:
        """Return whether a SYN in a known flow finds a token of its source, or of the unknown."""
        if self._proven(tcp, packet):
            return True
        return bool(tcp.unknown.interval and tcp.unknown.take(self.now * _NS))

    def _syn(self, tcp: Tcp, packet: Packet, *, known: bool) -> tuple[str, str, bytes | None]:
        if not known and tcp.mode != "splice" and self._proven(tcp, packet):
            self._enter_flow(packet)
            return PASS, "proven_syn", None
        if tcp.ceiling.interval:
            place = ceiling_place(packet.source)
            tat = self.ceilings.get(place, 0)
            bucket = Rate(tcp.ceiling.interval, tcp.ceiling.burst, tat)
            if not bucket.take(self.now * _NS):
                return DROP, "cookie_limited", None
            self.ceilings[place] = bucket.tat
        return self._answer(tcp, packet)

    def _answer(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        return TX, "cookie_sent", syn_ack(tcp, packet, self.now)

    def _opened(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None] | None:
        """Return what a valid cookie does; None where the segment has none."""
        if not cookie_valid(tcp, packet, self.now):
            return None
        self._prove(packet)
        if tcp.mode == "reset":
            return TX, "reset_sent", reset(tcp, packet)
        self._enter_flow(packet)
        return PASS, "cookie_good", None

    def _segment(self, tcp: Tcp, packet: Packet) -> tuple[str, str, bytes | None]:
        opened = self._opened(tcp, packet)
        if opened is not None:
            return opened
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

    def _watches(self, policy: Policy, packet: Packet) -> Judgement | None:
        if packet.is_fragment or packet.protocol != TCP:
            return None
        for index, slot in self._live(policy.watch):
            if not in_ports(slot.ports, packet.dport):
                continue
            if self._translates(packet.key) and any(packet.ports):
                self._probe_in_peace(packet)
            if packet.flags & (ACK | SYN | RST) == ACK:
                self._note(packet)
            return Judgement(PASS, "watched", index, packet.frame)
        return None
