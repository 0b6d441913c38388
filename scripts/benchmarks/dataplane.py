# SPDX-License-Identifier: Apache-2.0
"""The data plane: nanoseconds of the program, packets a second on a link, a service under attack.

Everything is a ratio of two sides that took turns in one run. Tables show more than the keys do.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from scripts.benchmarks.dataplane_daemon import resident
from scripts.benchmarks.dataplane_lab import BUILT, OTHER_CPU, Veth, build, measure
from scripts.benchmarks.dataplane_service import Seen, service_under
from scripts.benchmarks.figure import Figure

QUICK: Final = "FNM_BENCH_QUICK"

_BASE: Final = "syn linux IPv4"
_KEYS: Final = {
    "syn_vs_helper": (_BASE, "<= 0.4"),
    "bad_ack_vs_helper": ("ack bad IPv4", "<= 0.2"),
    "known_flow_vs_helper": ("known flow IPv4", "<= 0.15"),
    # The dearer of the two: a hash has to decide.
    "unprotected_vs_helper": ("unprotected, hashed IPv4", "<= 0.08"),
}
_ROWS: Final = ("drop", "swap", "engine", "baseline", "raw drop", "cookies", "synproxy")
_SHORT_ROWS: Final = ("engine", "synproxy")
_STRENGTHS: Final = (0, 50, 90, 100, 150)
_DEFENCES: Final = ("oracle", "synproxy", "cookies", "none")


@dataclass(frozen=True, slots=True)
class _Effort:
    """How much is measured.

    Attributes:
        rounds: of each case by BPF_PROG_RUN.
        repeat: packets of a round.
        flood_runs: of each row on the link.
        flood_seconds: of one of them.
        visit_runs: of clients, without and with the flood in turn.
        visit_seconds: of one of them.
    """

    rounds: int
    repeat: int
    flood_runs: int
    flood_seconds: float
    visit_runs: int
    visit_seconds: float


_FULL: Final = _Effort(80, 16_000, 3, 3.0, 5, 10.0)
_LITTLE: Final = _Effort(5, 2_000, 1, 0.4, 1, 1.0)


def _effort() -> _Effort:
    return _LITTLE if os.environ.get(QUICK) else _FULL


def program() -> dict[str, Figure]:
    """Measure the program alone, against one that is built from the kernel's helpers."""
    build()
    effort = _effort()
    wanted = [case for case, _ in _KEYS.values()] if os.environ.get(QUICK) else []
    found = {case["case"]: case for case in _cases(effort, wanted)}
    _show_footprint()
    if not wanted:
        _show_resident()
    base = found[_BASE]["baseline"]
    return {
        key: _ratio(found[case]["engine"], base, target, effort.rounds)
        for key, (case, target) in _KEYS.items()
    }


def _ratio(ours: dict[str, Any], base: dict[str, Any], target: str, runs: int) -> Figure:
    groups = [mine / its for mine, its in zip(ours["groups"], base["groups"], strict=True)]
    return Figure(ours["min"] / base["min"], target, "x", runs, (min(groups), max(groups)))


def _cases(effort: _Effort, wanted: Sequence[str]) -> list[dict[str, Any]]:
    argv = [str(BUILT / "bench-program"), str(BUILT), str(OTHER_CPU)]
    argv += [str(effort.rounds), str(effort.repeat), *wanted]
    print(
        f"{'ns a packet, program alone':<30}{'engine':>8}{'median':>8}{'helpers':>9}{'median':>8}"
    )
    found: list[dict[str, Any]] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            case = json.loads(line)
            found.append(case)
            _show_case(case)
    if process.returncode:
        msg = f"bench-program failed with {process.returncode}; what it said is above"
        raise RuntimeError(msg)
    return found


def _show_footprint() -> None:
    for flows in (1_000, 1_000_000):
        argv = [str(BUILT / "bench-footprint"), str(BUILT), str(flows)]
        found = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
        print(
            f"  room for {flows} flows of each family: maps {found['map_bytes'] / 2**20:.1f} MiB,"
            f" {found['instructions']} instructions, {found['machine_code_bytes'] / 2**10:.0f} KiB,"
            f" {found['verified']} verified, loaded in {found['load_ms']:.0f} ms"
        )


