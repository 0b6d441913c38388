# SPDX-License-Identifier: Apache-2.0
"""Tables of the data plane when they are full: who goes, who stays, and that it is counted."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from tests.support import bpf_abi as abi
from tests.support.bpf_bench import FAMILIES, V4, Bench, Ends, engine
from tests.support.bpf_engine import Engine
from tests.support.bpf_fuzz import flows, rows
from tests.support.model_scene import FOREVER, SECOND_NS, Rate, Slot, Sorb, Tcp, per_second
from tests.support.packets import ACK, UDP, Segment, udp

SETS = 1
"""Every key then lies in the same set."""


def small(*slots: Slot, sets: int = SETS, **fields: Any) -> Bench:
    """Return a bench on a program whose tables have only so many sets."""
    return Bench(*slots, on=engine(sets=sets), **fields)


def handshakes(bench: Bench, segments: Iterable[Segment]) -> None:
    """Let each client prove itself; the program is asked alone, the model's tables are endless."""
    for segment in segments:
        assert bench.engine.run(bench.ack(segment).frame()).reason == "cookie_good"


def age_flows(loaded: Engine, ends: Ends, ages: dict[int, int]) -> None:
    """Let the flow of each client port have been seen so many seconds ago."""
    name, layout = ("flows4", abi.Flow4Set) if ends.family == 4 else ("flows6", abi.Flow6Set)
    now = loaded.now() >> 10 | 1
    for way in loaded.object.maps[name].view(layout).way:
        port = int.from_bytes(way.ports.to_bytes(4, "little")[:2], "big")
        way.seen = now - ages[port] & 0x7FFFFFFF


def ports_known(loaded: Engine) -> set[int]:
    """Return the client ports of the flows in the tables."""
    return {int.from_bytes(flow[32:34], "big") for flow in flows(loaded)}


@FAMILIES
def test_longest_unseen_flow_goes_first(ends: Ends) -> None:
    """A new flow takes its place, which is counted as the loss of a live one."""
    bench = small(Slot(settings=Tcp()))
    handshakes(bench, (ends.syn(sport=port) for port in (1, 2, 3, 4)))
    assert ports_known(bench.engine) == {1, 2, 3, 4}
    age_flows(bench.engine, ends, {1: 50, 2: 700, 3: 600, 4: 0})
    handshakes(bench, [ends.syn(sport=5)])
    assert ports_known(bench.engine) == {1, 3, 4, 5}
    work = bench.engine.work()
    assert (work["flows_inserted"], work["flows_evicted"]) == (5, 1)


@FAMILIES
def test_forgotten_flow_goes_before_any_live_one(ends: Ends) -> None:
    """Nothing is lost by that, and nothing counted."""
    bench = small(Slot(settings=Tcp()), flow_idle=500)
    handshakes(bench, (ends.syn(sport=port) for port in (1, 2, 3, 4)))
    age_flows(bench.engine, ends, {1: 400, 2: 300, 3: 502, 4: 499})
    handshakes(bench, [ends.syn(sport=5)])
    assert ports_known(bench.engine) == {1, 2, 4, 5}
    assert bench.engine.work()["flows_evicted"] == 0


@FAMILIES
def test_evicted_flow_survives_by_its_source(ends: Ends) -> None:
    """Its next segment is let through within the source's bucket and enters it again."""
    bench = small(Slot(settings=Tcp(source=per_second(1, burst=3))))
    handshakes(bench, (ends.syn(sport=port) for port in range(1, 6)))
    (gone,) = {1, 2, 3, 4, 5} - ports_known(bench.engine)
    segment = ends.syn(sport=gone, flags=ACK, ack=1).frame()
    assert bench.engine.run(segment).reason == "proven_ack"
    assert bench.engine.run(segment).reason == "known_flow"


