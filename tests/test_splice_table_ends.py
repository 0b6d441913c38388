# SPDX-License-Identifier: Apache-2.0
"""ICMP errors about spliced flows, their ends, and what is left of them."""

import pytest

from tests.support.bpf_bench import FAMILIES, Ends
from tests.support.bpf_splice_bench import (
    BACK,
    CLIENT_ISN,
    SERVER_ISN,
    SpliceBench,
    read,
)
from tests.support.packets import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    RST,
    Datagram,
    Link,
    checksum,
    icmp,
    linux,
    pseudo_header,
    windows,
)

U32 = 0xFFFFFFFF
ROUTERS = {4: bytes([203, 0, 113, 1]), 6: bytes.fromhex("20010db8007700000000000000000001")}


def error(
    ends: Ends, about: bytes, to: bytes, kind: int, *, cut: int = 8, link: Link = BACK
) -> Datagram:
    """Return an ICMP error of a router about a frame."""
    packet = read(about)
    quotation = about[packet.start : packet.at + cut]
    source = ROUTERS[ends.family]
    return Datagram(
        source=source,
        destination=to,
        protocol=ICMP if ends.family == 4 else ICMP6,
        payload=icmp(source, to, kind, 4, (1400).to_bytes(4, "big") + quotation),
        link=link,
    )


def quoted_of(frame: bytes, ends: Ends) -> bytes:
    """Return what an error quotes from the TCP header on; its own checksum is right."""
    packet = read(frame)
    content = frame[packet.at : packet.end]
    pseudo = b""
    if ends.family == 6:
        pseudo = pseudo_header(packet.source, packet.destination, ICMP6, len(content))
    assert checksum(pseudo + content) == 0
    return content[8 + (20 if ends.family == 4 else 40) :]


@FAMILIES
@pytest.mark.parametrize("cut", [8, 20, 40])
@pytest.mark.parametrize(
    "kind", [{4: 3, 6: 2}, {4: 11, 6: 3}, {4: 12, 6: 4}, {4: 3, 6: 1}], ids=str
)
def test_error_about_what_the_server_sent_is_translated(
    ends: Ends, cut: int, kind: dict[int, int]
) -> None:
    """Its stack looks for the sequence number, and knows only its own."""
    bench = SpliceBench()
    talk = bench.open(ends)
    sent = bench.leave(talk.back(data=bytes(100), seq=SERVER_ISN + 77)).frame
    outcome = bench.enter(error(ends, sent, ends.server, kind[ends.family], cut=cut))
    assert (outcome.verdict, outcome.reason, outcome.slot) == ("PASS", "splice_icmp", 1)
    quotation = quoted_of(outcome.frame, ends)
    assert int.from_bytes(quotation[4:8], "big") == SERVER_ISN + 77
    assert len(quotation) == cut


@FAMILIES
@pytest.mark.parametrize("cut", [8, 20, 40])
def test_error_about_what_the_client_sent_is_translated(ends: Ends, cut: int) -> None:
    """Its own number stays; what it acknowledges, if that is quoted, is in its numbers again."""
    bench = SpliceBench()
    talk = bench.open(ends)
    came = talk.out(data=bytes(100), ack=talk.number + 77)
    sent = bench.enter(came).frame
    wrong = error(ends, sent, ends.client, 3 if ends.family == 4 else 2, cut=cut)
    outcome = bench.leave(wrong)
    assert (outcome.verdict, outcome.reason, outcome.slot) == ("PASS", "splice_icmp", 1)
    quotation = quoted_of(outcome.frame, ends)
    assert quotation[4:8] == came.tcp()[4:8]
    if cut > 8:
        assert quotation[8:12] == came.tcp()[8:12]


@FAMILIES
def test_errors_about_other_flows_are_not_touched(ends: Ends) -> None:
    """Nor those about a flow whose server has not answered, nor what only looks like one."""
    bench = SpliceBench()
    talk = bench.open(ends)
    kind = 3 if ends.family == 4 else 2
    strange = error(ends, talk.back(sport=5).frame(), ends.server, kind)
    elsewhere = error(ends, talk.back().frame(), ends.neighbour, kind)
    for one, reason in ((strange, "icmp_error"), (elsewhere, "unprotected")):
        outcome = bench.enter(one)
        assert (outcome.reason, outcome.frame) == (reason, one.frame())
    echo = error(ends, talk.back().frame(), ends.server, 8 if ends.family == 4 else 128)
    assert bench.enter(echo).reason == "not_concerned"
    waiting = bench.ask(ends, syn=ends.syn(sport=77, options=linux()))
    asked = error(ends, waiting.extra["syn"], ends.client, kind)
    outcome = bench.leave(asked)
    assert (outcome.reason, outcome.frame) == ("", asked.frame())


# ends


