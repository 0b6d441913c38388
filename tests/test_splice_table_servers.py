# SPDX-License-Identifier: Apache-2.0
"""What is known of servers, and the table of spliced flows when it is full."""

from dataclasses import replace
from functools import cache

import pytest

from tests.support.bpf_bench import FAMILIES, Ends
from tests.support.bpf_engine import Engine
from tests.support.bpf_splice import backend_rows, splice_rows
from tests.support.bpf_splice_bench import (
    BACK,
    CLIENT_ISN,
    Conversation,
    SpliceBench,
    read,
    splicing,
    window_of,
)
from tests.support.model_answer import Offered, read_options
from tests.support.model_scene import Rate, per_second
from tests.support.native_build import built
from tests.support.packets import (
    ACK,
    CWR,
    ECE,
    NOP,
    RST,
    SACK,
    SYN,
    Segment,
    linux,
    mss,
    timestamps,
    windows,
    wscale,
)

TAKES = mss(1300) + SACK + timestamps(77, 1) + NOP + wscale(3)
FREE = Rate()
"""Every SYN that would teach something is let through."""


def natively(ends: Ends, port: int, **fields: object) -> Conversation:
    """Return a connection whose SYN goes to the server as it comes."""
    syn = ends.syn(**{"sport": port, "seq": CLIENT_ISN, "options": linux(5), **fields})
    return Conversation(ends, syn, 0, None, syn)


def taught(
    bench: SpliceBench, ends: Ends, *, port: int = 1001, options: bytes = TAKES, window: int = 5000
) -> Segment:
    """Have the server show what it takes; return its answer."""
    talk = natively(ends, port)
    outcome = bench.enter(talk.syn)
    assert (outcome.verdict, outcome.reason) == ("PASS", "splice_probe")
    assert outcome.frame == talk.syn.frame()
    answer = talk.back(seq=9, flags=SYN | ACK, options=options, window=window).with_ip(ttl=200)
    outcome = bench.leave(answer)
    assert (outcome.verdict, outcome.reason, outcome.frame) == ("PASS", "", answer.frame())
    return answer


@FAMILIES
def test_one_syn_a_second_is_let_through_to_a_port_that_is_unknown(ends: Ends) -> None:
    """As it came, and its connection goes on without translation; the others get a cookie."""
    bench = SpliceBench(probe=FREE)
    first, second = natively(ends, 1001), natively(ends, 1002)
    assert bench.reasons(first.syn, second.syn) == ["splice_probe", "cookie_sent"]
    assert bench.reasons(first.out(), first.out(data=b"abc")) == ["known_flow", "known_flow"]
    bench.pass_time(1000)
    assert bench.reasons(second.syn) == ["splice_probe"]


@FAMILIES
def test_ports_are_probed_within_a_rate_for_all(ends: Ends) -> None:
    """A scan makes no more of it, and no more rows."""
    bench = SpliceBench(probe=per_second(50, burst=3))
    told = bench.reasons(*(ends.syn(dport=port) for port in range(1, 9)))
    assert told == ["splice_probe"] * 3 + ["cookie_sent"] * 5
    assert len(backend_rows(bench.engine.object)) == 3


@FAMILIES
def test_what_a_server_takes_is_offered(ends: Ends) -> None:
    """MSS, window scale and hop limit are its own, and its window up to two segments."""
    bench = SpliceBench(splicing(has_sack=False, wscale=11), probe=FREE)
    taught(bench, ends)
    packet, told = bench.answered(ends.syn(options=linux(5)))
    assert told == Offered(1300, 3, sack=True, tsval=told.tsval, tsecr=5)
    assert window_of(packet) == 2576
    assert packet.frame[packet.start + (8 if ends.family == 4 else 7)] == 200


@FAMILIES
@pytest.mark.parametrize("window", [0, 2575, 2576, 65535])
def test_window_that_is_told_is_at_most_the_servers(ends: Ends, window: int) -> None:
    """And two full segments of the client, as so many are kept."""
    bench = SpliceBench(probe=FREE)
    taught(bench, ends, window=window)
    packet, _ = bench.answered(ends.syn(options=linux()))
    assert window_of(packet) == min(window, 2576)


