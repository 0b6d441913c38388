# SPDX-License-Identifier: Apache-2.0
"""synproxyd's own unit tests and a short run of its fuzzer, under the sanitizers."""

import subprocess
from pathlib import Path

import pytest

from tests.support.native_build import NATIVE, built

UNITS = sorted(path.stem for path in (NATIVE / "tests").glob("test_*.c"))
ROUNDS = 5_000


def run(*argv: str | Path) -> None:
    """Run a program to its end; fail with what it said."""
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_units_when_listed_then_there_are_some() -> None:
    """A folder that moved away would otherwise pass."""
    assert len(UNITS) >= 5


@pytest.mark.parametrize("unit", UNITS)
def test_unit_when_run_then_it_finds_nothing(unit: str) -> None:
    """Each program of native/tests ends well."""
    run(built("tests") / "tests" / unit)


def test_control_socket_when_fed_with_mutations_then_no_sanitizer_complains() -> None:
    """Lines that are almost requests; the long runs are the fuzzer's own."""
    run(built("tests") / "tests/mutate-control", str(ROUNDS))
