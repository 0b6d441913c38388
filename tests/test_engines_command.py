# SPDX-License-Identifier: Apache-2.0
"""The engine `command` runs real programs: fixed arguments, clean surroundings, an end."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hub import config
from hub.clock import SystemClock
from hub.engines import process
from hub.engines.command import PATH, CommandEngine
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.rules.actions import Command, Notify, Sorb
from tests.support.engines import as_engine, mitigation

DUMP = """#!/usr/bin/python3 -IS
import json, os, sys
seen = {"argv": sys.argv, "environment": dict(os.environ), "cwd": os.getcwd(),
        "stdin": sys.stdin.read(), "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "leads_session": os.getsid(0) == os.getpid()}
with open(sys.argv[-1], "a") as file:
    print(json.dumps(seen), file=file)
"""


def make(
    tmp_path: Path, text: str, *arguments: str, timeout: float = 20.0, **settings: Any
) -> CommandEngine:
    """Return an engine that runs the script `text`."""
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o755)
    return engine(str(program), *arguments, timeout=timeout, **settings)


def engine(*argv: str, timeout: float = 20.0, **settings: Any) -> CommandEngine:
    """Return an engine that runs `argv`."""
    values = {"argv": list(argv), "timeout": f"{round(timeout * 1000)}ms", **settings}
    checked = config.CommandEngine.model_validate(values)
    return CommandEngine("tell", checked, SystemClock())


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run `work` in an event loop of its own."""

    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def lives(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_apply_when_run_then_the_program_sees_state_and_nothing_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments are those of the configuration; values come by environment and standard input."""
    monkeypatch.setenv("SECRET_OF_THE_HUB", "x")
    out = tmp_path / "out"
    environment = {"REGION": "north", "FNM_STATE": "forged", "LANG": "de_DE"}
    arguments = ("--flag", "a b;$(id)", str(out))
    teller = make(tmp_path, DUMP, *arguments, environment=environment)
    row = mitigation(Command(run="tell"), rule="manual")

    async def work() -> None:
        await teller.apply(row)
        await teller.release(row)

    run(work)
    on, off = (json.loads(line) for line in out.read_text().splitlines())
    assert on["argv"][1:] == ["--flag", "a b;$(id)", str(out)]
    expected = {
        "PATH": PATH,
        "LANG": "de_DE",
        "REGION": "north",
        "FNM_STATE": "on",
        "FNM_KIND": "command",
        "FNM_MITIGATION": "m-0123456789",
        "FNM_REVISION": "3",
        "FNM_RULE": "manual",
        "FNM_TARGET": "192.0.2.7/32",
        "FNM_SERVICE": "web",
        "FNM_ATTACKS": "a-0123456789,a-9876543210",
        "FNM_DEADLINE": "1900.000",
        "FNM_DRILL": "",
    }
    # The interpreter adds this one itself where the locale is not there.
    on["environment"].pop("LC_CTYPE", None)
    assert on["environment"] == expected
    assert (on["cwd"], on["leads_session"]) == ("/", True)
    assert on["fds"] == [0, 1, 2, 3]  # 3 is the listing itself
    told = json.loads(on["stdin"])
    assert (told["v"], told["kind"], told["state"]) == (1, "command", "on")
    assert (off["environment"]["FNM_STATE"], json.loads(off["stdin"])["state"]) == ("off", "off")


def test_apply_when_values_are_hostile_then_they_stay_values(tmp_path: Path) -> None:
    """No name or target can become an option, a second command or a broken message."""
    out = tmp_path / "out"
    teller = make(tmp_path, DUMP, str(out))
    rule = '--help\n"; touch /tmp/x; $(id) \u2028 é'
    run(lambda: teller.apply(mitigation(rule=rule, service=None)))
    seen = json.loads(out.read_text())
    assert seen["argv"][1:] == [str(out)]
    assert seen["environment"]["FNM_RULE"] == rule
    assert seen["environment"]["FNM_SERVICE"] == ""
    assert json.loads(seen["stdin"])["rule"] == rule
    assert json.loads(seen["stdin"])["service"] is None


def test_apply_when_a_value_holds_nul_then_a_final_error(tmp_path: Path) -> None:
    """What no environment can hold is refused, and nothing is run."""
    out = tmp_path / "out"
    teller = make(tmp_path, DUMP, str(out))
    with pytest.raises(EnginePermanentError, match="cannot be started"):
        run(lambda: teller.apply(mitigation(rule="a\0b")))
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("#!/bin/sh\nexit 75\n", EngineTemporaryError, "again later"),
        ("#!/bin/sh\nexit 1\n", EnginePermanentError, "exit code 1"),
        ("#!/bin/sh\nkill -SEGV $$\n", EnginePermanentError, "SIGSEGV"),
        ("#!/no/such/interpreter\n", EnginePermanentError, "cannot be started"),
        ("no program\n", EnginePermanentError, "Exec format error"),
    ],
    ids=["tempfail", "exit 1", "signal", "no interpreter", "no program"],
)
def test_apply_when_program_fails_then_the_error_says_whether_to_try_again(
    tmp_path: Path, text: str, kind: type[Exception], says: str
) -> None:
    """75 is for later, everything else is final."""
    teller = make(tmp_path, text)
    with pytest.raises(kind, match=says) as caught:
        run(lambda: teller.apply(mitigation()))
    assert str(tmp_path / "program") in str(caught.value)
    health = run(teller.health)
    assert (health.ok, health.detail) == (False, str(caught.value))
    assert run(teller.telemetry) == {"run": 1, "failed": 1}


def test_apply_when_program_fails_then_its_last_lines_are_logged(tmp_path: Path) -> None:
    """The operator sees why, and only the end of a long story."""
    text = "#!/bin/sh\nseq 1 100000\necho 'broken \\377' >&2\nexit 3\n"
    teller = make(tmp_path, text)
    with capture_logs() as logs, pytest.raises(EnginePermanentError):
        run(lambda: teller.apply(mitigation()))
    assert [entry["event"] for entry in logs] == ["command.failed"]
    assert logs[0]["output"] == ["99997", "99998", "99999", "100000", "broken \\xff"]
    assert (logs[0]["exit_code"], logs[0]["mitigation"]) == (3, "m-0123456789")


def test_apply_when_program_works_then_nothing_is_logged_and_health_is_good(
    tmp_path: Path,
) -> None:
    """Success is quiet, and clears an earlier failure."""
    mark = tmp_path / "mark"
    teller = make(tmp_path, f"#!/bin/sh\necho words\ntest -e {mark} || exit 1\n")
    with pytest.raises(EnginePermanentError):
        run(lambda: teller.apply(mitigation()))
    mark.touch()
    with capture_logs() as logs:
        run(lambda: teller.apply(mitigation()))
    assert logs == []
    assert run(teller.health).ok
    assert run(teller.telemetry) == {"run": 2, "failed": 1}


def test_run_when_program_writes_without_end_then_output_is_bounded(tmp_path: Path) -> None:
    """A flood of output neither fills memory nor stops the program."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nhead -c 5000000 /dev/zero\necho end\n")
    program.chmod(0o755)
    done = run(lambda: process.run([str(program)], environment={"PATH": PATH}, stdin=b"", limit=20))
    assert done.code == 0
    assert len(done.output) == process.MAX_OUTPUT
    assert done.output.endswith(b"\0end\n")


def test_run_when_input_is_large_and_unread_then_nobody_waits() -> None:
    """A program that does not read its input is not held up, whatever its size."""
    done = run(lambda: process.run(["/bin/true"], environment={}, stdin=bytes(2**20), limit=20))
    assert (done.code, done.output) == (0, b"")


def test_apply_when_program_hangs_then_it_and_its_children_are_killed(tmp_path: Path) -> None:
    """Past the time limit nothing of its process group is left, not even what ignores signals."""
    pids = tmp_path / "pids"
    text = (
        "#!/bin/sh\ntrap '' TERM HUP\n"
        f"sh -c 'trap \"\" TERM HUP; echo $$ >> {pids}; sleep 600' &\n"
        f"echo $$ >> {pids}\nsleep 600\n"
    )
    teller = make(tmp_path, text, timeout=1.0)
    with pytest.raises(EngineTemporaryError, match="killed after 1 s"):
        run(lambda: teller.apply(mitigation()))
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 2
    assert [pid for pid in found if not dies(pid)] == []


def test_apply_when_program_leaves_a_child_then_it_is_ended_and_nobody_waits_for_it(
    tmp_path: Path,
) -> None:
    """A child that keeps the output open does not hold the engine up, and is not left behind."""
    pid_file = tmp_path / "pid"
    teller = make(tmp_path, f"#!/bin/sh\nsleep 600 &\necho $! > {pid_file}\n")
    run(lambda: teller.apply(mitigation()))
    assert dies(int(pid_file.read_text()))


def test_apply_when_a_child_starts_its_own_session_then_it_stays(tmp_path: Path) -> None:
    """A program that is to stay has a way to say so, and does not hold the engine up."""
    pid_file = tmp_path / "pid"
    teller = make(
        tmp_path,
        f"#!/bin/sh\nsetsid sh -c 'echo $$ > {pid_file}; exec sleep 600' &\n"
        f"while ! test -s {pid_file}; do :; done\n",
    )
    run(lambda: teller.apply(mitigation()))
    pid = int(pid_file.read_text())
    try:
        assert lives(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_apply_when_cancelled_then_the_program_is_killed(tmp_path: Path) -> None:
    """A hub that stops leaves no program of its own running."""
    pid_file = tmp_path / "pid"
    teller = make(
        tmp_path, f"#!/bin/sh\necho $$ > {pid_file}.new\nmv {pid_file}.new {pid_file}\nsleep 600\n"
    )

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(teller.apply(mitigation()))
            while not await asyncio.to_thread(pid_file.exists):
                await SystemClock().sleep(0.01)
            task.cancel()

    run(work)
    assert dies(int(pid_file.read_text()))


def test_apply_when_many_at_once_then_each_ends_and_no_descriptor_is_left(
    tmp_path: Path,
) -> None:
    """Runs do not disturb each other, and leave nothing open, whether they succeed or not."""
    teller = make(tmp_path, '#!/bin/sh\ntest "$FNM_REVISION" -lt 15\n')

    async def work() -> list[Any]:
        runs = (teller.apply(mitigation(revision=turn)) for turn in range(30))
        with capture_logs():
            return await asyncio.gather(*runs, return_exceptions=True)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only

    run(work)
    before = descriptors()
    results = run(work)
    assert [type(result) for result in results] == [type(None)] * 15 + [EnginePermanentError] * 15
    assert descriptors() == before


def dies(pid: int) -> bool:
    """Tell whether a process that was killed is gone; the kernel may take a moment for that."""
    for _ in range(1000):
        if not lives(pid):
            return True
        time.sleep(0.01)
    return False


def missing(path: Path) -> None:
    """Leave nothing there."""


def not_executable(path: Path) -> None:
    """Make a file that cannot be run."""
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)


def a_directory(path: Path) -> None:
    """Make a directory."""
    path.mkdir()


def open_to_all(path: Path) -> None:
    """Make a program that anybody can change."""
    path.write_text("#!/bin/sh\n")
    path.chmod(0o777)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (missing, "cannot be found: No such file or directory; install it"),
        (not_executable, "is no program that we may run; chmod 0755"),
        (a_directory, "is no program that we may run"),
        (open_to_all, "can be changed by anybody; chmod o-w"),
    ],
)
def test_plan_when_program_cannot_be_run_then_refused_with_what_to_do(
    tmp_path: Path, prepare: Callable[[Path], None], says: str
) -> None:
    """Before anything happens, the operator is told what is wrong with the program."""
    program = tmp_path / "program"
    prepare(program)
    teller = engine(str(program))
    row = mitigation()
    for ask in (teller.plan, teller.apply, teller.release):
        with pytest.raises(EnginePermanentError, match=says) as caught:
            run(lambda ask=ask: ask(row))  # type: ignore[misc]
        assert str(program) in str(caught.value)
    assert not run(teller.health).ok


def test_plan_when_program_is_good_then_it_is_not_run(tmp_path: Path) -> None:
    """A plan has no effect."""
    mark = tmp_path / "mark"
    teller = make(tmp_path, f"#!/bin/sh\ntouch {mark}\n")
    plan = run(lambda: teller.plan(mitigation()))
    assert plan.steps == (f"run {tmp_path / 'program'} (tell), on and off",)
    assert not mark.exists()
    assert run(teller.health).ok


async def test_engine_when_asked_then_it_says_what_it_can_do() -> None:
    """It tells and runs; it has nothing to show and refuses other countermeasures."""
    teller = as_engine(engine("/bin/true"))
    able = teller.capabilities()
    assert able.kinds == {"notify", "command"}
    assert (able.leases, able.hides_traffic, able.lasting, able.readable) == (
        (False, False, True, False)
    )
    await teller.start()
    assert list(await teller.inventory()) == []
    await teller.apply(mitigation(Notify(to="tell")))
    for ask in (teller.plan, teller.apply, teller.release):
        with pytest.raises(EnginePermanentError, match="cannot do 'sorb'"):
            await ask(mitigation(Sorb()))
    await teller.close()
