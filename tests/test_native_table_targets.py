# SPDX-License-Identifier: Apache-2.0
"""sorb and watch, and which target a packet belongs to."""

import random
from dataclasses import replace
from ipaddress import ip_address

from tests.support import bpf_abi as abi
from tests.support.bpf_bench import FAMILIES, V4, V6, Bench, Ends, later_fragment, query
from tests.support.model_scene import FOREVER, Rate, Scene, Slot, Sorb, Tcp, per_second
from tests.support.packets import (
    ACK,
    RST,
    SYN,
    TCP,
    packed,
)

SCTP = 132


# sorb


@FAMILIES
def test_source_over_its_packets_is_blocked(ends: Ends) -> None:
    """The packet that exceeds it and all that follow; other sources are not touched."""
    bench = Bench(Slot(settings=Sorb(pps=per_second(1, burst=2))))
    reasons = [bench.reason(query(ends)) for _ in range(5)]
    assert reasons == ["not_concerned"] * 2 + ["sorb_over"] + ["sorb_blocked"] * 2
    assert bench.reason(ends.syn()) == "sorb_blocked"
    assert bench.reason(query(ends, source=ends.stranger)) == "not_concerned"


@FAMILIES
def test_source_over_its_bytes_is_blocked(ends: Ends) -> None:
    """By the length of the IP packet."""
    byte = 1_000_000 << 10
    header = 28 if ends.family == 4 else 48
    bps = Rate(byte, 1_000_000 * (header + 100) * 2)
    bench = Bench(Slot(settings=Sorb(bps=bps)))
    reasons = [bench.reason(query(ends, size=100)) for _ in range(4)]
    assert reasons == ["not_concerned"] * 2 + ["sorb_over", "sorb_blocked"]


@FAMILIES
def test_block_ends_at_its_time(ends: Ends) -> None:
    """Then the source is counted from where its rate is."""
    bench = Bench(Slot(settings=Sorb(pps=per_second(1, burst=1), block_ms=500)))
    reasons = [bench.reason(query(ends)) for _ in range(2)]
    table = bench.engine.object.maps["talkers"]
    for index in range(table.entries):
        for way in table.view(abi.TalkerSet, index).way:
            if way.generation and not way.wide:
                assert way.blocked_until == bench.engine.now() + 500
                way.blocked_until = bench.engine.now()
                way.pps_tat = 0
    for talker in bench.model.talkers.values():
        talker.blocked_until = bench.engine.now()
        talker.pps.tat = 0
    assert [*reasons, bench.reason(query(ends))] == ["not_concerned", "sorb_over", "not_concerned"]


def test_site_of_an_ipv6_source_is_counted_too() -> None:
    """A /64 may send 16 times what one address may, from however many addresses."""
    bench = Bench(Slot(settings=Sorb(pps=per_second(1, burst=2))))
    reasons = [
        bench.reason(query(V6, source=V6.client[:15] + bytes([number]))) for number in range(40)
    ]
    assert reasons[:32] == ["not_concerned"] * 32
    assert reasons[32:] == ["sorb_over"] + ["sorb_blocked"] * 7
    assert bench.reason(query(V6, source=packed("2001:db8:1:1::5"))) == "not_concerned"


def test_neighbours_of_an_ipv4_source_are_not_counted_with_it() -> None:
    """IPv4 addresses are counted by themselves."""
    bench = Bench(Slot(settings=Sorb(pps=per_second(1, burst=1))))
    for number in range(1, 100):
        source = V4.client[:3] + bytes([number])
        assert bench.reason(query(V4, source=source)) == "not_concerned"


@FAMILIES
def test_each_threshold_counts_for_itself(ends: Ends) -> None:
    """Two on one target, told apart by their generation."""
    bench = Bench(
        Slot(settings=Sorb(pps=per_second(1, burst=3)), generation=7),
        Slot(settings=Sorb(pps=per_second(1, burst=2)), generation=8),
    )
    outcomes = [bench.run(query(ends)) for _ in range(5)]
    told = [(one.reason, one.slot) for one in outcomes]
    assert told == [
        ("not_concerned", 1),
        ("not_concerned", 1),
        ("sorb_over", 2),
        ("sorb_over", 1),
        ("sorb_blocked", 1),
    ]


@FAMILIES
def test_full_table_counts_no_more_sources_but_passes_them(ends: Ends) -> None:
    """Blocked sources keep their place; whoever finds none passes uncounted, and that is told."""
    bench = Bench(Slot(settings=Sorb(pps=Rate(1, 0))))
    table = bench.engine.object.maps["talkers"]
    for index in range(table.entries):
        for way in table.view(abi.TalkerSet, index).way:
            way.generation = 999
            way.blocked_until = FOREVER
    outcome = bench.engine.run(query(ends).frame())
    assert outcome.reason == "not_concerned"
    untracked = bench.engine.work()["talkers_untracked"]
    assert untracked == (1 if ends.family == 4 else 2)


# watch


@FAMILIES
def test_watch_enforces_nothing(ends: Ends) -> None:
    """Everything passes, TCP to its ports is counted, also what a proxy would drop."""
    bench = Bench(Slot(settings=None, ports=((80, 80),)))
    for flags in range(64):
        assert bench.reason(ends.syn(flags=flags)) == "watched"
    assert bench.reason(ends.syn(dport=81)) == "unprotected"
    assert bench.reason(query(ends, dport=80)) == "unprotected"
    assert bench.reason(later_fragment(ends, TCP)) == "unprotected"
    assert bench.reason(ends.syn(offset=3)) == "unprotected"


