# SPDX-License-Identifier: Apache-2.0
"""The live story on the terminal: when, who, what."""

import shutil
import sys
import textwrap
from os import environ
from typing import Final, TextIO

from hub.clock import Clock

_COLOURS: Final = {
    "attacker": "31",
    "fastnetmon": "33",
    "hub": "36",
    "gateway": "34",
    "client": "32",
    "failed": "31;1",
}
_MAX_WIDTH: Final = 100
_INDENT: Final = 22


class Timeline:
    """Prints one line a fact; in colours on a terminal, unless NO_COLOR is set."""

    def __init__(self, clock: Clock, output: TextIO = sys.stdout) -> None:
        self._clock = clock
        self._output = output
        self._start = clock.monotonic()
        self._colours = output.isatty() and not environ.get("NO_COLOR")

    def say(self, who: str, what: str) -> None:
        """Print that `who` did `what`, now."""
        seconds = self._clock.monotonic() - self._start
        width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) - _INDENT
        lines = textwrap.wrap(what, max(width, 40), break_on_hyphens=False)
        name = f"{who:<10}"
        if self._colours and who in _COLOURS:
            name = f"\x1b[{_COLOURS[who]}m{name}\x1b[0m"
        print(f"{seconds:6.1f} s  {name}  {lines[0]}", file=self._output)
        for line in lines[1:]:
            print(" " * _INDENT, line, sep="", file=self._output)
        self._output.flush()

    def head(self, text: str) -> None:
        """Print a heading."""
        line = f"\n== {text}"
        print(f"\x1b[1m{line}\x1b[0m" if self._colours else line, file=self._output, flush=True)
