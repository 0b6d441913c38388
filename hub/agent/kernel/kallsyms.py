# SPDX-License-Identifier: Apache-2.0
"""Addresses of kernel variables by name, from /proc/kallsyms (proc(5))."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from hub.errors import HubError

_LONGEST_LINE: Final = 1024
_MOST_LINES: Final = 2_000_000
_DATA: Final = b"bBdDrRgGsS"
"""Types of variables (nm(1)); a function may have the name of one."""
_HOMES: Final = {b"syncookie6_secret": b"ipv6"}
"""Modules that a variable may live in, where it is not built in."""


class SymbolError(HubError):
    """Addresses cannot be had."""


def find_symbols(path: Path, names: Collection[str]) -> dict[str, int]:
    """Return the addresses of those of `names` that are listed.

    A whole name must fit: what the compiler has made of another variable carries a suffix. What a
    module calls the same is another variable.

    Raises:
        SymbolError: the file cannot be read, hides its addresses, or lists a name twice.
    """
    wanted = b"|".join(re.escape(name.encode()) for name in names)
    line = re.compile(rb"([0-9a-fA-F]{8,16}) ([%b]) (%b)(?:[ \t]+\[(\S+)\])?\s*" % (_DATA, wanted))
    found: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for text in _lines(file, str(path)):
                match = line.fullmatch(text)
                if match is None or match[4] not in (None, _HOMES.get(match[3])):
                    continue
                name, address = match[3].decode(), int(match[1], 16)
                if found.setdefault(name, address) != address:
                    raise SymbolError(f"lists {name} twice", where=str(path))
    except FileNotFoundError:
        raise SymbolError(
            "does not exist: the kernel was built without CONFIG_KALLSYMS", where=str(path)
        ) from None
    except OSError as error:
        raise SymbolError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not all(found.values()):
        raise SymbolError(
            "hides its addresses",
            where=str(path),
            todo="start it as root with CAP_SYSLOG; sysctl kernel.kptr_restrict must be 0 or 1",
        )
    return found


def _lines(file: BinaryIO, where: str) -> Iterator[bytes]:
    whole = True
    for _ in range(_MOST_LINES):
        text = file.readline(_LONGEST_LINE)
        if not text:
            return
        # The rest of a line that is too long is no line.
        if whole:
            yield text
        whole = text.endswith(b"\n")
    raise SymbolError("does not end", where=where)
