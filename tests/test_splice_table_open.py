# SPDX-License-Identifier: Apache-2.0
"""Opening a spliced flow: the answer to a SYN, and the question to the server."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.bpf_bench import FAMILIES, V4, V6, Ends
from tests.support.bpf_splice import splice_rows
from tests.support.bpf_splice_bench import (
    CLIENT_CLOCK,
    CLIENT_ISN,
    SpliceBench,
    data_of,
    read,
    splicing,
    window_of,
)
from tests.support.model_answer import Offered, read_options
from tests.support.packets import (
    ACK,
    CWR,
    ECE,
    EOL,
    FIN,
    NOP,
    PSH,
    QINQ,
    SACK,
    SYN,
    URG,
    VLAN,
    Link,
    apple,
    linux,
    mss,
    timestamps,
    windows,
    wscale,
)

ODD = SACK + NOP + wscale(3) + NOP + NOP + timestamps(5) + mss(1400) + NOP + NOP


@FAMILIES
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (b"", Offered(1460)),
        (mss(1460), Offered(1460)),
        (windows(), Offered(1460, 7, sack=True)),
        (linux(9), Offered(1460, 7, sack=True, tsval=1)),
        (apple(9), Offered(1460, 7, sack=True, tsval=1)),
        (ODD, Offered(1460, 7, sack=True, tsval=1)),
        (NOP + wscale(2), Offered(1460, 7)),
        (timestamps(9) + EOL + EOL, Offered(1460, tsval=1)),
        (timestamps(9) + NOP + wscale(1) + EOL + EOL, Offered(1460, 7, tsval=1)),
        (SACK + NOP + NOP, Offered(1460, sack=True)),
    ],
    ids=["none", "mss", "windows", "linux", "apple", "odd", "scale", "stamps", "both", "sack"],
)
def test_answer_takes_what_is_offered(ends: Ends, options: bytes, wanted: Offered) -> None:
    """MSS of the server always; of the rest nothing that the client does not offer."""
    bench = SpliceBench(splicing(mss6=1460))
    packet, told = bench.answered(ends.syn(options=options))
    assert (told.mss, told.wscale, told.sack) == (wanted.mss, wanted.wscale, wanted.sack)
    assert (told.tsval is None) == (wanted.tsval is None)
    assert told.tsecr == (0 if wanted.tsval is None else read_options(options).tsval)
    most = max(read_options(options).mss, 536 if ends.family == 4 else 1220)
    full = min(most, 1460) - (0 if told.tsval is None else 12)
    assert (packet.ack, packet.flags, window_of(packet)) == (0x11223345, SYN | ACK, 2 * full)


@FAMILIES
@pytest.mark.parametrize("lacks", ["sack", "wscale", "timestamps"])
def test_what_the_server_does_not_take_is_not_offered(ends: Ends, lacks: str) -> None:
    """Neither to the client, nor in the SYN that the server gets."""
    bench = SpliceBench(splicing(**{f"has_{lacks}": False}))
    talk = bench.ask(ends)
    asked = read_options(read(talk.extra["syn"]).options)
    has = {
        "sack": asked.sack,
        "wscale": asked.wscale is not None,
        "timestamps": asked.tsval is not None,
    }
    assert [name for name, there in has.items() if not there] == [lacks]


@FAMILIES
def test_ecn_is_agreed_on_with_timestamps_only(ends: Ends) -> None:
    """There its bit has a place; the SYN for the server asks for it again."""
    bench = SpliceBench(splicing(has_ecn=True))
    asks = SYN | ECE | CWR
    talk = bench.ask(ends, syn=ends.syn(flags=asks, options=linux()))
    assert read(talk.extra["syn"]).flags == asks
    packet, _ = bench.answered(ends.syn(sport=5, flags=asks, options=windows()))
    assert packet.flags == SYN | ACK


@FAMILIES
@pytest.mark.parametrize(
    ("size", "stamped", "plain"),
    [
        *((1, 216, 216), (535, 216, 216), (536, 536, 536), (539, 536, 536), (540, 540, 536)),
        *((1023, 1020, 536), (1459, 1456, 1440), (1460, 1460, 1460), (1809, 1460, 1460)),
        *((1810, 1810, 1460), (8939, 8810, 1460), (8940, 8940, 1460), (8959, 8940, 1460)),
        *((8960, 8960, 1460), (65535, 8960, 1460)),
    ],
)
def test_server_is_told_at_most_the_clients_segment(
    ends: Ends, size: int, stamped: int, plain: int
) -> None:
    """The MSS comes back out of the cookie, rounded down; eight bits of it with timestamps."""
    bench = SpliceBench()
    for port, options, wanted in ((5, linux(size=size), stamped), (6, windows(size=size), plain)):
        talk = bench.ask(ends, syn=ends.syn(sport=port, options=options))
        assert read_options(read(talk.extra["syn"]).options).mss == wanted


@FAMILIES
def test_question_is_the_clients_own_syn(ends: Ends) -> None:
    """Same ports and first number; its options, its clock and its window, unscaled."""
    talk = SpliceBench().ask(ends, window=501)
    packet = read(talk.extra["syn"])
    told = read_options(packet.options)
    assert (packet.source, packet.destination) == (ends.client, ends.server)
    assert (packet.ports, packet.seq, packet.ack) == (read(talk.syn.frame()).ports, CLIENT_ISN, 0)
    assert (packet.flags, window_of(packet)) == (SYN, 501 << 7)
    assert told == Offered(1460, 7, sack=True, tsval=CLIENT_CLOCK + 1)
    assert packet.options == linux(CLIENT_CLOCK + 1, size=1460, shift=7)
    assert packet.frame[: packet.start] == talk.asked.frame()[: packet.start]


@FAMILIES
@pytest.mark.parametrize("options", [b"", windows(), linux(1), NOP + wscale(0)])
def test_windows_of_the_question_never_exceed_the_field(ends: Ends, options: bytes) -> None:
    """What is larger is cut off."""
    talk = SpliceBench().ask(ends, syn=ends.syn(options=options), window=65535)
    assert window_of(read(talk.extra["syn"])) == 65535


@FAMILIES
@pytest.mark.parametrize(
    "around",
    [
        {"link": Link(tags=((VLAN, 7),))},
        {"link": Link(tags=((QINQ, 7), (VLAN, 9)))},
        {"link": Link(pad_to=60)},
        {"link": Link(pad_to=64)},
        {"flags": ACK | URG, "urgent": 3, "data": b"abc"},
        {"data": b"x" * 1001},
        {"flags": ACK | FIN | PSH, "data": b"bye"},
        {"flags": ACK | FIN},
    ],
)
def test_question_keeps_what_is_around(ends: Ends, around: dict[str, Any]) -> None:
    """Tags and addresses stay; data and FIN are left out."""
    talk = SpliceBench().ask(ends, **around)
    packet = read(talk.extra["syn"])
    assert packet.flags == SYN
    assert data_of(packet) == b""
    assert packet.end <= len(packet.frame)
    assert packet.frame[: packet.start] == talk.asked.frame()[: packet.start]


def test_question_keeps_ip_options_and_extension_headers() -> None:
    """Only the length changes, and the sum of the IPv4 header."""
    bench = SpliceBench()
    syn = V4.syn(seq=CLIENT_ISN, options=linux()).with_ip(options=b"\x94\4\0\0" + NOP * 4)
    packet = read(bench.ask(V4, syn=syn).extra["syn"])
    assert packet.at - packet.start == 28
    syn = V6.syn(seq=CLIENT_ISN, options=linux()).with_ip(
        extensions=((60, bytes([0, 0, 1, 4, 0, 0, 0, 0])),)
    )
    packet = read(bench.ask(V6, syn=syn).extra["syn"])
    assert packet.at - packet.start == 48


@FAMILIES
@pytest.mark.parametrize("options", [linux(), windows()], ids=["stamped", "plain"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"ack": 1}, {"ack": -1}, {"ack": 1 << 24}, {"ack": -256}, {"ack": 256},
        {"seq": 1}, {"seq": -1}, {"sport": 1}, {"source": 1},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_else_opens(ends: Ends, options: bytes, wrong: dict[str, int]) -> None:
    """A number that is wrong by anything is no cookie, and leaves nothing behind."""
    bench = SpliceBench()
    packet, told = bench.answered(ends.syn(options=options))
    stamps = b"" if told.tsval is None else NOP + NOP + timestamps(5, told.tsval)
    ack = ends.syn(seq=0x11223345, ack=packet.seq + 1, flags=ACK, options=stamps)
    changed: dict[str, Any] = {
        "seq": ack.seq + wrong.get("seq", 0),
        "ack": ack.ack + wrong.get("ack", 0),
        "sport": ack.sport + wrong.get("sport", 0),
        "source": ends.stranger if "source" in wrong else ends.client,
    }
    # The bits below are what the cookie carries: another MSS, of which 256 are good.
    outcome = bench.enter(replace(ack, **changed))
    if "ack" in wrong and abs(wrong["ack"]) == 1 and outcome.reason == "splice_open":
        return
    assert (outcome.verdict, outcome.reason) == ("DROP", "cookie_bad")
    assert splice_rows(bench.engine.object) == {}


@FAMILIES
@pytest.mark.parametrize(
    ("late", "good"), [(0, True), (122_816, True), (122_944, False), (-64, False)]
)
def test_cookie_of_a_clock_is_good_for_two_minutes(ends: Ends, late: int, *, good: bool) -> None:
    """By what the client echoes: older is bad, and so is what lies ahead."""
    bench = SpliceBench()
    packet, told = bench.answered(ends.syn(options=linux()))
    assert told.tsval is not None
    stamps = NOP + NOP + timestamps(5, told.tsval - late)
    ack = ends.syn(seq=0x11223345, ack=packet.seq + 1, flags=ACK, options=stamps)
    assert bench.enter(ack).reason == ("splice_open" if good else "cookie_bad")


@FAMILIES
def test_cookie_with_timestamps_is_none_without(ends: Ends) -> None:
    """Neither passes for the other."""
    bench = SpliceBench()
    stamped, told = bench.answered(ends.syn(options=linux()))
    assert told.tsval is not None
    ack = ends.syn(seq=0x11223345, ack=stamped.seq + 1, flags=ACK)
    assert bench.enter(ack).reason == "cookie_bad"
    plain, _ = bench.answered(ends.syn(options=windows()))
    stamps = NOP + NOP + timestamps(5, told.tsval)
    again = replace(ack, ack=plain.seq + 1, options=stamps)
    assert bench.enter(again).reason == "cookie_bad"


@FAMILIES
def test_client_asks_again_when_the_server_is_slow(ends: Ends) -> None:
    """Not within 200 ms; then with the same SYN."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    assert bench.reasons(talk.asked, talk.asked) == ["splice_early", "splice_early"]
    bench.pass_time(200)
    outcome = bench.enter(talk.asked)
    assert (outcome.reason, outcome.frame) == ("splice_open", talk.extra["syn"])
    assert bench.reasons(talk.asked) == ["splice_early"]
    assert len(splice_rows(bench.engine.object)) == 1
