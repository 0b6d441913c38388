# SPDX-License-Identifier: Apache-2.0
"""Community's text on stdin, in both dialects and in any condition."""

import pytest

from hub.errors import NotUnderstoodError
from hub.intake.arguments import read_arguments
from hub.intake.community import parse_community
from hub.intake.model import Counter, Report, Reported, no_counters
from tests.support.fastnetmon import packet_line, sample, text_report

ARGS = ("192.0.2.10", "outgoing", "500", "ban")
SPEEDS = {
    "incoming": {"total": 500, "tcp": 480, "tcp_syn": 470, "udp": 12, "icmp": 8, "fragmented": 3},
    "outgoing": {"total": 450, "tcp": 445, "tcp_syn": 1, "udp": 5},
}
MBPS = {"incoming": {"total": 517, "udp": 500}, "outgoing": {"total": 1}}


def parse(text: str | bytes, *args: str) -> Report:
    """Parse one call."""
    stdin = text if isinstance(text, bytes) else text.encode()
    return parse_community(read_arguments(args or ARGS), stdin)


@pytest.mark.parametrize("dialect", ["a", "b"])
def test_parse_community_when_full_head_then_every_counter_in_its_unit(dialect: str) -> None:
    """All speeds are read; megabits become bits; what a dialect lacks is None."""
    report = parse(text_report(dialect=dialect, speeds=SPEEDS, mbps=MBPS))
    incoming, outgoing = report.counters["incoming"], report.counters["outgoing"]
    assert f"community-{dialect}" == report.dialect
    assert incoming["total"] == Counter(pps=500, bps=517_000_000, flows=0)
    assert incoming["tcp"] == Counter(pps=480, bps=0)
    assert incoming["tcp_syn"] == Counter(pps=470, bps=0)
    assert incoming["udp"] == Counter(pps=12, bps=500_000_000)
    assert incoming["icmp"] == Counter(pps=8, bps=0)
    assert incoming["fragmented"] == Counter(pps=3, bps=0)
    assert outgoing["total"] == Counter(pps=450, bps=1_000_000, flows=0)
    assert outgoing["tcp_syn"] == Counter(pps=1, bps=0)
    expected = Counter(pps=0, bps=0) if dialect == "b" else Counter()
    assert expected == incoming["dropped"]
    assert report.reported == Reported("outgoing", "unknown", "tcp", 500)


def test_parse_community_when_subnet_counters_then_they_are_not_the_hosts() -> None:
    """`Network incoming pps` and its averages stay out of the host's counters."""
    plain = text_report(dialect="a", speeds=SPEEDS, mbps=MBPS)
    subnet = text_report(dialect="a", speeds=SPEEDS, mbps=MBPS, network="192.0.2.0/24")
    assert "Network incoming pps: 9044" in subnet
    assert parse(plain) == parse(subnet)


def test_parse_community_when_crlf_then_same_report() -> None:
    """Line ends do not matter."""
    dump = packet_line("198.51.100.1", "192.0.2.10", "tcp", flags="syn")
    text = text_report(dialect="b", speeds=SPEEDS, mbps=MBPS, dump=dump)
    assert parse(text) == parse(text.replace("\n", "\r\n"))


def test_parse_community_when_oldest_release_then_totals_without_the_word() -> None:
    """Before `Total` was printed, and flows had a unit, the speeds were totals all the same."""
    text = (
        "IP: 192.0.2.10\nInitial attack power: 98285 packets per second\n"
        "Peak attack power: 98285 packets per second\nAttack direction: outgoing\n"
        "Incoming traffic: 62 mbps\nOutgoing traffic: 65 mbps\n"
        "Incoming pps: 66628 packets per second\nOutgoing pps: 98285 packets per second\n"
        "Incoming flows: 16\nOutgoing flows: 16\nIncoming\n\nUDP\n"
        "192.0.2.10:33611 < 198.51.100.1:53 729021 bytes 5927 packets\n"
    )
    report = parse(text)
    assert report.counters["incoming"]["total"] == Counter(66628, 62_000_000, 16)
    assert report.counters["outgoing"]["total"] == Counter(98285, 65_000_000, 16)
    assert (report.flows, report.packets) == (1, 0)
    assert Counter() == report.counters["incoming"]["udp"]


