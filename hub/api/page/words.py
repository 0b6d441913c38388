# SPDX-License-Identifier: Apache-2.0
"""Times, addresses and numbers as the page words them."""

from datetime import UTC, datetime
from typing import Any, Final

from hub.api.page.markup import Html, badge, el
from hub.shown import amount
from hub.units import format_duration

GOOD, WATCH, BAD, PLAIN = "good", "watch", "bad", "plain"
_KINDS: Final = {
    "active": GOOD,
    "ok": GOOD,
    "proven": GOOD,
    "applying": WATCH,
    "releasing": WATCH,
    "ending": WATCH,
    "dry_run": WATCH,
    "new": WATCH,
    "returning": WATCH,
    "failed": BAD,
    "left": BAD,
    "unreachable": BAD,
    "untrusted": BAD,
    "changed": BAD,
    "denied": BAD,
    "unusable": BAD,
}


def moment(stamp: float | None) -> Html:
    """Return a time of day in UTC, with the whole of it for machines."""
    if stamp is None:
        return el("span", "-")
    try:
        at = datetime.fromtimestamp(stamp, tz=UTC)
    except (OverflowError, OSError, ValueError):
        return el("span", "?")
    return el(
        "time", f"{at:%H:%M:%S}", datetime=f"{at:%Y-%m-%dT%H:%M:%SZ}", title=f"{at:%F %T} UTC"
    )


def lasted(start: float, end: float) -> str:
    """Return how long something lasted, in whole seconds."""
    seconds = max(0, round(end - start))
    return f"{seconds}s" if seconds < 10 else format_duration(seconds)  # noqa: PLR2004


def remaining(deadline: float | None, now: float) -> str:
    """Return what is left until a deadline."""
    if deadline is None:
        return "-"
    return lasted(now, deadline) if deadline > now else "over"


def state(word: str, *, alarm: bool = False) -> Html:
    """Return a state as a badge; the word says it, the colour only repeats it."""
    return badge(word.replace("_", "-"), BAD if alarm else _KINDS.get(word, PLAIN))


def address(text: Any) -> str:
    """Return a prefix without the length that says nothing."""
    shown = str(text)
    return shown.removesuffix("/128") if ":" in shown else shown.removesuffix("/32")


def pps(number: float | None) -> str:
    """Return a packet rate; below ten with one decimal, as few packets are not none."""
    if number is not None and 0 < number < 9.95:  # noqa: PLR2004
        return f"{number:.1f}/s".replace(".0/", "/")
    return f"{amount(number)}/s"


def exact(number: int) -> str:
    """Return a count with all of its digits."""
    return f"{number:,}"
