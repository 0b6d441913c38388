# SPDX-License-Identifier: Apache-2.0
"""Plain data of a YAML file together with the place of every value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hub.errors import Problem

Loc = tuple[str | int, ...]
"""Way to a value as pydantic reports it: field names and list indices, sometimes union tags."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Node:
    """One value and where it stands.

    Attributes:
        value: `str`, `int`, `float`, `bool`, `None`, `dict` or (for a list) `tuple`.
        line: 1-based.
        column: 1-based.
        children: nodes of a mapping by key, of a list by index.
        keys: line and column of each key of a mapping.
        sound: False where the value could not be read and was already reported.
    """

    value: Any
    line: int
    column: int
    children: Mapping[str | int, "Node"] = field(default_factory=dict)
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sound: bool = True


@dataclass(frozen=True, slots=True)
class Located:
    """Where a `Loc` leads.

    Attributes:
        way: the elements of the `Loc` that exist in the file.
        node: the value there.
        key: line and column of its key, None for list entries and the whole file.
        rest: what follows the last existing element, e.g. the name of a missing field.
        sound: no value on the way was unreadable.
    """

    way: Loc
    node: Node
    key: tuple[int, int] | None
    rest: Loc
    sound: bool


@dataclass(frozen=True, slots=True)
class Document:
    """One file.

    Attributes:
        file: its path as given.
        root: its value; None where nothing could be read, `problems` then say why.
        problems: mistakes found by the YAML reader, in line order.
    """

    file: str
    root: Node | None
    problems: tuple[Problem, ...] = ()

    @property
    def data(self) -> Any:
        """Return the plain data, None where nothing could be read."""
        return self.root.value if self.root is not None else None

    def locate(self, loc: Loc) -> Located:
        """Follow `loc` as far as it exists, stepping over union tags, which no file contains."""
        if self.root is None:
            msg = f"{self.file} has no data to look into"
            raise ValueError(msg)
        node, key, way, rest = self.root, None, [], []
        sound = node.sound
        for element in loc:
            child = node.children.get(element)
            if child is None:
                rest.append(element)
                continue
            key = node.keys.get(element) if isinstance(element, str) else None
            node, rest = child, []
            way.append(element)
            sound = sound and node.sound
        return Located(tuple(way), node, key, tuple(rest), sound)

    def problem(self, loc: Loc, what: str, todo: str = "", *, at_key: bool = False) -> Problem:
        """Return a problem at `loc`; `what` follows the printed path."""
        found = self.locate(loc)
        line, column = found.node.line, found.node.column
        if at_key and found.key is not None:
            line, column = found.key
        path = format_path(found.way)
        return Problem(f"{path}: {what}" if path else what, self.file, line, column, todo)


def format_path(way: Loc) -> str:
    """Return `way` as an operator reads it: `rules[1].when.protocol`."""
    text = ""
    for element in way:
        if isinstance(element, int):
            text += f"[{element}]"
        elif _PLAIN_KEY.fullmatch(element):
            text += f".{element}" if text else element
        else:
            text += f"[{element!r}]"
    return text
