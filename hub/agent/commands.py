# SPDX-License-Identifier: Apache-2.0
"""The agent's commands: reads one request line and carries it out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from hub.agent import answers
from hub.agent.keeper_link import Held
from hub.agent.kernel.sources import Kernel
from hub.agent.lease import LONGEST_S, MOST_PORTS, SHORTEST_S
from hub.agent.place import KeeperError
from hub.errors import HubError

NAMES: Final = ("get", "listeners", "flows", "engage", "release", "selftest")
COULD_NOT: Final = 1
NOT_UNDERSTOOD: Final = 2
LONGEST: Final = 4096
_MOST_NAMES: Final = 64
_LARGEST_PORT: Final = 65535
_DIGITS: Final = 5

log = structlog.get_logger(__name__)


class NotUnderstoodError(HubError):
    """A request is none."""


class Leases(Protocol):
    """Who keeps net.ipv4.tcp_syncookies (`hub.agent.keeper_link.KeeperLink`)."""

    async def engage(self, holder: str, seconds: int, ports: Sequence[int]) -> Held:
        """Give or renew a lease."""
        ...

    async def release(self, holder: str) -> Held:
        """End a lease."""
        ...

    async def state(self, holder: str) -> Held:
        """Return what stands."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """A request line in its words."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Outcome:
    """What the caller gets; may hold the kernel's secrets, so it does not show itself.

    Attributes:
        text: for standard output.
        error: for standard error; empty when all is well.
        status: exit status.
    """

    text: str
    error: str = ""
    status: int = 0

    def __repr__(self) -> str:
        """Show sizes only."""
        return f"Outcome({len(self.text)} characters, status={self.status})"


def failed(error: HubError, status: int = COULD_NOT) -> Outcome:
    """Return the outcome of an error: one line that says what and what to do."""
    text = str(error).replace("\n", " ")
    return Outcome("", f"Error: {text}\n", status)


def parse(line: str) -> Request:
    """Return the request of a line.

    Raises:
        NotUnderstoodError: says what is wrong with it.
    """
    commands = f"send one of: {', '.join(NAMES)}"
    if not line:
        raise NotUnderstoodError("there is no command", todo=commands)
    if len(line) > LONGEST:
        raise NotUnderstoodError(f"longer than {LONGEST} bytes", todo="send a shorter request")
    if not all(" " <= sign <= "~" for sign in line):
        raise NotUnderstoodError("not plain ASCII in one line", todo=commands)
    name, *words = line.split(" ")
    if "" in (name, *words):
        raise NotUnderstoodError("words are separated by single spaces", todo=commands)
    if name not in NAMES:
        raise NotUnderstoodError(f"{name[:32]} is no command", todo=commands)
    _check(name, words)
    return Request(name, tuple(words))


def _check(name: str, words: list[str]) -> None:
    if name == "engage":
        if not words or _number(words[0], SHORTEST_S, LONGEST_S) is None:
            raise NotUnderstoodError(
                f"engage needs SECONDS from {SHORTEST_S} to {LONGEST_S}",
                todo="send: engage SECONDS [PORT...]",
            )
        if len(words) > MOST_PORTS + 1:
            raise NotUnderstoodError(
                f"engage takes {MOST_PORTS} ports at most", todo="name the protected ports"
            )
        for word in words[1:]:
            if _number(word, 1, _LARGEST_PORT) is None:
                raise NotUnderstoodError(
                    f"{word[:32]} is no port", todo="send: engage SECONDS [PORT...]"
                )
        return
    if name == "flows":
        if not 1 <= len(words) <= _MOST_NAMES:
            raise NotUnderstoodError(
                f"flows needs 1 to {_MOST_NAMES} names", todo="send: flows PORT or ADDRESS:PORT"
            )
        return
    if words:
        raise NotUnderstoodError(f"{name} takes no words", todo=f"send: {name}")


def _number(word: str, least: int, most: int) -> int | None:
    if not word.isdigit() or len(word) > _DIGITS or not least <= int(word) <= most:
        return None
    return int(word)


class Commands:
    """Carries requests out; what reads long tables of the kernel does so in threads, one each."""

    def __init__(self, kernel: Kernel, proc: Path, leases: Leases) -> None:
        self._kernel = kernel
        self._proc = proc
        self._leases = leases
        self._one = {name: asyncio.Lock() for name in NAMES}

    async def run(self, line: str, holder: str) -> Outcome:
        """Carry out a request line for `holder`; every failure becomes an outcome."""
        try:
            request = parse(line)
        except NotUnderstoodError as error:
            return failed(error, NOT_UNDERSTOOD)
        try:
            return await self._run(request, holder)
        except HubError as error:
            return failed(error)
        except Exception:
            log.exception(
                "agent.defect",
                command=request.name,
                todo="report it with this line; the agent goes on",
            )
            return failed(HubError("the agent failed", todo="see its log"))

    async def _run(self, request: Request, holder: str) -> Outcome:
        match request.name:
            case "engage":
                seconds, *ports = (int(word) for word in request.words)
                held = await self._leases.engage(holder, seconds, ports)
                return Outcome(_engaged(held))
            case "release":
                return Outcome(_released(await self._leases.release(holder)))
            case "get":
                return await self._get(holder)
            case "selftest":
                return await self._selftest(holder)
            case _:
                return await self._table(request)

    async def _table(self, request: Request) -> Outcome:
        async with self._one[request.name]:
            if request.name == "listeners":
                return Outcome(await asyncio.to_thread(answers.listeners_text))
            return await self._flows(request.words)

    async def _get(self, holder: str) -> Outcome:
        try:
            held = await self._leases.state(holder)
            syncookies, engaged_s = held.syncookies, held.engaged_s
        except KeeperError as error:
            # The keys are worth more than this detail, and selftest says what is wrong.
            log.error("agent.keeper_silent", why=error.what, todo="systemctl restart fnm-keeper")
            syncookies, engaged_s = None, 0
        async with self._one["get"]:
            text = await asyncio.to_thread(
                answers.get_text,
                self._kernel,
                self._proc,
                syncookies=syncookies,
                engaged_s=engaged_s,
            )
        return Outcome(text)

    async def _flows(self, words: tuple[str, ...]) -> Outcome:
        names = []
        for word in words:
            try:
                names.append(answers.parse_name(word))
            except (HubError, ValueError):
                error = NotUnderstoodError(
                    f"{word[:64]} is no PORT, ADDRESS:PORT or [IPV6]:PORT", todo="send: flows NAME"
                )
                return failed(error, NOT_UNDERSTOOD)
        return Outcome(await asyncio.to_thread(answers.flows_text, names))

    async def _selftest(self, holder: str) -> Outcome:
        async with self._one["selftest"]:
            text, ok = await asyncio.to_thread(answers.selftest, self._kernel, self._proc)
        try:
            held = await self._leases.state(holder)
            text += f"check: keeper ok tcp_syncookies is {held.syncookies}\n"
        except KeeperError as error:
            text, ok = f"{text}check: keeper failed {error}\n", False
        return Outcome(text, status=0 if ok else COULD_NOT)


def _engaged(held: Held) -> str:
    lines = [f"tcp_syncookies: {held.syncookies}"]
    if held.old is not None:
        lines.append(f"old_tcp_syncookies: {held.old}")
    lines.append(f"engaged_s: {held.engaged_s}")
    return "\n".join(lines) + "\n"


def _released(held: Held) -> str:
    return f"tcp_syncookies: {held.syncookies}\nengaged_s: {held.engaged_s}\n"
