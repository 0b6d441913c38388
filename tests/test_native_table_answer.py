# SPDX-License-Identifier: Apache-2.0
"""The SYN-ACK as the client sees it, byte by byte, and which segments are SYNs at all."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.bpf_bench import FAMILIES, MODES, Bench, Ends, bench_of
from tests.support.model_cookie import (
    cookie_timestamp,
    timestamp_offset,
    timestamp_offset_host,
)
from tests.support.packets import (
    ACK,
    AE,
    CWR,
    ECE,
    EOL,
    NOP,
    SACK,
    SYN,
    Datagram,
    Link,
    Segment,
    apple,
    checksum,
    linux,
    mss,
    pseudo_header,
    timestamps,
    windows,
    wscale,
)

NOPS = NOP + NOP


def answer(bench: Bench, syn: Segment, options: bytes, *, index: int, **fields: Any) -> Segment:
    """Return the SYN-ACK that a Linux server would send to `syn`."""
    tcp = bench.tcp()
    ip = Datagram(
        source=syn.destination,
        destination=syn.source,
        protocol=6,
        ttl=tcp.ttl,
        ident=0,
        flow_label=0,
    )
    base = Segment(
        source=syn.destination,
        destination=syn.source,
        sport=syn.dport,
        dport=syn.sport,
        seq=bench.cookie(syn, index=index),
        ack=syn.seq + 1,
        flags=SYN | ACK,
        window=tcp.window,
        options=options,
        link=Link(
            source_mac=syn.link.destination_mac,
            destination_mac=syn.link.source_mac,
            tags=syn.link.tags,
        ),
        ip=ip,
    )
    return replace(base, **fields)


def tsval(bench: Bench, syn: Segment, *, scale: int | None, sack: bool, ecn: bool = False) -> int:
    """Return the TSval that carries these options."""
    tcp = bench.tcp()
    ports = syn.sport.to_bytes(2, "big") + syn.dport.to_bytes(2, "big")
    offset = 0
    if tcp.scheme == "flow":
        offset = timestamp_offset(tcp.keys.timestamp, syn.source, syn.destination, ports)
    if tcp.scheme == "host":
        offset = timestamp_offset_host(tcp.keys.timestamp, syn.source, syn.destination)
    now = bench.engine.now() + tcp.ts_offset & 0xFFFFFFFF
    return cookie_timestamp(now, scale=scale, sack=sack, ecn=ecn) + offset


def own_mss(bench: Bench, ends: Ends) -> bytes:
    """Return the MSS option of the server."""
    return mss(bench.tcp().mss4 if ends.family == 4 else bench.tcp().mss6)


@FAMILIES
@pytest.mark.parametrize("scheme", ["flow", "host", "none"])
def test_linux_syn_gets_what_the_server_would_send(ends: Ends, scheme: str) -> None:
    """MSS, SACK, timestamps and window scale, in Linux' order, under each timestamp scheme."""
    bench = bench_of(scheme=scheme)
    syn = ends.syn(options=linux(0xCAFE0001))
    sent = bench.run(syn)
    stamp = tsval(bench, syn, scale=7, sack=True)
    options = own_mss(bench, ends) + SACK + timestamps(stamp, 0xCAFE0001) + NOP + wscale(7)
    index = 3 if ends.family == 4 else 2
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
def test_syn_without_timestamps_gets_only_an_mss(ends: Ends) -> None:
    """The cookie cannot carry window scale and SACK without them; the length stays."""
    bench = bench_of()
    syn = ends.syn(options=windows())
    sent = bench.run(syn)
    options = own_mss(bench, ends) + EOL * 8
    index = 3 if ends.family == 4 else 2
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
def test_apple_syn_gets_its_options_and_keeps_its_length(ends: Ends) -> None:
    """Four bytes fewer than asked: the rest is end of options."""
    bench = bench_of()
    syn = ends.syn(options=apple(77))
    sent = bench.run(syn)
    stamp = tsval(bench, syn, scale=6, sack=True)
    options = own_mss(bench, ends) + SACK + timestamps(stamp, 77) + NOP + wscale(7) + EOL * 4
    index = 3 if ends.family == 4 else 2
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
def test_bare_syn_is_answered_in_a_minimal_frame(ends: Ends) -> None:
    """A SYN without options gets an MSS; over IPv4 that is no byte more than came in."""
    bench = bench_of()
    syn = ends.syn(link=Link(pad_to=60))
    sent = bench.run(syn)
    expected = answer(bench, syn, own_mss(bench, ends), index=0)
    made = expected.frame().ljust(60, b"\0")
    assert sent.frame.hex() == made.hex()
    assert len(sent.frame) <= max(60, len(syn.frame()) + 4)


