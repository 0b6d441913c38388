# SPDX-License-Identifier: Apache-2.0
"""Random traffic against a scene: right, wrong and nearly right."""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.support.model_cookie import MINUTE_MS, cookie
from tests.support.model_known import Judgement
from tests.support.model_random import HOSTS
from tests.support.model_scene import Scene, Tcp
from tests.support.packets import (
    ACK,
    AE,
    CWR,
    ECE,
    EOL,
    FIN,
    ICMP,
    ICMP6,
    NOP,
    PSH,
    QINQ,
    RST,
    SACK,
    SYN,
    TCP,
    UDP,
    VLAN,
    Datagram,
    Link,
    Segment,
    apple,
    icmp,
    linux,
    mss,
    packed,
    timestamps,
    udp,
    windows,
    wscale,
)

_U64: Final = (1 << 64) - 1
_EXTENSION_KINDS: Final = (0, 43, 44, 51, 60)
_STEPS: Final = (
    *(0, 0, 0, 1, 1, 1000, 1 << 16, 1 << 25, (1 << 25) + 1, -(1 << 20), -(1 << 20) - 1),
    *((1 << 30) - 1, 1 << 30, 1 << 31),
)
_SIZES: Final = (1, 536, 1220, 1300, 1420, 1440, 1460, 1460, 1460, 8940, 65534)
_BAD_SOURCES: Final = [
    packed(text)
    for text in (
        *("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"),
        *("::", "::1", "ff02::1", "ff00::", "::ffff:198.51.100.7"),
    )
]
_SOURCES4: Final = [packed(f"198.51.{net}.{host}") for net in range(6) for host in range(1, 9)]
_SOURCES6: Final = [
    packed(f"2001:db8:{net:x}:{site}::{host}")
    for net in range(0x100, 0x104)
    for site in range(3)
    for host in (1, 2, 3)
]
_BARE: Final = packed("192.0.2.99")
_BARE6: Final = packed("2001:db8:ff::99")


