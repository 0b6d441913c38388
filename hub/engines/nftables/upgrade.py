# SPDX-License-Identifier: Apache-2.0
"""Turns a table of another layout, or a damaged one, into ours without losing what is live (pure).

Gates, sets and counters that both layouts have are kept with their elements and values, profiles
are not touched, rules are made anew. nft 1.0.6 cannot put prefixes back into a map that the same
transaction has deleted, so the table itself stays, and what is live in a gate that has to be made
anew is put back by the next transaction.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from hub.engines.nftables.expr import RULE_TAG, Commands, Json
from hub.engines.nftables.layout import LAYOUT_PREFIX
from hub.engines.nftables.profile import profile_of

_COMPARED: Final[dict[str, tuple[str, ...]]] = {
    "chain": ("type", "hook", "prio", "policy"),
    "set": ("type", "flags", "size", "gc-interval"),
    "map": ("type", "map", "flags", "gc-interval", "stmt"),
    "counter": (),
}
_GATE: Final = re.compile(r"[a-z]+[46]_[hn]\d")
_Key = tuple[str, str]


def upgrade(objects: Sequence[Json], expected: Sequence[Json], table: str) -> list[Json]:
    """Return the commands that make the table `objects` into the one that `expected` makes.

    Args:
        objects: the table as listed.
        expected: commands that create our layout.
        table: name of both.
    """
    make = Commands(table)
    wanted = _bodies(command["add"] for command in expected)
    tagged = {
        one["rule"]["chain"] for one in objects if one.get("rule", {}).get("comment") == RULE_TAG
    }
    found = {
        key: body
        for key, body in _bodies(objects).items()
        if key in wanted or _outdated(*key, tagged)
    }
    kept = {key for key, body in found.items() if key in wanted and _same(key, body, wanted[key])}
    chains = [name for kind, name in found if kind == "chain"]
    return [
        *(make.flush_chain(name) for name in chains),
        *(make.delete(*key) for key in found if key not in kept),
        *(command for command in expected if _key(command["add"]) not in kept),
    ]


def _bodies(objects: Iterable[Json]) -> dict[_Key, Any]:
    bodies: dict[_Key, Any] = {}
    for one in objects:
        key = _key(one)
        if key is not None:
            bodies[key] = one[key[0]]
    return bodies


def _key(one: Json) -> _Key | None:
    for kind in _COMPARED:
        if kind in one:
            return kind, one[kind]["name"]
    return None


def _outdated(kind: str, name: str, tagged: set[str]) -> bool:
    """Tell whether an object that our layout does not have is one of an older layout of ours."""
    if kind == "chain":
        return name.startswith(LAYOUT_PREFIX) or (name in tagged and profile_of(name) is None)
    return kind == "map" and _GATE.fullmatch(name) is not None


def _same(key: _Key, found: Any, wanted: Any) -> bool:
    return all(_plain(found.get(name)) == _plain(wanted.get(name)) for name in _COMPARED[key[0]])


def _plain(value: Any) -> Any:
    # Newer versions of nft list `dynamic` too, and a single flag without brackets.
    if isinstance(value, list):
        words = (item if isinstance(item, str) else next(iter(item)) for item in value)
        return sorted(word for word in words if word != "dynamic")
    return ["timeout"] if value == "timeout" else value
