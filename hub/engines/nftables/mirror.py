# SPDX-License-Identifier: Apache-2.0
"""What stands in our table, as last seen, and the transactions that change it (pure)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Self

from hub.engines.nftables.expr import Commands, Json, concat, network
from hub.engines.nftables.layout import GATES, gate, hits
from hub.engines.nftables.profile import Profile, number_of, profile_of, remove
from hub.errors import EngineTemporaryError
from hub.net import IPNetwork, overlap

DOUBT_SECONDS: Final = 3.0
"""The kernel tells remaining times in whole seconds: so near its end nobody knows what is there."""
NARROW: Final = "h"
WIDE: Final = "n"
"""First letters of the layers for addresses and for prefixes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One element of a gate.

    Attributes:
        mitigation_id: its comment; empty on an element that is not ours.
        target: its key.
        chain: where it leads.
        ends_at: seconds of the monotonic clock, infinite where it has no timeout.
        packets: that it has matched when it was read, None where it does not count.
    """

    mitigation_id: str
    target: IPNetwork
    chain: str
    ends_at: float
    packets: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mitigation in the engine's terms.

    Attributes:
        mitigation_id: tags its elements.
        target: key of its elements.
        profile: where they lead.
        deadline: Unix seconds at which they end.
    """

    mitigation_id: str
    target: IPNetwork
    profile: Profile
    deadline: float


