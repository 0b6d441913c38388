# SPDX-License-Identifier: Apache-2.0
"""Runs one program with a time limit, and leaves nothing of it behind."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

MAX_OUTPUT: Final = 64 * 1024
"""Bytes of output that are kept, the last ones."""
_PIECE: Final = 16 * 1024
_PIPE: Final = 64 * 1024
_REAP_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended.

    Attributes:
        code: exit code, negative for a signal, None when its time was up.
        output: the end of what it wrote to standard output and standard error.
    """

    code: int | None
    output: bytes


async def run(
    argv: Sequence[str], *, environment: Mapping[str, str], stdin: bytes, limit: float
) -> Finished:
    """Run `argv` in a session of its own, in the root directory, with nothing inherited.

    Whatever is left in its process group is killed when it ends, when its time is up, and when
    the caller is cancelled. Output beyond 64 KiB is thrown away, so that it never waits for us.

    Args:
        argv: program and arguments; no shell, no search of PATH.
        environment: all of it.
        stdin: what it can read.
        limit: seconds that it may take.

    Raises:
        OSError: it cannot be started.
        ValueError: a NUL byte in an argument or the environment.
    """
    loop = asyncio.get_running_loop()
    starting = loop.run_in_executor(None, _start, tuple(argv), dict(environment), stdin)
    try:
        program = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError, ValueError):
            await (await starting).end()
        raise
    try:
        in_time = await program.wait(limit)
    finally:
        await program.end()
    return Finished(program.code if in_time else None, program.output)


class _Program:
    """A started program, its process descriptor and the reading end of its output."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self._process, self._output, self._kept = process, output, bytearray()
        self._pidfd = os.pidfd_open(process.pid)

    @property
    def code(self) -> int | None:
        """Exit code, known after `end`."""
        return self._process.returncode

    @property
    def output(self) -> bytes:
        """The last of its output."""
        return bytes(self._kept)

    async def wait(self, limit: float) -> bool:
        """Wait until it has ended, and tell whether that was in time; collect its output."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._output, self._read)
        try:
            return await self._exited(limit)
        finally:
            loop.remove_reader(self._output)

    async def end(self) -> None:
        """Kill what is left of its process group, and reap it."""
        # The pid is ours until it is reaped, so this cannot hit anybody else's group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            if await self._exited(_REAP_SECONDS):
                self._process.poll()
            # No more than a pipe holds: what has left the group may write for ever.
            for _ in range(_PIPE // _PIECE):
                self._read()
        finally:
            os.close(self._pidfd)
            os.close(self._output)

    async def _exited(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        exited = asyncio.Event()
        loop.add_reader(self._pidfd, exited.set)
        try:
            async with asyncio.timeout(seconds):
                await exited.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._pidfd)
        return True

    def _read(self) -> int:
        try:
            piece = os.read(self._output, _PIECE)
        except BlockingIOError:
            return 0
        if not piece:
            asyncio.get_running_loop().remove_reader(self._output)
        self._kept += piece
        del self._kept[:-MAX_OUTPUT]
        return len(piece)


def _start(argv: tuple[str, ...], environment: dict[str, str], stdin: bytes) -> _Program:
    # A file in memory: however much there is and whether it is read or not, nobody waits.
    source = os.memfd_create("stdin")
    output, into = os.pipe()
    try:
        os.set_blocking(output, False)
        with os.fdopen(os.dup(source), "wb") as file:
            file.write(stdin)
        os.lseek(source, 0, os.SEEK_SET)
        process = subprocess.Popen(
            argv,
            stdin=source,
            stdout=into,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            start_new_session=True,
            close_fds=True,
        )
        return _watch(process, output)
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(source)
        os.close(into)


def _watch(process: subprocess.Popen[bytes], output: int) -> _Program:
    try:
        return _Program(process, output)
    except OSError:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
