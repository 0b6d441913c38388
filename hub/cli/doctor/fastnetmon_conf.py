# SPDX-License-Identifier: Apache-2.0
"""fastnetmon.conf, read as FastNetMon Community itself reads it (1.1 to 1.2.9)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from hub.net import IPNetwork


@dataclass(frozen=True, slots=True)
class Conf:
    """The settings of one file.

    Attributes:
        values: by key; the last value of a key wins.
        ignored: numbers of lines that FastNetMon does not understand and leaves out.
    """

    values: Mapping[str, str]
    ignored: tuple[int, ...] = ()

    def on(self, key: str, *, default: bool = False) -> bool:
        """Tell whether `key` is `on`; anything else that is written means off."""
        value = self.values.get(key)
        return default if value is None else value == "on"

    def text(self, key: str, default: str = "") -> str:
        """Return the value of `key`."""
        return self.values.get(key, default)

    def number(self, key: str, default: int) -> int:
        """Return the whole number that `key` begins with, 0 where it begins with none (atoi)."""
        value = self.values.get(key)
        if value is None:
            return default
        match = re.match(r"\s*[+-]?\d+", value)
        return int(match[0]) if match else 0

    def path(self, key: str, default: str) -> Path:
        """Return the path at `key`."""
        return Path(self.values.get(key) or default)

    def listed(self, key: str) -> tuple[str, ...]:
        """Return the values that stand at `key` with commas between them."""
        parts = (part.strip() for part in self.values.get(key, "").split(","))
        return tuple(part for part in parts if part)


def parse(text: str) -> Conf:
    """Return the settings in `text`.

    A line is trimmed; one that is empty or begins with `#` means nothing; any other has one run
    of `=` in it, or is left out. So no value holds a `=`, and a comment behind a value is a part
    of it.
    """
    values: dict[str, str] = {}
    ignored: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        trimmed = line.strip()
        if not trimmed or trimmed.startswith("#"):
            continue
        parts = re.split("=+", trimmed)
        if len(parts) == 2:  # noqa: PLR2004 - a key and a value
            values[parts[0].strip()] = parts[1].strip()
        else:
            ignored.append(number)
    return Conf(values, tuple(ignored))


def parse_prefixes(text: str) -> tuple[list[IPNetwork], list[str]]:
    """Return the prefixes of a networks_list or networks_whitelist, and the lines that are none.

    Host bits are cut off, as FastNetMon does.
    """
    found: list[IPNetwork] = []
    wrong: list[str] = []
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        try:
            found.append(ip_network(line, strict=False))
        except ValueError:
            wrong.append(line)
    return found, wrong
