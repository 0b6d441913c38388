# SPDX-License-Identifier: Apache-2.0
"""Random connections through the translating mode, seen from both sides, and what does not fit."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support import model_splice_cookie as cookies
from tests.support.model_packet import find_ip, read_ip, read_transport
from tests.support.model_random import HOSTS
from tests.support.model_scene import Tcp
from tests.support.model_splice_bytes import each_option
from tests.support.packets import (
    ACK,
    AE,
    CWR,
    ECE,
    FIN,
    ICMP,
    ICMP6,
    NOP,
    PSH,
    RST,
    SACK,
    SYN,
    Datagram,
    apple,
    icmp,
    linux,
    mss,
    packed,
    timestamps,
    windows,
    wscale,
)
from tests.support.packets_splice import Parts, Step, Talk

_U32: Final = 0xFFFFFFFF
_MSS: Final = (1, 216, 535, 536, 537, 1220, 1380, 1440, 1460, 1460, 1460, 1809, 1810, 8940, 9000)
_NEAR: Final = (0, 0, 0, 1, 100, 1448, -1, -1448, 1 << 20, 1 << 31)
_LEAST_OUT: Final = {b"\x08\0": 34, b"\x86\xdd": 54}
_MOST_OUT: Final = 3400


Maker = Callable[[Talk], Step]


@dataclass
class Talks(Parts):
    """Makes frames of several connections, mixed."""

    all: list[Talk] = field(default_factory=list)
    past: list[Step] = field(default_factory=list)

    def step(self) -> Step:
        """Return the next frame."""
        while True:
            made = self._any_step()
            # A test run takes no others for packets that leave.
            least = _LEAST_OUT.get(made.frame[12:14], 15)
            if made.inward or least <= len(made.frame) <= _MOST_OUT:
                return made

    def _any_step(self) -> Step:
        rng = self.rng
        roll = rng.random()
        if roll < 0.06:
            kind, frame = self.traffic.frame()
            return Step(inward=rng.random() < 0.7, frame=frame, what=kind)
        if roll < 0.09 and self.past:
            again = rng.choice(self.past)
            return Step(again.inward, again.frame, "again: " + again.what)
        if roll < 0.10 and self.past:
            again = rng.choice(self.past)
            return Step(not again.inward, again.frame, "wrong way: " + again.what)
        made = self._of(self._talk())
        if made.talk is not None and made.talk.stage not in {"answered", "asked"}:
            self.past.append(made)
            del self.past[:-60]
        return made

    def learn(self, step: Step, reason: str, frame: bytes) -> None:
        """Take over what became of a step."""
        talk = step.talk
        if talk is None:
            return
        if not step.inward:
            if reason in {"splice_answered", "splice_server"}:
                talk.stage = "open"
                talk.gets = frame if reason == "splice_server" else talk.gets
                if step.segment is not None and step.segment.flags & SYN:
                    talk.server_isn = step.segment.seq
            return
        if reason == "cookie_sent":
            self._take_answer(talk, step, frame)
        elif reason == "splice_open" and step.segment is not None:
            if talk.stage != "asked":
                talk.first = step.segment
                talk.stage = "asked"
                talk.stamped = talk.told is not None
            talk.wants = frame
        elif reason in {"splice_probe", "proven_syn", "known_flow", "watched"}:
            talk.stage = "native"
        elif reason == "splice_client":
            talk.wants = frame

    def _take_answer(self, talk: Talk, step: Step, frame: bytes) -> None:
        packet = find_ip(frame)
        if packet is None or step.segment is None:
            return
        read_ip(packet)
        read_transport(packet)
        talk.number = packet.seq
        talk.isn = step.segment.seq & _U32
        told = [at for kind, at, _ in each_option(packet.options) if kind == 8]
        talk.told = None
        if told:
            talk.told = int.from_bytes(packet.options[told[0] + 2 : told[0] + 6], "big")
        talk.stage = "answered"

    def _talk(self) -> Talk:
        rng = self.rng
        if len(self.all) < 6 or rng.random() < 0.04:
            self.all.append(self._new())
            if len(self.all) > 12:
                del self.all[rng.randrange(6)]
        return rng.choice(self.all)

    def _new(self) -> Talk:
        rng = self.rng
        server = packed(rng.choice(HOSTS))
        if len(server) == 4:
            client = packed(f"198.51.{rng.randrange(6)}.{rng.randrange(1, 250)}")
        else:
            client = packed(
                f"2001:db8:10{rng.randrange(4)}:{rng.randrange(3)}::{rng.randrange(1, 99)}"
            )
        return Talk(
            client=client,
            server=server,
            sport=rng.randrange(1024, 65536),
            dport=rng.choice((80, 80, 443, 22)),
            link=self._link(),
            back=self._link(),
            clock=rng.choice((rng.getrandbits(32), _U32, 0)),
        )

    def _of(self, talk: Talk) -> Step:
        makers: dict[str, list[tuple[int, Maker]]] = {
            "new": [(1, self._syn)],
            "answered": [(10, self._ack), (1, self._syn), (1, self._stray)],
            "asked": [
                *((4, self._same), (4, self._more), (2, self._early), (6, self._syn_ack)),
                *((1, self._refusal), (1, self._challenge), (1, self._syn), (1, self._icmp_in)),
            ],
            "open": [
                *((12, self._segment), (12, self._answer), (2, self._icmp_in), (2, self._icmp_out)),
                *((1, self._syn), (1, self._syn_ack), (1, self._reset_in), (1, self._reset_out)),
                (1, self._ack),
            ],
            "native": [
                *((3, self._syn_ack), (1, self._refusal), (3, self._segment), (3, self._answer)),
                *((1, self._syn), (1, self._again_elsewhere)),
            ],
        }
        chosen = makers[talk.stage]
        return self.rng.choices([one for _, one in chosen], [weight for weight, _ in chosen])[0](
            talk
        )

    def _again_elsewhere(self, talk: Talk) -> Step:
        """Return the SYN of another connection with the same server."""
        talk.sport = self.rng.randrange(1024, 65536)
        talk.stage = "new"
        return self._syn(talk)

    def _syn(self, talk: Talk) -> Step:
        rng = self.rng
        size, shift = rng.choice(_MSS), rng.randrange(16)
        talk.clock = rng.choice((talk.clock, rng.getrandbits(32)))
        odd = [mss(size), wscale(shift), SACK, timestamps(talk.clock), NOP, NOP]
        rng.shuffle(odd)
        joined = b"".join(odd[: rng.randrange(7)])
        options = rng.choice(
            (
                *[linux(talk.clock, size=size, shift=shift)] * 4,
                windows(size=size, shift=shift),
                apple(talk.clock, size=size, shift=shift),
                mss(size),
                b"",
                joined + NOP * (-len(joined) % 4),
            )
        )
        extra = rng.choice((0, 0, 0, ECE | CWR, ECE | CWR | AE))
        seq = rng.choice((rng.getrandbits(32), _U32, _U32 - 1, 0))
        data = self._data() if rng.random() < 0.1 else b""
        made = talk.out(seq=seq, flags=SYN | extra, options=options, data=data)
        made = replace(made, window=rng.getrandbits(16))
        return self._finish(talk, made, "syn", inward=True)

    def _ack(self, talk: Talk) -> Step:
        rng = self.rng
        told = talk.told
        options = b""
        if told is not None and rng.random() < 0.95:
            late = rng.choices((0, 64, 122_880, 123_008, -64), weights=(80, 5, 5, 5, 5))[0]
            options = self._layout(self._stamps(talk, told - late), b"")
        elif rng.random() < 0.02:
            options = NOP + NOP + timestamps(1, rng.getrandbits(32))
        number = talk.number
        if rng.random() < 0.1:
            number = self._of_age(talk, rng.choice((1, 2, -1)), stamped=told is not None)
        number += rng.choices((0, 1, 1 << 24), weights=(95, 3, 2))[0]
        made = talk.out(
            seq=talk.isn + 1,
            ack=number + 1,
            flags=rng.choice((ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | FIN | PSH)),
            options=options,
            data=self._data() if rng.random() < 0.4 else b"",
            window=rng.getrandbits(rng.choice((16, 9))),
        )
        return self._finish(talk, made, "ack of a cookie", inward=True)

    def _of_age(self, talk: Talk, age: int, *, stamped: bool) -> int:
        tcps = [one.settings for one in self.scene.slots.values() if isinstance(one.settings, Tcp)]
        packet = find_ip(talk.out().frame())
        assert packet is not None
        read_ip(packet)
        agreed = cookies.Agreed(1460, 7, sack=True, timestamps=stamped)
        tcp = self.rng.choice(tcps)
        return cookies.make(tcp, packet, agreed, self.now, isn=talk.isn, age=age)

    def _stray(self, talk: Talk) -> Step:
        rng = self.rng
        flags = rng.choice((ACK, ACK, RST, RST | ACK, FIN | ACK, SYN | ACK))
        made = talk.out(seq=rng.getrandbits(32), ack=rng.getrandbits(32), flags=flags)
        return self._finish(talk, made, "stray", inward=True)

    def _same(self, talk: Talk) -> Step:
        """Return what opened it once more, and nothing else: it may be kept."""
        first = talk.first
        if first is None:
            return self._early(talk)
        return Step(inward=True, frame=first.frame(), what="same", talk=talk, segment=first)

    def _more(self, talk: Talk) -> Step:
        """Return the segment that follows what opened it."""
        rng = self.rng
        ahead = len(talk.first.data) if talk.first is not None else 0
        made = talk.out(
            seq=talk.isn + 1 + ahead,
            ack=talk.number + 1,
            flags=rng.choice((ACK, ACK | PSH, ACK | FIN)),
            data=self._data(),
            options=talk.first.options if talk.first is not None else b"",
        )
        return self._finish(talk, made, "more", inward=True)

    def _early(self, talk: Talk) -> Step:
        rng = self.rng
        made = talk.out(
            seq=talk.isn + 1 + rng.choice(_NEAR),
            ack=talk.number + rng.choice((1, 1, 1, 2)),
            flags=rng.choice((ACK, ACK, RST, RST | ACK, FIN | ACK, PSH, SYN | ACK)),
            data=self._data(),
        )
        return self._finish(talk, made, "early", inward=True)

    def _syn_ack(self, talk: Talk) -> Step:
        rng = self.rng
        if talk.stage != "open":
            talk.server_isn = rng.choice((rng.getrandbits(32), _U32))
            talk.server_options = self._server_options(talk)
        made = talk.back_in(
            seq=talk.server_isn,
            ack=talk.isn + 1 + rng.choices((0, 1), weights=(95, 5))[0],
            flags=SYN | ACK | rng.choice((0, 0, ECE)),
            options=talk.server_options,
            window=rng.getrandbits(16),
            data=b"early" if rng.random() < 0.03 else b"",
        )
        return self._finish(talk, made, "syn-ack", inward=False)

    def _refusal(self, talk: Talk) -> Step:
        rng = self.rng
        made = talk.back_in(
            seq=rng.choice((0, 0, 0, rng.getrandbits(32))),
            ack=talk.isn + rng.choice((1, 1, 1, 2)),
            flags=RST | rng.choice((ACK, ACK, ACK, 0)),
            window=0,
        )
        return self._finish(talk, made, "refusal", inward=False)

    def _challenge(self, talk: Talk) -> Step:
        rng = self.rng
        made = talk.back_in(
            seq=rng.getrandbits(32),
            ack=rng.getrandbits(32),
            flags=rng.choice((ACK, ACK, ACK | PSH, PSH, FIN | ACK)),
            options=NOP + NOP + timestamps(5, 6) if rng.random() < 0.5 else b"",
            data=rng.choice((b"", b"", b"", b"data")),
        )
        return self._finish(talk, made, "challenge", inward=False)

    def _segment(self, talk: Talk) -> Step:
        rng = self.rng
        stamps = b""
        if rng.random() < (0.95 if talk.stamped else 0.1):
            stamps = self._stamps(talk, (talk.told or 0) + rng.choice((0, 5, 1000)))
        blocks = self._blocks(talk.number) if rng.random() < 0.3 else b""
        made = talk.out(
            seq=talk.isn + 1 + rng.choice(_NEAR),
            ack=talk.number + 1 + rng.choice(_NEAR),
            flags=self._flags(),
            options=self._layout(stamps, blocks),
            window=rng.getrandbits(rng.choice((16, 8))),
            urgent=rng.choice((0, 0, 5)),
            data=self._data(),
        )
        return self._finish(talk, made, "segment", inward=True)

    def _answer(self, talk: Talk) -> Step:
        rng = self.rng
        stamps = b""
        if rng.random() < (0.95 if talk.stamped else 0.1):
            stamps = timestamps(rng.choice((rng.getrandbits(32), _U32)), talk.clock)
        blocks = self._blocks(talk.isn) if rng.random() < 0.3 else b""
        made = talk.back_in(
            seq=talk.server_isn + 1 + rng.choice(_NEAR),
            ack=talk.isn + 1 + rng.choice(_NEAR),
            flags=self._flags(),
            options=self._layout(stamps, blocks),
            window=rng.getrandbits(rng.choice((16, 8))),
            urgent=rng.choice((0, 0, 5)),
            data=self._data(),
        )
        return self._finish(talk, made, "answer", inward=False)

    def _reset_in(self, talk: Talk) -> Step:
        rng = self.rng
        made = talk.out(
            seq=talk.isn + 1, ack=talk.number + 1, flags=rng.choice((RST, RST | ACK)), window=0
        )
        return self._finish(talk, made, "reset", inward=True)

    def _reset_out(self, talk: Talk) -> Step:
        rng = self.rng
        made = talk.back_in(
            seq=talk.server_isn + 1, ack=talk.isn + 1, flags=rng.choice((RST, RST | ACK))
        )
        return self._finish(talk, made, "server's reset", inward=False)

    def _error(self, talk: Talk, frame: bytes, *, inward: bool) -> Step:
        rng = self.rng
        packet = find_ip(frame)
        if packet is None:
            return self._segment(talk)
        read_ip(packet)
        cut = rng.choice((8, 20, 32, 100, 500))
        content = frame[packet.start : min(packet.at + cut, len(frame))]
        family = packet.family
        kind = rng.choice((3, 3, 11, 12, 0)) if family == 4 else rng.choice((1, 2, 2, 3, 4, 128))
        source = packed(f"203.0.113.{rng.randrange(1, 9)}" if family == 4 else "2001:db8:77::1")
        made = icmp(source, packet.source, kind, rng.randrange(5), rng.randbytes(4) + content)
        if rng.random() < 0.05:
            made = made[: rng.randrange(8, len(made))]
        datagram = Datagram(
            source=source,
            destination=packet.source,
            protocol=ICMP if family == 4 else ICMP6,
            payload=made,
            link=talk.link if inward else talk.back,
        )
        return Step(inward, datagram.frame(), "icmp", talk)

    def _icmp_in(self, talk: Talk) -> Step:
        """Return an error about what the client was sent."""
        return self._error(talk, talk.gets, inward=True)

    def _icmp_out(self, talk: Talk) -> Step:
        """Return an error about what the server was sent."""
        return self._error(talk, talk.wants, inward=False)
