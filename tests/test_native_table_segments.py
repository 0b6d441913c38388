# SPDX-License-Identifier: Apache-2.0
"""How options are read, which segments are SYNs, which cannot be genuine, and checksums."""

import pytest

from tests.support.bpf_bench import FAMILIES, MODES, V4, V6, Bench, Ends, bench_of
from tests.support.model_scene import Slot, Tcp
from tests.support.packets import (
    ACK,
    AE,
    CWR,
    ECE,
    EOL,
    FIN,
    NOP,
    PSH,
    RST,
    SYN,
    URG,
    Link,
    apple,
    linux,
    mss,
    packed,
    timestamps,
    windows,
    wscale,
)

NOPS = NOP + NOP


@FAMILIES
@pytest.mark.parametrize(
    ("options", "same_as"),
    [
        (linux(3, shift=15), linux(3, shift=14)),
        (linux(3, shift=255), linux(3, shift=14)),
        (mss(1300) + NOPS + timestamps(4) + mss(1460), mss(1460) + timestamps(4) + NOPS * 3),
        (linux(3, shift=2) + wscale(9) + NOP, linux(3, shift=9) + NOP * 4),
        (NOPS + timestamps(4) + NOPS + timestamps(5), NOPS + timestamps(5) + NOPS * 6),
        (linux(3) + mss(0), linux(3) + EOL * 4),
        (linux(3) + bytes([5, 10]) + bytes(8) + NOPS, linux(3) + EOL * 12),
        (linux(3) + bytes([30, 12]) + bytes(10), linux(3) + EOL * 12),
        (linux(3) + bytes([19, 18]) + bytes(16) + NOPS, linux(3) + EOL * 20),
        (linux(3) + bytes([29, 4, 0, 0]), linux(3) + EOL * 4),
        (linux(3) + bytes([2, 3, 9, 1]), linux(3) + EOL * 4),
        (linux(3) + bytes([8, 4, 9, 1]), linux(3) + EOL * 4),
        (linux(3) + bytes([77, 0, 9, 1]), linux(3) + EOL * 4),
        (linux(3) + bytes([77, 1, 9, 1]), linux(3) + EOL * 4),
        (linux(3) + bytes([77, 5, 9, 1]), linux(3) + EOL * 4),
        (linux(3) + bytes([77, 1, 3, 3, 5, 0, 0, 0]), linux(3) + EOL * 8),
        (linux(3) + bytes([3, 4, 9, 1]), linux(3) + EOL * 4),
        (linux(3) + bytes([1, 1, 3, 3]), linux(3) + EOL * 4),
        (linux(3) + bytes([1, 2, 4, 9]), linux(3) + EOL * 4),
        (linux(3) + bytes([1, 1, 8, 10]), linux(3) + EOL * 4),
        (mss(1460) + timestamps(3) + bytes([1, 4]), mss(1460) + timestamps(3) + NOPS),
        (linux(3) + NOP * 3 + bytes([2]), linux(3) + EOL * 4),
        (linux(3) + EOL + bytes([3, 3, 1]), linux(3) + EOL * 4),
        (EOL * 4 + linux(3), NOP * 24),
        (NOP * 40, NOP * 40),
        (NOP * 20 + linux(3), linux(3) + NOP * 20),
        (bytes([4, 3, 1]) + NOP + linux(3), linux(3) + NOP * 4),
    ],
)  # fmt: skip
def test_odd_options_are_read_as_linux_reads_them(
    ends: Ends, options: bytes, same_as: bytes
) -> None:
    """Broken ones end the reading, wrong lengths and unknown kinds are skipped, the last wins."""
    bench = bench_of()
    one = bench.run(ends.syn(options=options))
    other = bench.run(ends.syn(options=same_as))
    assert one.reason == "cookie_sent"
    length = min(len(one.frame), len(other.frame))
    start = 34 if ends.family == 4 else 54
    # All but the data offset and the checksum, which follow from the length.
    for here, there in ((0, 12), (13, 16), (18, length - start)):
        assert one.frame[start + here : start + there] == other.frame[start + here : start + there]


@FAMILIES
@MODES
@pytest.mark.parametrize(
    "extra",
    [0, ECE, CWR, ECE | CWR, PSH, URG, PSH | URG, AE, 0x200, 0x400, 0x800, AE | ECE | CWR],
)
def test_reserved_and_ecn_bits_leave_a_syn_a_syn(ends: Ends, mode: str, extra: int) -> None:
    """Accurate ECN sets the AE bit; PSH and URG do not matter either."""
    assert bench_of(mode=mode).reason(ends.syn(flags=SYN | extra)) == "cookie_sent"