@dataclass
class Traffic:
    """Makes frames; remembers what was let through, to go on with it."""

    rng: random.Random
    scene: Scene
    now: int
    open: list[Segment] = field(default_factory=list)
    _last: Segment | None = None

    def frame(self) -> tuple[str, bytes]:
        """Return the next frame and which kind it is meant to be."""
        rng = self.rng
        self._last = None
        name, maker = rng.choices(self._makers(), weights=_WEIGHTS)[0]
        made = maker()
        if isinstance(made, Segment):
            self._last = made
        frame = made if isinstance(made, bytes) else made.frame()
        if rng.random() < 0.12:
            return f"{name}, damaged", self._damaged(frame)
        return name, frame

    def learn(self, judgement: Judgement) -> None:
        """Keep the flow of a segment that was let through."""
        passed = judgement.reason in {"cookie_good", "proven_syn", "proven_ack", "grace", "watched"}
        if self._last is not None and (passed or judgement.reason == "syn_ack_in"):
            self.open.append(self._last)
            del self.open[:-40]

    def _makers(self) -> Sequence[tuple[str, Callable[[], Segment | Datagram | bytes]]]:
        return (
            ("syn", self._syn),
            ("ack of a cookie", self._ack),
            ("segment of an open flow", self._going_on),
            ("other segment", self._segment),
            ("udp", self._udp),
            ("icmp", self._icmp),
            ("other protocol", self._other),
            ("noise", self._noise),
        )

    # parts

    def _ends(self) -> tuple[bytes, bytes]:
        rng = self.rng
        four = rng.random() < 0.5
        sources = _SOURCES4 if four else _SOURCES6
        source = rng.choice(sources)
        if rng.random() < 0.2:
            source = source[:-2] + rng.randbytes(2)
        if rng.random() < 0.02:
            source = rng.choice([bad for bad in _BAD_SOURCES if len(bad) == len(source)])
        hosts = [packed(text) for text in HOSTS]
        mine = [host for host in hosts if len(host) == len(source)]
        mine.append(_BARE if four else _BARE6)
        destination = rng.choice(mine)
        if rng.random() < 0.01:
            source = destination
        if not four and rng.random() < 0.01:
            destination = packed("::ffff:" + rng.choice([text for text in HOSTS if "." in text]))
        return source, destination

    def _link(self) -> Link:
        rng = self.rng
        number = rng.choices((0, 1, 2, 3), weights=(70, 15, 12, 1))[0]
        tags = tuple((rng.choice((VLAN, QINQ)), rng.getrandbits(16)) for _ in range(number))
        trailer = rng.randbytes(rng.choice((0, 0, 0, 0, 1, 6, 40)))
        return Link(
            source_mac=rng.randbytes(6),
            destination_mac=rng.randbytes(6),
            tags=tags,
            trailer=trailer,
            pad_to=rng.choice((0, 60, 60, 64)),
        )

    def _around(self, made: Segment | Datagram) -> Segment | Datagram:
        """Return it with other fields in the IP header."""
        rng = self.rng
        if rng.random() < 0.6:
            return made
        base = Datagram(source=made.source, destination=made.destination, protocol=TCP)
        ip = base if isinstance(made, Segment) else made
        ip = replace(
            ip,
            traffic_class=rng.choice((0, 1, 2, 3, rng.randrange(256))),
            ttl=rng.randrange(256),
            fragment=rng.choice((0, 0x4000, 0x4000, 0x8000)),
        )
        if rng.random() < 0.15:
            ip = replace(ip, fragment=rng.choice((0x2000, 1, 0x2001, rng.getrandbits(16))))
        if rng.random() < 0.3:
            ip = replace(ip, options=rng.randbytes(4 * rng.randrange(11)))
        if ip.family == 6 and rng.random() < 0.5:
            ip = replace(ip, extensions=self._extensions())
        for name, values in _WRONG.items():
            if rng.random() < 0.02:
                wrong: Any = {name: rng.choice(values)}
                ip = replace(ip, **wrong)
        return replace(made, ip=ip) if isinstance(made, Segment) else ip

    def _extensions(self) -> tuple[tuple[int, bytes], ...]:
        rng = self.rng
        chain = []
        for _ in range(rng.choice((1, 1, 2, 3, 6, 7))):
            kind = rng.choice(_EXTENSION_KINDS)
            if kind == 44:
                offset = rng.choices((0, 1, 8, 0xFFF9, 6), weights=(70, 10, 10, 5, 5))[0]
                chain.append((kind, struct.pack("!BBHI", 0, 0, offset, rng.getrandbits(32))))
                continue
            more = rng.choice((0, 0, 1, 3))
            units = (more, (more + 1) * 8) if kind != 51 else (more * 2, (more + 1) * 8)
            length = units[0] if rng.random() < 0.97 else rng.randrange(256)
            chain.append((kind, bytes([0, length]) + rng.randbytes(units[1] - 2)))
        return tuple(chain)

    def _options(self) -> bytes:
        rng = self.rng
        size = rng.choice(_SIZES) + rng.choice((-1, 0, 1))
        shift = rng.randrange(16)
        value = rng.getrandbits(32)
        common = (
            b"",
            mss(size),
            windows(size=size, shift=shift),
            apple(value, size=size, shift=shift),
            linux(value, size=size, shift=shift),
            linux(value, size=size, shift=shift),
        )
        if rng.random() < 0.6:
            return rng.choice(common)
        parts = [mss(size), mss(rng.getrandbits(16)), wscale(shift), SACK, timestamps(value)]
        parts += [NOP, NOP, EOL, wscale(255), timestamps(rng.getrandbits(32)), rng.randbytes(3)]
        parts += [bytes([34, 10]) + rng.randbytes(8), bytes([30, 12]) + rng.randbytes(10)]
        parts += [bytes([rng.choice((2, 3, 4, 8)), rng.randrange(12)]) + rng.randbytes(3), mss(0)]
        parts += [bytes([rng.choice((2, 3, 4, 8))]), bytes([rng.choice((2, 3, 8)), 4 + shift])]
        rng.shuffle(parts)
        made = b"".join(parts[: rng.randrange(8)])[:40]
        return made + rng.choice((NOP, EOL, b"\xff")) * (-len(made) % 4)

    def _data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 0, 0, 0, 1, 2, 3, 10, 100, 1000)))

    def _tcp(self, flags: int, **fields: Any) -> Segment:
        rng = self.rng
        source, destination = self._ends()
        made = Segment(
            source=source,
            destination=destination,
            sport=rng.choice((0, 1024, 40000, 40001, 65535, rng.randrange(65536))),
            dport=rng.choice((80, 80, 80, 443, 22, 99, 0, rng.randrange(65536))),
            seq=rng.choice((0, 1, 0xFFFFFFFF, rng.getrandbits(32))),
            ack=rng.getrandbits(32),
            flags=flags,
            window=rng.getrandbits(16),
            urgent=rng.choice((0, 0x0100)),
            link=self._link(),
            **fields,
        )
        if rng.random() < 0.05:
            made = replace(made, checksum=rng.getrandbits(16))
        if rng.random() < 0.02:
            made = replace(made, offset=rng.randrange(16))
        return made

    # kinds

    def _syn(self) -> Segment | Datagram:
        rng = self.rng
        extra = rng.choice((0, 0, 0, ECE | CWR, ECE | CWR | AE, ECE, PSH, rng.getrandbits(10)))
        flags = SYN | extra if rng.random() < 0.7 else SYN | (extra & (ECE | CWR | AE))
        return self._around(self._tcp(flags, options=self._options(), data=self._data()))

    def _ack(self) -> Segment | Datagram:
        rng = self.rng
        made = self._tcp(ACK, data=self._data(), options=rng.choice((b"", b"\1" * 12)))
        tcps = [slot.settings for slot in self.scene.slots.values()]
        tcp = rng.choice([one for one in tcps if isinstance(one, Tcp)])
        keys = tcp.keys.cookie if len(made.source) == 4 else tcp.keys.cookie6
        age = rng.choices((0, 1, 2, -1, 255), weights=(50, 30, 8, 8, 4))[0]
        minute = (self.now + tcp.cookie_offset & _U64) // MINUTE_MS
        number = cookie(
            keys,
            made.source,
            made.destination,
            made.sport.to_bytes(2, "big") + made.dport.to_bytes(2, "big"),
            client_seq=made.seq - 1,
            count=minute - age,
            index=rng.choices((0, 1, 2, 3, 4, -1), weights=(22, 22, 22, 22, 6, 6))[0],
        )
        error = rng.choices((0, 1, -1, 1 << 24), weights=(90, 4, 4, 2))[0]
        flags = rng.choice((ACK, ACK, ACK | PSH, ACK | FIN, ACK | ECE | CWR, PSH, ACK | RST))
        return self._around(replace(made, ack=number + 1 + error, flags=flags))

    def _going_on(self) -> Segment | Datagram:
        rng = self.rng
        if not self.open:
            return self._segment()
        base = rng.choice(self.open)
        flags = rng.choices((ACK, ACK | PSH, ACK | FIN, RST, SYN), weights=(60, 20, 8, 6, 6))[0]
        made = replace(
            base,
            flags=flags,
            ack=base.ack + rng.choice(_STEPS),
            seq=base.seq + rng.choice(_STEPS),
            data=self._data(),
            checksum=None,
        )
        if rng.random() < 0.2:
            made = replace(made, sport=rng.randrange(65536), ip=None)
        return made

    def _segment(self) -> Segment | Datagram:
        rng = self.rng
        flags = rng.choice((SYN | ACK, SYN | ACK, RST, RST | ACK, RST | ACK, ACK, ACK, FIN, PSH, 0))
        if rng.random() < 0.3:
            flags = rng.getrandbits(12)
        return self._around(self._tcp(flags, data=self._data()))

    def _udp(self) -> Datagram | Segment:
        rng = self.rng
        source, destination = self._ends()
        sport, dport = rng.choice((53, 123, 40000)), rng.choice((53, 80, 443))
        content = udp(source, destination, sport, dport, self._data())
        made = Datagram(
            source=source,
            destination=destination,
            protocol=rng.choice((UDP, UDP, UDP, 132)),
            payload=content,
            link=self._link(),
        )
        return self._around(made)

    def _icmp(self) -> Datagram | Segment:
        rng = self.rng
        source, destination = self._ends()
        kind = rng.choice((1, 2, 3, 3, 4, 11, 12, 0, 8, 128, 129, rng.randrange(256)))
        content = icmp(source, destination, kind, rng.randrange(16), rng.randbytes(28))
        usual = ICMP if len(source) == 4 else ICMP6
        protocol = usual if rng.random() < 0.9 else ICMP + ICMP6 - usual
        return self._around(
            Datagram(
                source=source,
                destination=destination,
                protocol=protocol,
                payload=content,
                link=self._link(),
            )
        )

    def _other(self) -> Datagram | Segment:
        rng = self.rng
        source, destination = self._ends()
        made = Datagram(
            source=source,
            destination=destination,
            protocol=rng.randrange(256),
            payload=rng.randbytes(rng.randrange(60)),
            link=self._link(),
        )
        return self._around(made)

    def _noise(self) -> bytes:
        rng = self.rng
        made = rng.randbytes(14 + rng.choice((0, 1, 10, 40, 200, 1200)))
        if rng.random() < 0.7:
            source, destination = self._ends()
            head = b"\x08\0" if len(source) == 4 else b"\x86\xdd"
            at = (12 if head == b"\x08\0" else 8) + 14
            made = made[:12] + head + made[14:at].ljust(at - 14, b"\x45") + source + destination
            made += rng.randbytes(rng.randrange(100))
        return made

    def _damaged(self, frame: bytes) -> bytes:
        rng = self.rng
        data = bytearray(frame)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(12, max(13, min(len(data), 110)))
            match rng.randrange(5):
                case 0 | 1:
                    data[at : at + 1] = rng.randbytes(1)
                case 2:
                    data[at : at + 1] = bytes(
                        [data[min(at, len(data) - 1)] ^ 1 << rng.randrange(8)]
                    )
                case 3:
                    del data[max(14, at) :]
                case _:
                    data += rng.randbytes(rng.randrange(30))
        return bytes(data).ljust(14, b"\0")


_WEIGHTS: Final = (30, 22, 12, 14, 6, 7, 3, 4)
_WRONG: Final[dict[str, Sequence[int]]] = {
    "version": (0, 4, 5, 6, 15),
    "header_words": (0, 4, 5, 6, 15),
    "length": (0, 19, 20, 21, 40, 41, 60, 1500, 65535),
    "header_checksum": (0, 0xFFFF, 0x1234),
}
