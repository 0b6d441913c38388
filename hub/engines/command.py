# SPDX-License-Identifier: Apache-2.0
"""Engine `command`: runs one configured program when something is switched on or off.

The program and its arguments are fixed in the configuration; what differs is in the environment
(`FNM_STATE` = `on` or `off`, `FNM_KIND`, `FNM_MITIGATION`, `FNM_REVISION`, `FNM_RULE`,
`FNM_TARGET`, `FNM_SERVICE`, `FNM_ATTACKS`, `FNM_DEADLINE`) and, as the JSON object of
`hub.engines.message`, on standard input. Exit code 0 means done, 75 (EX_TEMPFAIL of sysexits.h)
try again later, anything else that it never will. It may be run again with the same values.
"""

import asyncio
import errno
import os
import signal
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from hub import config
from hub.clock import Clock
from hub.engines.message import State, encode
from hub.engines.process import Finished, run
from hub.errors import EngineError, EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Capabilities, Health, Installed, Plan
from hub.mitigations.model import Mitigation
from hub.rates import Rates
from hub.rules.actions import Command, Notify

log = structlog.get_logger(__name__)

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EX_TEMPFAIL: Final = 75
LAST_LINES: Final = 5
"""Lines of a failed program's output that are logged."""
_LINE: Final = 400
_BUSY: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY})


