# SPDX-License-Identifier: Apache-2.0
"""Faults of the machine around a real hub: disks, clocks, descriptors, programs that hang."""

import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.cli import Done, run_cli
from tests.support.hub_process import HubProcess, until

IN_TIME: Final = 15.0
"""Seconds within which an operator has to learn of a fault from one place."""
_RUNNING: Final = 2.0
_WALL_CLOCK: Final = Path(__file__).with_name("wall_clock.c")
NFT: Final = """#!/bin/sh
case "$(cat FOLDER/nft-fault)" in
  hang) exec sleep 600 ;;
  kill) kill -9 $$ ;;
esac
exec /usr/sbin/nft "$@"
"""
"""What stands in for nft, and is nft but for the fault that a file names."""


def in_time() -> float:
    """Return these seconds, more of them where others keep the machine's processors busy."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return IN_TIME * max(1.0, busy / _RUNNING)


def status(hub: HubProcess) -> Done:
    """Ask as an operator does; exit code 4 means that the hub does not answer."""
    return run_cli("--socket", str(hub.folder / "api.sock"), "status")


def warned(hub: HubProcess, word: str) -> bool:
    """Tell whether the hub's own status warns of something."""
    return any(word in warning for warning in hub.get("/v1/status")["warnings"])


def learned(hub: HubProcess, word: str, still: Callable[[], object] = bool) -> None:
    """Fail unless `status` warns of something in time; `still` must hold meanwhile.

    What is answered over the socket is what `fnm-hub status` prints: seen at the end as well.
    """

    def look() -> bool:
        still()
        return warned(hub, word)

    until(f"status says {word!r}", look, in_time())
    assert word in status(hub).out


def recovered(hub: HubProcess, word: str) -> None:
    """Wait until the hub warns no more."""
    until(f"no more {word!r}", lambda: not warned(hub, word), 30)


def in_kernel(hub: HubProcess, *targets: str) -> Callable[[], None]:
    """Return a check that the kernel protects these targets."""

    def check() -> None:
        there = " ".join(hub.kernel())
        assert all(f'"{target}"' in there for target in targets), there

    return check


def put_nft(hub: HubProcess) -> Path:
    """Let the hub run nft by a program that can fail; return the file that says how."""
    fault, program = hub.folder / "nft-fault", hub.folder / "nft"
    fault.write_text("")
    program.write_text(NFT.replace("FOLDER", str(hub.folder)))
    program.chmod(0o755)
    return fault


def fill(filler: Path) -> None:
    """Write until there is no space left."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextmanager
def small_disk(place: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a disk in memory."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def ext4(image: Path, place: Path) -> Iterator[Path]:
    """Mount a disk with a file system of its own, in a file."""
    place.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 16 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def aborted(place: Path) -> None:
    """Let ext4 do what it does at a fault of the disk: nothing is written any more."""
    subprocess.run(["mount", "-o", "remount,abort", str(place)], check=False, capture_output=True)


class WallClock:
    """The wall clock as one process sees it.

    Args:
        folder: for the library and the offset.
    """

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "wall-clock"
        self.set(0.0)
        library = folder / "wall_clock.so"
        argv = ["clang", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
        subprocess.run([*argv, str(_WALL_CLOCK), "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(self._offset)}

    def set(self, seconds: float) -> None:
        """Set it so far ahead of the real one."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))


@contextmanager
def hanging(pid: int) -> Iterator[None]:
    """Hold a process still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """Let a process open no file any more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something took."""
    begun = time.monotonic()  # noqa: TID251 - what is under test is time
    work()
    return time.monotonic() - begun  # noqa: TID251
