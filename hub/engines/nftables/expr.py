# SPDX-License-Identifier: Apache-2.0
"""Small builders for nft's JSON, libnftables-json(5): expressions, statements and commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hub.net import IPNetwork

Json = dict[str, Any]
"""One object of nft's JSON."""

FAMILY: Final = "inet"
RULE_TAG: Final = "fnm-hub"
"""Comment on every rule of ours; a rule without it is foreign."""

DROP: Final[Json] = {"drop": None}
RETURN: Final[Json] = {"return": None}
ACCEPT: Final[Json] = {"accept": None}
NOTRACK: Final[Json] = {"notrack": None}
COUNT: Final[Json] = {"counter": None}
"""A counter of its own, without a name; `count` uses a named one."""


def field(protocol: str, name: str) -> Json:
    """Return a header field, as `ip saddr`."""
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> Json:
    """Return a packet's property, as `meta iifname`."""
    return {"meta": {"key": key}}


def masked(left: Json, mask: Any) -> Json:
    """Return `left & mask`."""
    return {"&": [left, mask]}


def constant(number: Any) -> Json:
    """Return a number where nft wants something of the packet: no bit of the mark is used."""
    return {"|": [masked(meta("mark"), 0), number]}


def concat(*parts: Any) -> Json:
    """Return `a . b . c`."""
    return {"concat": list(parts)}


def is_(left: Json, right: Any) -> Json:
    """Match `left == right`; a set by its name as `@name`."""
    return {"match": {"op": "==", "left": left, "right": right}}


def is_not(left: Json, right: Any) -> Json:
    """Match `left != right`."""
    return {"match": {"op": "!=", "left": left, "right": right}}


def at_least(left: Json, right: int) -> Json:
    """Match `left >= right`."""
    return {"match": {"op": ">=", "left": left, "right": right}}


def any_bit(left: Json, *names: str) -> Json:
    """Match when any of the named bits is set."""
    return {"match": {"op": "in", "left": left, "right": list(names)}}


def only_flag(flag: str) -> Json:
    """Match a TCP packet of whose FIN, SYN, RST and ACK only `flag` is set."""
    return is_(masked(field("tcp", "flags"), ["fin", "syn", "rst", "ack"]), flag)


def no_flag(*flags: str) -> Json:
    """Match a TCP packet in which none of `flags` is set."""
    return is_(masked(field("tcp", "flags"), list(flags)), 0)


def one_of(values: Sequence[Any]) -> Any:
    """Return an anonymous set, or the only value itself."""
    return values[0] if len(values) == 1 else {"set": list(values)}


def span(low: int, high: int) -> Any:
    """Return a range, or the number itself when both ends are equal."""
    return low if low == high else {"range": [low, high]}


def network(prefix: IPNetwork) -> Any:
    """Return a prefix as a value; an address where it is only one."""
    if prefix.prefixlen == prefix.max_prefixlen:
        return str(prefix.network_address)
    return {"prefix": {"addr": str(prefix.network_address), "len": prefix.prefixlen}}


def jump(chain: str) -> Json:
    """Evaluate `chain` and come back."""
    return {"jump": {"target": chain}}


def goto(chain: str) -> Json:
    """Evaluate `chain` instead of what follows."""
    return {"goto": {"target": chain}}


def count(name: str) -> Json:
    """Count the packet on a named counter."""
    return {"counter": name}


def below(pps: int, burst: int) -> Json:
    """Match while the rate is kept (token bucket of `burst` packets)."""
    return {"limit": {"rate": pps, "burst": burst, "per": "second"}}


def above(pps: int, burst: int) -> Json:
    """Match what exceeds the rate (token bucket of `burst` packets)."""
    return {"limit": {"rate": pps, "burst": burst, "per": "second", "inv": True}}


def remember(name: str, key: Json, seconds: int, stmt: Json | None = None) -> Json:
    """Put `key` into a set from the packet path, or start its time anew.

    Args:
        name: of the set.
        key: what to put in.
        seconds: until the element ends.
        stmt: kept with the element; the rule goes on only where it matches.
    """
    elem = {"elem": {"val": key, "timeout": seconds}}
    body: Json = {"op": "update", "elem": elem, "set": f"@{name}"}
    if stmt is not None:
        body["stmt"] = [stmt]
    return {"set": body}


def forget(name: str, key: Json) -> Json:
    """Take `key` out of a set from the packet path."""
    return {"set": {"op": "delete", "elem": key, "set": f"@{name}"}}


def vmap(key: Json, name: str) -> Json:
    """Go where the map `name` sends `key`."""
    return {"vmap": {"key": key, "data": f"@{name}"}}


@dataclass(frozen=True, slots=True)
class Commands:
    """Builder of nft commands on one table."""

    table: str

    def _body(self, **values: Any) -> Json:
        return {"family": FAMILY, "table": self.table, **values}

    def add_table(self) -> Json:
        """Create the table, or do nothing."""
        return {"add": {"table": {"family": FAMILY, "name": self.table}}}

    def delete_table(self) -> Json:
        """Remove the table with all that is in it."""
        return {"delete": {"table": {"family": FAMILY, "name": self.table}}}

    def add_chain(self, name: str, **hook: Any) -> Json:
        """Create a chain; with `type`, `hook`, `prio` and `policy` a base chain."""
        return {"add": {"chain": self._body(name=name, **hook)}}

    def flush_chain(self, name: str) -> Json:
        """Remove the rules of a chain."""
        return {"flush": {"chain": self._body(name=name)}}

    def add_rule(self, chain: str, *expr: Json) -> Json:
        """Append a rule of ours."""
        return {"add": {"rule": self._body(chain=chain, comment=RULE_TAG, expr=list(expr))}}

    def add_set(self, name: str, key: str | list[str], size: int) -> Json:
        """Create a set that rules of the same transaction fill."""
        body = self._body(name=name, type=key, flags=["timeout"], size=size)
        return {"add": {"set": {**body, "gc-interval": 1}}}

    def delete(self, kind: str, name: str) -> Json:
        """Remove a chain with its rules, or a set, map or counter; nothing may use it any more."""
        return {"delete": {kind: self._body(name=name)}}

    def add_map(self, name: str, key: str, *, interval: bool, counted: bool) -> Json:
        """Create a verdict map whose elements end by themselves, and count what they match."""
        flags = ["interval", "timeout"] if interval else ["timeout"]
        body = self._body(name=name, type=key, map="verdict", flags=flags)
        counts = {"stmt": [COUNT]} if counted else {}
        return {"add": {"map": {**body, "gc-interval": 1, **counts}}}

    def add_counter(self, name: str) -> Json:
        """Create a named counter."""
        return {"add": {"counter": self._body(name=name)}}

    def add_gate(self, name: str, key: IPNetwork, chain: str, seconds: int, comment: str) -> Json:
        """Send `key` to `chain` for so many seconds."""
        elem = {"elem": {"val": network(key), "timeout": seconds, "comment": comment}}
        return {"add": {"element": self._body(name=name, elem=[[elem, jump(chain)]])}}

    def add_element(self, name: str, value: Any) -> Json:
        """Put one element into a set, or do nothing."""
        return {"add": {"element": self._body(name=name, elem=[value])}}

    def delete_element(self, name: str, value: Any) -> Json:
        """Remove one element, which must be there."""
        return {"delete": {"element": self._body(name=name, elem=[value])}}

    def list_elements(self, kind: str, name: str) -> Json:
        """Read one set or map with its elements."""
        return {"list": {kind: self._body(name=name)}}
