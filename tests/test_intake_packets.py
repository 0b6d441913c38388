# SPDX-License-Identifier: Apache-2.0
"""Packet lines, counted and weighed."""

from ipaddress import ip_address, ip_network

import pytest

from hub.intake.address import spellings
from hub.intake.packets import (
    host_way,
    network_way,
    protocol_name,
    read_detailed,
    read_lines,
)
from tests.support.fastnetmon import packet_line

WAY = host_way(spellings(ip_address("192.0.2.10")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp", "udp"),
        ("TCP", "tcp"),
        ("ipv6_icmp", "icmp"),
        ("ipv6-icmp", "icmp"),
        ("58", "icmp"),
        ("47", "gre"),
        ("ipv6_frag", "ipv6-frag"),
        ("254", "unknown"),
        ("", "unknown"),
        ("٤٧", "unknown"),
        ("x" * 33, "unknown"),
        ("a b", "unknown"),
    ],
)
def test_protocol_name_when_fastnetmon_word_then_iana_name(text: str, expected: str) -> None:
    """Names and numbers become IANA's names in lower case, ICMPv6 becomes icmp."""
    assert expected == protocol_name(text)


def test_read_lines_when_both_directions_then_weighed_apart() -> None:
    """Each line counts on its side with packets times sample ratio."""
    text = (
        "\n"
        + packet_line("198.51.100.1", "192.0.2.10", "tcp", flags="syn", ratio=512)
        + packet_line("192.0.2.10", "198.51.100.1", "tcp", flags="rst,ack")
        + packet_line("198.51.100.1", "192.0.2.10", "udp", frag=1)
        + packet_line("198.51.100.1", "203.0.113.1", "udp")
    )
    packets = read_lines(text.encode(), WAY)
    incoming, outgoing = packets.ways["incoming"], packets.ways["outgoing"]
    assert packets.count == 4
    expected = {"total": 513, "tcp": 512, "tcp_syn": 512, "udp": 1, "icmp": 0, "fragmented": 1}
    assert expected == incoming.load
    assert (incoming.answers, outgoing.answers, outgoing.protocols) == (0, 1, {"tcp": 1})


def test_read_lines_when_netflow_then_packets_times_ratio() -> None:
    """A NetFlow record stands for packets times sample ratio."""
    line = packet_line("198.51.100.1", "192.0.2.10", "gre", ratio=100)
    text = "\n" + line.replace("packets: 1 ", "packets: 6666 ")
    assert read_lines(text.encode(), WAY).ways["incoming"].protocols == {"gre": 666_600}


@pytest.mark.parametrize(
    "line",
    [
        (
            "2014-11-21 08:01:11.419798 198.51.100.1:53 > 192.0.2.10:38458 protocol: udp"
            " flags:  size: 123 bytes"
        ),
        (
            "2026-01-02 03:04:05.000001 198.51.100.1:40001 > 192.0.2.10:53 protocol: udp frag: 0"
            "  packets: 1 size: 526 bytes ip size: 512 bytes ttl: 55 sample ratio: 1 "
        ),
        (
            "2026-01-02 03:04:05.000001 198.51.100.1:40001 > 192.0.2.10:53 protocol: udp frag: 0"
            "  packets: 1 size: 526 bytes ttl: 55 sample ratio: 1  \r"
        ),
    ],
)
def test_read_lines_when_other_release_then_understood(line: str) -> None:
    """Lines of 1.0, of Advanced and with CRLF are packet lines too."""
    packets = read_lines(f"\n{line}\n".encode(), WAY)
    assert (packets.count, packets.ways["incoming"].load["udp"]) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-21 02:10:08.687420 198.51.100.1:0 > 192.0.2.10:0 protocol: udp frag: 0  pack",
        " 2026-11-21 02:10:08.687420 198.51.100.1:0 > 192.0.2.10:0 protocol: udp size: 1 bytes",
        "192.0.2.10:53 < 198.51.100.1:3126 1242 bytes 1 packets",
        "٢026-11-21 02:10:08.687420 198.51.100.1:0 > 192.0.2.10:0 protocol: udp size: 1 bytes",
    ],
)
def test_read_lines_when_cut_or_other_line_then_not_counted(line: str) -> None:
    """A line that is cut off before its size, or is another kind of line, is no packet line."""
    assert read_lines(f"\n{line}\n".encode(), WAY).count == 0


def test_read_lines_when_very_many_then_all_counted_and_first_4096_weighed() -> None:
    """The count is exact however many lines there are; weighing them is bounded."""
    line = packet_line("198.51.100.1", "192.0.2.10", "udp")
    packets = read_lines(("\n" + line * 5000).encode(), WAY)
    assert (packets.count, packets.ways["incoming"].load["total"]) == (5000, 4096)


def test_read_detailed_when_fields_are_wrong_then_entry_counts_as_one_packet() -> None:
    """Wrong types in one entry neither raise nor outweigh the others."""
    entry = {
        "source_ip": "198.51.100.1",
        "destination_ip": "192.0.2.10",
        "protocol": 47,
        "packets": True,
        "sample_ratio": -5,
        "tcp_flags": ["syn"],
        "fragmentation": "yes",
    }
    packets = read_detailed([entry, "text", None, {}, {"source_ip": 5}], WAY)
    assert (packets.count, packets.ways["incoming"].protocols) == (3, {"gre": 1})
    assert read_detailed({"a": 1}, WAY).count == 0


def test_network_way_when_host_group_then_membership_decides() -> None:
    """For a host group a packet comes in when only its destination is a member."""
    way = network_way((ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")))
    assert way(b"198.51.100.1", b"192.0.2.200") == "incoming"
    assert way(b"2001:0db8:000b::0010", b"2001:db9::1") == "outgoing"
    assert way(b"192.0.2.1", b"192.0.2.2") is None
    assert way(b"junk", b"198.51.100.1") is None
