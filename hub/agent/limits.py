# SPDX-License-Identifier: Apache-2.0
"""How much strangers may ask of the agent: who is let in, and who goes when it is full."""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeVar

T = TypeVar("T")

_SITE_BITS: Final = 64
"""Bits of an IPv6 address that belong to the host: one source is a /64."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one client, one source and all of them together get.

    Attributes:
        request_bytes: longest request.
        login_s: time to log in.
        sessions: open channels of one connection.
        connections: connections in all, for sources that never logged in.
        waiting: connections in all that have not logged in yet.
        waiting_per_source: the same for one source.
        reserve: connections above both totals, for sources that have logged in before.
        burst: new connections at once, all unknown sources together; `rate` refills it.
        rate: new connections a second, all unknown sources together.
        source_burst: new connections at once of one source; `source_rate` refills it.
        source_rate: new connections a second of one source.
        attempts: keys that one connection may try.
        idle_s: time that a channel may stay open without a request.
        input_bytes: what a client may send to a command, which reads nothing.
        answer_s: time in which a client has to take an answer.
        backlog_bytes: unsent bytes of one connection at which it is closed.
        known: sources remembered because they have logged in.
        sources: sources whose rate is remembered.
    """

    request_bytes: int = 4096
    login_s: float = 10.0
    sessions: int = 8
    connections: int = 64
    waiting: int = 32
    waiting_per_source: int = 4
    reserve: int = 16
    burst: int = 40
    rate: float = 20.0
    source_burst: int = 20
    source_rate: float = 2.0
    attempts: int = 12
    idle_s: float = 10.0
    input_bytes: int = 65536
    answer_s: float = 30.0
    backlog_bytes: int = 1 << 18
    known: int = 256
    sources: int = 4096


class Refusal(StrEnum):
    """Why a connection is closed at once."""

    RATE = "too many new connections"
    SOURCE = "too many new connections from this source"
    WAITING = "too many connections from this source have not logged in"
    FULL = "too many connections"


class Ticket:
    """One connection that was let in."""

    __slots__ = ("known", "proven", "source")

    def __init__(self, source: str, *, known: bool) -> None:
        self.source = source
        self.known = known
        self.proven = False


@dataclass(frozen=True, slots=True)
class Entry:
    """The connection is let in; `evicted` must be closed for it."""

    ticket: Ticket
    evicted: Ticket | None = None


class Bucket:
    """Tokens that come back with time."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst, self._rate = burst, rate
        self._tokens, self._at = float(burst), now

    def take(self, now: float) -> bool:
        """Take one token at `now`, monotonic seconds; False when there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Door:
    """Decides about each new connection; remembers a bounded number of sources.

    A stranger who comes when all places of strangers are taken gets the place of one of them,
    drawn by lot. Refusing would let a few idle connections lock everybody out for as long as
    they may take to log in; a hub needs its place only for a moment.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._inside: set[Ticket] = set()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._sources: OrderedDict[str, Bucket] = OrderedDict()
        self._all = Bucket(limits.burst, limits.rate, now)

    def __len__(self) -> int:
        """Return how many are inside."""
        return len(self._inside)

    def knock(self, address: str, now: float) -> Entry | Refusal:
        """Decide about a connection from `address`; `now` in monotonic seconds."""
        source = source_of(address)
        known = source in self._known
        if not self._bucket(source, now).take(now):
            return Refusal.SOURCE
        if not known and not self._all.take(now):
            return Refusal.RATE
        waiting = [ticket for ticket in self._inside if not ticket.proven]
        mine = sum(1 for ticket in waiting if ticket.source == source)
        if mine >= self._limits.waiting_per_source:
            return Refusal.WAITING
        return self._place(Ticket(source, known=known), waiting)

    def prove(self, ticket: Ticket) -> None:
        """Note that the connection has logged in."""
        ticket.proven = True
        self._known[ticket.source] = None
        self._known.move_to_end(ticket.source)
        _trim(self._known, self._limits.known)

    def leave(self, ticket: Ticket) -> None:
        """Note that the connection is over; may be called again."""
        self._inside.discard(ticket)

    def _place(self, ticket: Ticket, waiting: Sequence[Ticket]) -> Entry | Refusal:
        reserve = self._limits.reserve if ticket.known else 0
        evicted = None
        if (
            len(waiting) >= self._limits.waiting + reserve
            or len(self._inside) >= self._limits.connections + reserve
        ):
            strangers = [other for other in waiting if not other.known]
            if not strangers:
                return Refusal.FULL
            evicted = secrets.choice(strangers)
            self._inside.discard(evicted)
        self._inside.add(ticket)
        return Entry(ticket, evicted)

    def _bucket(self, source: str, now: float) -> Bucket:
        bucket = self._sources.get(source)
        if bucket is None:
            bucket = Bucket(self._limits.source_burst, self._limits.source_rate, now)
            self._sources[source] = bucket
            _trim(self._sources, self._limits.sources)
        self._sources.move_to_end(source)
        return bucket


def source_of(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> _SITE_BITS << _SITE_BITS))


def _trim(table: OrderedDict[str, T], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)
