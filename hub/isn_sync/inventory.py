# SPDX-License-Identifier: Apache-2.0
"""The list of agents as people write it: one server a line, its services in parentheses."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from hub.errors import ConfigError, Problem
from hub.net import IPAddress

DEFAULT_PORT: Final = 7100

_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORT_MOST: Final = 65535
_SHOWN: Final = 60
_EXAMPLE: Final = "write 192.0.2.1 or 192.0.2.1(192.0.2.3,192.0.2.4)"
_BROADCAST: Final = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent, and the addresses whose sessions are made from what it tells.

    Attributes:
        host: its address.
        port: where it takes SSH.
        user: as whom to log in.
        services: `host` first, without repetition.
    """

    host: IPAddress
    port: int
    user: str
    services: tuple[IPAddress, ...]

    @property
    def name(self) -> str:
        """Return `192.0.2.1`, and `192.0.2.1:7101` or `[2001:db8::1]:7101` at another port."""
        if self.port == DEFAULT_PORT:
            return str(self.host)
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{host}:{self.port}"


class Inventory:
    """All agents, and who speaks for which address."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self.agents = tuple(agents)
        self._by_service = {one: agent for agent in self.agents for one in agent.services}

    def find(self, address: IPAddress) -> Agent | None:
        """Return the agent that speaks for an address; None when there is none."""
        return self._by_service.get(address)


def parse_servers(
    text: str, *, port: int, user: str, file: str = "", first_line: int = 1
) -> tuple[Agent, ...]:
    """Return the agents in a list, each once, in the order of their first lines.

    Args:
        text: `[USER@]ADDRESS[:PORT][(SERVICE,...)]` a line; white space means nothing, `#` begins
            a comment; an IPv6 address with a port stands in brackets.
        port: of agents for which the list gives none.
        user: likewise.
        file: where the list stands, for the messages.
        first_line: the number of its first line there.

    Raises:
        ConfigError: with every mistake.
    """
    problems: list[Problem] = []
    written: list[_Written] = []
    for number, line in enumerate(text.split("\n"), start=first_line):
        entry = _Line(line, file, number, problems)
        if entry and (agent := entry.agent(port, user)):
            written.append(_Written(agent, f"line {number}", entry.places))
    merged = _merge(written, problems, file)
    if problems:
        raise ConfigError(sorted(problems, key=lambda one: (one.line, one.column)))
    return merged


def merge(agents: Iterable[Agent], *, file: str = "isn_sync") -> Inventory:
    """Return what several lists say together.

    Raises:
        ConfigError: two agents claim one service, or two users log in to one agent.
    """
    problems: list[Problem] = []
    merged = _merge([_Written(one, f"agent {one.name}") for one in agents], problems, file)
    if problems:
        raise ConfigError(problems)
    return Inventory(merged)


_NOWHERE: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class _Written:
    """An agent, and where it and its services were written: line and column."""

    agent: Agent
    where: str
    places: Mapping[IPAddress, tuple[int, int]] | None = None

    def place(self, service: IPAddress) -> tuple[int, int]:
        return (self.places or {}).get(service, _NOWHERE)


def _merge(written: Sequence[_Written], problems: list[Problem], file: str) -> tuple[Agent, ...]:
    merged: dict[tuple[IPAddress, int], Agent] = {}
    first: dict[tuple[IPAddress, int], _Written] = {}
    claims: dict[IPAddress, _Written] = {}
    for one in written:
        agent, key = one.agent, (one.agent.host, one.agent.port)
        known = merged.get(key)
        if known is not None and known.user != agent.user:
            line, column = one.place(agent.host)
            what = f"agent {agent.name} has the user {agent.user}, and {known.user} in"
            todo = "give it one user"
            problems.append(Problem(f"{what} {first[key].where}", file, line, column, todo))
        for service in agent.services:
            claim = claims.setdefault(service, one)
            if (claim.agent.host, claim.agent.port) != key:
                problems.append(_claimed_twice(service, one, claim, file))
        services = (*(known.services if known else ()), *agent.services)
        merged[key] = replace(known or agent, services=tuple(dict.fromkeys(services)))
        first.setdefault(key, one)
    return tuple(merged.values())


def _claimed_twice(service: IPAddress, one: _Written, claim: _Written, file: str) -> Problem:
    line, column = one.place(service)
    what = (
        f"service {service} stands under agent {one.agent.name}, and under agent "
        f"{claim.agent.name} in {claim.where}"
    )
    return Problem(what, file, line, column, "leave it with the agent on the machine that has it")


class _Line:
    """One line without its white space and comment; knows in which column each character was."""

    def __init__(self, line: str, file: str, number: int, problems: list[Problem]) -> None:
        kept = [
            (char, column)
            for column, char in enumerate(line.partition("#")[0], start=1)
            if not char.isspace()
        ]
        self._text = "".join(char for char, _ in kept)
        self._columns = [column for _, column in kept]
        self._file, self._number, self._problems = file, number, problems
        self._good = True
        self.places: dict[IPAddress, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._text)

    def agent(self, port: int, user: str) -> Agent | None:
        """Return what the line says; None after it has noted what is wrong."""
        head, parenthesis, rest = self._text.partition("(")
        start = 0
        if "@" in head:
            user, _, head = head.rpartition("@")
            start = len(user) + 1
            if _USER.fullmatch(user) is None:
                self._wrong(0, f"{_short(user)} is no user name", "write letters, digits, _ . -")
        address, port = self._address_and_port(head, start, port)
        services = self._services(rest, len(self._text) - len(rest)) if parenthesis else []
        if address is None or not self._good:
            return None
        self.places[address] = self._place(start)
        return Agent(address, port, user, tuple(dict.fromkeys((address, *services))))

    def _address_and_port(self, text: str, at: int, port: int) -> tuple[IPAddress | None, int]:
        if text.startswith("["):
            inner, bracket, tail = text[1:].partition("]")
            if not bracket:
                self._wrong(at, "the bracket is not closed", "write [2001:db8::1]:7100")
                return None, port
            address = self._address(inner, at + 1)
            if address is not None and isinstance(address, IPv4Address):
                self._wrong(at, f"{address} stands in brackets", f"write {address}:{port}")
            if tail and not tail.startswith(":"):
                self._wrong(at + len(inner) + 2, f"{_short(tail)} follows the bracket", _EXAMPLE)
            elif tail:
                port = self._port(tail[1:], at + len(inner) + 3)
            return address, port
        if text.count(":") == 1:
            host, _, tail = text.partition(":")
            return self._address(host, at), self._port(tail, at + len(host) + 1)
        return self._address(text, at), port

    def _port(self, text: str, at: int) -> int:
        if _PORT.fullmatch(text) is None or not 0 < int(text) <= _PORT_MOST:
            self._wrong(at, f"{_short(text)} is no port", "write a number from 1 to 65535")
            return 0
        return int(text)

    def _services(self, text: str, at: int) -> list[IPAddress]:
        inside, parenthesis, tail = text.partition(")")
        if not parenthesis:
            self._wrong(len(self._text) - 1, "the parenthesis is not closed", "add ) at the end")
        elif tail:
            self._wrong(at + len(inside) + 1, f"{_short(tail)} follows the services", _EXAMPLE)
        services: list[IPAddress] = []
        for part in inside.split(",") if inside else ():
            address = self._address(part, at)
            if address is not None:
                services.append(address)
                self.places.setdefault(address, self._place(at))
            at += len(part) + 1
        return services

    def _address(self, text: str, at: int) -> IPAddress | None:
        try:
            address = ip_address(text)
        except ValueError:
            self._wrong(at, *_no_address(text))
            return None
        if refused := _refused(address):
            self._wrong(at, *refused)
            return None
        return address

    def _place(self, at: int) -> tuple[int, int]:
        return self._number, self._columns[min(at, len(self._columns) - 1)]

    def _wrong(self, at: int, what: str, todo: str) -> None:
        self._good = False
        self._problems.append(Problem(what, self._file, *self._place(at), todo))


def _no_address(text: str) -> tuple[str, str]:
    if not text:
        return "an address is missing", _EXAMPLE
    if "/" in text:
        return f"{_short(text)} is a prefix", "write single addresses"
    if "(" in text or ")" in text:
        return f"{_short(text)} has a parenthesis too many", _EXAMPLE
    if "," in text:
        return f"{_short(text)} is more than one address", f"one server a line: {_EXAMPLE}"
    if "[" in text or "]" in text:
        return f"{_short(text)} has a bracket", "only an agent with a port has brackets"
    return f"{_short(text)} is no address", f"names are not looked up: {_EXAMPLE}"


def _refused(address: IPAddress) -> tuple[str, str] | None:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return f"{address} is an IPv4 address in disguise", f"write {address.ipv4_mapped}"
        if address.scope_id is not None or address.is_link_local:
            return f"{_short(str(address))} is good on one link only", "write a routed address"
    if address.is_unspecified or address == _BROADCAST:
        return f"{address} is no machine's address", _EXAMPLE
    if address.is_multicast:
        return f"{address} is a multicast address", _EXAMPLE
    return None


def _short(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
