# SPDX-License-Identifier: Apache-2.0
"""Addresses as detectors spell them."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.intake.address import parse_address, spellings


def fastnetmon_spelling(address: IPv6Address) -> str:
    """Print as FastNetMon does: all digits, the first run of whole zero groups squeezed."""
    return re.sub("(0000:){2,}", ":", address.exploded, count=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.10", "192.0.2.10"),
        ("192.0.2.10/32", "192.0.2.10"),
        ("2001:0db8:000b::0010", "2001:db8:b::10"),
        ("2001:0DB8:000B::0010/128", "2001:db8:b::10"),
        (":0001", "::1"),
        (":ffff:c000:020a", "192.0.2.10"),
        (":0012:0000:0000:0000:0001", "::12:0:0:0:1"),
        ("::ffff:192.0.2.10", "192.0.2.10"),
        ("2001:db8::0000", "2001:db8::"),
        ("0.0.0.0", "0.0.0.0"),
        (":0000", "::"),
    ],
)
def test_parse_address_when_one_host_then_canonical(text: str, expected: str) -> None:
    """Every spelling that means one host gives that host in canonical form."""
    assert expected == str(parse_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.0/24",
        "192.0.2.10/",
        "192.0.2.10/032",
        "192.0.2.010",
        "192.0.2",
        "3221225994",
        "2001:db8::/64",
        "fe80::1%eth0",
        "::ffff:192.0.2.10/32",
        ":",
        ":1:2:3:4:5:6:7",
        ":0001::",
        "١٩٢.0.2.1",
        "192.0.2.1\n",
        " 192.0.2.1",
        "\udcff",
        "1" * 5000,
        "host.example",
    ],
)
def test_parse_address_when_not_one_host_then_none(text: str) -> None:
    """Prefixes, zones, octal-looking and foreign digits and any junk are no address."""
    assert parse_address(text) is None


@given(st.ip_addresses(v=6))
@example(IPv6Address("::1"))
@example(IPv6Address("2001:db8:0:0:1::"))
@example(IPv6Address("0:0:1::"))
@example(IPv6Address("::ffff:c000:20a"))
def test_parse_address_when_fastnetmon_prints_it_then_same_address(address: IPv6Address) -> None:
    """What FastNetMon's printing does to an IPv6 address is undone, leading zero groups too."""
    expected = address.ipv4_mapped or address
    assert expected == parse_address(fastnetmon_spelling(address))
    assert expected == parse_address(str(address))
    assert expected == parse_address(f"{address.exploded}/128")


@given(st.text(max_size=80))
def test_parse_address_when_any_text_then_address_or_none(text: str) -> None:
    """No text raises, and what comes out parses to itself."""
    address = parse_address(text)
    if address is not None:
        assert address == parse_address(str(address))


@given(st.ip_addresses())
def test_spellings_when_report_writes_address_then_recognised(
    address: IPv4Address | IPv6Address,
) -> None:
    """Canonical, exploded and FastNetMon's spelling are all among the spellings."""
    names = spellings(address)
    assert str(address).encode() in names
    assert address.exploded.encode() in names
    if isinstance(address, IPv6Address):
        assert fastnetmon_spelling(address).encode() in names


def test_spellings_when_argument_given_then_its_lower_case_is_among_them() -> None:
    """The spelling of the arguments counts too, without regard to case."""
    assert b"::ffff:c000:20a" in spellings(ip_address("192.0.2.10"), "::FFFF:C000:20A")