@FAMILIES
def test_what_a_server_refuses_is_not_offered(ends: Ends) -> None:
    """It was offered, and not taken: what the mitigation says does not count."""
    bench = SpliceBench(probe=FREE)
    taught(bench, ends, options=mss(1400))
    _, told = bench.answered(ends.syn(options=linux(5)))
    assert told == Offered(1400)


@FAMILIES
def test_port_is_probed_again_by_who_offers_more(ends: Ends) -> None:
    """Once a second; ECN is an offer, too."""
    bench = SpliceBench(probe=FREE)
    talk = natively(ends, 1001, options=windows())
    assert bench.reasons(talk.syn) == ["splice_probe"]
    bench.leave(talk.back(flags=SYN | ACK, options=mss(1400)))
    more = ends.syn(sport=1002, options=linux())
    assert bench.reasons(more) == ["cookie_sent"]
    bench.pass_time(1000)
    assert bench.reasons(ends.syn(sport=1003, options=windows()), more) == [
        "cookie_sent",
        "splice_probe",
    ]
    bench.leave(natively(ends, 1002).back(flags=SYN | ACK, options=mss(1400)))
    bench.pass_time(1000)
    asks = ends.syn(sport=1004, options=linux(), flags=SYN | ECE | CWR)
    assert bench.reasons(ends.syn(sport=1003, options=linux()), asks) == [
        "cookie_sent",
        "splice_probe",
    ]


@FAMILIES
def test_port_is_probed_again_after_half_a_minute(ends: Ends) -> None:
    """By a SYN that offers everything."""
    bench = SpliceBench(probe=FREE)
    taught(bench, ends)
    bench.pass_time(29_998)
    assert bench.reasons(ends.syn(sport=5, options=linux())) == ["cookie_sent"]
    bench.pass_time(2)
    syns = ends.syn(sport=6, options=windows()), ends.syn(sport=7, options=linux())
    assert bench.reasons(*syns) == ["cookie_sent", "splice_probe"]


@FAMILIES
def test_server_that_does_not_answer_is_left_in_peace(ends: Ends) -> None:
    """After three seconds SYNs are dropped, but for one a second that tries again."""
    bench = SpliceBench(probe=FREE)
    first = natively(ends, 1001)
    assert bench.reasons(first.syn) == ["splice_probe"]
    bench.pass_time(3000)
    others = [ends.syn(sport=port, options=linux()) for port in (5, 6, 7)]
    assert bench.reasons(*others) == ["splice_probe", "splice_silent", "splice_silent"]
    again = natively(ends, 5)
    bench.leave(again.back(flags=SYN | ACK, options=TAKES))
    assert bench.reasons(ends.syn(sport=8, options=linux())) == ["cookie_sent"]


@FAMILIES
def test_silence_to_spliced_clients_counts_too(ends: Ends) -> None:
    """They have proven themselves: there is somebody who asks."""
    bench = SpliceBench(probe=FREE)
    taught(bench, ends)
    bench.ask(ends)
    bench.pass_time(3000)
    syns = [ends.syn(sport=port, options=linux()) for port in (5, 6)]
    assert bench.reasons(*syns) == ["splice_probe", "splice_silent"]


@FAMILIES
def test_port_that_is_closed_refuses(ends: Ends) -> None:
    """With the reset that the server would send, until another SYN shows whether it still is."""
    bench = SpliceBench(probe=FREE)
    first = natively(ends, 1001)
    assert bench.reasons(first.syn) == ["splice_probe"]
    refusal = first.back(seq=0, flags=RST | ACK)
    outcome = bench.leave(refusal)
    assert (outcome.verdict, outcome.reason, outcome.frame) == ("PASS", "", refusal.frame())
    outcome = bench.enter(ends.syn(sport=5, options=linux(), data=b"abc"))
    packet = read(outcome.frame)
    assert (outcome.verdict, outcome.reason) == ("TX", "splice_refused")
    assert (packet.flags, packet.seq, packet.ack) == (RST | ACK, 0, 0x11223345)
    assert (packet.source, packet.destination) == (ends.server, ends.client)
    bench.pass_time(1000)
    assert bench.reasons(ends.syn(sport=5)) == ["splice_probe"]


