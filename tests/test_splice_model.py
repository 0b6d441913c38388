# SPDX-License-Identifier: Apache-2.0
"""The model of the translating mode by itself: what it says of bytes, checked without it."""

import random
import struct

import pytest

from tests.support import model_splice_bytes as wire
from tests.support import model_splice_cookie as cookies
from tests.support.bpf_bench import FAMILIES, V4, V6, Ends
from tests.support.bpf_splice_bench import read
from tests.support.model_cookie import cookie_hash
from tests.support.model_packet import Packet, find_ip, read_ip
from tests.support.model_scene import KEYS, Tcp
from tests.support.model_siphash import siphash
from tests.support.model_splice_cookie import SIZES3, SIZES8, Agreed
from tests.support.model_splice_state import Keeper, flow_hash
from tests.support.packets import ACK, FIN, NOP, PSH, checksum, timestamps

TCP = Tcp(mode="splice", cookie_offset=0, scheme="host")
NOW = 10_000_000


def packet_of(ends: Ends, **fields: object) -> Packet:
    """Return a segment of the client as the model reads it."""
    return read(ends.syn(flags=ACK, **fields).frame())


@FAMILIES
@pytest.mark.parametrize("stamped", [True, False])
def test_cookie_brings_back_what_was_put_into_it(ends: Ends, *, stamped: bool) -> None:
    """Every size, scale and SACK, for the same client with the same number, for two minutes."""
    for size in SIZES8 if stamped else SIZES3:
        for scale in (None, 0, 7, 14):
            for sack in (True, False):
                agreed = Agreed(size, scale, sack=sack, timestamps=stamped)
                for age, wanted in ((0, agreed), (1, agreed), (2, None)):
                    syn = packet_of(ends, seq=5)
                    number = cookies.make(TCP, syn, agreed, NOW, isn=5, age=age)
                    echo = cookies.tsval(TCP, syn, agreed, NOW) if stamped else None
                    ack = packet_of(ends, seq=6, ack=number + 1)
                    assert cookies.read(TCP, ack, NOW, echo) == wanted


def test_second_hash_is_bound_to_the_clients_number() -> None:
    """Written out: 20 bytes for IPv4, 44 for IPv6, all of them little-endian words."""
    four = packet_of(V4, sport=1, dport=2)
    ports = 0x0100 << 16 | 0x0200
    message = V4.client + V4.server + struct.pack("<III", ports, 0x80000007, 9)
    assert len(message) == 20
    assert cookies.bound_hash(KEYS.cookie[1], four, 0x80000007, 9) == siphash(
        KEYS.cookie[1], message
    ) % (1 << 32)
    six = packet_of(V6, sport=1, dport=2)
    message = V6.client + V6.server + struct.pack("<I", 7) + b"\0\1\0\2" + struct.pack("<I", 9)
    assert len(message) == 44
    assert cookies.bound_hash(KEYS.cookie6[1], six, 7, 9) == siphash(KEYS.cookie6[1], message) % (
        1 << 32
    )


def test_number_is_the_sum_that_is_described() -> None:
    """First hash, minute in the upper eight bits, second hash and data in the lower 24."""
    syn = packet_of(V4)
    agreed = Agreed(1460, 7, sack=True, timestamps=False)
    count = NOW // 60_000
    first = cookie_hash(KEYS.cookie[0], syn.source, syn.destination, syn.ports, 0)
    second = cookies.bound_hash(KEYS.cookie[1], syn, count, 77)
    data = 7 << 5 | 1 << 4 | 7
    wanted = 77 + first + (count << 24) + (second + data & 0xFFFFFF) & 0xFFFFFFFF
    assert cookies.make(TCP, syn, agreed, NOW, isn=77) == wanted


@pytest.mark.parametrize(
    ("size", "code"),
    [
        *((1, 0), (535, 0), (536, 1), (539, 1), (540, 2), (1459, 231), (1460, 232)),
        *((1809, 232), (1810, 233), (8809, 252), (8810, 253), (8939, 253), (8940, 254)),
        *((8959, 254), (8960, 255), (65535, 255)),
    ],
)
def test_size_has_the_code_that_is_described(size: int, code: int) -> None:
    """Eight bits with timestamps: steps of four up to 1460, wider ones above."""
    assert Agreed(size, None, sack=False, timestamps=True).data() == code


