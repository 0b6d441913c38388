# SPDX-License-Identifier: Apache-2.0
"""Durations and amounts as people write them: `15m`, `50k`, `1MiB`."""

import re
from typing import Final

_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_MILLIS: Final = re.compile(r"(\d+)ms")
_COUNT: Final = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)")
_SIZE: Final = re.compile(r"(\d+)(B|KiB|MiB|GiB)?")
_SI: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_IEC: Final = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(text: str) -> float:
    """Return the seconds that `text` means: `250ms`, `30s`, `15m`, `1h30m`, `2d`.

    Raises:
        ValueError: no unit, no number, or units out of order.
    """
    if match := _MILLIS.fullmatch(text):
        return int(match[1]) / 1000
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        msg = f"{text!r} is not a duration; write a number and a unit, as 250ms, 30s, 15m, 1h30m"
        raise ValueError(msg)
    days, hours, minutes, seconds = match.groups()
    whole = int(days or 0) * 86400 + int(hours or 0) * 3600 + int(minutes or 0) * 60
    return whole + float(seconds or 0)


def format_duration(seconds: float) -> str:
    """Return `seconds` in at most two units, as `2m 30s`; below ten seconds with one decimal."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 10:  # noqa: PLR2004 - one decimal only where it can be read
        return f"{seconds:.1f}s"
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def parse_count(text: str | int) -> int:
    """Return the amount that `text` means: `100`, `50k`, `1.5M`, `2G` (decimal multiples).

    Raises:
        ValueError: not a number with an optional k, M or G.
    """
    match = _COUNT.fullmatch(str(text))
    if match is None:
        msg = f"{text!r} is not an amount; write a number, as 100, 50k, 1.5M"
        raise ValueError(msg)
    return round(float(match[1]) * _SI[match[2]])


def parse_size(text: str | int) -> int:
    """Return the bytes that `text` means: `4096`, `64KiB`, `16MiB`.

    Raises:
        ValueError: not a whole number with an optional B, KiB, MiB or GiB.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None:
        msg = f"{text!r} is not a size; write a number of bytes, or with KiB, MiB, GiB"
        raise ValueError(msg)
    return int(match[1]) * _IEC[match[2]]
