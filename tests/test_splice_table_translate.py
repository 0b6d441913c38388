# SPDX-License-Identifier: Apache-2.0
"""Segments of an open spliced flow, both ways: every number and every checksum."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.bpf_bench import FAMILIES, V4, V6, Ends
from tests.support.bpf_engine import Engine
from tests.support.bpf_splice_bench import (
    CLIENT_CLOCK,
    CLIENT_ISN,
    SERVER_CLOCK,
    SERVER_ISN,
    SpliceBench,
    data_of,
    read,
    splicing,
    window_of,
)
from tests.support.model_answer import read_options
from tests.support.model_splice_bytes import each_option
from tests.support.native_build import built
from tests.support.packets import (
    ACK,
    CWR,
    ECE,
    EOL,
    ICMP,
    ICMP6,
    NOP,
    PSH,
    RST,
    TCP,
    UDP,
    URG,
    VLAN,
    Datagram,
    Link,
    checksum,
    icmp,
    mss,
    pseudo_header,
    timestamps,
    udp,
    wscale,
)

U32 = 0xFFFFFFFF


def blocks(*edges: int) -> bytes:
    """Return a SACK option."""
    return bytes([5, 2 + 4 * len(edges)]) + b"".join(
        (one & U32).to_bytes(4, "big") for one in edges
    )


def edges_of(options: bytes) -> list[int]:
    """Return the edges that SACK options tell."""
    found = []
    for kind, at, size in each_option(options):
        if kind == 5:
            body = options[at + 2 : at + size]
            found += [int.from_bytes(body[to : to + 4], "big") for to in range(0, len(body), 4)]
    return found


@FAMILIES
@pytest.mark.parametrize("step", [0, 1, 0x7FFFFFFF, 0x80000001, U32 - 5])
@pytest.mark.parametrize("size", [0, 1, 2, 1001])
def test_client_acknowledges_in_the_servers_numbers(ends: Ends, step: int, size: int) -> None:
    """Across the wrap, too; its own number, its data and all else stay."""
    bench = SpliceBench()
    talk = bench.open(ends)
    stamps = NOP + NOP + timestamps(7, (talk.told or 0) + 3)
    segment = talk.out(ack=talk.number + 1 + step, options=stamps, data=bytes(range(256)) * 4)
    segment = replace(segment, data=segment.data[:size], flags=ACK | PSH)
    outcome = bench.enter(segment)
    packet = read(outcome.frame)
    assert (outcome.verdict, outcome.reason, outcome.slot) == ("PASS", "splice_client", 1)
    assert packet.seq == CLIENT_ISN + 1 & U32
    assert packet.ack == SERVER_ISN + 1 + step & U32
    assert packet.options == NOP + NOP + timestamps(7, SERVER_CLOCK + 3)
    assert (data_of(packet), packet.flags) == (segment.data, ACK | PSH)
    assert len(outcome.frame) == len(segment.frame())


@FAMILIES
@pytest.mark.parametrize("step", [0, 1, 0x7FFFFFFF, 0x80000001, U32 - 5])
@pytest.mark.parametrize("size", [0, 1, 2, 1001])
def test_server_speaks_in_the_clients_numbers(ends: Ends, step: int, size: int) -> None:
    """Its sequence numbers and its clock; what it acknowledges stays."""
    bench = SpliceBench()
    talk = bench.open(ends)
    stamps = NOP + NOP + timestamps(SERVER_CLOCK + step, CLIENT_CLOCK)
    segment = talk.back(seq=SERVER_ISN + 1 + step, options=stamps, data=bytes(size))
    outcome = bench.leave(segment)
    packet = read(outcome.frame)
    assert (outcome.verdict, outcome.reason, outcome.slot) == ("PASS", "splice_server", 1)
    assert packet.seq == talk.number + 1 + step & U32
    assert packet.ack == CLIENT_ISN + 1
    assert packet.options == NOP + NOP + timestamps((talk.told or 0) + step, CLIENT_CLOCK)
    assert data_of(packet) == segment.data


@FAMILIES
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", ["linux", "odd", "plain"])
def test_blocks_of_a_client_are_the_servers(ends: Ends, count: int, layout: str) -> None:
    """SACK of one to four blocks, with timestamps and without, at any offset."""
    bench = SpliceBench()
    talk = bench.open(ends)
    offsets = [1 + 1000 * at for at in range(2 * count)]
    sack = blocks(*(talk.number + at for at in offsets))
    stamps = timestamps(7, talk.told or 0)
    if layout == "plain" or count == 4:
        options = NOP + NOP + sack
    else:
        options = NOP + NOP + stamps + NOP + NOP + sack if layout == "linux" else sack + stamps
    options += EOL * (-len(options) % 4)
    packet = read(bench.enter(talk.out(options=options)).frame)
    assert edges_of(packet.options) == [SERVER_ISN + at & U32 for at in offsets]
    if stamps in options:
        assert read_options(packet.options).tsecr == SERVER_CLOCK
    assert len(packet.options) == len(options)


@FAMILIES
def test_blocks_of_a_server_are_of_the_clients_numbers(ends: Ends) -> None:
    """And so they stay."""
    bench = SpliceBench()
    talk = bench.open(ends)
    sack = blocks(CLIENT_ISN + 5, CLIENT_ISN + 9)
    options = sack + timestamps(SERVER_CLOCK, 1)
    packet = read(bench.leave(talk.back(options=options)).frame)
    assert packet.options == sack + timestamps(talk.told or 0, 1)


@FAMILIES
@pytest.mark.parametrize(
    "broken",
    [b"\5\2\1\1", b"\5\6\1\1\1\1\1\1", b"\x08\x09" + bytes(10), b"\5\x1e\1\1", b"\5\0\1\1"],
)
def test_broken_options_do_no_harm(ends: Ends, broken: bytes) -> None:
    """What they say is the server's affair; the checksum stays right."""
    bench = SpliceBench()
    talk = bench.open(ends)
    read(bench.enter(talk.out(options=broken)).frame)
    read(bench.leave(talk.back(options=broken)).frame)


