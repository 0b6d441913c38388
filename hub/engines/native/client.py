# SPDX-License-Identifier: Apache-2.0
"""Questions to synproxyd: JSON lines over its Unix socket, one at a time, with a time limit."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hub.clock import Clock
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Interface

Json = dict[str, Any]

VERSION: Final = 1
LONGEST_LINE: Final = 8 * 2**20
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 2.0
_UNSUPPORTED: Final = "unsupported"
_NEVER: Final = frozenset({"bad_request", "hello_first", "version", "stale", _UNSUPPORTED})
_TODO: Final = {
    "version": "install the hub and synproxyd of one release",
    "full": "wait until something ends, or start synproxyd with larger tables",
    "internal": "see synproxyd's log",
}


@dataclass(frozen=True, slots=True)
class Hello:
    """What synproxyd said of itself when the connection began.

    Attributes:
        daemon: its version.
        started: tells one run of it from another.
        interfaces: where its program is attached.
        tcp_modes: how it can carry out a `tcp`, in its own words.
        keeps_delivery: it takes the delivery that a mitigation goes back to, and shows it.
    """

    daemon: str
    started: tuple[int, int]
    interfaces: tuple[Interface, ...]
    tcp_modes: frozenset[str] = frozenset()
    keeps_delivery: bool = False


class UnsupportedError(EnginePermanentError):
    """This machine, or the way to this server, cannot do what was asked."""


class Client:
    """One connection, made anew when it is lost.

    Args:
        path: of the socket.
        timeout: seconds for one question.
    """

    def __init__(self, path: Path, timeout: float, clock: Clock) -> None:
        self._path, self._timeout, self._clock = path, timeout, clock
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._hello: Hello | None = None
        self._wait = 0.0
        self._not_before = 0.0
        self._trouble = EngineTemporaryError("no connection was made yet")

    async def ask(self, op: str, **fields: Any) -> Json:
        """Return the answer to one question.

        Raises:
            EngineTemporaryError: no answer, or one after which the same may work later.
            EnginePermanentError: it is refused for good.
        """
        async with self._lock:
            was_open = self._writer is not None
            await self._connected()
            try:
                return await self._exchange({"op": op, **fields})
            except _LostError:
                if not was_open:
                    raise
            # The connection was of a run that is over; every operation may be repeated.
            await self._connected()
            return await self._exchange({"op": op, **fields})

    async def hello(self) -> Hello:
        """Return what synproxyd says of itself; connect for it where there is no connection.

        Raises:
            EngineTemporaryError: it cannot be reached, or speaks another version.
        """
        async with self._lock:
            return await self._connected()

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            self._drop()

    async def _connected(self) -> Hello:
        if self._hello is not None and self._writer is not None:
            return self._hello
        if self._clock.monotonic() < self._not_before:
            said = self._trouble
            raise EngineTemporaryError(said.what, where=said.where, todo=said.todo)
        try:
            self._hello = await self._connect()
        except EngineTemporaryError as error:
            self._drop()
            self._wait = min(max(2 * self._wait, _FIRST_WAIT), _LONGEST_WAIT)
            self._not_before = self._clock.monotonic() + self._wait
            self._trouble = error
            raise
        self._wait = 0.0
        return self._hello

    async def _connect(self) -> Hello:
        try:
            async with asyncio.timeout(self._timeout):
                self._reader, self._writer = await asyncio.open_unix_connection(
                    self._path, limit=LONGEST_LINE
                )
        except OSError as error:  # TimeoutError is one
            raise EngineTemporaryError(
                f"synproxyd cannot be reached: {error.strerror or 'no answer in time'}",
                where=str(self._path),
                todo="is it running, and does --allow-user name the hub's user?",
            ) from error
        # Another synproxyd mends either: nothing is to be given up for good because of this one.
        try:
            return _read_hello(await self._exchange({"op": "hello", "version": VERSION}))
        except _LostError as error:
            # Whom it does not serve it tells so, and hangs up; that may be read, or be lost.
            todo = "see its log; does --allow-user name the hub's user?"
            raise EngineTemporaryError(error.what, where=error.where, todo=todo) from error
        except EnginePermanentError as error:
            raise EngineTemporaryError(error.what, where=error.where, todo=error.todo) from error
        except (KeyError, TypeError, ValueError) as error:
            text = f"its greeting cannot be understood: {type(error).__name__} {error}"
            todo = _TODO["version"]
            raise EngineTemporaryError(text, where=str(self._path), todo=todo) from error

    async def _exchange(self, question: Json) -> Json:
        if self._reader is None or self._writer is None:
            raise _LostError("there is no connection", where=str(self._path))
        try:
            async with asyncio.timeout(self._timeout):
                self._writer.write(json.dumps(question).encode() + b"\n")
                await self._writer.drain()
                line = await self._reader.readline()
        except TimeoutError as error:
            self._drop()
            what = f"synproxyd did not answer {question['op']} within {self._timeout:g} s"
            todo = "see its log and the load of the machine; engines.native.command_timeout"
            raise EngineTemporaryError(what, where=str(self._path), todo=todo) from error
        except (OSError, ValueError) as error:
            self._drop()
            what = f"the connection to synproxyd broke: {error}"
            raise _LostError(what, where=str(self._path)) from error
        except BaseException:
            # Half an answer may be on its way: the next question would get it.
            self._drop()
            raise
        if not line.endswith(b"\n"):
            self._drop()
            raise _LostError("synproxyd closed the connection", where=str(self._path))
        return self._checked(question["op"], line)

    def _checked(self, op: str, line: bytes) -> Json:
        try:
            answer: Any = json.loads(line)
            ok = answer["ok"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._drop()
            text = f"synproxyd answered {op} with something that is no answer"
            raise EngineTemporaryError(
                text, where=str(self._path), todo=_TODO["version"]
            ) from error
        if ok is True:
            result: Json = answer
            return result
        word = str(answer.get("error", ""))
        kind = EnginePermanentError if word in _NEVER else EngineTemporaryError
        kind = UnsupportedError if word == _UNSUPPORTED else kind
        what = f"synproxyd refuses {op} ({word}): {answer.get('message', 'no reason given')}"
        raise kind(what, where=str(self._path), todo=str(answer.get("todo") or _TODO.get(word, "")))

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = self._hello = None


class _LostError(EngineTemporaryError):
    """The connection ended before the answer."""


def _read_hello(answer: Json) -> Hello:
    if answer["version"] != VERSION:
        msg = f"version {answer['version']}"
        raise ValueError(msg)
    return Hello(
        daemon=str(answer["daemon"]),
        started=(int(answer["pid"]), int(answer["started_ms"])),
        interfaces=tuple(
            Interface(str(one["name"]), str(one["mode"])) for one in answer["interfaces"]
        ),
        tcp_modes=frozenset(str(mode) for mode in answer.get("tcp_modes", ())),
        keeps_delivery=answer.get("delivery") is True,
    )
