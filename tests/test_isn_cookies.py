# SPDX-License-Identifier: Apache-2.0
"""Cookies, offsets and segments against the model, which was written apart from them."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.isn_sync import cookies
from hub.isn_sync.segments import Reset, Syn, SynAckSegment, build, parse
from hub.isn_sync.siphash import siphash
from hub.net import IPAddress
from tests.support import model_cookie
from tests.support.model_siphash import siphash as model_siphash
from tests.test_native_vectors import SIPHASH_2_4

U32 = 2**32 - 1
PAIRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
PORTS = st.integers(0, 65535)
WORDS = st.integers(0, U32)
SECRETS = st.binary(min_size=32, max_size=32)
KEYS = st.binary(min_size=16, max_size=16)

Pair = tuple[IPAddress, IPAddress]


def words(key: bytes) -> tuple[int, int]:
    """Return a key as the model takes it."""
    first, second = struct.unpack("<QQ", key)
    return first, second


@pytest.mark.parametrize("length", range(64))
def test_siphash_when_reference_then_equal(length: int) -> None:
    """All 64 vectors of the reference implementation."""
    made = siphash(bytes(range(16)), bytes(range(length)))
    assert made.to_bytes(8, "little").hex() == SIPHASH_2_4[length]


@given(KEYS, st.binary(max_size=600))
def test_siphash_when_any_message_then_as_the_model(key: bytes, message: bytes) -> None:
    """Also beyond 256 bytes, where the length no longer fits its byte."""
    assert siphash(key, message) == model_siphash(words(key), message)


@given(
    secret=SECRETS,
    pair=PAIRS,
    sport=PORTS,
    dport=PORTS,
    seq=WORDS,
    count=WORDS,
    index=st.integers(0, 3),
)
def test_cookie_when_any_flow_then_as_the_model(
    *, secret: bytes, pair: Pair, sport: int, dport: int, seq: int, count: int, index: int
) -> None:
    """The same number for any flow, secret and minute; the server takes it for two minutes."""
    client, server = pair
    made = cookies.cookie(
        secret, client, server, sport, dport, seq=seq, count=count, mss_index=index
    )
    keys = words(secret[:16]), words(secret[16:])
    flow = client.packed, server.packed, struct.pack("!HH", sport, dport)
    assert made == model_cookie.cookie(keys, *flow, client_seq=seq, count=count, index=index)
    for age, taken in ((0, index), (1, index), (2, None)):
        assert taken == model_cookie.cookie_index(
            keys, *flow, seq=seq + 1 & U32, ack=made + 1 & U32, count=count + age
        )


@given(
    secret=SECRETS,
    pair=PAIRS,
    seq=WORDS,
    count=st.integers(200, U32 - 200),
    index=st.integers(0, 3),
    within=st.integers(0, 127),
    distance=st.integers(-127, 127),
)
def test_count_when_within_then_found_else_none(
    *, secret: bytes, pair: Pair, seq: int, count: int, index: int, within: int, distance: int
) -> None:
    """The minute and the index come back wherever they are searched, and nowhere else."""
    client, server = pair
    keys = words(secret[:16]), words(secret[16:])
    isn = model_cookie.cookie(
        keys,
        client.packed,
        server.packed,
        struct.pack("!HH", 40000, 443),
        client_seq=seq,
        count=count,
        index=index,
    )
    found = cookies.count_of(
        secret, client, server, 40000, 443, seq=seq, isn=isn, near=count + distance, within=within
    )
    assert found == ((count, index) if abs(distance) <= within else None)


@given(SECRETS, PAIRS, WORDS, WORDS, st.integers(0, 1000))
def test_count_when_another_bit_differs_then_none(
    secret: bytes, pair: Pair, seq: int, isn: int, near: int
) -> None:
    """A number that is no cookie is not taken for one, and no minute before the first is found."""
    found = cookies.count_of(secret, *pair, 1, 2, seq=seq, isn=isn, near=near, within=10)
    if found is not None:
        count, index = found
        made = cookies.cookie(secret, *pair, 1, 2, seq=seq, count=count, mss_index=index)
        assert (made, abs(count - near) <= 10, count >= 0) == (isn, True, True)


def test_count_when_before_the_first_minute_then_none() -> None:
    """A server has no negative minutes, though a hash can be made of them."""
    ends = IPv4Address("198.51.100.7"), IPv4Address("192.0.2.10"), 40000, 443
    made = cookies.cookie(bytes(32), *ends, seq=1, count=-1, mss_index=3)
    assert cookies.count_of(bytes(32), *ends, seq=1, isn=made, near=0, within=10) is None


@given(KEYS, PAIRS, PORTS, PORTS)
def test_offsets_when_any_flow_then_as_the_model(
    key: bytes, pair: Pair, sport: int, dport: int
) -> None:
    """Both schemes, both families, in the server's direction."""
    client, server = pair
    ends = client.packed, server.packed
    by_flow = model_cookie.timestamp_offset(words(key), *ends, struct.pack("!HH", sport, dport))
    assert cookies.ts_offset_flow(key, client, server, sport, dport) == by_flow
    by_host = model_cookie.timestamp_offset_host(words(key), *ends)
    assert cookies.ts_offset_host(key, client, server) == by_host