@FAMILIES
@pytest.mark.parametrize(
    "shifts",
    [
        # of the client, told by us, of the server; sent; what the client's and the server's become
        (7, 7, 7, 1000, 1000, 1000),
        (7, 7, 9, 1000, 1000, 4000),
        (7, 9, 7, 1000, 1000, 250),
        (7, 9, 7, 3, 3, 0),
        (7, 0, 14, 5, 5, 65535),
        (7, 7, None, 1000, 65535, 7),
        (3, 7, None, 1000, 8000, 7),
        (0, 7, None, 1000, 1000, 7),
        (14, 0, None, 4, 65535, 4),
        (None, 7, None, 1000, 1000, 1000),
    ],
)
def test_windows_are_shifted(ends: Ends, shifts: tuple[int | None, ...]) -> None:
    """So that each side reads what the other meant, or a little less; at most the field's."""
    offered, own, taken, sent, client, server = shifts
    bench = SpliceBench(splicing(wscale=own))
    scale = b"" if offered is None else NOP + wscale(offered)
    answer = mss(1400) + (b"" if taken is None else NOP + wscale(taken))
    talk = bench.open(
        ends, syn=ends.syn(seq=CLIENT_ISN, options=mss(1460) + scale), answer={"options": answer}
    )
    assert window_of(read(bench.enter(talk.out(window=sent)).frame)) == client
    assert window_of(read(bench.leave(talk.back(window=sent)).frame)) == server


@FAMILIES
def test_server_without_timestamps_is_not_given_any(ends: Ends) -> None:
    """What the client says of them is left as it is."""
    bench = SpliceBench()
    talk = bench.open(ends, answer={"options": mss(1400)})
    options = NOP + NOP + timestamps(7, talk.told or 0)
    assert read(bench.enter(talk.out(options=options)).frame).options == options
    assert read(bench.leave(talk.back(options=options)).frame).options == options


AROUND: list[dict[str, Any]] = [
    {"link": Link(tags=((VLAN, 7),))},
    {"link": Link(tags=((0x88A8, 7), (VLAN, 9)))},
    {"link": Link(pad_to=60)},
    {"link": Link(trailer=b"behind")},
    {"flags": ACK | URG, "urgent": 3, "data": b"abc"},
    {"flags": ACK | ECE | CWR},
    {"flags": PSH, "data": b"abc"},
    {"flags": RST, "window": 0},
    {"data": bytes(3000)},
]


@FAMILIES
@pytest.mark.parametrize("around", AROUND, ids=str)
def test_what_is_around_a_segment_stays(ends: Ends, around: dict[str, Any]) -> None:
    """Tags, padding, flags and urgent pointer; without ACK its number is none."""
    bench = SpliceBench()
    talk = bench.open(ends)
    for segment, found in (
        (talk.out(**around), bench.enter),
        (talk.back(**around), bench.leave),
    ):
        came = segment.frame()
        packet = read(found(segment).frame)
        kept = read(came)
        assert packet.frame[: packet.at + 4] == came[: kept.at + 4]
        assert packet.frame[packet.at + 12 : packet.at + 16] == came[kept.at + 12 : kept.at + 16]
        assert packet.frame[packet.at + 18 :] == came[kept.at + 18 :]
        if not segment.flags & ACK:
            assert packet.ack == kept.ack


