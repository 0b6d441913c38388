# SPDX-License-Identifier: Apache-2.0
"""The command line of a notify script."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.intake.arguments import Call, read_arguments
from hub.intake.model import Action


def test_read_arguments_when_community_order_then_all_four_read() -> None:
    """`IP DIRECTION PPS ACTION` gives all four."""
    expected = Call(
        Action.BAN, ip_address("192.0.2.10"), "192.0.2.10", "incoming", 319, community=True
    )
    assert expected == read_arguments(["192.0.2.10", "incoming", "319", "ban"])


def test_read_arguments_when_advanced_order_then_action_and_address() -> None:
    """`ACTION IP` gives both, and no address is no error."""
    expected = Call(Action.UNBAN, ip_address("192.0.2.10"), "192.0.2.10")
    assert expected == read_arguments(["unban", "192.0.2.10"])
    assert Call(Action.PARTIAL_BLOCK) == read_arguments(["partial_block"])


@pytest.mark.parametrize("action", list(Action))
def test_read_arguments_when_any_action_then_known_in_both_orders(action: Action) -> None:
    """Every action is understood in either order."""
    assert action is read_arguments(["192.0.2.1", "other", "0", action.value]).action
    assert action is read_arguments([action.value, "192.0.2.1"]).action


@pytest.mark.parametrize(
    "args", [[], ["192.0.2.1"], ["192.0.2.1", "incoming", "5", "BAN"], ["a", "b", "c"]]
)
def test_read_arguments_when_no_action_in_its_place_then_empty(args: list[str]) -> None:
    """Without a known action in its place nothing is guessed."""
    assert Call() == read_arguments(args)


@pytest.mark.parametrize("pps", ["", "-1", "1.5", "٣", "1_0", "+1", "9" * 19, "9" * 5000, "x"])
def test_read_arguments_when_pps_is_no_number_then_none_and_event_kept(pps: str) -> None:
    """A broken number costs the number, not the event."""
    call = read_arguments(["192.0.2.1", "incoming", pps, "ban"])
    assert (call.action, call.pps) == (Action.BAN, None)


def test_read_arguments_when_direction_has_raw_bytes_then_text_that_encodes() -> None:
    """Lone surrogates, which stand for raw bytes, do not get past the arguments."""
    call = read_arguments(["192.0.2.1", "in\udcff", "5", "ban"])
    assert call.direction == "in?"


@given(st.lists(st.text(max_size=20), max_size=6))
def test_read_arguments_when_any_texts_then_never_raises(args: list[str]) -> None:
    """No command line raises."""
    assert isinstance(read_arguments(args), Call)
