# SPDX-License-Identifier: Apache-2.0
"""What synproxyd itself takes: memory, with few and with many flows."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.lab import synproxyd
from scripts.lab.commands import LabError
from tests.support.hub_process import until
from tests.support.native_build import built
from tests.support.netns import OUTSIDE, run

ROOM: Final = 1 << 20
_LINE: Final = 10_000


def resident() -> dict[int, float]:
    """Return the MiB that synproxyd keeps resident, by the number of flows it knows.

    Maps that it has mapped count as resident where they have been touched.
    """
    found: dict[int, float] = {}
    with TemporaryDirectory() as folder, _running(Path(folder)) as (pid, control):
        loaded = 0
        for wanted in (1_000, 1_000_000):
            while loaded < wanted:
                count = min(_LINE, wanted - loaded)
                synproxyd.ask(control, "load", flows=[_flow(loaded + i) for i in range(count)])
                loaded += count
            found[wanted] = _resident_mib(pid)
    return found


@contextmanager
def _running(folder: Path) -> Iterator[tuple[int, Path]]:
    built()
    namespace, control = f"fnmd{os.getpid()}", folder / "control.sock"
    run("ip", "netns", "add", namespace)
    try:
        run("ip", "-n", namespace, "link", "add", OUTSIDE, "type", "veth", "peer", "name", "far")
        run("ip", "-n", namespace, "link", "set", OUTSIDE, "up")
        with synproxyd.pins(folder / "bpf") as pins:
            argv = (*synproxyd.arguments(pins, control), "--flows", str(2 * ROOM))
            command = ("ip", "netns", "exec", namespace, *argv)
            with subprocess.Popen(command) as process:
                try:
                    until("synproxyd answers", lambda: _answers(process, control), 20)
                    yield process.pid, control
                finally:
                    process.kill()
    finally:
        run("ip", "netns", "delete", namespace, check=False)


def _answers(process: subprocess.Popen[bytes], control: Path) -> bool:
    if process.poll() is not None:
        msg = f"synproxyd ended at once with {process.returncode}; what it said is above"
        raise RuntimeError(msg)
    try:
        synproxyd.ask(control, "stats")
    except LabError:
        return False
    return True


def _flow(number: int) -> tuple[str, int, str, int]:
    client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return (client, 40_000, "192.0.2.10", 443)


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024
