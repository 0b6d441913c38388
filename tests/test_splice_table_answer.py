# SPDX-License-Identifier: Apache-2.0
"""The server's answer to a SYN that was made for it, and what the client has sent by then."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.bpf_bench import FAMILIES, Ends
from tests.support.bpf_splice import splice_rows
from tests.support.bpf_splice_bench import (
    BACK,
    CLIENT_CLOCK,
    CLIENT_ISN,
    SERVER_CLOCK,
    SERVER_ISN,
    SpliceBench,
    data_of,
    read,
    window_of,
)
from tests.support.packets import (
    ACK,
    FIN,
    NOP,
    PSH,
    RST,
    VLAN,
    linux,
    timestamps,
)


@FAMILIES
def test_syn_ack_is_answered_for_the_client(ends: Ends) -> None:
    """By an ACK in the server's numbers, which the host gets as if it had come in."""
    talk = SpliceBench().open(ends, window=501)
    packet = read(talk.extra["ack"])
    assert (packet.source, packet.destination) == (ends.client, ends.server)
    assert (packet.seq, packet.ack, packet.flags) == (CLIENT_ISN + 1, SERVER_ISN + 1, ACK)
    assert packet.options == NOP + NOP + timestamps(CLIENT_CLOCK + 1, SERVER_CLOCK)
    assert window_of(packet) == 501
    assert packet.frame[:12] == BACK.source_mac + BACK.destination_mac
    assert packet.end == len(packet.frame)


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 2, 3, 99, 1000, 1448])
@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | FIN, ACK | FIN | PSH])
def test_what_came_with_the_cookie_goes_to_the_server(ends: Ends, size: int, flags: int) -> None:
    """Data of any length and FIN, right behind the handshake."""
    data = bytes(range(256)) * 6
    talk = SpliceBench().open(ends, data=data[:size], flags=flags)
    packet = read(talk.extra["ack"])
    assert data_of(packet) == data[:size]
    kept = flags if size or flags & FIN else ACK
    assert (packet.flags, packet.seq) == (kept, CLIENT_ISN + 1 & 0xFFFFFFFF)


@FAMILIES
def test_what_comes_while_the_server_is_asked_is_kept(ends: Ends) -> None:
    """The first segment, once; and what has a wrong checksum is none."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    first = talk.out(data=b"first", flags=ACK | PSH, options=talk.asked.options)
    assert bench.reasons(replace(first, checksum=1), first, first) == [
        "splice_early",
        "splice_held",
        "splice_held",
    ]
    packet = read(bench.leave(bench.syn_ack(talk)).frame)
    assert (data_of(packet), packet.flags) == (b"first", ACK | PSH)


@FAMILIES
@pytest.mark.parametrize("tags", [(), ((VLAN, 5),)])
def test_two_segments_are_kept(ends: Ends, tags: tuple[tuple[int, int], ...]) -> None:
    """The host gets one, then the other; FIN only with the last."""
    bench = SpliceBench()
    talk = bench.ask(ends, data=b"odd")
    second = talk.out(seq=CLIENT_ISN + 4, data=b"second", flags=ACK | FIN)
    third = talk.out(seq=CLIENT_ISN + 10, data=b"third")
    assert bench.reasons(second, third) == ["splice_held", "splice_early"]
    with bench.heard():
        link = replace(BACK, tags=tags)
        packet = read(bench.leave(bench.syn_ack(talk, link=link)).frame)
    assert (data_of(packet), packet.flags) == (b"second", ACK | FIN)
    assert packet.seq == CLIENT_ISN + 4 & 0xFFFFFFFF
    (row,) = splice_rows(bench.engine.object).values()
    assert row.ended == 1


@FAMILIES
def test_frame_of_several_segments_is_kept_in_two(ends: Ends) -> None:
    """Each as large as the server's own path takes it."""
    bench = SpliceBench()
    with bench.heard():
        talk = bench.open(ends, data=bytes(2000), flags=ACK | PSH)
    packet = read(talk.extra["ack"])
    assert (len(data_of(packet)), packet.flags) == (2000 - 1448, ACK | PSH)
    assert packet.seq == CLIENT_ISN + 1 + 1448 & 0xFFFFFFFF


@FAMILIES
def test_what_is_kept_is_forgotten_after_three_seconds(ends: Ends) -> None:
    """The client sends it again by then."""
    bench = SpliceBench()
    talk = bench.ask(ends, data=b"first")
    bench.pass_time(3000)
    assert data_of(read(bench.leave(bench.syn_ack(talk)).frame)) == b""


