# SPDX-License-Identifier: Apache-2.0
"""Who is known: flows, proven sources, sightings; and what unknown segments meet."""

from dataclasses import replace

import pytest

from tests.support import bpf_abi as abi
from tests.support.bpf_bench import FAMILIES, MODES, Bench, Ends, bench_of, good
from tests.support.bpf_fuzz import flows
from tests.support.model_scene import SECOND_NS, Rate, Slot, Tcp, per_second
from tests.support.packets import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    mss,
)


@FAMILIES
def test_known_flow_passes_whatever_comes(ends: Ends) -> None:
    """Keepalive and zero window probes one lower, a SYN (RFC 5961), old data, RST, SYN-ACK."""
    bench = bench_of()
    ack = bench.ack(ends.syn())
    bench.run(ack)
    for fields in (
        {"seq": ack.seq - 1},
        {"seq": ack.seq - 1, "data": b"\0"},
        {"flags": SYN, "seq": 9},
        {"flags": SYN | ACK},
        {"flags": ACK | PSH, "seq": ack.seq + 1_000_000, "ack": ack.ack + 5_000_000},
        {"flags": FIN | ACK},
        {"flags": FIN},
        {"flags": RST},
        {"flags": RST | ACK},
    ):
        assert bench.reason(replace(ack, **fields)) == "known_flow", fields


@FAMILIES
def test_syns_in_a_known_flow_cost_tokens(ends: Ends) -> None:
    """Else one proof would buy a SYN flood: each SYN in a flow that has ended opens another."""
    bench = bench_of(source=per_second(1, burst=2), unknown=per_second(1, burst=1))
    ack = bench.ack(ends.syn())
    bench.run(ack)
    reasons = [bench.reason(ends.syn()) for _ in range(4)]
    assert reasons == ["known_flow"] * 3 + ["cookie_sent"]
    assert bench.reason(ack) == "known_flow"


@FAMILIES
def test_known_flow_does_not_excuse_nonsense(ends: Ends) -> None:
    """Impossible flags and fragments are dropped in any flow."""
    bench = bench_of()
    ack = bench.ack(ends.syn())
    bench.run(ack)
    assert bench.reason(replace(ack, flags=SYN | FIN)) == "bad_flags"
    assert bench.reason(replace(ack, flags=0)) == "bad_flags"
    if ends.family == 4:
        assert bench.reason(ack.with_ip(fragment=0x2000)) == "fragment"


@FAMILIES
def test_flow_is_its_four_tuple(ends: Ends) -> None:
    """Another port is another flow, which its source's bucket must let through."""
    bench = bench_of(source=Rate(SECOND_NS, 0))
    ack = bench.ack(ends.syn())
    assert bench.reason(ack) == "cookie_good"
    assert bench.reason(replace(ack, sport=ack.sport + 1)) == "cookie_bad"
    assert bench.reason(replace(ack, dport=ack.dport + 1)) == "cookie_bad"
    assert bench.reason(replace(ack, source=ends.stranger)) == "cookie_bad"


def set_seen(bench: Bench, ends: Ends, ago: int, *, closing: bool = False) -> None:
    """Let the only flow have been seen some seconds ago."""
    name, layout = ("flows4", abi.Flow4Set) if ends.family == 4 else ("flows6", abi.Flow6Set)
    table = bench.engine.object.maps[name]
    now = (bench.engine.now() >> 10 | 1) - ago & 0x7FFFFFFF
    seen = now | (abi.CLOSING if closing else 0)
    for index in range(table.entries):
        for way in table.view(layout, index).way:
            if way.ports:
                way.seen = seen
    for flow in bench.model.flows:
        bench.model.flows[flow] = seen


@FAMILIES
@pytest.mark.parametrize(
    ("ago", "closing", "reason"),
    [(0, False, "known_flow"), (100, False, "known_flow"), (102, False, "cookie_bad"),
     (10, True, "known_flow"), (12, True, "cookie_bad"), (-100, False, "known_flow")],
)  # fmt: skip
def test_flow_is_forgotten_when_it_is_idle(
    ends: Ends, ago: int, *, closing: bool, reason: str
) -> None:
    """After the idle time, or the shorter one once FIN or RST has been seen."""
    bench = Bench(Slot(settings=Tcp(source=Rate(SECOND_NS, 0))), flow_idle=100, flow_closing=10)
    ack = bench.ack(ends.syn())
    bench.run(ack)
    set_seen(bench, ends, ago, closing=closing)
    assert bench.reason(replace(ack, ack=ack.ack + 1000)) == reason