@FAMILIES
@pytest.mark.parametrize(
    ("offered", "back", "scale", "sack"),
    [
        (timestamps(9) + NOPS, NOPS, None, False),
        (mss(1400) + timestamps(9) + NOPS, NOPS, None, False),
        (mss(1400) + NOPS + timestamps(9) + NOP + wscale(3), NOPS, 3, False),
        (mss(1400) + SACK + timestamps(9), SACK, None, True),
        (NOPS + timestamps(9) + SACK + NOPS + wscale(0) + NOP, SACK, 0, True),
    ],
)
def test_only_what_was_offered_is_sent(
    ends: Ends, offered: bytes, back: bytes, *, scale: int | None, sack: bool
) -> None:
    """Window scale, SACK and timestamps each only if the client offered it, in any order."""
    bench = bench_of()
    syn = ends.syn(options=offered)
    sent = bench.run(syn)
    options = own_mss(bench, ends) + back
    options += timestamps(tsval(bench, syn, scale=scale, sack=sack), 9)
    options += b"" if scale is None else NOP + wscale(7)
    options = options.ljust(len(offered), EOL)
    index = int(mss(1400) in offered and ends.family == 4)
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
@pytest.mark.parametrize(
    ("lacks", "scale", "sack"),
    [("has_sack", 7, False), ("has_wscale", None, True)],
)
def test_what_the_server_has_switched_off_is_not_offered(
    ends: Ends, lacks: str, *, scale: int | None, sack: bool
) -> None:
    """The kernel refuses a cookie ACK that carries what is disabled there."""
    bench = bench_of(**{lacks: False})
    syn = ends.syn(options=linux(5))
    sent = bench.run(syn)
    options = own_mss(bench, ends) + (SACK if sack else NOPS)
    options += timestamps(tsval(bench, syn, scale=scale, sack=sack), 5)
    options += EOL * 4 if scale is None else NOP + wscale(7)
    index = 3 if ends.family == 4 else 2
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
def test_server_without_timestamps_gets_none(ends: Ends) -> None:
    """Then there is nothing that could carry the other options."""
    bench = bench_of(has_timestamps=False)
    syn = ends.syn(options=linux(5))
    sent = bench.run(syn)
    options = own_mss(bench, ends) + EOL * 16
    index = 3 if ends.family == 4 else 2
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
def test_reset_mode_offers_only_an_mss(ends: Ends) -> None:
    """Its handshake carries no data, so it needs no options."""
    bench = bench_of(mode="reset", window=65535)
    syn = ends.syn(options=linux(5))
    sent = bench.run(syn)
    options = own_mss(bench, ends) + EOL * 16
    index = 3 if ends.family == 4 else 2
    assert sent.frame.hex() == answer(bench, syn, options, index=index).frame().hex()


@FAMILIES
@pytest.mark.parametrize("mode", ["isn-sync", "reset"])
@pytest.mark.parametrize("size", [1, 2, 3, 100, 1400])
def test_data_on_the_syn_is_not_acknowledged(ends: Ends, mode: str, size: int) -> None:
    """TCP fast open: the client sends it again; nothing of it comes back, nor option 34."""
    bench = bench_of(mode=mode)
    cookie = bytes([34, 10]) + b"\xaa" * 8
    syn = ends.syn(options=mss(1460) + cookie + NOPS, data=b"\xee" * size)
    sent = bench.run(syn)
    expected = answer(
        bench, syn, own_mss(bench, ends) + EOL * 12, index=3 if ends.family == 4 else 2
    )
    assert sent.frame.hex() == expected.frame().hex()


@FAMILIES
@pytest.mark.parametrize("size", range(5))
def test_length_is_trimmed_and_checksums_are_right(ends: Ends, size: int) -> None:
    """For odd lengths too; the checksums are summed anew, not patched."""
    bench = bench_of()
    sent = bench.run(ends.syn(options=linux(), data=b"\x01" * size, checksum=0xBEEF)).frame
    start = 34 if ends.family == 4 else 54
    source, destination = (sent[26:30], sent[30:34]) if start == 34 else (sent[22:38], sent[38:54])
    segment = sent[start:]
    assert len(segment) == 40
    assert checksum(pseudo_header(source, destination, 6, 40) + segment) == 0
    assert ends.family == 6 or checksum(sent[14:34]) == 0


@FAMILIES
def test_ip_header_is_the_servers_own(ends: Ends) -> None:
    """TTL fixed, traffic class 0, DF set, identification 0, no flow label, urgent pointer 0."""
    bench = bench_of(ttl=33)
    syn = ends.syn(options=linux(), urgent=0x0100).with_ip(ttl=3, traffic_class=0xB8, fragment=0)
    sent = bench.run(syn).frame
    if ends.family == 4:
        assert sent[14:24] == bytes.fromhex("4500 003c 0000 4000 21 06")
        assert sent[34 + 18 : 34 + 20] == b"\0\0"
    else:
        assert sent[14:22] == bytes.fromhex("60000000 0028 06 21")
        assert sent[54 + 18 : 54 + 20] == b"\0\0"


@FAMILIES
def test_window_is_the_learned_one(ends: Ends) -> None:
    """Unscaled and not zero, which saves a round trip."""
    sent = bench_of(window=28960).run(ends.syn()).frame
    at = (34 if ends.family == 4 else 54) + 14
    assert int.from_bytes(sent[at : at + 2], "big") == 28960