@FAMILIES
def test_watched_flows_survive_the_switch_to_a_proxy(ends: Ends) -> None:
    """Those that made progress; one segment alone, or SYNs and RSTs, are not enough."""
    bench = Bench(Slot(settings=None), Slot(settings=Tcp(), deadline=1))
    progress, single, syns = (ends.syn(sport=port, flags=ACK, ack=1) for port in (1, 2, 3))
    for segment, acks in ((progress, (1, 5000)), (single, (1,))):
        for number in acks:
            bench.run(replace(segment, ack=number))
    for number in (1, 5000):
        bench.run(replace(syns, flags=SYN | ACK, ack=number))
        bench.run(replace(syns, flags=RST | ACK, ack=number))
    bench.slots[2].deadline = FOREVER
    bench.engine.object.maps["slots"].view(abi.Slot, 2).deadline = FOREVER
    reasons = [bench.reason(replace(one, ack=6000)) for one in (progress, single, syns)]
    assert reasons == ["learned_flow", "cookie_bad", "cookie_bad"]


@FAMILIES
def test_watch_stands_behind_a_proxy(ends: Ends) -> None:
    """It sees only what no tcp slot judges."""
    bench = Bench(Slot(settings=Tcp(), ports=((80, 80),)), Slot(settings=None))
    assert bench.reason(ends.syn()) == "cookie_sent"
    assert bench.reason(ends.syn(dport=81)) == "watched"


# targets


def test_narrower_target_decides() -> None:
    """A host before its network, a longer prefix before a shorter one, both families."""
    bench = Bench(
        *(Slot(settings=Tcp()) for _ in range(6)),
        targets={
            "192.0.0.0/16": (1,),
            "192.0.2.0/24": (2,),
            "192.0.2.10/32": (3,),
            "2001:db8::/32": (4,),
            "2001:db8:2::/48": (5,),
            "2001:db8:2::10/128": (6,),
        },
    )
    told = {
        text: bench.run(V4.syn(destination=packed(text))).slot
        for text in ("192.0.3.1", "192.0.2.11", "192.0.2.10", "192.1.0.0", "191.255.255.255")
    }
    assert list(told.values()) == [1, 2, 3, 0, 0]
    told = {
        text: bench.run(V6.syn(destination=packed(text))).slot
        for text in ("2001:db8:3::1", "2001:db8:2::11", "2001:db8:2::10", "2001:db9::")
    }
    assert list(told.values()) == [4, 5, 6, 0]


def test_every_one_of_many_targets_is_found_in_any_order() -> None:
    """Again and again, also those that share a place where a CPU remembers what it found."""
    rng = random.Random(3)
    hosts = [
        *(bytes([192, 0, 2 + number // 200, number % 200]) for number in range(1, 500)),
        *(packed("2001:db8:2::")[:14] + number.to_bytes(2, "big") for number in range(500)),
    ]
    slots = [Slot(settings=Tcp()) for _ in range(7)]
    targets = {str(ip_address(host)): (1 + at % 7,) for at, host in enumerate(hosts)}
    bench = Bench(*slots, targets=targets | {"192.0.0.0/16": (7,)})
    for host in rng.choices(hosts, k=3000):
        ends = V4 if len(host) == 4 else V6
        assert bench.run(ends.syn(destination=host, flags=ACK)).slot == targets[
            str(ip_address(host))
        ][0]  # fmt: skip


@FAMILIES
def test_target_that_is_given_up_is_passed_at_once(ends: Ends) -> None:
    """With the next epoch nobody remembers it; with a new one it is judged again."""
    for _ in range(3):
        bench = Bench(Slot(settings=Tcp()))
        assert bench.reason(ends.syn()) == "cookie_sent"
        bench = Bench(targets={})
        assert bench.reason(ends.syn()) == "unprotected"


def test_whole_families_can_be_targets() -> None:
    """The longest possible reach: /0 of each, told apart."""
    bench = Bench(
        Slot(settings=Tcp()), Slot(settings=Tcp()), targets={"0.0.0.0/0": (1,), "::/0": (2,)}
    )
    assert bench.run(V4.syn()).slot == 1
    assert bench.run(V6.syn()).slot == 2


def test_prefilter_alone_protects_nothing() -> None:
    """A bit that some other target has set only costs a lookup."""
    bench = Bench(Slot(settings=Tcp()))
    for at in range(abi.PREFILTER):
        bench.engine.control().prefilter[at] = (1 << 64) - 1
    assert bench.reason(V4.syn(destination=V4.neighbour)) == "unprotected"
    assert bench.reason(V4.syn()) == "cookie_sent"


def test_nothing_in_force_passes_everything() -> None:
    """As the program is right after it has been loaded."""
    bench = Bench()
    bench.engine.apply(Scene())
    for ends in (V4, V6):
        assert bench.engine.run(ends.syn().frame()).reason == "unprotected"


@FAMILIES
def test_bytes_are_counted_by_what_became_of_them(ends: Ends) -> None:
    """Passed, or dropped; what is answered counts as dropped."""
    bench = Bench(Slot(settings=Tcp()))
    length = (20 if ends.family == 4 else 40) + 20
    before = bench.engine.bytes_counted(1)
    bench.run(ends.syn(flags=RST))
    bench.run(ends.syn())
    bench.run(ends.syn(flags=SYN | ACK))
    passed, dropped = bench.engine.bytes_counted(1)
    assert (passed - before[0], dropped - before[1]) == (length, 2 * length)
