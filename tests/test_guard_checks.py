# SPDX-License-Identifier: Apache-2.0
"""Guards: what must never happen, whatever the rules say."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from hub.config import Caps, Guard
from hub.guard.checks import Live, cap_usage, check_caps, check_target
from hub.net import IPNetwork, overlap

POLICY = Guard(
    own_prefixes=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
    never_block=(ip_network("192.0.2.1/32"), ip_network("2001:db8::53/128")),
)


@composite
def networks(draw: DrawFn) -> IPNetwork:
    """Draw any prefix of either family, own ones more often than chance would."""
    if draw(st.booleans()):
        length = draw(st.integers(0, 32))
        address = draw(st.sampled_from([0xC0000200, 0xC0000201, 0, 0xE0000001]))
        offset = draw(st.integers(0, 255))
        return ip_network(((address + offset) % 2**32 >> (32 - length) << (32 - length), length))
    length = draw(st.integers(0, 128))
    base = 0x20010DB8 << 96
    address = (base + draw(st.integers(0, 255))) >> (128 - length) << (128 - length)
    return ip_network((address, length))


@pytest.mark.parametrize(
    ("target", "guard"),
    [
        ("0.0.0.0/0", "impossible_target"),
        ("::/0", "impossible_target"),
        ("224.0.0.1/32", "impossible_target"),
        ("127.0.0.1/32", "impossible_target"),
        ("fe80::1/128", "impossible_target"),
        ("255.255.255.255/32", "impossible_target"),
        ("0.0.0.0/32", "impossible_target"),
        ("198.51.100.1/32", "own_prefixes"),
        ("2001:db9::1/128", "own_prefixes"),
        ("192.0.2.1/32", "never_block"),
        ("2001:db8::53/128", "never_block"),
        ("192.0.2.128/25", "width"),
        ("2001:db8:1::/64", "width"),
    ],
)
def test_target_when_not_allowed_then_the_guard_says_why(target: str, guard: str) -> None:
    """Each guard names itself and compares the values."""
    refusal = check_target(ip_network(target), POLICY)
    assert refusal is not None
    assert refusal.guard == guard
    assert target in refusal.why


@pytest.mark.parametrize("target", ["192.0.2.10/32", "2001:db8::10/128"])
def test_target_when_own_host_then_allowed(target: str) -> None:
    """A host of ours that is on no list passes."""
    assert check_target(ip_network(target), POLICY) is None


def test_target_when_it_contains_a_never_block_prefix_then_refused() -> None:
    """The list holds for wider targets too."""
    policy = POLICY.model_copy(update={"min_prefix_v4": 24})
    refusal = check_target(ip_network("192.0.2.0/24"), policy)
    assert refusal is not None
    assert refusal.guard == "never_block"


@given(networks())
def test_target_when_allowed_then_ours_narrow_and_off_the_list(target: IPNetwork) -> None:
    """P3 on any prefix: what passes is inside ours and touches no never-block prefix."""
    if check_target(target, POLICY) is None:
        assert any(
            own.version == target.version and overlap(own, target) for own in POLICY.own_prefixes
        )
        assert not any(overlap(listed, target) for listed in POLICY.never_block)
        assert target.prefixlen == target.max_prefixlen


def test_caps_when_reached_then_refused_by_name() -> None:
    """Total, per engine and per rule are three caps; the refusal names the one."""
    policy = Guard(caps=Caps(total=10, per_engine={"nftables": 3}, per_rule=2))
    assert check_caps("nftables", "r", Live(2, {"nftables": 2}, {"r": 1}), policy) is None
    for live, cap in [
        (Live(10, {"nftables": 0}, {}), "guard.caps.total"),
        (Live(3, {"nftables": 3}, {}), "guard.caps.per_engine.nftables"),
        (Live(2, {"nftables": 2}, {"r": 2}), "guard.caps.per_rule (r)"),
    ]:
        refusal = check_caps("nftables", "r", live, policy)
        assert refusal is not None
        assert cap in refusal.why


def test_caps_when_four_fifths_are_used_then_near() -> None:
    """The operator is warned at 80 per cent."""
    policy = Guard(caps=Caps(total=10))
    near = [cap_usage("e", "r", Live(used, {}, {}), policy)[0].near for used in (7, 8, 10)]
    assert near == [False, True, True]
