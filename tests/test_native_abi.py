# SPDX-License-Identifier: Apache-2.0
"""The mirror of the data plane's layouts in Python is what the compiler made of the C side."""

import re
from ctypes import sizeof

import pytest

from tests.support import bpf_abi as abi
from tests.support import bpf_abi_splice as abi_splice
from tests.support.bpf_bench import engine
from tests.support.bpf_engine import reasons
from tests.support.native_build import NATIVE

HEADER = NATIVE / "bpf" / "abi.h"
SPLICE_HEADER = NATIVE / "bpf" / "splice_abi.h"
VALUES = abi.MAP_VALUES | abi_splice.SPLICE_VALUES


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"fnm_sample"}))
def test_layout_is_that_of_the_object(name: str) -> None:
    """Size, names, offsets and sizes of the members equal those in the object's BTF.

    No map and no function names the record of a sample, so BTF does not have it; records are read
    by the tests of samples.
    """
    btf = engine().object.btf
    mirror = VALUES[name]
    members = [
        (field[0], getattr(mirror, field[0]).offset, getattr(mirror, field[0]).size)
        for field in mirror._fields_
        if field[0] != "settings"
    ]
    if name == "fnm_slot":
        at = abi.Slot.settings.offset
        members += [(field[0], at, sizeof(field[1])) for field in abi.Settings._fields_]
    one = btf.structs[name]
    assert (list(btf.members(one)), one.size) == (members, sizeof(mirror))


def test_every_structure_of_the_header_is_mirrored() -> None:
    """A structure that is new in one of the headers cannot be forgotten here."""
    text = HEADER.read_text() + SPLICE_HEADER.read_text()
    assert set(re.findall(r"^struct (fnm_\w+) \{", text, re.MULTILINE)) == set(VALUES)


@pytest.mark.parametrize(
    ("define", "value"),
    [
        ("FNM_SLOTS", abi.SLOTS),
        ("FNM_CHAIN", abi.CHAIN),
        ("FNM_ACL_RULES", abi.ACL_RULES),
        ("FNM_ACL_LIMITS", abi.ACL_LIMITS),
        ("FNM_PREFILTER", abi.PREFILTER),
        ("FNM_RECENT", abi.RECENT),
        ("FNM_FILTER_WORDS", abi.FILTER_WORDS),
        ("FNM_SAMPLE_BYTES", abi.SAMPLE_BYTES),
        ("FNM_WAYS", abi.WAYS),
        ("FNM_TCP_SACK", abi.TCP_SACK),
        ("FNM_TCP_WSCALE", abi.TCP_WSCALE),
        ("FNM_TCP_TIMESTAMPS", abi.TCP_TIMESTAMPS),
        ("FNM_TCP_ECN", abi.TCP_ECN),
        ("FNM_TCP_TS_PER_FLOW", abi.TCP_TS_PER_FLOW),
        ("FNM_TCP_TS_NO_OFFSET", abi.TCP_TS_NO_OFFSET),
        ("FNM_SEEN_CLOSING", abi.CLOSING),
        ("FNM_SEEN_LEARNED", abi.LEARNED),
        ("FNM_M_SOURCE", abi.MATCH["source"]),
        ("FNM_M_PROTOCOL", abi.MATCH["protocol"]),
        ("FNM_M_SPORT", abi.MATCH["source_ports"]),
        ("FNM_M_DPORT", abi.MATCH["destination_ports"]),
        ("FNM_M_LENGTH", abi.MATCH["length"]),
        ("FNM_M_FLAGS", abi.MATCH["flags"]),
        ("FNM_M_ICMP_TYPE", abi.MATCH["icmp_type"]),
        ("FNM_M_ICMP_CODE", abi.MATCH["icmp_code"]),
        ("FNM_M_FRAGMENT", abi.MATCH["fragment"]),
        ("FNM_M_NOT_FRAGMENT", abi.MATCH["not_fragment"]),
        ("FNM_M_IPV4", abi.MATCH["ipv4"]),
        ("FNM_M_IPV6", abi.MATCH["ipv6"]),
        ("FNM_SEEN_PROBE", abi.PROBE),
        ("FNM_SPLICE_WAYS", abi_splice.SPLICE_WAYS),
        ("FNM_BACKENDS", abi_splice.BACKENDS),
        ("FNM_HELD", abi_splice.HELD),
        ("FNM_HELD_BYTES", abi_splice.HELD_BYTES),
        ("FNM_HELD_ROOM", abi_splice.HELD_ROOM),
        ("FNM_ENDED_CLIENT", abi_splice.ENDED_CLIENT),
        ("FNM_ENDED_SERVER", abi_splice.ENDED_SERVER),
        ("FNM_ENDED_RESET", abi_splice.ENDED_RESET),
    ],
)
def test_constant_is_that_of_the_header(define: str, value: int) -> None:
    """A number that has no type, and so is not in BTF, is the header's own."""
    text = HEADER.read_text() + SPLICE_HEADER.read_text()
    found = re.search(rf"^#define {define}[ \t\\\n]+(\w+)", text, re.MULTILINE)
    assert found is not None
    assert int(found[1].rstrip("u"), 0) == value


def test_every_reason_has_a_number_below_the_counters_end() -> None:
    """Reasons are distinct and fit in the counters."""
    names = reasons(NATIVE / "bpf" / "reasons.h")
    assert len(set(names)) == len(names) <= abi.REASON_SLOTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FNM_SPLICE_ASKED", abi_splice.ASKED),
        ("FNM_SPLICE_OPEN", abi_splice.OPEN),
        *((f"FNM_BACKEND_{name.upper()}", at) for name, at in abi_splice.BACKEND_STATES.items()),
    ],
)
def test_state_has_the_headers_number(name: str, value: int) -> None:
    """States of spliced flows and of servers are numbered here as there."""
    found = re.search(rf"^\s*{name} = (\d+)", SPLICE_HEADER.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) == value