@FAMILIES
@pytest.mark.parametrize("first", ["client", "server"])
def test_flow_that_both_ended_makes_room_for_another(ends: Ends, first: str) -> None:
    """Until then a SYN is the server's affair; after that it gets a cookie, by the same name."""
    bench = SpliceBench()
    talk = bench.open(ends)
    fins = [(bench.enter, talk.out(flags=ACK | FIN)), (bench.leave, talk.back(flags=ACK | FIN))]
    again = ends.syn(seq=5, options=linux())
    for run, fin in fins if first == "client" else fins[::-1]:
        assert bench.enter(again).reason == "splice_client"
        assert run(fin).reason in {"splice_client", "splice_server"}
    # What is still under way is translated.
    assert bench.enter(talk.out()).reason == "splice_client"
    assert bench.leave(talk.back()).reason == "splice_server"
    another = bench.open(ends, syn=again)
    assert read(bench.enter(another.out()).frame).ack == SERVER_ISN + 1
    assert read(bench.leave(another.back()).frame).seq == another.number + 1 & U32


@FAMILIES
@pytest.mark.parametrize("who", ["client", "server"])
def test_reset_ends_a_flow(ends: Ends, who: str) -> None:
    """It is translated, and the flow kept for what is under way, for as long as is set."""
    bench = SpliceBench(flow_closing=60)
    talk = bench.open(ends)
    if who == "client":
        packet = read(bench.enter(talk.out(flags=RST | ACK)).frame)
        assert packet.ack == SERVER_ISN + 1
    else:
        packet = read(bench.leave(talk.back(flags=RST)).frame)
        assert packet.seq == talk.number + 1 & U32
    assert bench.reasons(talk.out()) == ["splice_client"]
    bench.pass_time(2048 * 40)
    assert bench.reasons(talk.out()) == ["cookie_bad"]
    assert bench.leave(talk.back()).reason == ""


@FAMILIES
def test_silent_flow_is_kept_for_hours(ends: Ends) -> None:
    """Two hours and four minutes, RFC 5382 says; either side renews it."""
    bench = SpliceBench()
    talk = bench.open(ends)
    bench.pass_time(7_000_000)
    assert bench.leave(talk.back()).reason == "splice_server"
    bench.pass_time(7_000_000)
    assert bench.reasons(talk.out()) == ["splice_client"]
    bench.pass_time(2048 * 3800)
    assert bench.leave(talk.back()).reason == ""


@FAMILIES
def test_server_that_forgot_a_flow_has_a_new_one(ends: Ends) -> None:
    """It takes a SYN in the flow for a new one: from then on nothing is translated."""
    bench = SpliceBench()
    talk = bench.open(ends)
    again = ends.syn(seq=1000, options=windows())
    outcome = bench.enter(again)
    assert (outcome.reason, outcome.frame) == ("splice_client", again.frame())
    answer = bench.syn_ack(talk, seq=5000, ack=1001)
    outcome = bench.leave(answer)
    assert (outcome.verdict, outcome.reason, outcome.frame) == ("PASS", "", answer.frame())
    segment = talk.out(seq=1001, ack=5001)
    outcome = bench.enter(segment)
    assert (outcome.reason, outcome.frame) == ("known_flow", segment.frame())


@FAMILIES
def test_server_in_doubt_asks_the_client(ends: Ends) -> None:
    """Its challenge to a SYN in the flow reaches the client in its numbers; the RST comes back."""
    bench = SpliceBench()
    talk = bench.open(ends)
    bench.enter(ends.syn(seq=1000, options=linux()))
    challenge = read(bench.leave(talk.back()).frame)
    assert challenge.seq == talk.number + 1 & U32
    reset = bench.enter(talk.out(seq=challenge.ack, ack=0, flags=RST))
    assert (reset.reason, read(reset.frame).seq) == ("splice_client", CLIENT_ISN + 1)


@FAMILIES
@pytest.mark.parametrize("how", ["expired", "gone"])
def test_flows_outlive_their_mitigation(ends: Ends, how: str) -> None:
    """They are translated to their end, and counted for it as long as it has its place."""
    bench = SpliceBench()
    talk = bench.open(ends)
    waiting = bench.ask(ends, syn=ends.syn(sport=77, options=linux()))
    if how == "expired":
        bench.expire()
    else:
        bench.engine.drop_targets()
        bench.model.drop_targets()
    assert bench.reasons(talk.out()) == ["splice_client"]
    assert bench.leave(talk.back()).reason == "splice_server"
    assert bench.leave(bench.syn_ack(waiting)).reason == "splice_answered"
    sent = bench.leave(talk.back(data=b"abc")).frame
    kind = 3 if ends.family == 4 else 2
    outcome = bench.enter(error(ends, sent, ends.server, kind))
    assert int.from_bytes(quoted_of(outcome.frame, ends)[4:8], "big") == SERVER_ISN + 1
    # New ones are not spliced any more.
    assert bench.reasons(ends.syn(sport=99, options=linux())) == ["unprotected"]


@FAMILIES
def test_request_that_is_sent_again_after_the_end_is_made_once(ends: Ends) -> None:
    """Its numbers are those of a cookie still, and yet it opens no second connection."""
    bench = SpliceBench()
    talk = bench.open(ends)
    bench.enter(talk.out(flags=ACK | FIN))
    bench.leave(talk.back(flags=ACK | FIN))
    assert bench.reasons(talk.out(data=b"POST")) == ["splice_client"]