def test_plain_isn_when_time_passes_then_it_grows_by_one_each_64_ns() -> None:
    """RFC 6528 as Linux has it: the low half of the hash that also gives the timestamp's offset."""
    client, server, key = IPv4Address("198.51.100.7"), IPv4Address("192.0.2.10"), bytes(range(16))
    block = server.packed + client.packed + struct.pack("<I", 0x5000_409C)
    # 80 and 40000 in network order are 0x5000 and 0x409c to a little-endian machine.
    base = model_siphash(words(key), block)
    assert cookies.plain_isn(key, client, server, 40000, 80, utc_ns=0) == base & U32
    assert cookies.plain_isn(key, client, server, 40000, 80, utc_ns=6400) == base + 100 & U32
    assert cookies.ts_offset_flow(key, client, server, 40000, 80) == base >> 32


@pytest.mark.parametrize("offered", [0, 1, 535, 536, 1299, 1300, 1439, 1440, 1459, 1460, 65535])
def test_index_of_mss_when_offered_then_as_the_model(offered: int) -> None:
    """The largest size that is not more than what was offered."""
    for v6, table in ((False, model_cookie.MSS4), (True, model_cookie.MSS6)):
        assert cookies.index_of_mss(offered, v6=v6) == model_cookie.mss_index(table, offered)


# ---- segments ---------------------------------------------------------------------------


def segment(flags: int, options: bytes = b"", seq: int = 1, ack: int = 2) -> bytes:
    """Return a segment with a right header length where the options allow one."""
    length = (20 + len(options)) // 4
    return struct.pack("!HHIIBBHHH", 443, 40000, seq, ack, length << 4, flags, 500, 0, 0) + options


SYN_ACK = SynAckSegment(1, 2, 500, None, None, sack=False, tsval=None, tsecr=None, ecn=False)