@FAMILIES
def test_refusal_of_a_spliced_flow_closes_the_port(ends: Ends) -> None:
    """For the next ones, until it opens again."""
    bench = SpliceBench(probe=FREE)
    taught(bench, ends)
    talk = bench.ask(ends)
    bench.leave(talk.back(seq=0, flags=RST | ACK))
    assert bench.reasons(ends.syn(sport=5, options=linux())) == ["splice_refused"]


@FAMILIES
@pytest.mark.parametrize("wrong", ["other client", "sequence number", "not asked"])
def test_other_resets_close_no_port(ends: Ends, wrong: str) -> None:
    """Only what answers the SYN that was let through."""
    bench = SpliceBench(probe=FREE)
    first = natively(ends, 1001)
    bench.enter(first.syn)
    refusal = first.back(seq=0, flags=RST | ACK)
    if wrong == "other client":
        refusal = replace(refusal, dport=1002)
    elif wrong == "sequence number":
        refusal = replace(refusal, seq=5)
    else:
        bench.leave(first.back(flags=SYN | ACK, options=TAKES))
    bench.leave(refusal)
    assert bench.reasons(ends.syn(sport=5, options=linux())) == ["cookie_sent"]


@FAMILIES
def test_answers_by_another_way_are_noticed(ends: Ends) -> None:
    """A client goes on, no SYN-ACK was seen for a second: clients prove themselves as in reset."""
    bench = SpliceBench(probe=FREE)
    first = natively(ends, 1001)
    assert bench.reasons(first.syn, first.out()) == ["splice_probe", "known_flow"]
    bench.pass_time(998)
    assert bench.reasons(first.out()) == ["known_flow"]
    bench.pass_time(2)
    (before,) = backend_rows(bench.engine.object).values()
    assert bench.reasons(first.out()) == ["known_flow"]
    (after,) = backend_rows(bench.engine.object).values()
    assert (before.state, after.state) == (0, 3)
    # The probe of now, which tells whether answers come by again.
    assert bench.reasons(ends.syn(sport=5)) == ["splice_probe"]
    syn = ends.syn(sport=6, options=windows())
    packet, _ = bench.answered(syn)
    ack = replace(syn, seq=syn.seq + 1, ack=packet.seq + 1, flags=ACK, options=b"")
    outcome = bench.enter(ack)
    assert (outcome.verdict, outcome.reason) == ("TX", "reset_sent")
    assert bench.reasons(syn) == ["proven_syn"]
    assert splice_rows(bench.engine.object) == {}


@FAMILIES
def test_answers_that_come_by_again_are_noticed(ends: Ends) -> None:
    """One SYN-ACK is enough."""
    bench = SpliceBench(probe=FREE)
    first = natively(ends, 1001)
    bench.enter(first.syn)
    bench.pass_time(1000)
    bench.enter(first.out())
    bench.leave(first.back(flags=SYN | ACK, options=TAKES))
    bench.open(ends)


@FAMILIES
def test_servers_are_learned_in_peace(ends: Ends) -> None:
    """Where there is a watch: everything passes."""
    bench = SpliceBench(probe=FREE, watched=True)
    first = natively(ends, 1001)
    assert bench.reasons(first.syn, first.out()) == ["watched", "watched"]
    bench.leave(first.back(flags=SYN | ACK, options=TAKES))
    ((address, row),) = backend_rows(bench.engine.object).items()
    assert address[16:] == (80).to_bytes(2, "big")
    assert (row.state, row.mss, row.wscale) == (1, 1300, 3)


# a full table


@cache
def small() -> Engine:
    """Return the program with room for 64 spliced flows."""
    path = built("build/bpf/engine.bpf.o") / "bpf" / "engine.bpf.o"
    return Engine(path, sets=16)


