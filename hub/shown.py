# SPDX-License-Identifier: Apache-2.0
"""Text from outside, and numbers, as a terminal and a page may show them."""

from typing import Any


def clean(value: Any) -> str:
    """Return `value` as text in which nothing can steer a terminal: controls stand escaped."""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def amount(number: float | None) -> str:
    """Return `999`, `1.2k`, `120k`, `80M`, `2.1G`; `-` for None."""
    if number is None:
        return "-"
    value = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or unit == "T":  # noqa: PLR2004 - the next unit begins here
            break
        value /= 1000
    else:
        unit = "T"
    digits = f"{value:.1f}" if unit and abs(value) < 9.95 else f"{value:.0f}"  # noqa: PLR2004
    return digits.removesuffix(".0") + unit