@given(
    pair=PAIRS,
    ports=st.tuples(PORTS, PORTS),
    numbers=st.tuples(WORDS, WORDS),
    mss=PORTS,
    wscale=st.integers(0, 14),
    ecn=st.booleans(),
)
def test_build_when_any_syn_then_valid_and_as_asked(
    *,
    pair: Pair,
    ports: tuple[int, int],
    numbers: tuple[int, int],
    mss: int,
    wscale: int,
    ecn: bool,
) -> None:
    """The checksum adds up, and every field says what was asked for."""
    seq, tsval = numbers
    syn = Syn(*pair, *ports, seq, tsval, mss, wscale, ecn=ecn)
    made = build(syn)
    pseudo = pair[0].packed + pair[1].packed + struct.pack("!II", len(made), 6)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(made)) // 2}H", pseudo + made))
    assert total % 0xFFFF == 0
    assert struct.unpack_from("!HHII", made) == (*ports, seq, 0)
    assert made[13] == (0xC2 if ecn else 0x02)
    answered = parse(made[:13] + b"\x52" + made[14:])
    assert isinstance(answered, SynAckSegment)
    assert (answered.mss or 0, answered.wscale, answered.sack) == (mss, wscale, True)
    assert (answered.tsval, answered.tsecr, answered.ecn) == (tsval, 0, True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (segment(0x12), SYN_ACK),
        (segment(0x14), Reset(1, 2)),
        (segment(0x04), None),
        (segment(0x02), None),
        (segment(0x10), None),
        (segment(0x13), None),
        (segment(0x16), None),
        (segment(0x15), None),
        (segment(0x00), None),
        (b"", None),
        (segment(0x12)[:19], None),
        (segment(0x12)[:12] + b"\x40" + segment(0x12)[13:], None),
        (segment(0x12)[:12] + b"\xf0" + segment(0x12)[13:], None),
    ],
)
def test_parse_when_flags_or_lengths_differ_then_only_answers(
    data: bytes, expected: SynAckSegment | Reset | None
) -> None:
    """Only SYN-ACK and RST-ACK with a sound header answer a SYN."""
    assert parse(data) == expected


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ("020405b4", {"mss": 1460}),
        ("02040000", {}),
        ("0203 05b4", {}),
        ("01030307", {"wscale": 7}),
        ("0103030f", {"wscale": 14}),
        ("0402 0000", {"sack": True}),
        ("080a 00000001 00000002 0000", {"tsval": 1, "tsecr": 2}),
        ("0000 0402", {}),
        ("fe00 0402", {}),
        ("fe01 0402", {}),
        ("0208 0402", {}),
        ("fd04 ffff 0402 0101", {"sack": True}),
        ("0101 0104", {}),
        ("0204 0218 0204 05b4", {"mss": 1460}),
    ],
)
def test_parse_when_options_differ_then_what_a_kernel_reads(
    options: str, seen: dict[str, object]
) -> None:
    """Unknown options are passed over, a broken one ends them, the last of two counts."""
    expected = {name: getattr(SYN_ACK, name) for name in SYN_ACK.__dataclass_fields__} | seen
    assert parse(segment(0x12, bytes.fromhex(options))) == SynAckSegment(**expected)


@pytest.mark.parametrize(("flags", "ecn"), [(0x52, True), (0xD2, False), (0x92, False)])
def test_parse_when_ecn_flags_differ_then_only_ece_alone(*, flags: int, ecn: bool) -> None:
    """RFC 3168, 6.1.1: ECE without CWR; both together are a bounced SYN."""
    answer = parse(segment(flags))
    assert isinstance(answer, SynAckSegment)
    assert answer.ecn is ecn


@given(st.binary(max_size=100))
def test_parse_when_any_bytes_then_no_error(data: bytes) -> None:
    """No bytes raise an error."""
    assert parse(data) is None or len(data) >= 20


@given(st.binary(max_size=40), st.sampled_from((0x12, 0x14)))
def test_parse_when_any_options_then_no_error(options: bytes, flags: int) -> None:
    """No options raise an error, or keep an answer from being one."""
    padded = options + bytes(-len(options) % 4)
    assert parse(segment(flags, padded)) is not None


def test_addresses_when_mixed_families_then_model_agrees_on_sizes() -> None:
    """IPv6 hashes 40 bytes where IPv4 hashes 16: the same low addresses give other cookies."""
    four = cookies.cookie(
        bytes(32), IPv4Address(1), IPv4Address(2), 3, 4, seq=0, count=0, mss_index=0
    )
    six = cookies.cookie(
        bytes(32), IPv6Address(1), IPv6Address(2), 3, 4, seq=0, count=0, mss_index=0
    )
    assert four != six