def proven(bench: SpliceBench, ends: Ends, port: int) -> Segment:
    """Return the ACK of a client that has its cookie."""
    syn = ends.syn(sport=port, options=windows())
    outcome = bench.engine.run(syn.frame())
    assert outcome.reason == "cookie_sent"
    number = read(outcome.frame).seq
    return replace(syn, seq=syn.seq + 1, ack=number + 1, flags=ACK, options=b"")


@FAMILIES
def test_flow_that_lives_is_never_given_up(ends: Ends) -> None:
    """Who finds no room is told so by the counter, and gets in when another flow is over."""
    bench = SpliceBench(on=small())
    acks = {port: proven(bench, ends, port) for port in range(1000, 1160)}
    run = bench.engine.run
    first = {port: run(ack.frame()) for port, ack in acks.items()}
    kept = [port for port, one in first.items() if one.reason == "splice_open"]
    full = [port for port in acks if port not in kept]
    told = {(first[port].verdict, first[port].reason, first[port].slot) for port in full}
    assert told == {("DROP", "splice_full", 1)}
    assert len(splice_rows(bench.engine.object)) == len(kept) >= 56
    # Every one that was let in can go on.
    for port in kept:
        back = Conversation(ends, ends.syn(sport=port), 0, None, acks[port]).back
        answer = back(seq=5, flags=SYN | ACK, options=mss(1400), link=BACK)
        assert bench.engine.run_out(answer.frame()).reason == "splice_answered"
    assert {run(acks[port].frame()).reason for port in full} == {"splice_full"}
    # Rows of flows that are over make room.
    bench.pass_time(2048 * 4000)
    again = [run(acks[port].frame()).reason for port in full]
    assert "splice_open" in again


@FAMILIES
def test_flow_keeps_its_row_when_it_opens_again(ends: Ends) -> None:
    """However full the table is."""
    bench = SpliceBench(on=small())
    talk = bench.open(ends)
    for port in range(1000, 1160):
        bench.engine.run(proven(bench, ends, port).frame())
    for run, segment in ((bench.engine.run, talk.out), (bench.engine.run_out, talk.back)):
        run(segment(flags=ACK | RST).frame())
    # With the numbers that it has had it would be the old one's first segment, sent again.
    syn = ends.syn(seq=CLIENT_ISN + 1000, options=linux(9))
    outcome = bench.engine.run(syn.frame())
    packet = read(outcome.frame)
    told = read_options(packet.options)
    stamps = NOP + NOP + timestamps(10, told.tsval or 0)
    ack = replace(syn, seq=syn.seq + 1, ack=packet.seq + 1, flags=ACK, options=stamps)
    assert bench.engine.run(ack.frame()).reason == "splice_open"


@FAMILIES
def test_flood_cannot_make_an_open_port_look_silent(ends: Ends) -> None:
    """A probe of an open port that gets no answer says nothing of the server."""
    bench = SpliceBench(probe=FREE)
    taught(bench, ends)
    bench.pass_time(30_000)
    assert bench.reasons(ends.syn(sport=2001, options=linux())) == ["splice_probe"]
    bench.pass_time(3000)
    found = bench.reasons(*(ends.syn(sport=port, options=linux()) for port in (2002, 2003)))
    assert found == ["splice_probe", "cookie_sent"]


@FAMILIES
def test_silence_and_refusal_do_not_last_by_themselves(ends: Ends) -> None:
    """After ten seconds without proof a client is asked for its own again."""
    bench = SpliceBench(probe=FREE)

    assert bench.reasons(ends.syn(sport=1001, options=linux())) == ["splice_probe"]
    bench.pass_time(3000)
    assert bench.reasons(*(ends.syn(sport=port, options=linux()) for port in (1002, 1003))) == [
        "splice_probe",
        "splice_silent",
    ]
    bench.pass_time(10_000)
    assert bench.reasons(*(ends.syn(sport=port, options=linux()) for port in (1004, 1005))) == [
        "splice_probe",
        "cookie_sent",
    ]
