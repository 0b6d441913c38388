# SPDX-License-Identifier: Apache-2.0
"""Reads nft's listing: what of our layout stands, which mitigations, and what is foreign (pure)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final

from hub.engines.nftables.expr import FAMILY, RULE_TAG, Json
from hub.engines.nftables.layout import LAYOUT_PREFIX, base, gate_names
from hub.engines.nftables.mirror import Mirror, Piece
from hub.engines.nftables.profile import profile_of
from hub.net import IPNetwork

KINDS: Final = ("set", "map", "chain", "counter")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the table holds apart from elements.

    Attributes:
        layout: the layout's tag chain, empty where there is none.
        whole: every part of our layout is there.
        objects: all of it as listed.
        chains: rules of ours in each chain of a profile.
        sets: names of profiles' sets.
        counters: counter objects, with their values.
        foreign: what is in our table and not ours, for the operator.
        beside: tables of others, as `family name`.
    """

    layout: str = ""
    whole: bool = False
    objects: tuple[Json, ...] = ()
    chains: dict[str, int] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()
    counters: tuple[Json, ...] = ()
    foreign: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def layout_tag(commands: Iterable[Json]) -> str:
    """Return the name of the chain that says which layout `commands` make."""
    names: Iterable[str] = (one["add"].get("chain", {}).get("name", "") for one in commands)
    return next(name for name in names if name.startswith(LAYOUT_PREFIX))


def read_structure(ruleset: Sequence[Json], table: str) -> Standing | None:
    """Return what `nft -j -t list ruleset` says of our table, None where it does not exist."""
    tables = {(one["table"]["family"], one["table"]["name"]) for one in ruleset if "table" in one}
    if (FAMILY, table) not in tables:
        return None
    objects = [one for one in ruleset if _within(one, table)]
    expected = base(table)
    needed, needed_rules = _names(one["add"] for one in expected), _rules(expected)
    found = _names(objects)
    ours = Counter(
        one["rule"]["chain"]
        for one in objects
        if "rule" in one and one["rule"].get("comment") == RULE_TAG
    )
    tags = [name for kind, name in found if kind == "chain" and name.startswith(LAYOUT_PREFIX)]
    whole = needed <= found and all(ours[name] == rules for name, rules in needed_rules.items())
    known = found & needed
    return Standing(
        layout=tags[0] if tags else "",
        whole=whole,
        objects=tuple(objects),
        chains={name: ours[name] for kind, name in found if kind == "chain" and profile_of(name)},
        sets=frozenset(name for kind, name in found if kind == "set" and profile_of(name)),
        counters=tuple(one["counter"] for one in objects if "counter" in one),
        foreign=tuple(_foreign(objects, known)),
        beside=tuple(f"{family} {name}" for family, name in sorted(tables - {(FAMILY, table)})),
    )


def read_gates(
    objects: Iterable[Json], table: str, standing: Standing, now: float
) -> tuple[Mirror, list[str]]:
    """Return the mirror of what `list map` says of the gates, and foreign elements in words.

    Args:
        objects: what nft answered.
        table: ours.
        standing: the rest of the table.
        now: seconds of the monotonic clock.
    """
    mirror = Mirror(table, chains=dict(standing.chains), sets=set(standing.sets))
    foreign: list[str] = []
    gates = set(gate_names())
    for one in objects:
        body = one.get("map")
        if body is None or body["name"] not in gates:
            continue
        for element in body.get("elem", ()):
            piece = _piece(element, now)
            if piece is None:
                foreign.append(f"element {element} in map {body['name']}")
                continue
            mirror.put(body["name"], piece)
            if not piece.mitigation_id:
                foreign.append(f"element {piece.target} in map {body['name']}")
    return mirror, foreign


def _piece(element: Any, now: float) -> Piece | None:
    try:
        key, verdict = element
        body = key["elem"] if isinstance(key, dict) and "elem" in key else {"val": key}
        remaining = body["expires"] + 1 if "expires" in body else float("inf")
        return Piece(
            mitigation_id=body.get("comment", "") if "timeout" in body else "",
            target=_network(body["val"]),
            chain=verdict["jump"]["target"],
            ends_at=now + remaining,
            packets=body.get("counter", {}).get("packets"),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _network(value: Any) -> IPNetwork:
    if isinstance(value, str):
        return ip_network(value)
    prefix = value["prefix"]
    return ip_network(f"{prefix['addr']}/{prefix['len']}")


def _within(one: Json, table: str) -> bool:
    body: Json = next(iter(one.values()))
    return (body.get("family"), body.get("table")) == (FAMILY, table)


def _names(objects: Iterable[Json]) -> set[tuple[str, str]]:
    return {(kind, one[kind]["name"]) for one in objects for kind in KINDS if kind in one}


def _rules(commands: Iterable[Json]) -> Counter[str]:
    return Counter(one["add"]["rule"]["chain"] for one in commands if "rule" in one["add"])


def _foreign(objects: Sequence[Json], known: set[tuple[str, str]]) -> list[str]:
    words: list[str] = []
    for one in objects:
        for kind in (*KINDS, "rule", "flowtable", "quota", "limit", "ct helper", "synproxy"):
            body = one.get(kind)
            if body is None:
                continue
            if kind == "rule":
                if body.get("comment") != RULE_TAG:
                    words.append(f"rule with handle {body['handle']} in chain {body['chain']}")
            elif (kind, body["name"]) not in known and not _tagged(kind, body["name"]):
                words.append(f"{kind} {body['name']}")
    return words


def _tagged(kind: str, name: str) -> bool:
    if kind == "chain":
        return profile_of(name) is not None or name.startswith(LAYOUT_PREFIX)
    return kind == "set" and profile_of(name) is not None