IMPOSSIBLE = [
    flags
    for flags in range(64)
    if not flags
    or (flags & (SYN | FIN | RST)).bit_count() > 1
    or flags & (FIN | URG | PSH | ACK) == FIN | URG | PSH
]


@FAMILIES
@MODES
@pytest.mark.parametrize("extra", [0, ECE | CWR, AE])
def test_impossible_flags_are_dropped(ends: Ends, mode: str, extra: int) -> None:
    """None of the six, two of SYN, FIN and RST, or a Christmas tree, whatever the ECN bits are."""
    bench = bench_of(mode=mode)
    for flags in range(64):
        reason = bench.reason(ends.syn(flags=flags | extra))
        assert (reason == "bad_flags") == (flags in IMPOSSIBLE), flags


@pytest.mark.parametrize(
    "source",
    [
        "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255",
        "240.0.0.1", "255.255.255.255", "192.0.2.10",
    ],
)  # fmt: skip
@pytest.mark.parametrize("flags", [SYN, ACK, RST, SYN | ACK])
def test_ipv4_sources_that_cannot_be_are_dropped(source: str, flags: int) -> None:
    """This network, loopback, multicast, reserved, and the server itself (LAND)."""
    packet = V4.syn(source=packed(source), flags=flags)
    assert bench_of().reason(packet) == "bad_source"


@pytest.mark.parametrize(
    "source",
    ["::", "::1", "ff02::1", "ff00::", "::ffff:198.51.100.7", "2001:db8:2::10"],
)
@pytest.mark.parametrize("flags", [SYN, ACK, RST, SYN | ACK])
def test_ipv6_sources_that_cannot_be_are_dropped(source: str, flags: int) -> None:
    """Unspecified, loopback, multicast, mapped IPv4, and the server itself."""
    packet = V6.syn(source=packed(source), flags=flags)
    assert bench_of().reason(packet) == "bad_source"


@pytest.mark.parametrize(
    ("ends", "source"),
    [(V4, "1.0.0.1"), (V4, "126.255.255.255"), (V4, "128.0.0.1"), (V4, "223.255.255.255"),
     (V4, "10.0.0.1"), (V4, "192.0.2.11"), (V6, "::2"), (V6, "fe80::1"), (V6, "fd00::1"),
     (V6, "64:ff9b::c633:6407"), (V6, "2001:db8:2::11")],
)  # fmt: skip
def test_neighbouring_sources_are_served(ends: Ends, source: str) -> None:
    """The edges of what cannot be, private and translated addresses included."""
    packet = ends.syn(source=packed(source))
    assert bench_of().reason(packet) == "cookie_sent"


@FAMILIES
def test_port_zero_is_dropped(ends: Ends) -> None:
    """On either side."""
    bench = bench_of()
    assert bench.reason(ends.syn(sport=0)) == "bad_source"
    assert bench.reason(ends.syn(dport=0)) == "bad_source"


@FAMILIES
@pytest.mark.parametrize("wrong", [0x0000, 0x1234, 0xFFFF])
def test_checksums_are_verified_where_that_is_asked_for(ends: Ends, wrong: int) -> None:
    """A wrong TCP checksum is dropped with the switch, and answered without it."""
    syn = ends.syn(options=linux(), checksum=wrong)
    assert Bench(Slot(settings=Tcp()), verify=True).reason(syn) == "bad_checksum"
    assert bench_of().reason(syn) == "cookie_sent"


@FAMILIES
@pytest.mark.parametrize(
    "options", [b"", mss(1460), windows(), linux(), apple(), NOP * 40], ids=len
)
def test_right_checksums_pass_verification(ends: Ends, options: bytes) -> None:
    """For every length of the header; padding behind the packet is not summed."""
    bench = Bench(Slot(settings=Tcp()), verify=True)
    for link in (Link(), Link(trailer=b"\xff\xff\xff")):
        assert bench.reason(ends.syn(options=options, link=link)) == "cookie_sent"


@pytest.mark.parametrize("words", range(11))
def test_ipv4_header_checksum_is_verified(words: int) -> None:
    """With IP options of every length."""
    bench = Bench(Slot(settings=Tcp()), verify=True)
    syn = V4.syn().with_ip(options=b"\1" * 4 * words)
    assert bench.reason(syn) == "cookie_sent"
    assert bench.reason(syn.with_ip(header_checksum=0x1111)) == "bad_checksum"


@FAMILIES
def test_checksum_over_data_is_left_to_the_server(ends: Ends) -> None:
    """What carries data is not summed up: a wrong SYN earns an answer that helps nobody."""
    bench = Bench(Slot(settings=Tcp()), verify=True)
    assert bench.reason(ends.syn(data=b"x", checksum=1)) == "cookie_sent"
