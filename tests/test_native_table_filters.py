# SPDX-License-Identifier: Apache-2.0
"""acl: which rule fits a packet, and how filters stand before the other countermeasures."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from tests.support import bpf_abi as abi
from tests.support.bpf_bench import FAMILIES, V4, V6, Bench, Ends, acl, later_fragment, query
from tests.support.model_scene import Rate, Rule, Slot, Sorb, Tcp, per_second
from tests.support.packets import (
    ACK,
    ICMP,
    ICMP6,
    MF,
    RST,
    SYN,
    TCP,
    UDP,
    Datagram,
    icmp,
)

SCTP = 132


# acl


@FAMILIES
def test_first_rule_that_fits_decides(ends: Ends) -> None:
    """Whatever stands behind it; what none fits goes on."""
    bench = Bench(
        acl(
            Rule(action="pass", protocol=UDP, destination_ports=(53, 53)),
            Rule(action="drop", protocol=UDP),
        )
    )
    assert bench.reason(query(ends)) == "acl_pass"
    assert bench.reason(query(ends, dport=54)) == "acl_drop"
    assert bench.reason(ends.syn()) == "not_concerned"


@FAMILIES
def test_pass_rule_passes_every_other_countermeasure(ends: Ends) -> None:
    """Later filters, thresholds and the SYN proxy; a drop rule comes before them all too."""
    trusted = ip_network("198.51.100.0/24" if ends.family == 4 else "2001:db8:1::/48")
    bench = Bench(
        acl(Rule(action="pass", source=trusted)),
        acl(Rule(action="drop")),
        Slot(settings=Sorb(pps=Rate(1, 0))),
        Slot(settings=Tcp()),
    )
    assert bench.reason(ends.syn()) == "acl_pass"
    assert bench.run(ends.syn(source=ends.stranger)).slot == 2


@FAMILIES
def test_filter_without_a_fitting_rule_asks_the_next(ends: Ends) -> None:
    """Up to four filters, in order; each drop is counted for its own."""
    slots = [acl(Rule(action="drop", destination_ports=(port, port))) for port in (1, 2, 3, 4)]
    bench = Bench(*slots, Slot(settings=Tcp()))
    assert [bench.run(ends.syn(dport=port)).slot for port in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 5]


@FAMILIES
def test_limit_drops_what_is_beyond_it(ends: Ends) -> None:
    """Within it the packet goes on to what stands behind the filter."""
    limit = Rule(action="limit", limit=per_second(1, burst=2))
    bench = Bench(acl(limit, Rule(action="drop")), Slot(settings=Tcp()))
    reasons = [bench.reason(ends.syn()) for _ in range(3)]
    assert reasons == ["cookie_sent", "cookie_sent", "acl_limited"]


def fitting(rule: Rule, packet: Any) -> bool:
    """Return whether a rule fits a packet."""
    return Bench(acl(rule)).reason(packet) == "acl_drop"


@FAMILIES
@pytest.mark.parametrize(
    ("fields", "yes", "no"),
    [
        ({"protocol": UDP}, query, lambda e: e.syn()),
        ({"protocol": 47}, lambda e: e.ip(47, bytes(8)), lambda e: e.ip(48, bytes(8))),
        ({"source_ports": (50, 60)}, lambda e: query(e, 60), lambda e: query(e, 61)),
        ({"source_ports": (50, 60)}, lambda e: query(e, 50), lambda e: query(e, 49)),
        ({"destination_ports": (50, 60)}, lambda e: e.syn(dport=50), lambda e: e.syn(dport=49)),
        ({"destination_ports": (0, 65535)}, lambda e: e.syn(), lambda e: e.ip(47, bytes(8))),
        ({"destination_ports": (7, 7)}, lambda e: e.ip(SCTP, bytes([0, 1, 0, 7] * 3)),
         lambda e: e.ip(SCTP, bytes([0, 7, 0, 1] * 3))),
        ({"flags": (SYN | ACK, SYN)}, lambda e: e.syn(), lambda e: e.syn(flags=SYN | ACK)),
        ({"flags": (0xFF, ACK)}, lambda e: e.syn(flags=ACK), lambda e: e.syn(flags=ACK | 0x80)),
        ({"flags": (0, 0)}, lambda e: e.syn(flags=RST), query),
        ({"fragments": True}, later_fragment, query),
        ({"fragments": False}, query, later_fragment),
        ({"protocol": UDP}, later_fragment, lambda e: later_fragment(e, TCP)),
    ],
)  # fmt: skip
def test_rule_matches_its_field(
    ends: Ends, fields: dict[str, Any], yes: Callable[[Ends], Any], no: Callable[[Ends], Any]
) -> None:
    """Protocols, port ranges with their edges, flags by mask, fragments."""
    assert fitting(Rule(action="drop", **fields), yes(ends))
    assert not fitting(Rule(action="drop", **fields), no(ends))


@FAMILIES
def test_length_is_that_of_the_ip_packet(ends: Ends) -> None:
    """Headers included, padding not."""
    header = 28 if ends.family == 4 else 48
    rule = Rule(action="drop", length=(header + 10, header + 20))
    told = [fitting(rule, query(ends, size=size)) for size in (9, 10, 20, 21)]
    assert told == [False, True, True, False]


@FAMILIES
def test_source_prefix_is_matched_to_the_bit(ends: Ends) -> None:
    """Of its own family only; a prefix of length 0 is the whole family."""
    length = 32 if ends.family == 4 else 128
    for bits in (length, length - 1, length - 7, length // 2, 1, 0):
        network = ip_network((ends.client, bits), strict=False)
        rule = Rule(action="drop", source=network)
        assert fitting(rule, query(ends)), bits
        if bits:
            other = int.from_bytes(ends.client, "big") ^ 1 << (length - bits)
            source = other.to_bytes(length // 8, "big")
            assert not fitting(rule, query(ends, source=source)), bits
        foreign = V6 if ends.family == 4 else V4
        assert not fitting(rule, query(foreign)), bits


@FAMILIES
@pytest.mark.parametrize("name", ["source_ports", "destination_ports", "flags", "icmp_type"])
def test_fragments_have_no_ports_flags_and_types(ends: Ends, name: str) -> None:
    """A rule with any of them fits no fragment, first or later."""
    span = {"flags": (0, 0), "icmp_type": (0, 255)}.get(name, (0, 65535))
    rule = Rule(action="drop")
    setattr(rule, name, span)
    protocol = {"flags": TCP, "icmp_type": ICMP if ends.family == 4 else ICMP6}.get(name, UDP)
    assert not fitting(rule, later_fragment(ends, protocol))
    if ends.family == 4:
        assert not fitting(rule, ends.ip(protocol, bytes(16), fragment=MF))


@FAMILIES
def test_icmp_type_and_code_are_ranges(ends: Ends) -> None:
    """Both ends included, of the family's own protocol."""
    protocol = ICMP if ends.family == 4 else ICMP6

    def message(kind: int, code: int = 0, number: int = protocol) -> Datagram:
        return ends.ip(number, icmp(ends.client, ends.server, kind, code))

    rule = Rule(action="drop", icmp_type=(8, 10), icmp_code=(1, 2))
    for kind, code in ((8, 1), (9, 2), (10, 1)):
        assert fitting(rule, message(kind, code))
    for kind, code in ((7, 1), (11, 1), (8, 0), (8, 3)):
        assert not fitting(rule, message(kind, code))
    assert not fitting(rule, message(8, 1, ICMP + ICMP6 - protocol))


@FAMILIES
def test_family_is_a_field_of_its_own(ends: Ends) -> None:
    """For rules without a source."""
    for family in (4, 6):
        rule = Rule(action="drop", family=family)
        assert fitting(rule, query(ends)) == (family == ends.family)


@FAMILIES
def test_filter_may_be_full(ends: Ends) -> None:
    """The last of 128 rules is asked too."""
    rules = [Rule(action="pass", protocol=255)] * (abi.ACL_RULES - 1)
    bench = Bench(acl(*rules, Rule(action="drop", protocol=UDP)))
    assert bench.reason(query(ends)) == "acl_drop"
    assert bench.reason(ends.syn()) == "not_concerned"


@FAMILIES
def test_empty_filter_lets_everything_go_on(ends: Ends) -> None:
    """As does one that has expired."""
    bench = Bench(acl(), acl(Rule(action="drop"), deadline=1))
    assert bench.reason(query(ends)) == "not_concerned"
