# SPDX-License-Identifier: Apache-2.0
"""The C tests of native/, the fuzzer of its control input, and its sources' form."""

import subprocess
from pathlib import Path

import pytest

from tests.support.native_build import NATIVE, built

_UNITS = sorted(path.stem for path in (NATIVE / "tests").glob("test_*.c"))


def _run(*argv: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("unit", _UNITS)
def test_unit_when_run_then_every_check_holds(unit: str) -> None:
    """Under AddressSanitizer and UBSan."""
    lines = _run(built("tests") / "tests" / unit).splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_control_input_when_mutated_then_the_engine_stays_consistent(seed: str) -> None:
    """Thousands of broken requests, deadlines and restarts between them; nothing trips."""
    assert "4000 rounds" in _run(built("tests") / "tests" / "mutate-control", "4000", seed)


def test_reasons_when_the_list_grows_then_python_knows_them() -> None:
    """The module for Python is what native/tools/reasons makes of the header."""
    _run(NATIVE / "tools" / "reasons", "--check")


def test_sources_when_formatted_then_nothing_changes() -> None:
    """The C sources have the form of native/.clang-format."""
    _run("make", "--silent", "-C", NATIVE, "format-check")


def test_install_when_given_a_root_then_the_files_are_there(tmp_path: Path) -> None:
    """What a package takes: the program, its unit and its user."""
    built()
    _run("make", "--silent", "-C", NATIVE, "install", f"DESTDIR={tmp_path}")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "usr/sbin/synproxyd",
        "usr/lib/systemd/system/synproxyd.service",
        "usr/lib/sysusers.d/synproxyd.conf",
    }
