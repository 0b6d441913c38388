# SPDX-License-Identifier: Apache-2.0
"""What a gate leads to: the chains and sets of one way of treating packets.

A profile is named by its content, so that every mitigation which wants the same shares it and
putting one in force is a few elements, however many there are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hub.engines.nftables.expr import Commands, Json
from hub.engines.nftables.layout import digest

PROFILE: Final = re.compile(r"((?:tcp|acl|sorb)[46]_[0-9a-f]{10})(?:_[a-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class Profile:
    """One way of treating packets.

    Attributes:
        name: begins the name of each chain and set of it.
        gates: chain that each group of gates leads to.
        rules: how many rules each chain has.
        sets: names of its sets.
        create: commands that make it, in order.
        steps: what it does, for the operator, one step a line.
    """

    name: str
    gates: Mapping[str, str]
    rules: Mapping[str, int]
    sets: tuple[str, ...]
    create: tuple[Json, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A profile before it has a name: parts are named by their suffix, `""` for the main one.

    Attributes:
        kind: `tcp`, `acl` or `sorb`.
        version: 4 or 6.
        chains: rules of each chain by its suffix, in order of creation.
        sets: key type and size of each set by its suffix.
        gates: suffix of the chain that each group of gates leads to.
        steps: for the operator.
        salt: makes profiles differ that must not share their state.
    """

    kind: str
    version: int
    chains: Mapping[str, Sequence[Sequence[Json]]]
    gates: Mapping[str, str]
    steps: tuple[str, ...]
    sets: Mapping[str, tuple[str | list[str], int]]
    salt: str = ""


OWN: Final = "%"
"""Stands for the profile's own name inside a draft's rules."""
NUMBER: Final = "#"
"""Stands for the profile's own number there."""


def finish(draft: Draft, table: str) -> Profile:
    """Return the profile of `draft` under the name that its content gives."""
    content = [draft.chains, draft.gates, draft.sets, draft.salt]
    name = f"{draft.kind}{draft.version}_{digest(content)}"
    make = Commands(table)
    create = [make.add_set(name + suffix, *spec) for suffix, spec in draft.sets.items()]
    create += [make.add_chain(name + suffix) for suffix in draft.chains]
    for suffix, rules in draft.chains.items():
        create += [make.add_rule(name + suffix, *_named(rule, name)) for rule in rules]
    return Profile(
        name=name,
        gates={group: name + suffix for group, suffix in draft.gates.items()},
        rules={name + suffix: len(rules) for suffix, rules in draft.chains.items()},
        sets=tuple(name + suffix for suffix in draft.sets),
        create=tuple(create),
        steps=draft.steps,
    )


def profile_of(name: str) -> str | None:
    """Return the profile that a chain or set of this name belongs to, None where it is none."""
    match = PROFILE.fullmatch(name)
    return match[1] if match else None


def number_of(name: str) -> int:
    """Return the number, of 32 bits, of the profile with this name."""
    return int(name.partition("_")[2][:8], 16)


def remove(table: str, chains: Sequence[str], sets: Sequence[str]) -> list[Json]:
    """Return the commands that remove profiles' chains and sets, whatever points where in them."""
    make = Commands(table)
    return [
        *(make.flush_chain(name) for name in chains),
        *(make.delete("chain", name) for name in chains),
        *(make.delete("set", name) for name in sets),
    ]


def _named(rule: Sequence[Json], name: str) -> list[Json]:
    return [_replace(statement, name) for statement in rule]


def _replace(value: Any, name: str) -> Any:
    if value == NUMBER:
        return number_of(name)
    if isinstance(value, str):
        return value.replace(OWN, name)
    if isinstance(value, list):
        return [_replace(item, name) for item in value]
    if isinstance(value, dict):
        return {key: _replace(item, name) for key, item in value.items()}
    return value
