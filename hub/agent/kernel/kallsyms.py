# SPDX-License-Identifier: Apache-2.0
"""Addresses of kernel variables by name, from /proc/kallsyms (proc(5))."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from hub.errors import HubError

_LINE: Final = re.compile(rb"([0-9a-fA-F]{8,16}) ([a-zA-Z]) (\S+)(?:\s+\[(\S+)\])?\s*")
_LONGEST_LINE: Final = 1024
_MOST_LINES: Final = 5_000_000
_HOMES: Final = {b"syncookie6_secret": b"ipv6"}
"""Modules that a variable may live in, where it is not built in."""


class SymbolError(HubError):
    """Addresses cannot be had."""


def find_symbols(path: Path, names: Collection[str]) -> dict[str, int]:
    """Return the addresses of those of `names` that are listed.

    A whole name must fit: what the compiler has made of another variable carries a suffix.

    Raises:
        SymbolError: the file cannot be read, hides its addresses, or lists a name twice.
    """
    wanted = {name.encode(): name for name in names}
    found: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for _ in range(_MOST_LINES):
                line = file.readline(_LONGEST_LINE)
                if not line:
                    break
                match = _LINE.fullmatch(line)
                if match is None or (name := wanted.get(match[3])) is None:
                    continue
                if match[4] is not None and _HOMES.get(match[3]) != match[4]:
                    continue
                address = int(match[1], 16)
                if found.setdefault(name, address) != address:
                    raise SymbolError(f"lists {name} twice", where=str(path))
    except OSError as error:
        raise SymbolError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if found and not all(found.values()):
        raise SymbolError(
            "hides its addresses",
            where=str(path),
            todo="start it as root with CAP_SYSLOG; sysctl kernel.kptr_restrict must be 0 or 1",
        )
    return found