@FAMILIES
def test_longest_unused_proof_goes_first(ends: Ends) -> None:
    """The table of sources is bounded like that of flows."""
    bench = small(Slot(settings=Tcp()))
    clients = [ends.client[:-1] + bytes([number]) for number in (1, 2, 3)]
    handshakes(bench, (ends.syn(source=client) for client in clients[:2]))
    now = bench.engine.now() >> 10 | 1
    for way in bench.engine.object.maps["sources"].view(abi.SourceSet).way:
        way.seen = now - 90 if bytes(way.address)[-1] == 1 else now - 10
    handshakes(bench, [ends.syn(source=clients[2])])
    left = {bytes(way.address)[-1] for way in known_sources(bench.engine)}
    assert left == {2, 3}
    work = bench.engine.work()
    assert (work["sources_inserted"], work["sources_evicted"]) == (3, 1)


def known_sources(loaded: Engine) -> list[Any]:
    """Return the ways of the only set of sources."""
    return list(loaded.object.maps["sources"].view(abi.SourceSet).way)


def sight(bench: Bench, ends: Ends, port: int, *acks: int) -> None:
    """Let segments of a flow pass in grace time."""
    for ack in acks:
        segment = ends.syn(sport=port, flags=ACK, ack=ack)
        assert bench.engine.run(segment.frame()).reason in {"grace", "learned_flow"}


@FAMILIES
def test_learned_flow_is_not_displaced_by_strangers(ends: Ends) -> None:
    """A flood of unknown segments takes only the places of those that made no progress."""
    bench = small(Slot(settings=Tcp(grace_until=FOREVER, grace=Rate())))
    for port in (1, 2, 3):
        sight(bench, ends, port, 1, 100)
    for port in range(1000, 1100):
        sight(bench, ends, port, 7)
    table = list(rows(bench.engine, "sightings", abi.Sighting))
    assert sum(bool(row.seen & abi.LEARNED) for row in table) == 3
    for port in (1, 2, 3):
        frame = ends.syn(sport=port, flags=ACK, ack=200).frame()
        assert bench.engine.run(frame).reason == "learned_flow"


@FAMILIES
def test_learned_flow_that_is_silent_gives_way(ends: Ends) -> None:
    """After ten minutes its place may be taken, so that the table cannot be clogged."""
    bench = small(Slot(settings=Tcp(grace_until=FOREVER, grace=Rate())))
    for port in (1, 2, 3, 4):
        sight(bench, ends, port, 1, 100)
    sight(bench, ends, 5, 1)
    assert all(row.seen & abi.LEARNED for row in rows(bench.engine, "sightings", abi.Sighting))
    ways = bench.engine.object.maps["sightings"].view(abi.SightingSet).way
    ways[2].seen = (bench.engine.now() >> 10) - 700 & 0x7FFFFFFF | 1 | abi.LEARNED
    sight(bench, ends, 5, 1)
    assert [bool(way.seen & abi.LEARNED) for way in ways] == [True, True, False, True]


def test_blocked_source_keeps_its_place() -> None:
    """Others share what is left; who finds no place passes and is counted as such."""
    bench = small(Slot(settings=Sorb(pps=Rate(SECOND_NS, 0))))

    def query(number: int) -> str:
        source = V4.client[:3] + bytes([number])
        packet = V4.ip(UDP, udp(source, V4.server, 5, 53), source=source)
        return bench.engine.run(packet.frame()).reason

    assert [query(number) for number in (1, 2, 3, 4)] == ["sorb_over"] * 4
    assert [query(number) for number in (5, 6)] == ["not_concerned"] * 2
    assert [query(number) for number in (1, 2, 3, 4)] == ["sorb_blocked"] * 4
    work = bench.engine.work()
    assert (work["talkers_inserted"], work["talkers_untracked"]) == (4, 2)


def test_source_near_its_threshold_is_not_displaced_by_quiet_ones() -> None:
    """Who has used most of the rate is kept: a flood of new sources hides nobody."""
    bench = small(Slot(settings=Sorb(pps=per_second(1, burst=5))))

    def query(number: int) -> str:
        source = V4.client[:3] + bytes([number])
        packet = V4.ip(UDP, udp(source, V4.server, 5, 53), source=source)
        return bench.engine.run(packet.frame()).reason

    assert [query(1) for _ in range(5)] == ["not_concerned"] * 5
    for number in range(2, 60):
        assert query(number) == "not_concerned"
    assert query(1) == "sorb_over"


