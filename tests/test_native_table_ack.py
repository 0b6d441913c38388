# SPDX-License-Identifier: Apache-2.0
"""Valid and invalid cookies, and what the client of each mode gets for them."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.bpf_bench import FAMILIES, MODES, Bench, Ends, bench_of, good, sent_number
from tests.support.bpf_fuzz import flows
from tests.support.model_scene import Slot, Tcp
from tests.support.packets import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    RST,
    URG,
    Datagram,
    Link,
    Segment,
    linux,
)


@FAMILIES
@MODES
def test_acknowledging_the_answer_is_a_valid_cookie(ends: Ends, mode: str) -> None:
    """What the program sent is what it takes, with nothing kept in between."""
    bench = bench_of(mode=mode)
    syn = ends.syn(options=linux())
    number = sent_number(bench.run(syn).frame, ends)
    assert flows(bench.engine) == {}
    ack = replace(syn, seq=syn.seq + 1, ack=number + 1, flags=ACK, options=b"")
    assert bench.reason(ack) == good(mode)


@FAMILIES
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": b"GET / HTTP/1.0\r\n\r\n"},
        {"flags": ACK | PSH, "data": b"x" * 1448},
        {"flags": ACK | FIN},
        {"flags": ACK | FIN | PSH, "data": b"bye"},
        {"flags": ACK | URG, "urgent": 1, "data": b"!"},
        {"flags": ACK | ECE | CWR},
        {"options": b"\1\1\x08\x0a" + bytes(8)},
        {"link": Link(pad_to=60)},
    ],
    ids=["bare", "request", "full", "FIN", "FIN PSH", "URG", "ECN", "timestamps", "padded"],
)
def test_valid_cookie_passes_unchanged(ends: Ends, fields: dict[str, Any]) -> None:
    """The server takes it by itself, with whatever the third packet carries."""
    bench = bench_of()
    ack = bench.ack(ends.syn(), **fields)
    outcome = bench.run(ack)
    assert (outcome.verdict, outcome.reason) == ("PASS", "cookie_good")
    assert outcome.frame == ack.frame()


@FAMILIES
@MODES
@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("age", [0, 1])
def test_every_mss_and_both_minutes_are_taken(ends: Ends, mode: str, index: int, age: int) -> None:
    """Four indices; the minute of now and the one before."""
    bench = bench_of(mode=mode)
    assert bench.reason(bench.ack(ends.syn(), index=index, age=age)) == good(mode)


@FAMILIES
@MODES
@pytest.mark.parametrize("index", [-1, 4, 5, 1000])
def test_mss_that_does_not_exist_is_no_cookie(ends: Ends, mode: str, index: int) -> None:
    """The low 24 bits must give one of four."""
    assert bench_of(mode=mode).reason(bench_of().ack(ends.syn(), index=index)) == "cookie_bad"


@FAMILIES
@MODES
@pytest.mark.parametrize("age", [-1, 2, 3, 60, 254, 255])
def test_other_minutes_are_not_taken(ends: Ends, mode: str, age: int) -> None:
    """Two minutes old is too old, and the future is wrong."""
    bench = bench_of(mode=mode)
    assert bench.reason(bench.ack(ends.syn(), age=age)) == "cookie_bad"


@FAMILIES
@pytest.mark.parametrize(
    ("index", "name", "change"),
    [(3, "ack", 1), (0, "ack", -1), (3, "seq", -1), (0, "seq", 1), (0, "ack", 1 << 24),
     (0, "ack", 1 << 31), (0, "seq", 1 << 20), (0, "sport", 1), (0, "dport", 1)],
)  # fmt: skip
def test_cookie_is_bound_to_every_field(ends: Ends, index: int, name: str, change: int) -> None:
    """Off by one and more, in numbers and ports; such a segment gets no reply.

    The number beside a valid one stands for the next MSS, so the ends of that table are taken.
    """
    bench = bench_of()
    ack = bench.ack(ends.syn(), index=index)
    wrong = replace(ack, **{name: getattr(ack, name) + change})
    outcome = bench.run(wrong)
    assert (outcome.verdict, outcome.reason) == ("DROP", "cookie_bad")


@FAMILIES
def test_cookie_is_bound_to_the_addresses(ends: Ends) -> None:
    """Another client or another server cannot use it."""
    bench = Bench(
        Slot(settings=Tcp()),
        targets={"192.0.2.0/24": (1,), "2001:db8:2::/48": (1,)},
    )
    ack = bench.ack(ends.syn())
    assert bench.reason(replace(ack, source=ends.stranger)) == "cookie_bad"
    assert bench.reason(replace(ack, destination=ends.neighbour)) == "cookie_bad"
    assert bench.reason(ack) == "cookie_good"


@FAMILIES
@MODES
def test_minute_may_end_during_the_handshake(ends: Ends, mode: str) -> None:
    """Made at :59.9, taken at :00.5, and so for the whole next minute, but no longer."""
    bench = bench_of(mode=mode)
    bench.pass_time(59_900 - (bench.engine.now() + bench.tcp().cookie_offset) % 60_000)
    ack = bench.ack(ends.syn())
    taken = []
    for wait in (600, 59_400, 200):
        bench.engine.forget_flows()
        bench.model.flows.clear()
        bench.model.sources.clear()
        bench.pass_time(wait)
        taken.append(bench.reason(ack))
    assert taken == [good(mode), good(mode), "cookie_bad"]


@FAMILIES
def test_lost_ack_is_made_good_by_the_first_data(ends: Ends) -> None:
    """The first data segment has the same numbers; a later one alone is not taken."""
    bench = bench_of()
    first = bench.ack(ends.syn(), flags=ACK | PSH, data=b"hello")
    later = replace(first, seq=first.seq + 5)
    assert bench.reason(later) == "cookie_bad"
    assert bench.reason(first) == "cookie_good"
    assert bench.reason(later) == "known_flow"


@FAMILIES
def test_replayed_cookie_passes_as_a_known_flow(ends: Ends) -> None:
    """From the same 4-tuple only; it enters nothing a second time."""
    bench = bench_of()
    ack = bench.ack(ends.syn())
    assert [bench.reason(ack) for _ in range(3)] == ["cookie_good", "known_flow", "known_flow"]
    assert len(flows(bench.engine)) == 1
    assert bench.engine.work()["flows_inserted"] == 1
    assert bench.engine.work()["sources_inserted"] == 1


# reset


@FAMILIES
def test_reset_mode_proves_and_resets(ends: Ends) -> None:
    """RST alone with the number that was acknowledged, in a bare header; the next SYN passes."""
    bench = bench_of(mode="reset")
    ack = bench.ack(ends.syn(), data=b"x" * 100, options=b"\1" * 12)
    outcome = bench.run(ack)
    assert (outcome.verdict, outcome.reason) == ("TX", "reset_sent")
    expected = Segment(
        source=ends.server,
        destination=ends.client,
        sport=80,
        dport=ack.sport,
        seq=ack.ack,
        ack=0,
        flags=RST,
        window=0,
        link=Link(source_mac=ack.link.destination_mac, destination_mac=ack.link.source_mac),
        ip=Datagram(
            source=ends.server,
            destination=ends.client,
            protocol=6,
            ttl=64,
            ident=0,
            flow_label=0,
        ),
    ).frame()
    assert outcome.frame[: len(expected)].hex() == expected.hex()
    assert len(outcome.frame) == max(60, len(expected))
    syn = ends.syn(sport=50000)
    assert bench.reason(syn) == "proven_syn"
    assert bench.reason(replace(syn, flags=ACK, seq=syn.seq + 1)) == "known_flow"


@FAMILIES
def test_reset_mode_enters_no_flow_by_a_cookie(ends: Ends) -> None:
    """The handshake was with us, the server knows nothing of it."""
    bench = bench_of(mode="reset")
    ack = bench.ack(ends.syn())
    assert [bench.reason(ack) for _ in range(2)] == ["reset_sent", "reset_sent"]
    assert flows(bench.engine) == {}