@FAMILIES
def test_fin_and_rst_mark_a_flow_and_data_or_a_syn_unmarks_it(ends: Ends) -> None:
    """The client's last ACK does not: a flow that it closed is not kept as long as an open one."""
    bench = bench_of()
    ack = bench.ack(ends.syn())
    marks = []
    for flags, data in (
        (ACK, b""), (ACK | FIN, b""), (ACK, b""), (ACK, b"x"), (RST, b""), (ACK | PSH, b""),
        (SYN, b""), (RST | ACK, b"x"),
    ):  # fmt: skip
        bench.run(replace(ack, flags=flags, data=data))
        (seen,) = flows(bench.engine).values()
        marks.append(bool(seen & abi.CLOSING))
    assert marks == [False, True, True, False, True, True, False, True]


@FAMILIES
def test_use_keeps_a_flow(ends: Ends) -> None:
    """Each segment moves the time at which it will be forgotten."""
    bench = bench_of()
    ack = bench.ack(ends.syn())
    bench.run(ack)
    set_seen(bench, ends, 3000)
    bench.run(ack)
    (seen,) = flows(bench.engine).values()
    assert seen == bench.engine.now() >> 10 | 1


@FAMILIES
def test_inserts_are_capped_each_second(ends: Ends) -> None:
    """Beyond it a valid cookie still passes, only the flow is not kept; it is counted."""
    bench = Bench(Slot(settings=Tcp()), inserts_per_second=3)
    with bench.engine.on_one_cpu():
        for port in range(1, 6):
            assert bench.reason(bench.ack(ends.syn(sport=port))) == "cookie_good"
    assert len(flows(bench.engine)) == 3
    work = bench.engine.work()
    assert (work["flows_inserted"], work["flows_capped"]) == (3, 2)


# proven sources


@FAMILIES
@MODES
def test_proven_source_sends_its_syns_to_the_server(ends: Ends, mode: str) -> None:
    """Within its bucket, and its flow is known from then on; then it gets cookies again."""
    bench = bench_of(mode=mode, source=per_second(1, burst=2))
    assert bench.reason(bench.ack(ends.syn())) == good(mode)
    reasons = [bench.reason(ends.syn(sport=port)) for port in (1, 2, 3)]
    assert reasons == ["proven_syn", "proven_syn", "cookie_sent"]
    assert bench.reason(ends.syn(sport=1, flags=ACK)) == "known_flow"
    assert bench.reason(ends.syn(source=ends.stranger)) == "cookie_sent"


@FAMILIES
def test_proven_source_passes_with_unknown_segments(ends: Ends) -> None:
    """A flow that was evicted survives by its source; the same bucket pays."""
    bench = bench_of(source=per_second(1, burst=1))
    bench.run(bench.ack(ends.syn()))
    segment = ends.syn(sport=7, flags=ACK, ack=1)
    assert bench.reason(segment) == "proven_ack"
    assert bench.reason(segment) == "known_flow"
    assert bench.reason(replace(segment, sport=8)) == "cookie_bad"


@FAMILIES
@pytest.mark.parametrize(("ago", "reason"), [(100, "proven_syn"), (102, "cookie_sent")])
def test_proof_is_forgotten_when_it_is_not_used(ends: Ends, ago: int, reason: str) -> None:
    """After the idle time a source proves itself again."""
    bench = Bench(Slot(settings=Tcp()), source_idle=100)
    bench.run(bench.ack(ends.syn()))
    table = bench.engine.object.maps["sources"]
    seen = (bench.engine.now() >> 10 | 1) - ago & 0x7FFFFFFF
    for index in range(table.entries):
        for way in table.view(abi.SourceSet, index).way:
            if way.seen:
                way.seen = seen
    for known in bench.model.sources.values():
        known.seen = seen
    assert bench.reason(ends.syn(sport=9)) == reason


@FAMILIES
def test_another_proof_does_not_fill_the_bucket(ends: Ends) -> None:
    """A source that replays cookies gets no more than its rate."""
    bench = bench_of(source=per_second(1, burst=1))
    for port in (1, 2, 3):
        assert bench.reason(bench.ack(ends.syn(sport=port))) == "cookie_good"
    reasons = [bench.reason(ends.syn(sport=port)) for port in (4, 5)]
    assert reasons == ["proven_syn", "cookie_sent"]


@FAMILIES
@MODES
def test_spoofed_packets_leave_nothing_behind(ends: Ends, mode: str) -> None:
    """SYNs, random ACKs, data, FIN, RST and bad cookies insert nothing anywhere."""
    bench = bench_of(mode=mode)
    for port in range(1, 50):
        for flags in (SYN, ACK, ACK | PSH, FIN | ACK, FIN, RST, RST | ACK, PSH):
            bench.run(ends.syn(sport=port, flags=flags, ack=port * 77, options=mss(1400)))
    for name in ("flows4", "flows6", "sources", "sightings", "talkers"):
        memory = bench.engine.object.maps[name].memory
        assert memory[:].count(0) == len(memory), name