@pytest.mark.parametrize("name", ["1.2.9-syn-answered-ban", "1.2.4-syn-answered-attack_details"])
def test_parse_community_when_cut_anywhere_then_nothing_false(name: str) -> None:
    """A report cut after any byte gives the whole one's figures or none, never others."""
    call = sample(name)
    whole = parse(call.stdin, *call.args)
    for end in range(len(call.stdin)):
        part = parse(call.stdin[:end], *call.args)
        assert (whole.action, whole.target) == (part.action, part.target)
        assert part.packets <= whole.packets
        assert part.flows <= whole.flows
        assert part.reported.attack_type in {None, whole.reported.attack_type}
        assert part.reported.protocol in {None, whole.reported.protocol}
        for way, kinds in part.counters.items():
            for kind, seen in kinds.items():
                full = whole.counters[way][kind]
                assert seen.pps in {None, full.pps}
                assert seen.bps in {None, full.bps}
                assert seen.flows in {None, full.flows}


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00garbage",
        b"[1, 2]",
        b"\x00" * 100_000,
        "Total incoming pps: \u0665\u0660 packets per second\n".encode(),
        b"Total incoming pps: " + b"9" * 5000 + b" packets per second\n",
        b"Total incoming pps: -5 packets per second\n",
        b"Total incoming pps: 5.5 packets per second\n",
        b"Total incoming pps: 5 mbps\n",
        b"Total incoming pps: 5\xc2\xa0packets per second\n",
        b" Total incoming pps: 5 packets per second\n",
        b"Network incoming pps: 5 packets per second\n",
        b"Average incoming pps: 5 packets per second\n",
        b"Total incoming traffic: 9999999999999999999 mbps\n",
        b"Incoming gre pps: 5 packets per second\n",
    ],
)
def test_parse_community_when_stdin_is_no_report_then_event_without_counters(stdin: bytes) -> None:
    """The event is in the arguments; nothing on stdin can take it away or invent a counter."""
    report = parse(stdin)
    assert (report.action, str(report.target)) == ("ban", "192.0.2.10")
    assert no_counters() == report.counters
    assert report.derived.direction == "unknown"
    assert Reported("outgoing", None, None, 500) == report.reported


def test_parse_community_when_head_is_lost_then_dump_still_counts() -> None:
    """Packet and flow lines are counted without a head, and tell what they can."""
    dump = packet_line("198.51.100.1", "192.0.2.10", "udp") * 3
    report = parse(dump + "192.0.2.10:53 < 198.51.100.1:7 1242 bytes 1 packets\n")
    assert (report.packets, report.flows) == (3, 1)
    assert (report.derived.direction, report.derived.attack_type) == ("incoming", "udp_flood")


def test_parse_community_when_line_is_repeated_then_the_first_counts() -> None:
    """The head comes first; nothing after it can change a counter."""
    text = text_report(dialect="b", speeds=SPEEDS)
    assert parse(text).counters == parse(text + text_report(dialect="b", speeds={})).counters


def test_parse_community_when_ipv6_then_address_of_the_argument() -> None:
    """The text says 0.0.0.0 for every IPv6 attack; packet lines in that spelling still match."""
    call = sample("1.2.9-ipv6-udp-ban")
    report = parse(call.stdin, *call.args)
    assert b"IP: 0.0.0.0\n" in call.stdin
    assert str(report.target) == "2001:db8:b::10"
    assert (report.packets, report.derived.protocol) == (20, "udp")


def test_parse_community_when_gre_and_packet_lines_then_protocol_by_name() -> None:
    """What the head calls tcp is called by the name in the packet lines."""
    dump = packet_line("198.51.100.1", "192.0.2.10", "gre") * 20
    report = parse(text_report(dialect="b", speeds={"incoming": {"total": 240}}, dump=dump))
    assert report.reported.protocol == "tcp"
    assert (
        report.derived.direction,
        report.derived.attack_type,
        report.derived.protocol,
    ) == ("incoming", "other", "gre")


def test_parse_community_when_advanced_order_then_text_gives_the_rest() -> None:
    """`ACTION IP` with text on stdin: direction and power come from the text."""
    report = parse(text_report(dialect="b", speeds=SPEEDS), "ban", "192.0.2.10")
    assert report.reported == Reported("outgoing", "unknown", "tcp", 500)


@pytest.mark.parametrize(
    ("args", "dialect"),
    [
        (("192.0.2.1", "incoming", "5", "unban"), "community"),
        (("192.0.2.1", "incoming", "5", "attack_details"), "community-a"),
        (("unban", "192.0.2.1"), "advanced"),
    ],
)
def test_parse_community_when_no_text_then_dialect_from_arguments(
    args: tuple[str, ...], dialect: str
) -> None:
    """Without a text the command line alone names the dialect."""
    assert dialect == parse(b"", *args).dialect


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "no argument is an action"),
        (("192.0.2.1", "incoming", "5", "blackhole"), "no argument is an action"),
        (("192.0.2.0/24", "incoming", "5", "ban"), "'192.0.2.0/24' is not the address"),
        (("\udcff\x1b[31m", "incoming", "5", "ban"), r"'\\udcff\\x1b\[31m' is not the address"),
        (("0.0.0.0", "incoming", "5", "ban"), r"unspecified address 0\.0\.0\.0"),
        ((":0000", "other", "0", "unban"), "unspecified address ::"),
        (("ban",), "'' is not the address"),
    ],
)
def test_parse_community_when_no_action_or_host_then_reason(
    args: tuple[str, ...], reason: str
) -> None:
    """What cannot be acted on is refused with what is wrong, safe to print on a terminal."""
    with pytest.raises(NotUnderstoodError, match=reason):
        parse_community(read_arguments(args), b"IP: 192.0.2.10\n")
