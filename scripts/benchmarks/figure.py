# SPDX-License-Identifier: Apache-2.0
"""One measured figure, and the machine it was measured on."""

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.native_build import built


@dataclass(frozen=True, slots=True)
class Figure:
    """What a benchmark found.

    Attributes:
        value: the figure, in `unit`.
        target: what it should be, as `<= 10`.
        runs: how many measurements stand behind it.
        spread: the smallest and the largest of them.
    """

    value: float
    target: str
    unit: str
    runs: int
    spread: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "value": round(self.value, 3),
            "target": self.target,
            "unit": self.unit,
            "runs": self.runs,
            "spread": [round(self.spread[0], 3), round(self.spread[1], 3)],
        }

    @property
    def met(self) -> bool:
        """Tell whether the target is met."""
        sign, _, bound = self.target.partition(" ")
        wanted = float(bound)
        return {"<=": self.value <= wanted, ">=": self.value >= wanted, "=": self.value == wanted}[
            sign
        ]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def median(values: Sequence[float], target: str, unit: str) -> Figure:
    """Return the median of several runs."""
    return Figure(statistics.median(values), target, unit, len(values), (min(values), max(values)))


def at(values: Sequence[float], share: float, target: str, unit: str) -> Figure:
    """Return one percentile of many measurements."""
    value = percentile(values, share)
    return Figure(value, target, unit, len(values), (min(values), max(values)))


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    flaws = Path("/sys/devices/system/cpu/vulnerabilities")
    mitigations = {
        path.name: path.read_text().strip() for path in sorted(flaws.glob("*")) if path.is_file()
    }
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "clock": _read(clock),
        "mitigations": mitigations,
        "bpf_jit": _read(Path("/proc/sys/net/core/bpf_jit_enable")),
        "load": os.getloadavg()[0],
        "dependent_add_ns": _dependent_add_ns(),
        "python": platform.python_version(),
    }


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else "unknown"


def _dependent_add_ns() -> float:
    """Return the time of one addition that waits for the one before: one cycle of this core."""
    done = subprocess.run(
        [str(built("bench") / "bench/bench-cycle")], capture_output=True, text=True, check=True
    )
    return float(done.stdout)