@dataclass(slots=True)
class Mirror:
    """Elements of the gates; rules by chain of a profile; names of profiles' sets.

    It is changed by `apply`, `release` and `sweep` along with the commands they return: work on
    a `copy` and keep that only once nft has carried the commands out.
    """

    table: str
    gates: dict[str, dict[IPNetwork, Piece]] = field(default_factory=dict)
    chains: dict[str, int] = field(default_factory=dict)
    sets: set[str] = field(default_factory=set)
    places: dict[str, set[tuple[str, IPNetwork]]] = field(default_factory=dict)

    def copy(self) -> Self:
        """Return one that can be changed by itself."""
        return replace(
            self,
            gates={name: dict(pieces) for name, pieces in self.gates.items()},
            chains=dict(self.chains),
            sets=set(self.sets),
            places={one: set(places) for one, places in self.places.items()},
        )

    def put(self, name: str, piece: Piece) -> None:
        """Note an element of the gate `name`."""
        self.gates.setdefault(name, {})[piece.target] = piece
        self.places.setdefault(piece.mitigation_id, set()).add((name, piece.target))

    def take(self, name: str, target: IPNetwork) -> None:
        """Forget an element of the gate `name`."""
        piece = self.gates[name].pop(target)
        places = self.places[piece.mitigation_id]
        places.discard((name, target))
        if not places:
            del self.places[piece.mitigation_id]

    def expire(self, now: float) -> None:
        """Forget what the kernel has surely ended by `now`."""
        for name, pieces in self.gates.items():
            for target in [key for key, one in pieces.items() if one.ends_at < now - DOUBT_SECONDS]:
                self.take(name, target)

    def doubtful(self, mitigation_id: str, target: IPNetwork | None, now: float) -> bool:
        """Tell whether something in the way is so near its end that it may be there or not."""
        concerned = [piece for _, piece in self.of(mitigation_id)]
        if target is not None:
            concerned += self._sharing(target)
        return any(abs(piece.ends_at - now) < DOUBT_SECONDS for piece in concerned)

    def protects(self, group: str) -> bool:
        """Tell whether any gate of `group` is open."""
        return any(pieces for name, pieces in self.gates.items() if name.startswith(group))

    def of(self, mitigation_id: str) -> Iterator[tuple[str, Piece]]:
        """Yield the gates and elements of one mitigation."""
        for name, target in self.places.get(mitigation_id, ()):
            yield name, self.gates[name][target]

    def overlapping(self, target: IPNetwork) -> set[str]:
        """Return the ids of mitigations whose target shares an address with `target`."""
        return {
            piece.mitigation_id
            for pieces in self.gates.values()
            for piece in pieces.values()
            if piece.mitigation_id and overlap(piece.target, target)
        }

    def complete(self, profile: Profile) -> bool:
        """Tell whether every chain, rule and set of `profile` is there."""
        return self.sets.issuperset(profile.sets) and all(
            self.chains.get(chain) == rules for chain, rules in profile.rules.items()
        )

    def apply(self, wanted: Wanted, now: float, seconds: int) -> list[Json]:
        """Return the commands that put `wanted` in force, in place of what its id has there.

        Args:
            wanted: what to put in force.
            now: seconds of the monotonic clock.
            seconds: until it ends.

        Raises:
            EngineTemporaryError: every layer holds something else for these addresses.
        """
        layer = self._layer(wanted)
        commands = self._close(wanted.mitigation_id)
        if not self.complete(wanted.profile):
            commands += self._build(wanted.profile)
        make = Commands(self.table)
        for group, chain in wanted.profile.gates.items():
            name = gate(group, wanted.target.version, layer)
            commands.append(
                make.add_gate(name, wanted.target, chain, seconds, wanted.mitigation_id)
            )
            self.put(name, Piece(wanted.mitigation_id, wanted.target, chain, now + seconds))
        return commands

    def restore(self, former: Self, now: float) -> list[Json]:
        """Return the commands that put back the elements of ours that only `former` has.

        Args:
            former: what stood there before.
            now: seconds of the monotonic clock.
        """
        make = Commands(self.table)
        commands: list[Json] = []
        for name, pieces in former.gates.items():
            for target, one in pieces.items():
                if not one.mitigation_id or target in self.gates.get(name, {}):
                    continue
                seconds = whole_seconds(one.ends_at - now)
                commands.append(make.add_gate(name, target, one.chain, seconds, one.mitigation_id))
                self.put(name, one)
        return commands

    def release(self, mitigation_id: str) -> list[Json]:
        """Return the commands that end one mitigation, and what was counted of it, if any."""
        make = Commands(self.table)
        commands: list[Json] = []
        for _, piece in self.of(mitigation_id):
            name = profile_of(piece.chain) or ""
            if name.startswith("acl"):
                # nft 1.0.6 cannot delete what may be missing: so it is made sure to be there.
                key = concat(str(piece.target.network_address), number_of(name))
                there = (hits(piece.target.version), key)
                commands += [make.add_element(*there), make.delete_element(*there)]
        return [*self._close(mitigation_id), *commands]

    def sweep(self) -> list[Json]:
        """Return the commands that remove the profiles nothing leads to any more."""
        leads = {piece.chain for pieces in self.gates.values() for piece in pieces.values()}
        used = {profile_of(chain) for chain in leads}
        chains = [name for name in self.chains if profile_of(name) not in used]
        sets = sorted(name for name in self.sets if profile_of(name) not in used)
        for name in chains:
            del self.chains[name]
        self.sets.difference_update(sets)
        return remove(self.table, chains, sets)

    def _close(self, mitigation_id: str) -> list[Json]:
        make = Commands(self.table)
        commands: list[Json] = []
        for name, piece in list(self.of(mitigation_id)):
            commands.append(make.delete_element(name, network(piece.target)))
            self.take(name, piece.target)
        return commands

    def _build(self, profile: Profile) -> list[Json]:
        make = Commands(self.table)
        stale = [make.flush_chain(name) for name in profile.rules if name in self.chains]
        create = [command for command in profile.create if not self._has_set(command)]
        self.chains.update(profile.rules)
        self.sets.update(profile.sets)
        return [*stale, *create]

    def _has_set(self, command: Json) -> bool:
        body = command["add"].get("set")
        return body is not None and body["name"] in self.sets

    def _layer(self, wanted: Wanted) -> str:
        groups = tuple(wanted.profile.gates)
        layers = [one for one in GATES[groups[0]] if one.startswith(_width(wanted.target))]
        taken: set[str] = set()
        for layer in layers:
            names = [gate(group, wanted.target.version, layer) for group in groups]
            others = {piece.mitigation_id for piece in self._sharing(wanted.target, names)}
            others.discard(wanted.mitigation_id)
            if not others:
                return layer
            taken |= others
        raise EngineTemporaryError(
            f"{len(layers)} mitigations already stand there: {', '.join(sorted(taken))}",
            where=str(wanted.target),
            todo="release one of them first",
        )

    def _sharing(self, target: IPNetwork, names: Iterable[str] | None = None) -> list[Piece]:
        found: list[Piece] = []
        width = _width(target)
        for name in names if names is not None else self.gates:
            pieces = self.gates.get(name, {})
            if not name.partition("_")[2].startswith(width):
                continue
            if width == NARROW:
                found += [pieces[target]] if target in pieces else []
            else:
                found += [piece for key, piece in pieces.items() if overlap(key, target)]
        return found


def whole_seconds(remaining: float) -> int:
    """Return a timeout that is not before the deadline and less than a second after it."""
    return max(1, math.ceil(remaining))


def _width(target: IPNetwork) -> str:
    return NARROW if target.prefixlen == target.max_prefixlen else WIDE
