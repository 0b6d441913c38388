# SPDX-License-Identifier: Apache-2.0
"""Builds native/ once a test session; several processes may ask at the same time."""

import fcntl
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

NATIVE: Final = Path(__file__).resolve().parents[2] / "native"


@cache
def built(*targets: str) -> Path:
    """Return native/build after `make targets` (none: the daemon and the BPF objects)."""
    # The directory itself is the lock: it is there before the first build and after a clean.
    lock = os.open(NATIVE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "--silent", "-C", str(NATIVE), *targets],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(lock)
    if done.returncode:
        raise AssertionError(f"make -C native {' '.join(targets)}:\n{done.stdout}{done.stderr}")
    return NATIVE / "build"
