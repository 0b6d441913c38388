# SPDX-License-Identifier: Apache-2.0
"""Running other programs: short commands, and long ones that the lab must end again."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from hub.clock import SystemClock
from hub.errors import HubError

COMMAND_TIMEOUT = 20.0
STOP_GRACE = 10.0
POLL = 0.1
LOG_TAIL = 5


class LabError(HubError):
    """The lab could not be built, or a step did not happen in time."""


def run(*argv: str, stdin: str = "") -> str:
    """Run `argv` to its end and return its standard output.

    Raises:
        LabError: it is not installed, takes longer than 20 s, or exits non-zero.
    """
    line = " ".join(argv)
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed", todo="run scripts/setup") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"it did not end within {COMMAND_TIMEOUT:.0f} s", where=line) from error
    if done.returncode != 0:
        raise LabError(f"exit status {done.returncode}: {done.stderr.strip()}", where=line)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs until the lab ends it.

    Attributes:
        name: what the lab calls it, e.g. `hub`.
        log: file with its standard output and standard error.
    """

    name: str
    log: Path
    popen: subprocess.Popen[bytes]

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def require(self) -> None:
        """Raise `LabError` with its last words if it has ended."""
        if (status := self.popen.poll()) is None:
            return
        tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:])
        raise LabError(f"{self.name} ended with exit status {status}: {tail}", where=str(self.log))

    def stop(self) -> None:
        """End it by SIGTERM, after ten seconds by SIGKILL."""
        self.popen.terminate()
        try:
            self.popen.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def started(
    name: str, argv: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run `argv` with its output in `log`, away from the terminal's Ctrl-C, and end it at exit."""
    with log.open("ab") as output:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    process = Process(name, log, popen)
    try:
        yield process
    finally:
        process.stop()


def wait_until(what: str, condition: Callable[[], bool], *, seconds: float, todo: str = "") -> None:
    """Return as soon as `condition` holds, asked ten times a second.

    Raises:
        LabError: it did not hold within `seconds`.
    """
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while not condition():
        if clock.monotonic() >= end:
            raise LabError(f"{what}: did not happen within {seconds:.0f} s", todo=todo)
        sleep(POLL)