@FAMILIES
def test_syn_ack_that_comes_again_is_acknowledged_again(ends: Ends) -> None:
    """With nothing that was kept; another first number is another connection's."""
    bench = SpliceBench()
    talk = bench.open(ends, data=b"first")
    again = bench.leave(bench.syn_ack(talk))
    assert (again.verdict, again.reason) == ("REDIRECT", "splice_answered")
    assert data_of(read(again.frame)) == b""
    for wrong in ({"seq": SERVER_ISN + 1}, {"data": b"early"}):
        outcome = bench.leave(bench.syn_ack(talk, **wrong))
        assert (outcome.verdict, outcome.reason) == ("SHOT", "splice_over")


@FAMILIES
@pytest.mark.parametrize("wrong", [{"ack": CLIENT_ISN}, {"ack": 1}, {"data": b"early"}])
def test_syn_ack_that_does_not_fit_is_dropped(ends: Ends, wrong: dict[str, Any]) -> None:
    """The flow still waits for the right one."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    outcome = bench.leave(bench.syn_ack(talk, **wrong))
    assert (outcome.verdict, outcome.reason) == ("SHOT", "splice_over")
    assert bench.leave(bench.syn_ack(talk)).reason == "splice_answered"


@FAMILIES
def test_challenge_is_answered_by_rst_and_the_server_asked_anew(ends: Ends) -> None:
    """It knows an old connection by that name (RFC 9293 section 3.5.1)."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    challenge = talk.back(seq=777, ack=888, options=NOP + NOP + timestamps(1, 2))
    outcome = bench.leave(challenge)
    packet = read(outcome.frame)
    assert (outcome.verdict, outcome.reason) == ("REDIRECT", "splice_answered")
    assert (packet.seq, packet.flags, packet.options) == (888, RST, b"")
    assert (packet.source, packet.destination) == (ends.client, ends.server)
    assert bench.reasons(talk.asked) == ["splice_open"]
    assert bench.leave(replace(challenge, flags=PSH)).reason == "splice_over"
    assert bench.leave(replace(challenge, data=b"x")).reason == "splice_over"


@FAMILIES
def test_refusal_reaches_the_client_in_its_numbers(ends: Ends) -> None:
    """As a reset that its stack believes; of another SYN it is dropped."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    refusal = talk.back(seq=0, flags=RST | ACK, window=0)
    for wrong in (replace(refusal, ack=5), replace(refusal, flags=RST)):
        outcome = bench.leave(wrong)
        assert (outcome.verdict, outcome.reason) == ("SHOT", "splice_over")
    outcome = bench.leave(refusal)
    packet = read(outcome.frame)
    assert (outcome.verdict, outcome.reason) == ("PASS", "splice_server")
    assert (packet.seq, packet.ack) == (talk.number + 1 & 0xFFFFFFFF, CLIENT_ISN + 1)


@FAMILIES
def test_client_that_gives_up_is_given_up_for(ends: Ends) -> None:
    """The server's answer is met by a reset."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    assert bench.reasons(talk.out(flags=RST | ACK)) == ["splice_early"]
    outcome = bench.leave(bench.syn_ack(talk))
    packet = read(outcome.frame)
    assert (outcome.verdict, packet.flags, packet.seq) == ("REDIRECT", RST, CLIENT_ISN + 1)


@FAMILIES
def test_server_that_does_not_answer_is_forgotten(ends: Ends) -> None:
    """After twenty seconds; the cookie is as good as it was."""
    bench = SpliceBench()
    talk = bench.ask(ends)
    bench.pass_time(24_576)
    assert bench.leave(bench.syn_ack(talk)).reason == ""
    assert bench.reasons(talk.asked) == ["splice_open"]


@FAMILIES
def test_client_that_begins_anew_is_not_kept_waiting(ends: Ends) -> None:
    """By the same name, with another number: the server is asked for that one."""
    bench = SpliceBench()
    bench.ask(ends)
    talk = bench.ask(ends, syn=ends.syn(seq=99, options=linux()))
    assert read(talk.extra["syn"]).seq == 99
    assert bench.leave(bench.syn_ack(talk)).reason == "splice_answered"
    assert len(splice_rows(bench.engine.object)) == 1