class CommandEngine:
    """Runs one program.

    Args:
        name: its name in the configuration.
        settings: its part of the configuration.
        clock: for how long a run took.
    """

    def __init__(self, name: str, settings: config.CommandEngine, clock: Clock) -> None:
        self._name, self._settings, self._clock = name, settings, clock
        self._counters: Counter[str] = Counter(run=0, failed=0)
        self._trouble = ""

    @property
    def name(self) -> str:
        """Name in the configuration and the ledger."""
        return self._name

    def capabilities(self) -> Capabilities:
        """Say that it may do anything to traffic, and cannot show it."""
        return Capabilities(
            kinds=frozenset({"notify", "command"}),
            leases=False,
            hides_traffic=False,
            lasting=True,
            readable=False,
        )

    async def start(self) -> None:
        """Do nothing: there is nothing to make ready."""

    async def close(self) -> None:
        """Do nothing: a program under way ends with the task that waits for it."""

    async def plan(self, mitigation: Mitigation) -> Plan:
        """Check that the program could be started; start nothing.

        Raises:
            EnginePermanentError: it could not.
        """
        self._check_kind(mitigation)
        await asyncio.to_thread(self._check_program)
        return Plan((f"run {self._settings.argv[0]} ({self._name}), on and off",))

    async def apply(self, mitigation: Mitigation) -> None:
        """Run the program with `on`.

        Raises:
            EngineTemporaryError: its time was up, or it asks to try again later.
            EnginePermanentError: it cannot be started, or failed.
        """
        await self._run(mitigation, "on")

    async def release(self, mitigation: Mitigation) -> None:
        """Run the program with `off`.

        Raises:
            EngineTemporaryError: its time was up, or it asks to try again later.
            EnginePermanentError: it cannot be started, or failed.
        """
        await self._run(mitigation, "off")

    async def inventory(self) -> Sequence[Installed]:
        """Return nothing: what the program has done cannot be read back."""
        return ()

    async def withdraw(self, installed: Installed) -> None:
        """Do nothing: nothing is ever listed."""

    async def health(self) -> Health:
        """Say whether the program can be started, and how its newest run went."""
        try:
            await asyncio.to_thread(self._check_program)
        except EngineError as error:
            return Health(ok=False, detail=str(error))
        return Health(ok=not self._trouble, detail=self._trouble)

    async def rates(self) -> Mapping[str, Rates]:
        """Return nothing: it does not measure."""
        return {}

    async def telemetry(self) -> Mapping[str, int]:
        """Return the counters `run` and `failed`."""
        return dict(self._counters)

    async def _run(self, mitigation: Mitigation, state: State) -> None:
        self._check_kind(mitigation)
        self._counters["run"] += 1
        begun = self._clock.monotonic()
        try:
            await asyncio.to_thread(self._check_program)
            finished = await self._start(mitigation, state)
            self._judge(finished, mitigation, state, self._clock.monotonic() - begun)
        except EngineError as error:
            self._counters["failed"] += 1
            self._trouble = str(error)
            raise
        self._trouble = ""

    async def _start(self, mitigation: Mitigation, state: State) -> Finished:
        try:
            return await run(
                self._settings.argv,
                environment=self._environment(mitigation, state),
                stdin=encode(mitigation, state),
                limit=self._settings.timeout,
            )
        except OSError as error:
            what = f"cannot be started: {error.strerror}"
            if error.errno in _BUSY:
                raise EngineTemporaryError(what, where=self._where()) from error
            todo = "check that it is a program for this machine, with a #! line if it is a script"
            raise EnginePermanentError(what, where=self._where(), todo=todo) from error
        except ValueError as error:
            what = f"cannot be started: {error}"
            raise EnginePermanentError(what, where=self._where()) from error

    def _judge(
        self, finished: Finished, mitigation: Mitigation, state: State, seconds: float
    ) -> None:
        if finished.code == 0:
            return
        log.warning(
            "command.failed",
            engine=self._name,
            mitigation=mitigation.id,
            state=state,
            exit_code=finished.code,
            seconds=round(seconds, 3),
            output=_last_lines(finished.output),
            todo="mend the program: see output",
        )
        if finished.code is None:
            raise EngineTemporaryError(
                f"killed after {self._settings.timeout:g} s",
                where=self._where(),
                todo="make it faster, or raise its timeout",
            )
        if finished.code == EX_TEMPFAIL:
            what = f"asks to be run again later (exit code {EX_TEMPFAIL})"
            raise EngineTemporaryError(what, where=self._where())
        raise EnginePermanentError(
            _ending(finished.code), where=self._where(), todo="see its last lines in the log"
        )

    def _environment(self, mitigation: Mitigation, state: State) -> dict[str, str]:
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            **self._settings.environment,
            "FNM_STATE": state,
            "FNM_KIND": mitigation.action.kind,
            "FNM_MITIGATION": mitigation.id,
            "FNM_REVISION": str(mitigation.revision),
            "FNM_RULE": mitigation.rule,
            "FNM_TARGET": str(mitigation.target),
            "FNM_SERVICE": mitigation.service.name if mitigation.service else "",
            "FNM_ATTACKS": ",".join(mitigation.attacks),
            "FNM_DEADLINE": f"{mitigation.deadline:.3f}",
            "FNM_DRILL": "1" if mitigation.drill else "",
        }

    def _check_kind(self, mitigation: Mitigation) -> None:
        if not isinstance(mitigation.action, Notify | Command):
            raise EnginePermanentError(
                f"a command cannot do {mitigation.action.kind!r}",
                where=self._name,
                todo="name it in a `notify` or `command` action",
            )

    def _check_program(self) -> None:
        program, where = self._settings.argv[0], self._where()
        try:
            mode = os.stat(program).st_mode  # noqa: PTH116 - as it is written, not as a Path
        except OSError as error:
            todo = "install it, or mend engines.command in the configuration"
            what = f"cannot be found: {error.strerror}"
            raise EnginePermanentError(what, where=where, todo=todo) from error
        if not stat.S_ISREG(mode) or not os.access(program, os.X_OK):
            todo = f"chmod 0755 {program}, and let user id {os.geteuid()} reach it"
            raise EnginePermanentError("is no program that we may run", where=where, todo=todo)
        if mode & stat.S_IWOTH:
            todo = f"chmod o-w {program}, and look whether somebody did"
            raise EnginePermanentError("can be changed by anybody", where=where, todo=todo)

    def _where(self) -> str:
        return f"{self._name} ({self._settings.argv[0]})"


def _ending(code: int) -> str:
    if code >= 0:
        return f"failed with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _last_lines(output: bytes) -> list[str]:
    lines = output.decode("utf-8", "backslashreplace").splitlines()
    return [line[:_LINE] for line in lines[-LAST_LINES:]]
