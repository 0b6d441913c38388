# SPDX-License-Identifier: Apache-2.0
"""Text for a terminal: nothing from outside reaches it raw, nothing is wider than it."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TextIO

from hub.shown import amount as amount  # noqa: PLC0414 - whoever prints takes it from here
from hub.shown import clean as clean  # noqa: PLC0414
from hub.units import format_duration

WIDTH: Final = 80
_NARROWEST, _WIDEST = 40, 160
_STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
    "alarm": "1;31",
}
STATE_STYLES: Final = {
    "active": "green",
    "applying": "yellow",
    "releasing": "yellow",
    "ending": "yellow",
    "failed": "alarm",
    "dry_run": "cyan",
    "ended": "dim",
    "released": "dim",
    "not_understood": "yellow",
}


class Cell(NamedTuple):
    """One value of a table, with the style it is shown in."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: head of the column.
        right: numbers stand to the right.
        least: width to which it may shrink; columns without one shrink last.
        cut: a value that does not fit is cut; otherwise the rest of its row moves one line down.
    """

    title: str
    right: bool = False
    least: int = 0
    cut: bool = False


class Screen:
    """Writes to one stream within its width.

    Args:
        out: where to.
        color: whether to style.
        width: columns.
    """

    def __init__(self, out: TextIO, *, color: bool, width: int = WIDTH) -> None:
        self._out, self._color, self.width = out, color, width

    @property
    def has_reader(self) -> bool:
        """Return whether a person sees this: it is a terminal."""
        return self._out.isatty()

    def styled(self, text: str, style: str) -> str:
        """Return `text` in `style`; unchanged without colours."""
        if not (self._color and style):
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line, cut to the width."""
        self._out.write(self.styled(cut(text, self.width), style) + "\n")

    def raw(self, text: str) -> None:
        """Write one line as it is: for programs that read it."""
        self._out.write(text + "\n")

    def text(self, text: str, style: str = "", *, indent: int = 0) -> None:
        """Write `text` over as many lines as it needs."""
        for part in wrap(text, self.width - indent):
            self._out.write(" " * indent + self.styled(part, style) + "\n")

    def field(self, label: str, value: str, style: str = "", *, at: int = 14) -> None:
        """Write `label` and its value, folded under its first line."""
        parts = wrap(value, self.width - at) or [""]
        for number, part in enumerate(parts):
            head = pad(f"  {label}" if number == 0 else "", at)
            self._out.write((head + self.styled(part, style)).rstrip() + "\n")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        """Write a table with a head; columns that may shrink do so until it fits."""
        widths = self._widths(columns, rows)
        head = [Cell(column.title, "bold") for column in columns]
        for row in [head, *rows]:
            self._row(columns, widths, row)

    def flush(self) -> None:
        """Hand everything to the stream's reader."""
        self._out.flush()

    def _widths(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
        widths = [
            max(cells(column.title), *(cells(row[place].text) for row in rows), 0)
            for place, column in enumerate(columns)
        ]
        over = sum(widths) + 2 * (len(widths) - 1) - self.width
        willing = [place for place, column in enumerate(columns) if column.least]
        widest = sorted(range(len(widths)), key=lambda place: -widths[place])
        for place in [*willing, *widest]:
            if over > 0:
                least = max(columns[place].least, cells(columns[place].title))
                shrunk = min(widths[place], max(least, widths[place] - over))
                over -= widths[place] - shrunk
                widths[place] = shrunk
        return widths

    def _row(self, columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> None:
        line, used = "", 0
        for place, (column, width, cell) in enumerate(zip(columns, widths, row, strict=True)):
            start = sum(widths[:place]) + 2 * place
            if start >= self.width:
                break
            text = cut(cell.text, width) if column.cut else cell.text
            if used > start:
                self._out.write(line.rstrip() + "\n")
                line, used = "", 0
            line += " " * (start - used)
            text = cut(text, self.width - start)
            space = " " * max(0, min(width, self.width - start) - cells(text))
            shown = self.styled(text, cell.style)
            line += space + shown if column.right else shown + space
            used = start + max(width, cells(text)) + 2
            line += "  "
        self._out.write(line.rstrip() + "\n")


def screen_for(out: TextIO, color: str) -> Screen:
    """Return the screen for `out`.

    Args:
        out: standard output or the like.
        color: `always`, `never`, or `auto`: on a terminal, unless NO_COLOR is set.
    """
    tty = out.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    width = WIDTH
    if tty:
        try:
            width = os.get_terminal_size(out.fileno()).columns or WIDTH
        except OSError:
            width = WIDTH
    return Screen(
        out,
        color=color == "always" or (color == "auto" and tty and not plain),
        width=max(_NARROWEST, min(width, _WIDEST)),
    )


def cells(text: str) -> int:
    """Return the columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cell(char) for char in text)


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, `..` at the end when something is missing."""
    if cells(text) <= width:
        return text
    kept, used = "", 0
    for char in text:
        used += _cell(char)
        if used > max(0, width - 2):
            break
        kept += char
    return (kept + "..")[: max(0, width)] if width < 2 else kept + ".."  # noqa: PLR2004


def pad(text: str, width: int) -> str:
    """Return `text` filled with spaces to `width` columns."""
    return text + " " * max(0, width - cells(text))


def wrap(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns, broken at spaces where there are any.

    Every line keeps the indentation of the text.
    """
    words = text.lstrip(" ")
    indent = " " * min(len(text) - len(words), max(0, width // 2 - 1))
    return [(indent + line).rstrip() for line in _fold(words, width - len(indent))]


def fold(text: str, *, indent: int = 0) -> str:
    """Return a message in lines of 80 columns; what an editor jumps to or one copies stays whole.

    Args:
        text: the message.
        indent: spaces before its first line; the others have four more.
    """
    from textwrap import wrap as lines  # noqa: PLC0415 - for mistakes only: it loads `re`

    return "\n".join(
        lines(
            text,
            WIDTH,
            initial_indent=" " * indent,
            subsequent_indent=" " * (indent + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _fold(text: str, width: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while cells(line) > width:
            piece = _head(line, width)
            lines.append(piece)
            line = line[len(piece) :]
    if line:
        lines.append(line)
    return lines


def join(parts: Iterable[str]) -> str:
    """Return the parts that say something, with two spaces between them."""
    return "  ".join(part for part in parts if part)


def clock(stamp: float | None) -> str:
    """Return `HH:MM:SS` in local time, `-` for None."""
    if stamp is None:
        return "-"
    try:
        return datetime.fromtimestamp(stamp, tz=UTC).astimezone().strftime("%H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return "?"


def moment(stamp: float | None, now: float) -> str:
    """Return local time and age: `12:03:04 (2m 3s ago)`."""
    if stamp is None:
        return "-"
    return f"{clock(stamp)} ({age(stamp, now)})"


def age(stamp: float, now: float) -> str:
    """Return `2m 3s ago`, or `in 2m 3s` for what lies ahead."""
    if stamp > now:
        return f"in {format_duration(stamp - now)}"
    return f"{format_duration(now - stamp)} ago"


def remaining(deadline: float | None, now: float) -> str:
    """Return `12m 30s`, `over` once the deadline has passed, `-` for None."""
    if deadline is None:
        return "-"
    return format_duration(deadline - now) if deadline > now else "over"


def target(text: Any) -> str:
    """Return an address without the prefix length that says nothing: `/32`, `/128`."""
    shown = clean(text)
    return shown.removesuffix("/128") if ":" in shown else shown.removesuffix("/32")


def _head(text: str, width: int) -> str:
    used = 0
    for place, char in enumerate(text):
        used += _cell(char)
        if used > width and place:
            return text[:place]
    return text


def _cell(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
