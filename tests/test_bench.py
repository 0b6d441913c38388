# SPDX-License-Identifier: Apache-2.0
"""The benchmark program: what it writes, not how fast this machine is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks.figure import Figure, percentile
from scripts.benchmarks.main import BENCHMARKS

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.long
def test_bench_when_one_key_is_asked_for_then_only_that_is_measured(tmp_path: Path) -> None:
    """`--json` writes the figure with target, unit, runs and spread, and the machine."""
    file = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "scripts.benchmarks.main", "--json", str(file), "rules_1000_ms"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rules_1000_ms")
    written = json.loads(file.read_text())
    assert written.keys() == {"rules_1000_ms", "machine"}
    assert written["rules_1000_ms"].keys() == {"value", "target", "unit", "runs", "spread"}
    assert written["machine"].keys() >= {"kernel", "cores", "clock", "mitigations"}


def test_bench_when_the_key_is_unknown_then_says_which_there_are() -> None:
    """A typing mistake is answered with the names."""
    argv = [sys.executable, "-m", "scripts.benchmarks.main", "rules"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(key in done.stderr for group in BENCHMARKS for key in group)


def test_figure_when_compared_with_its_target_then_the_sign_counts() -> None:
    """Targets are upper or lower bounds, or exact."""
    met = [
        Figure(value, target, "", 1, (value, value)).met
        for value, target in [(3, "<= 3"), (4, "<= 3"), (3, ">= 3"), (2, ">= 3"), (0, "= 0")]
    ]
    assert met == [True, False, True, False, True]


def test_percentile_when_asked_then_nearest_rank() -> None:
    """The 99th of a hundred values is the last but one."""
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (50.0, 99.0)
