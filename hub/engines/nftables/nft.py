# SPDX-License-Identifier: Apache-2.0
"""Runs nft: JSON in, JSON out, an argument vector, a time limit, and what its failures mean."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hub.engines.nftables.expr import Json
from hub.errors import EngineError, EnginePermanentError, EngineTemporaryError

ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
AT_ONCE: Final = 4
"""Calls of nft that may read at the same time."""
ASYNC_JSON: Final = 262_144
"""Bytes of nft's answer above which it is parsed beside the event loop."""

_END: Final = 2.0
"""Seconds that a killed nft has to be gone."""
_OTHER_STATE: Final = (
    "No such file or directory",
    "File exists",
    "Device or resource busy",
    "element does not exist",
    "interval overlaps",
)
_LATER: Final = (
    "Resource temporarily unavailable",
    "Interrupted system call",
    "Cannot allocate memory",
    "No buffer space available",
    "Message too long",
    "Connection timed out",
)
_FORBIDDEN: Final = "Operation not permitted"
_LACKING: Final = ("Operation not supported", "Protocol error", "Protocol not supported")


class NftStateError(EngineTemporaryError):
    """Something is not in the kernel as we believed: look again, then try again."""


class Nft:
    """One nft program.

    Args:
        program: path of nft.
        timeout: seconds that one call may take.
        prefix: argument vector that nft is run by, such as `ip netns exec NAME`.
    """

    def __init__(self, program: Path, timeout: float, prefix: Sequence[str] = ()) -> None:
        self._argv = (*prefix, str(program))
        self._program = str(program)
        self._timeout = timeout

    async def commit(self, commands: Sequence[Json]) -> None:
        """Carry `commands` out, all or none.

        Raises:
            NftStateError: something is missing, in the way or in use.
            EngineTemporaryError: nft is missing, not permitted, took too long or was killed, or the
                kernel was short of memory.
            EnginePermanentError: nft refuses what it is told.
        """
        await self._run(("-j", "-f", "-"), commands)

    async def check(self, commands: Sequence[Json]) -> None:
        """Let nft and the kernel check `commands` without effect; raises as `commit` does."""
        await self._run(("-j", "-c", "-f", "-"), commands)

    async def read(self, commands: Sequence[Json]) -> list[Json]:
        """Return the objects that list commands give; raises as `commit` does."""
        free = asyncio.Semaphore(AT_ONCE)

        async def one(command: Json) -> list[Json]:
            # One list command a call: nft 1.0.6 loads for the last one only.
            async with free:
                return await self._objects(await self._run(("-j", "-f", "-"), [command]))

        answers = await asyncio.gather(*(one(command) for command in commands))
        return [found for answer in answers for found in answer]

    async def structure(self) -> list[Json]:
        """Return the whole ruleset but the elements of sets; raises as `commit` does."""
        # Every narrower list command of nft 1.0.6 loads all elements of all sets first, which
        # takes seconds while meters are full.
        return await self._objects(await self._run(("-j", "-t", "list", "ruleset")))

    async def _objects(self, output: bytes) -> list[Json]:
        try:
            if len(output) > ASYNC_JSON:
                answer = await asyncio.to_thread(json.loads, output)
            else:
                answer = json.loads(output)
            objects: list[Json] = answer["nftables"]
        except (ValueError, KeyError, TypeError) as error:
            raise EnginePermanentError(
                f"its answer is not nft's JSON: {output[:80]!r}",
                where=self._program,
                todo="install nftables 1.0.2 or newer, built with JSON",
            ) from error
        return objects

    async def _run(self, arguments: Sequence[str], commands: Sequence[Json] | None = None) -> bytes:
        process = await self._start(arguments, commands)
        try:
            async with asyncio.timeout(self._timeout):
                output, errors = await process.communicate()
        except TimeoutError:
            raise EngineTemporaryError(
                f"no answer within {self._timeout:g} s, killed",
                where=self._program,
                todo="see whether another program holds the ruleset, or raise command_timeout",
            ) from None
        finally:
            await _end(process)
        if process.returncode:
            raise self._failure(process.returncode, errors.decode(errors="replace"))
        return output

    async def _start(
        self, arguments: Sequence[str], commands: Sequence[Json] | None
    ) -> asyncio.subprocess.Process:
        text = b"" if commands is None else json.dumps({"nftables": list(commands)}).encode()
        try:
            with _memory_file(text) as stdin:
                return await asyncio.create_subprocess_exec(
                    *self._argv,
                    *arguments,
                    stdin=stdin,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=ENVIRONMENT,
                    start_new_session=True,
                )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            # Of the machine, not of the order: a package upgrade takes nft away for a while.
            raise EngineTemporaryError(
                f"cannot be run: {error.strerror}",
                where=self._argv[0],
                todo="install nftables, or set engines.nftables.nft to its path",
            ) from error
        except OSError as error:
            raise EngineTemporaryError(
                f"cannot be run: {error.strerror}",
                where=self._argv[0],
                todo="free memory or processes",
            ) from error

    def _failure(self, status: int, errors: str) -> EngineError:
        words = " ".join(errors.replace("internal:0:0-0: ", "").split()) or f"exit status {status}"
        if status < 0:
            return EngineTemporaryError(
                f"killed by signal {-status}", where=self._program, todo="see who killed it"
            )
        if _FORBIDDEN in errors:
            return EngineTemporaryError(
                words, where=self._program, todo="give the hub CAP_NET_ADMIN, or run it as root"
            )
        if any(known in errors for known in _OTHER_STATE):
            return NftStateError(words, where=self._program)
        if any(known in errors for known in _LATER):
            return EngineTemporaryError(words, where=self._program)
        todo = ""
        if any(known in errors for known in _LACKING):
            todo = "use a kernel of 5.7 or newer with CONFIG_NFT_SYNPROXY and nf_tables_inet"
        return EnginePermanentError(words, where=self._program, todo=todo)


@contextmanager
def _memory_file(text: bytes) -> Iterator[int]:
    # nft opens /dev/stdin anew, which fails on the socket that asyncio uses for a pipe.
    descriptor = os.memfd_create("nft")
    try:
        os.set_blocking(descriptor, False)
        os.write(descriptor, text)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        # The whole group: a child of it that holds the pipes open would be waited for as well.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END):
                await process.wait()
