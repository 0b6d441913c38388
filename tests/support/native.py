# SPDX-License-Identifier: Apache-2.0
"""A real synproxyd in a network namespace of its own, for tests of what talks to it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from scripts.lab import synproxyd
from scripts.lab.commands import LabError
from tests.support.native_build import built
from tests.support.netns import OUTSIDE, run

_numbers = count()


class Synproxyd:
    """synproxyd on one end of a veth pair; its pins outlive it, as on a gateway.

    Args:
        folder: for its socket, its log and the mount of its pins.
        options: more of its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.namespace = f"fnms{os.getpid()}x{next(_numbers)}"
        self.control = folder / "control.sock"
        self.log = folder / "synproxyd.log"
        self._argv = (*synproxyd.arguments(folder / "bpf", self.control), *options)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            argv = ("ip", "netns", "exec", self.namespace, *self._argv)
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(200):
            with suppress(LabError):
                synproxyd.ask(self.control, "stats")
                return
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(number)
            self._process.wait(10)
            self._process = None


@contextmanager
def synproxyd_running(folder: Path, *options: str) -> Iterator[Synproxyd]:
    """Run synproxyd until the context ends, and remove all of it then."""
    built()
    made = Synproxyd(folder, *options)
    run("ip", "netns", "add", made.namespace)
    try:
        pair = ("add", OUTSIDE, "type", "veth", "peer", "name", "far")
        for words in (pair, ("set", "far", "up"), ("set", OUTSIDE, "up"), ("set", "lo", "up")):
            run("ip", "-n", made.namespace, "link", *words)
        with synproxyd.pins(folder / "bpf"):
            try:
                made.start()
                yield made
            finally:
                made.kill()
    finally:
        run("ip", "netns", "delete", made.namespace, check=False)