@FAMILIES
@pytest.mark.parametrize(("flows_entered", "most_evicted"), [(512, 10), (768, 45)])
def test_tables_fill_up_evenly(ends: Ends, flows_entered: int, most_evicted: int) -> None:
    """Two sets for each flow: no worse than chance, which gives 2 of 512 and 24 of 768."""
    bench = small(Slot(settings=Tcp()), sets=256)
    segment = ends.syn()
    handshakes(bench, (replace(segment, sport=port) for port in range(1, flows_entered + 1)))
    work = bench.engine.work()
    assert work["flows_inserted"] == flows_entered
    assert work["flows_evicted"] <= most_evicted
    assert len(flows(bench.engine)) == flows_entered - work["flows_evicted"]


# the filters in front of the tables

FLOWS, SOURCES = 0, 1


def known(loaded: Engine, kind: int, generation: int) -> dict[int, int]:
    """Return the words of a filter that are not clear."""
    words = loaded.object.maps["filters"].view(abi.Filter, kind * 2 + generation).word
    return {at: word for at, word in enumerate(words) if word}


@FAMILIES
def test_insert_is_known_in_both_generations_of_its_filter(ends: Ends) -> None:
    """So that the one which is made anew misses none; one word for a flow, one for its source."""
    bench = Bench(Slot(settings=Tcp()))
    bench.run(bench.ack(ends.syn()))
    for kind in (FLOWS, SOURCES):
        assert len(known(bench.engine, kind, 0)) == 1
        assert known(bench.engine, kind, 1) == known(bench.engine, kind, 0)


@FAMILIES
def test_learned_sighting_is_known_in_the_filter_of_flows(ends: Ends) -> None:
    """Not before it is learned, as it is not looked for until then."""
    bench = Bench(Slot(settings=Tcp(grace_until=FOREVER, grace=per_second(1, burst=2))))
    segment = ends.syn(flags=ACK, ack=1)
    counts = []
    for ack in (1, 100):
        assert bench.reason(replace(segment, ack=ack)) == "grace"
        counts.append([len(known(bench.engine, FLOWS, generation)) for generation in (0, 1)])
    assert counts == [[0, 0], [1, 1]]
    assert bench.reason(replace(segment, ack=150)) == "learned_flow"


@FAMILIES
def test_either_generation_may_be_looked_at(ends: Ends) -> None:
    """What was entered before is known by both, whatever their sizes are."""
    bench = Bench(Slot(settings=Tcp()))
    control = bench.engine.control()
    try:
        control.filter_mask[FLOWS][1] = control.filter_mask[SOURCES][1] = abi.FILTER_WORDS - 1
        ack = bench.ack(ends.syn())
        bench.run(ack)
        for generation in (1, 0, 1):
            control.filter_now[:] = [generation] * 2
            assert bench.reason(ack) == "known_flow"
            assert bench.reason(ends.syn(sport=9 + generation)) in {"proven_syn", "known_flow"}
    finally:
        control.filter_now[:] = [0, 0]
        control.filter_mask[FLOWS][1] = control.filter_mask[SOURCES][1] = 1023


@FAMILIES
def test_full_filter_hides_nothing_and_invents_nothing(ends: Ends) -> None:
    """With every bit set the tables themselves are asked."""
    bench = Bench(Slot(settings=Tcp()))
    memory = bench.engine.object.maps["filters"].memory
    memory[:] = b"\xff" * len(memory)
    assert bench.reason(ends.syn(flags=ACK, ack=5)) == "cookie_bad"
    assert bench.reason(ends.syn()) == "cookie_sent"
    ack = bench.ack(ends.syn())
    assert [bench.reason(ack), bench.reason(ack)] == ["cookie_good", "known_flow"]


@FAMILIES
def test_many_flows_are_all_found_through_the_filter(ends: Ends) -> None:
    """No key is ever hidden: every flow entered is known afterwards."""
    bench = Bench(Slot(settings=Tcp()))
    acks = [bench.ack(ends.syn(sport=port)) for port in range(1, 800)]
    assert {bench.reason(ack) for ack in acks} == {"cookie_good"}
    assert {bench.reason(replace(ack, ack=9)) for ack in acks} == {"known_flow"}