def _show_resident() -> None:
    for flows, mib in resident().items():
        print(f"  synproxyd with {flows} flows: {mib:.1f} MiB resident, maps it has read included")


def _show_case(case: dict[str, Any]) -> None:
    text = f"  {case['case']:<28}{case['engine']['min']:>8.0f}{case['engine']['median']:>8.0f}"
    if "baseline" in case:
        text += f"{case['baseline']['min']:>9.0f}{case['baseline']['median']:>8.0f}"
    print(text, flush=True)


@cache
def _link_rates() -> dict[str, list[float]]:
    """SYNs a second of each row, one core for flood, defence and sink; rows take turns."""
    build()
    effort = _effort()
    rows = _SHORT_ROWS if os.environ.get(QUICK) else _ROWS
    rates: dict[str, list[float]] = {row: [] for row in rows}
    with Veth() as veth, veth.listener():
        for _ in range(effort.flood_runs):
            for row in rows:
                rates[row].append(measure(veth, row, effort.flood_seconds))
    return rates


def link() -> dict[str, Figure]:
    """Measure SYNs answered on a veth link by one core, against nftables' SYNPROXY."""
    rates = _link_rates()
    swap = max(rates.get("swap", [0.0]))
    print(f"{'SYN flood on veth, one core':<30}{'Mpps':>8}{'least':>8}{'ns over swap':>14}")
    for row, found in rates.items():
        text = f"  {row:<28}{max(found) / 1e6:>8.3f}{min(found) / 1e6:>8.3f}"
        print(text + (f"{1e9 / max(found) - 1e9 / swap:>14.0f}" if swap else ""), flush=True)
    pairs = [mine / its for mine, its in zip(rates["engine"], rates["synproxy"], strict=True)]
    value = statistics.median(rates["engine"]) / statistics.median(rates["synproxy"])
    return {
        "veth_syn_vs_nft": Figure(value, ">= 8", "x", len(pairs), (min(pairs), max(pairs))),
    }


def service() -> dict[str, Figure]:
    """Measure what clients see while the flood is as strong as the engine can take."""
    effort = _effort()
    capacity = statistics.median(_link_rates()["engine"])
    _service_head(capacity)
    idle: list[Seen] = []
    flooded: list[Seen] = []
    for _ in range(effort.visit_runs):
        for strength, seen in ((0, idle), (100, flooded)):
            seen.append(service_under("oracle", capacity * strength / 100, effort.visit_seconds))
            _show_seen("engine", strength, seen[-1])
    if not os.environ.get(QUICK):
        _others(capacity, effort.visit_seconds / 2)
    served = [seen.served_pct for seen in flooded]
    pairs = [after.p99_ms / before.p99_ms for before, after in zip(idle, flooded, strict=True)]
    p99 = min(seen.p99_ms for seen in flooded) / min(seen.p99_ms for seen in idle)
    return {
        "served_under_flood_pct": Figure(
            statistics.mean(served), ">= 99.9", "%", len(served), (min(served), max(served))
        ),
        "connect_p99_vs_idle": Figure(p99, "<= 3", "x", len(pairs), (min(pairs), max(pairs))),
    }


def _others(capacity: float, seconds: float) -> None:
    """Show every defence at every strength, once each."""
    for defence in _DEFENCES:
        for strength in _STRENGTHS:
            if defence == "oracle" and strength in {0, 100}:
                continue
            seen = service_under(defence, capacity * strength / 100, seconds)
            _show_seen("engine" if defence == "oracle" else defence, strength, seen)


def _service_head(capacity: float) -> None:
    print(f"a service under a SYN flood; 100 % is {capacity / 1e6:.3f} Mpps")
    print(
        f"  {'defence':<10}{'flood':>6}{'sent':>7}{'answer':>8}{'served':>8}{'p50':>8}{'p99 ms':>9}"
        f"{'flow MB/s':>11}  CPU outside | CPU of the server"
    )


def _show_seen(defence: str, strength: int, seen: Seen) -> None:
    print(
        f"  {defence:<10}{strength:>5}%{seen.sent_mpps:>7.2f}{seen.answered_mpps:>8.2f}"
        f"{seen.served_pct:>7.2f}%{seen.p50_ms:>8.3f}{seen.p99_ms:>9.3f}"
        f"{seen.stream_mb_per_s:>11.1f}  {' | '.join(seen.cpus)}",
        flush=True,
    )
