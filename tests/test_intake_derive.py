# SPDX-License-Identifier: Apache-2.0
"""Direction, type and protocol recomputed from counters and packet lines."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hub.intake.address import spellings
from hub.intake.derive import derive
from hub.intake.model import TRAFFIC_KINDS, WAYS, Counter, Counters, Derived, no_counters
from hub.intake.packets import Packets, host_way, read_lines
from tests.support.fastnetmon import packet_line, pps

US, THEM = "192.0.2.10", "198.51.100.1"
Expected = tuple[str, str, str]


def lines(*texts: str) -> Packets:
    """Read packet lines of the host `US`."""
    text = "\n" + "".join(texts)
    return read_lines(text.encode(), host_way(spellings(ip_address(US))))


def judged(
    counters: Counters, packets: Packets | None = None, rounding: int = 1_000_000
) -> Expected:
    """Derive, as plain words."""
    derived = derive(counters, (packets or Packets()).ways, rounding=rounding)
    return derived.direction.value, derived.attack_type.value, derived.protocol


def tcp(total: int, syn: int) -> dict[str, int]:
    """Return the speeds of one side with TCP only."""
    return {"total": total, "tcp": total, "tcp_syn": syn}


CASES: dict[str, tuple[Counters, Expected]] = {
    "spoofed SYN flood": (pps(incoming=tcp(259, 259)), ("incoming", "syn_flood", "tcp")),
    "SYN flood of a closed port, every SYN reset": (
        pps(incoming=tcp(228, 228), outgoing=tcp(228, 0)),
        ("incoming", "syn_flood", "tcp"),
    ),
    "its mirror image": (
        pps(incoming=tcp(228, 0), outgoing=tcp(228, 228)),
        ("outgoing", "syn_flood", "tcp"),
    ),
    "SYN flood among twice as much legitimate outgoing traffic": (
        pps(incoming=tcp(1000, 950), outgoing=tcp(2900, 20)),
        ("incoming", "syn_flood", "tcp"),
    ),
    "SYN flood of an open port, SYN-ACKs repeated": (
        pps(incoming=tcp(1000, 1000), outgoing=tcp(4000, 4000)),
        ("incoming", "syn_flood", "tcp"),
    ),
    "outgoing SYN flood, hardly answered": (
        pps(incoming=tcp(100, 100), outgoing=tcp(4000, 4000)),
        ("outgoing", "syn_flood", "tcp"),
    ),
    "SYN flood of an open port from a real host, which resets": (
        pps(incoming=tcp(2000, 1000), outgoing=tcp(1000, 1000)),
        ("incoming", "syn_flood", "tcp"),
    ),
    "the same from our host": (
        pps(incoming=tcp(1000, 1000), outgoing=tcp(2000, 1000)),
        ("outgoing", "syn_flood", "tcp"),
    ),
    "SYN flood of open and closed ports": (
        pps(incoming=tcp(1000, 1000), outgoing=tcp(1000, 500)),
        ("incoming", "syn_flood", "tcp"),
    ),
    "few SYN in, large flood out": (
        pps(incoming=tcp(10, 10), outgoing={"total": 90_000, "udp": 90_000}),
        ("outgoing", "udp_flood", "udp"),
    ),
    "ACK flood": (pps(incoming=tcp(5000, 12)), ("incoming", "other", "tcp")),
    "UDP flood": (
        pps(incoming={"total": 320, "udp": 320}, outgoing={"total": 3, "icmp": 3}),
        ("incoming", "udp_flood", "udp"),
    ),
    "UDP flood answered one to one by unreachables": (
        pps(incoming={"total": 900, "udp": 900}, outgoing={"total": 900, "icmp": 900}),
        ("incoming", "udp_flood", "udp"),
    ),
    "GRE flood answered one to one by unreachables": (
        pps(incoming={"total": 900}, outgoing={"total": 900, "icmp": 900}),
        ("incoming", "other", "unknown"),
    ),
    "really outgoing UDP flood": (
        pps(incoming={"total": 1, "icmp": 1}, outgoing={"total": 283, "udp": 283}),
        ("outgoing", "udp_flood", "udp"),
    ),
    "UDP flood beside as much everyday TCP": (
        pps(incoming={"total": 1000, "udp": 980, "tcp": 20}, outgoing=tcp(900, 10)),
        ("incoming", "udp_flood", "udp"),
    ),
    "UDP answered one to one": (
        pps(incoming={"total": 900, "udp": 900}, outgoing={"total": 900, "udp": 900}),
        ("unknown", "udp_flood", "udp"),
    ),
    "ICMP answered one to one": (
        pps(incoming={"total": 256, "icmp": 256}, outgoing={"total": 256, "icmp": 256}),
        ("unknown", "icmp_flood", "icmp"),
    ),
    "ICMP flood, answers limited": (
        pps(incoming={"total": 900, "icmp": 900}, outgoing={"total": 300, "icmp": 300}),
        ("incoming", "icmp_flood", "icmp"),
    ),
    "fragmented UDP": (
        pps(incoming={"total": 247, "udp": 247, "fragmented": 247}, outgoing={"total": 1}),
        ("incoming", "ip_fragmentation", "udp"),
    ),
    "fragmented ICMP is an ICMP flood first": (
        pps(incoming={"total": 247, "icmp": 247, "fragmented": 247}),
        ("incoming", "icmp_flood", "icmp"),
    ),
    "GRE without packet lines": (pps(incoming={"total": 240}), ("incoming", "other", "unknown")),
    "mixed, UDP the larger half": (
        pps(incoming={"total": 1000, "udp": 600, "tcp": 400}),
        ("incoming", "unknown", "udp"),
    ),
    "mixed, no half": (
        pps(incoming={"total": 1000, "udp": 400, "tcp": 300, "icmp": 300}),
        ("incoming", "unknown", "unknown"),
    ),
    "exactly 90 % is not more than 90 %": (
        pps(incoming={"total": 1000, "udp": 900, "tcp": 100}),
        ("incoming", "unknown", "udp"),
    ),
    "manual ban, all zero": (pps(), ("unknown", "unknown", "unknown")),
    "no counters": (no_counters(), ("unknown", "unknown", "unknown")),
}


@pytest.mark.parametrize("name", CASES)
def test_derive_when_known_traffic_then_known_judgement(name: str) -> None:
    """Every kind of traffic that was seen or reasoned out is judged as it really is."""
    counters, expected = CASES[name]
    assert expected == judged(counters)


def with_bps(counters: Counters, **mbps: dict[str, int]) -> Counters:
    """Add megabits per second; kinds that are absent are 0."""
    return {
        way: {
            kind: replace(counter, bps=mbps.get(way, {}).get(kind, 0) * 1_000_000)
            for kind, counter in kinds.items()
        }
        for way, kinds in counters.items()
    }


def test_derive_when_few_large_packets_then_bits_tell_the_type() -> None:
    """A bandwidth attack that is a minority of the packets is found by its bits."""
    counters = with_bps(
        pps(incoming={"total": 10_000, "udp": 6000, "tcp": 4000}),
        incoming={"total": 72, "udp": 70, "tcp": 2},
    )
    assert judged(counters) == ("incoming", "udp_flood", "udp")


def test_derive_when_bits_are_rounded_away_then_they_are_no_evidence() -> None:
    """0 mbps may be anything below one: no evidence where the same figures, exact, would be."""
    counters = with_bps(
        pps(incoming={"total": 100, "udp": 60, "tcp": 40}, outgoing={"total": 100, "udp": 100}),
        incoming={"total": 1, "udp": 1},
    )
    assert judged(counters) == ("outgoing", "udp_flood", "udp")
    assert judged(counters, rounding=0) == ("incoming", "udp_flood", "udp")


def test_derive_when_packets_are_alike_then_clearly_more_bits_decide() -> None:
    """Equal packets: the side with clearly more bits is the attack, ICMP of one size has none."""
    counters = with_bps(
        pps(incoming={"total": 900, "udp": 900}, outgoing={"total": 880, "udp": 880}),
        incoming={"total": 10, "udp": 10},
        outgoing={"total": 1, "udp": 1},
    )
    assert judged(counters) == ("incoming", "udp_flood", "udp")


def test_derive_when_more_small_packets_go_out_then_the_recognised_flood_wins() -> None:
    """A bandwidth attack is incoming although its acknowledgements are more packets."""
    counters = with_bps(
        pps(incoming={"total": 400, "udp": 400}, outgoing=tcp(700, 5)),
        incoming={"total": 4, "udp": 4},
        outgoing={"total": 0},
    )
    assert judged(counters) == ("incoming", "udp_flood", "udp")


def test_derive_when_only_bits_are_counted_then_they_decide() -> None:
    """A report without packet counters is judged by bits alone."""
    table = {way: dict(kinds) for way, kinds in no_counters().items()}
    for kind in ("total", "udp"):
        table["incoming"][kind] = Counter(bps=8000)
        table["outgoing"][kind] = Counter(bps=0)
    assert judged(table, rounding=0) == ("incoming", "udp_flood", "udp")


def test_derive_when_classes_are_missing_then_not_called_other() -> None:
    """A cut report with totals only does not say that the rest is nothing."""
    table = {way: dict(kinds) for way, kinds in no_counters().items()}
    table["incoming"]["total"] = Counter(pps=500)
    table["outgoing"]["total"] = Counter(pps=0)
    assert judged(table) == ("incoming", "unknown", "unknown")
    syn = lines(packet_line(THEM, US, "tcp", flags="syn"))
    assert judged(table, syn) == ("incoming", "syn_flood", "tcp")


def test_derive_when_total_is_missing_then_classes_make_it() -> None:
    """Advanced may leave out a field: the classes are the least that the total can be."""
    table = {way: dict(kinds) for way, kinds in pps(incoming={"udp": 500}).items()}
    for way in WAYS:
        table[way]["total"] = Counter()
    assert judged(table) == ("incoming", "udp_flood", "udp")


def test_derive_when_one_direction_is_missing_then_direction_is_unknown() -> None:
    """Half a report cannot tell the direction, but it can tell the type."""
    table = {**pps(incoming={"total": 500, "udp": 500}), "outgoing": no_counters()["outgoing"]}
    assert judged(table) == ("unknown", "udp_flood", "udp")
    table = {**pps(outgoing={"total": 500, "udp": 500}), "incoming": no_counters()["incoming"]}
    assert judged(table) == ("unknown", "udp_flood", "udp")


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("gre", ("incoming", "other", "gre")),
        ("esp", ("incoming", "other", "esp")),
        ("unknown", ("incoming", "other", "unknown")),
        ("ipv6_icmp", ("incoming", "icmp_flood", "icmp")),
        ("tcp", ("incoming", "other", "unknown")),
    ],
)
def test_derive_when_other_protocol_then_packet_lines_name_it(
    protocol: str, expected: Expected
) -> None:
    """What the counters cannot name the packet lines do, unless the counters deny it."""
    assert expected == judged(pps(incoming={"total": 240}), lines(packet_line(THEM, US, protocol)))


def test_derive_when_fragments_are_in_no_class_then_packet_lines_say_what_they_carry() -> None:
    """Later fragments have no header of their own; the packet lines still name the protocol."""
    packets = lines(packet_line(THEM, US, "udp", frag=1))
    counters = pps(incoming={"total": 240, "fragmented": 240})
    assert judged(counters, packets) == ("incoming", "ip_fragmentation", "udp")
    assert judged(counters) == ("incoming", "ip_fragmentation", "unknown")


def test_derive_when_lines_have_sample_ratios_then_weighted_majority() -> None:
    """One sampled packet stands for its ratio, so it outvotes three unsampled ones."""
    packets = lines(packet_line(THEM, US, "gre", ratio=1000), *[packet_line(THEM, US, "esp")] * 3)
    assert judged(pps(incoming={"total": 900}), packets) == ("incoming", "other", "gre")


def test_derive_when_open_port_and_lines_then_flags_tell_who_asks() -> None:
    """SYN and SYN-ACK are the same counter; the flags of the packet lines tell them apart."""
    counters = pps(incoming=tcp(500, 500), outgoing=tcp(500, 500))
    asked = packet_line(THEM, US, "tcp", flags="syn")
    answered = packet_line(US, THEM, "tcp", flags="syn,ack")
    assert judged(counters, lines(asked, answered)) == ("incoming", "syn_flood", "tcp")
    asked = packet_line(US, THEM, "tcp", flags="syn")
    answered = packet_line(THEM, US, "tcp", flags="syn,ack")
    assert judged(counters, lines(asked, answered)) == ("outgoing", "syn_flood", "tcp")


def test_derive_when_acks_are_reset_then_the_resetting_side_only_answers() -> None:
    """An ACK flood answered by resets comes in although packets and bits are equal."""
    packets = lines(
        packet_line(THEM, US, "tcp", flags="ack"), packet_line(US, THEM, "tcp", flags="rst")
    )
    assert judged(pps(incoming=tcp(500, 0), outgoing=tcp(500, 0)), packets) == (
        "incoming",
        "other",
        "tcp",
    )


def test_derive_when_syn_acks_are_reflected_then_incoming() -> None:
    """A flood of SYN-ACKs that the host resets is incoming: both sides only answer."""
    packets = lines(
        packet_line(THEM, US, "tcp", flags="syn,ack"), packet_line(US, THEM, "tcp", flags="rst")
    )
    assert judged(pps(incoming=tcp(500, 500), outgoing=tcp(500, 0)), packets) == (
        "incoming",
        "syn_flood",
        "tcp",
    )


def test_derive_when_no_counters_but_lines_then_lines_stand_in() -> None:
    """A report whose head is lost is judged by its packet lines."""
    packets = lines(*[packet_line(THEM, US, "udp")] * 20)
    assert judged(no_counters(), packets) == ("incoming", "udp_flood", "udp")


def test_derive_when_counters_are_zero_then_lines_do_not_override() -> None:
    """A manual ban stays unknown although packets happened to be collected."""
    packets = lines(packet_line(THEM, US, "udp"))
    assert judged(pps(), packets) == ("unknown", "unknown", "unknown")


def test_derive_when_symmetric_other_protocol_then_type_without_direction() -> None:
    """ICMPv6 answered, which 1.2.4 does not count: no direction, no protocol, but a type."""
    both = {"total": 656}
    assert judged(pps(incoming=both, outgoing=both)) == ("unknown", "other", "unknown")


AMOUNTS = st.one_of(st.none(), st.integers(0, 50), st.integers(0, 2**63 - 1))
COUNTERS = st.fixed_dictionaries(
    {
        way: st.fixed_dictionaries(
            {kind: st.builds(Counter, pps=AMOUNTS, bps=AMOUNTS) for kind in TRAFFIC_KINDS}
        )
        for way in WAYS
    }
)


@given(COUNTERS, st.sampled_from([0, 1_000_000]))
def test_derive_when_sides_swap_then_only_the_direction_turns(
    counters: Counters, rounding: int
) -> None:
    """No rule favours a side, except that of two sides with SYN alone the incoming one asks."""

    def only_syn(way: str) -> bool:
        return 10 * (counters[way]["tcp_syn"].pps or 0) > 9 * (counters[way]["total"].pps or 0)

    assume(not (only_syn("incoming") and only_syn("outgoing")))
    turned = {"incoming": "outgoing", "outgoing": "incoming", "unknown": "unknown"}
    direction, attack_type, protocol = judged(counters, rounding=rounding)
    mirrored = {"incoming": counters["outgoing"], "outgoing": counters["incoming"]}
    assert (turned[direction], attack_type, protocol) == judged(mirrored, rounding=rounding)


@given(COUNTERS, st.integers(2, 1000))
def test_derive_when_packets_grow_evenly_then_same_judgement(
    counters: Counters, factor: int
) -> None:
    """Without bits only the shares count, not the size of the attack."""

    def scaled(by: int) -> Counters:
        return {
            way: {
                kind: Counter(pps=None if counter.pps is None else counter.pps * by)
                for kind, counter in kinds.items()
            }
            for way, kinds in counters.items()
        }

    assert judged(scaled(1)) == judged(scaled(factor))


@given(COUNTERS)
def test_derive_when_any_counters_then_a_judgement(counters: Counters) -> None:
    """Contradicting counters give some judgement, never an error."""
    assert isinstance(derive(counters, Packets().ways, rounding=0), Derived)
