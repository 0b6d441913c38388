# SPDX-License-Identifier: Apache-2.0
"""Single values out of a hostile report: numbers and words that everything after can hold."""

from typing import Any, Final

MOST: Final = 2**63 - 1
"""Largest number kept: what SQLite and most JSON readers can hold."""
_LONGEST: Final = 256
_DEEPEST: Final = 8


def amount(value: Any) -> int | None:
    """Return `value` when it is a whole number from 0 to `MOST`, else None.

    Booleans, strings of digits, NaN, infinities and fractions are no amounts. Negative numbers
    occur in reality: FastNetMon before 1.2.3 wrote its counters through a 32-bit integer.
    """
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST else None


def word(value: Any) -> str | None:
    """Return `value` as text that encodes to UTF-8, cut at 256 characters; None when not text."""
    if not isinstance(value, str) or not value:
        return None
    return value[:_LONGEST].encode("utf-8", "replace").decode("utf-8")


def plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON value with valid text only; what lies deeper than 8 levels becomes None."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict | list) and depth >= _DEEPEST:
        return None
    if isinstance(value, dict):
        return {plain(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    return value