def test_ip_options_and_extension_headers_are_no_obstacle() -> None:
    """The segment behind them is translated, both ways."""
    for ends, fields in (
        (V4, {"options": NOP * 8}),
        (V6, {"extensions": ((60, bytes([0, 0, 1, 4, 0, 0, 0, 0])),)}),
    ):
        bench = SpliceBench()
        talk = bench.open(ends)
        assert read(bench.enter(talk.out().with_ip(**fields)).frame).ack == SERVER_ISN + 1
        assert read(bench.leave(talk.back().with_ip(**fields)).frame).seq == talk.number + 1 & U32


@FAMILIES
def test_wrong_checksum_stays_wrong(ends: Ends) -> None:
    """By as much as it was: the receiver finds out."""
    bench = SpliceBench()
    talk = bench.open(ends)
    for segment, run in ((talk.out(data=b"abc"), bench.enter), (talk.back(), bench.leave)):
        good = run(segment).frame
        at = (34 if ends.family == 4 else 54) + 16
        right = int.from_bytes(segment.frame()[at : at + 2], "big")
        bad = run(replace(segment, checksum=(right + 0x101) % 0xFFFF)).frame
        wanted = (int.from_bytes(good[at : at + 2], "big") + 0x101) % 0xFFFF
        assert int.from_bytes(bad[at : at + 2], "big") == wanted


@FAMILIES
def test_checksum_that_is_still_to_be_made_stays_so(ends: Ends) -> None:
    """On a virtual link: the urgent pointer makes up for what the completing sum does not know."""
    path = built("build/bpf/engine.bpf.o") / "bpf" / "engine.bpf.o"
    with Engine(path, partial=True, sets=1024) as loaded:
        bench = SpliceBench(on=loaded)
        talk = bench.open(ends)
        segment = talk.out(data=b"abc", options=NOP + NOP + timestamps(7, talk.told or 0))
        pseudo = pseudo_header(ends.client, ends.server, TCP, len(segment.tcp()))
        begun = 0xFFFF - checksum(pseudo)
        came = replace(segment, checksum=begun).frame()
        sent = loaded.run(came).frame
        at = 34 if ends.family == 4 else 54
        assert sent[at + 16 : at + 18] == begun.to_bytes(2, "big")
        assert int.from_bytes(sent[at + 8 : at + 12], "big") == SERVER_ISN + 1
        # What is summed up from the TCP header on is what it was.
        assert checksum(sent[at:]) == checksum(came[at:])
        assert sent[at + 18 : at + 20] != came[at + 18 : at + 20]


# what is none of it


@FAMILIES
def test_segments_of_other_flows_are_not_touched(ends: Ends) -> None:
    """Neither those that come, nor those that leave."""
    bench = SpliceBench()
    talk = bench.open(ends)
    for other in ({"sport": 5}, {"dport": 81}, {"source": ends.stranger}):
        assert bench.reasons(talk.out(**other)) == ["cookie_bad"]
    for other in ({"sport": 5}, {"dport": 81}, {"destination": ends.stranger}):
        segment = talk.back(**other)
        outcome = bench.leave(segment)
        assert (outcome.verdict, outcome.reason) == ("PASS", "")
        assert outcome.frame == segment.frame()


@FAMILIES
def test_what_does_not_concern_it_leaves_untouched(ends: Ends) -> None:
    """Other servers, other protocols, fragments, and what cannot be read."""
    bench = SpliceBench()
    talk = bench.open(ends)
    protocol = ICMP if ends.family == 4 else ICMP6
    echo = icmp(ends.server, ends.client, 0 if ends.family == 4 else 129)
    mine = talk.back(data=b"abc")
    part = (
        {"fragment": 0x2000}
        if ends.family == 4
        else {"extensions": ((44, bytes([0] * 3 + [1] + [0] * 4)),)}
    )
    cut = mine.frame()[:-30]
    several: list[bytes] = [
        replace(mine, source=ends.neighbour).frame(),
        Datagram(
            source=ends.server,
            destination=ends.client,
            protocol=UDP,
            payload=udp(ends.server, ends.client, 80, 40000, b"x"),
        ).frame(),
        Datagram(
            source=ends.server, destination=ends.client, protocol=protocol, payload=echo
        ).frame(),
        mine.with_ip(**part).frame(),
        replace(mine, link=Link(tags=((VLAN, 1),) * 3)).frame(),
        cut.ljust(60, b"\0"),
        bytes(60),
    ]
    for frame in several:
        outcome = bench.leave(frame)
        assert (outcome.verdict, outcome.reason, outcome.frame) == ("PASS", "", frame)
    bench.engine.control_set(splicing=0)
    assert bench.engine.run_out(mine.frame()).frame == mine.frame()