@FAMILIES
def test_frame_grows_when_the_options_need_room(ends: Ends) -> None:
    """Timestamps alone are 12 bytes, with the MSS there are 16."""
    bench = bench_of()
    syn = ends.syn(options=NOPS + timestamps(3))
    sent = bench.run(syn)
    assert len(sent.frame) == max(60, len(syn.frame()) + 4)
    options = own_mss(bench, ends) + NOPS + timestamps(tsval(bench, syn, scale=None, sack=False), 3)
    assert sent.frame.hex() == answer(bench, syn, options, index=0).frame().hex()


@FAMILIES
@pytest.mark.parametrize(
    ("flags", "traffic_class", "answered"),
    [
        (ECE | CWR, 0, True),
        (ECE | CWR | AE, 0, True),
        (ECE | CWR | AE, 2, True),
        (ECE | CWR, 2, False),
        (ECE | CWR, 1, False),
        (ECE | CWR, 0xFC, True),
        (ECE, 0, False),
        (CWR, 0, False),
        (0, 0, False),
    ],
)
def test_ece_answers_only_an_ecn_setup_syn(
    ends: Ends, flags: int, traffic_class: int, *, answered: bool
) -> None:
    """ECE for ECE+CWR on a not ECN capable packet, or with the AE bit as in Linux."""
    bench = bench_of(has_ecn=True)
    syn = ends.syn(options=linux(1), flags=SYN | flags).with_ip(traffic_class=traffic_class)
    sent = bench.run(syn)
    stamp = tsval(bench, syn, scale=7, sack=True, ecn=answered)
    options = own_mss(bench, ends) + SACK + timestamps(stamp, 1) + NOP + wscale(7)
    expected = answer(
        bench,
        syn,
        options,
        index=3 if ends.family == 4 else 2,
        flags=SYN | ACK | (ECE if answered else 0),
    )
    assert sent.frame.hex() == expected.frame().hex()


@FAMILIES
def test_ece_needs_the_servers_ecn_and_timestamps(ends: Ends) -> None:
    """Without either the cookie does not carry it."""
    at = (34 if ends.family == 4 else 54) + 13
    for has_ecn, options in ((False, linux()), (True, windows()), (True, mss(1460))):
        sent = bench_of(has_ecn=has_ecn).run(ends.syn(options=options, flags=SYN | ECE | CWR))
        assert sent.frame[at] == SYN | ACK


@FAMILIES
@MODES
def test_retransmitted_syn_gets_the_same_number_within_a_minute(ends: Ends, mode: str) -> None:
    """And another one in the next: the cookie tells the minute."""
    bench = bench_of(mode=mode)
    bench.pass_time(-((bench.engine.now() + bench.tcp().cookie_offset) % 60_000))
    at = (34 if ends.family == 4 else 54) + 4
    syn = ends.syn(options=linux())
    numbers = []
    for wait in (1, 58_000, 2_000):
        bench.pass_time(wait)
        numbers.append(bench.run(syn).frame[at : at + 4])
    assert numbers[0] == numbers[1] != numbers[2]


@FAMILIES
@pytest.mark.parametrize("low", [0, 0x16, 0x17, 0x18, 0x3F])
def test_timestamp_is_never_ahead_of_the_server(ends: Ends, low: int) -> None:
    """A client would discard its first segments (PAWS): one tick less where it would be."""
    bench = bench_of(scheme="none")
    now = bench.engine.now() + bench.tcp().ts_offset
    bench.pass_time(low - (now & 0x3F))
    clock = bench.engine.now() + bench.tcp().ts_offset
    sent = bench.run(ends.syn(options=linux())).frame
    at = (34 if ends.family == 4 else 54) + 28
    stamp = int.from_bytes(sent[at : at + 4], "big")
    assert stamp & 0x3F == 0x17
    assert 0 <= clock - stamp < 64


@FAMILIES
def test_clock_of_the_server_may_wrap(ends: Ends) -> None:
    """The 32 bit timestamp clock goes on from 0, before which the options may be ahead."""
    for offset in (0, 5, 63):
        bench = bench_of(ts_offset=0)
        bench.tcp().ts_offset = (offset - bench.engine.now()) & (1 << 64) - 1
        bench.pass_time(0)
        assert bench.reason(ends.syn(options=linux())) == "cookie_sent"


@FAMILIES
@pytest.mark.parametrize(
    "offered",
    [0, 1, 535, 536, 1219, 1220, 1299, 1300, 1301, 1419, 1420, 1421, 1439, 1440, 1441, 1459, 1460,
     8939, 8940, 8941, 65535],
)  # fmt: skip
def test_mss_is_rounded_down_in_the_cookie(ends: Ends, offered: int) -> None:
    """The server will use the rounded value; what it announces is its own."""
    bench = bench_of(mss4=1400, mss6=1380)
    syn = ends.syn(options=mss(offered))
    table = (1300, 1440, 1460) if ends.family == 4 else (1420, 1440, 8940)
    index = sum(size <= offered for size in table)
    sent = bench.run(syn)
    made = answer(bench, syn, own_mss(bench, ends), index=index).frame()
    assert sent.frame[: len(made)].hex() == made.hex()