@FAMILIES
def test_moved_forth_and_back_is_what_it_was(ends: Ends) -> None:
    """Whatever the numbers and the length; and in between the checksum is right."""
    rng = random.Random(5)
    for _ in range(300):
        shift = wire.Shift(*(rng.getrandbits(32) for _ in range(3)))
        back = wire.Shift(-shift.tsval, -shift.tsecr, -shift.edges)
        blocks = bytes([5, 10]) + rng.randbytes(8)
        options = rng.choice((b"", NOP + NOP + blocks, blocks + timestamps(1, 2)))
        frame = ends.syn(
            seq=rng.getrandbits(32),
            ack=rng.getrandbits(32),
            flags=ACK | PSH,
            options=options,
            data=rng.randbytes(rng.randrange(60)),
        ).frame()
        by = rng.getrandbits(32)
        there = wire.moved(read(frame), seq=by, ack=-by, shift=shift)
        assert wire.moved(read(there), seq=-by, ack=by, shift=back) == frame


@FAMILIES
def test_error_of_a_checksum_is_kept(ends: Ends) -> None:
    """A receiver finds it wrong by as much as it was."""
    frame = bytearray(ends.syn(data=b"abc").frame())
    frame[-1] ^= 0x10
    packet = find_ip(bytes(frame))
    assert packet is not None
    read_ip(packet)
    packet.header = 20
    assert wire.segment_error(packet)
    there = find_ip(wire.moved(packet, seq=5, shift=wire.Shift()))
    assert there is not None
    read_ip(there)
    there.header = 20
    assert wire.segment_error(there) == wire.segment_error(packet)


@pytest.mark.parametrize(
    ("window", "by", "wanted"),
    [(1000, 0, 1000), (1000, 3, 125), (1000, -3, 8000), (65535, -1, 65535), (3, 2, 0)],
)
def test_windows_are_cut_off(window: int, by: int, wanted: int) -> None:
    """At both ends of the field."""
    assert wire.scaled(window, by) == wanted


def test_right_checksum_is_that_of_the_whole() -> None:
    """For even and odd lengths."""
    for covered in (b"\0\0abcd", b"\0\0abc"):
        value = wire.right(covered)
        assert checksum(value.to_bytes(2, "big") + covered[2:]) == 0
        assert value == checksum(covered)


def test_segments_are_kept_in_order() -> None:
    """The first, then the one that follows; what is kept stays as it was; FIN is of the last."""
    keeper, flow = Keeper(1), bytes(36)
    common = {"now": NOW, "most": 10}

    def keep(data: bytes, *, ahead: int, flags: int = ACK, good: bool = True) -> bool:
        return keeper.keep(flow, data, ahead=ahead, flags=flags, good=lambda _: good, **common)

    assert not keep(b"later", ahead=3)
    assert not keep(b"bad", ahead=0, good=False)
    assert keep(b"one", ahead=0)
    # Sent again with more behind it: what is kept does not end there.
    assert keep(b"onetwo", ahead=0, flags=ACK | FIN)
    assert keep(b"two", ahead=3, flags=ACK | FIN)
    pieces = [keeper.take(flow, which, NOW) for which in (0, 1)]
    assert [(one.data, one.flags) for one in pieces if one] == [(b"one", 0), (b"two", FIN)]
    assert keep(b"0123456789abc", ahead=0, flags=ACK | PSH)
    pieces = [keeper.of(flow, which, NOW) for which in (0, 1)]
    assert [(one.data, one.flags) for one in pieces if one] == [
        (b"0123456789", 0),
        (b"abc", PSH),
    ]
    assert keeper.of(flow, 0, NOW + 3000) is None


def test_places_are_hashed_by_the_whole_name() -> None:
    """Either end, either port and the seed change the hash, for both families."""
    for start in (bytes(10) + b"\xff\xff", bytes.fromhex("20010db8") + bytes(8)):
        name = start + b"\1\2\3\4" + start + b"\5\6\7\x08" + b"\x10\x20\x30\x40"
        names = {name}
        for at in (15, 31, 33, 35):
            names.add(name[:at] + bytes([name[at] ^ 1]) + name[at + 1 :])
        found = {flow_hash(seed, one) for seed in (1, 2) for one in names}
        assert len(found) == 10
