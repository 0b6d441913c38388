# SPDX-License-Identifier: Apache-2.0
"""Single values out of a hostile report."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.intake.values import MOST, amount, plain, word


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (5, 5), (5.0, 5), (MOST, MOST)])
def test_amount_when_whole_number_then_kept(value: Any, expected: int) -> None:
    """Whole numbers that fit are kept, also those that some encoder wrote as 5.0."""
    assert expected == amount(value)


@pytest.mark.parametrize(
    "value",
    [True, False, -1, -5.0, 1.5, math.nan, math.inf, -math.inf, MOST + 1, 1e300, "5", None, [], {}],
)
def test_amount_when_anything_else_then_none(value: Any) -> None:
    """Wrong types, wrong signs and what does not fit are no amounts."""
    assert amount(value) is None


@given(st.one_of(st.text(max_size=600), st.none(), st.integers(), st.binary()))
def test_word_when_any_value_then_short_utf8_or_none(value: Any) -> None:
    """A word always encodes, is never empty and never long."""
    text = word(value)
    if text is not None:
        assert 0 < len(text.encode("utf-8").decode("utf-8")) <= 256


def test_plain_when_nested_too_deep_then_cut() -> None:
    """Depth is bounded, so nothing later recurses without end."""
    value: Any = "end"
    for _ in range(500):
        value = [value]
    depth = 0
    value = plain(value)
    while isinstance(value, list):
        value, depth = value[0], depth + 1
    assert (depth, value) == (8, None)


def test_plain_when_keys_and_texts_have_surrogates_then_replaced() -> None:
    """All texts encode afterwards, keys included."""
    assert plain({"a\ud800": ["\udfff", 1, None, True]}) == {"a?": ["?", 1, None, True]}
