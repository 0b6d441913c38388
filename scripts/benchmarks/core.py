# SPDX-License-Identifier: Apache-2.0
"""The core alone: rule evaluation and memory."""

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hub.attacks.tracker import Tracker
from hub.config import Attacks
from scripts.benchmarks.figure import Figure, median
from tests.support.burst import send_many
from tests.support.core import config, rule_set, sighting
from tests.support.hub_process import HubProcess, until

RULES: Final = 1000
EVALUATIONS: Final = 300
ATTACKS: Final = 10_000


def rules() -> dict[str, Figure]:
    """Evaluate 1,000 rules, of which only the last matches, on one attack."""
    change = Tracker(Attacks()).fold(sighting(), 1_000_000.0)
    if change.attack is None:
        msg = "a ban begins an attack"
        raise AssertionError(msg)
    with TemporaryDirectory() as folder:
        ruleset = rule_set(Path(folder), "rules:\n" + "".join(_rules()), config())
    took: list[float] = []
    gc.collect()
    for _ in range(EVALUATIONS):
        begun = time.perf_counter()
        decision = ruleset.evaluate(change.attack, None)
        took.append((time.perf_counter() - begun) * 1000)
        if len(decision.looked) != RULES:
            msg = "every rule is looked at"
            raise AssertionError(msg)
    return {"rules_1000_ms": median(took, "<= 3", "ms")}


def memory() -> dict[str, Figure]:
    """Let a hub hold 10,000 active attacks, each with its mitigation in force."""
    with (
        TemporaryDirectory() as folder,
        HubProcess(Path(folder), cap=20_000, own="10.0.0.0/8") as hub,
    ):
        send_many(hub.folder / "intake.sock", ATTACKS)
        until(
            "taken in", lambda: hub.get("/v1/status")["counts"]["attacks"]["active"] == ATTACKS, 180
        )
        until("all in force", lambda: _in_force(hub) == ATTACKS, 300)
        mib = hub.resident_mib()
    return {"rss_10k_attacks_mb": Figure(mib, "<= 150", "MiB", 1, (mib, mib))}


def _in_force(hub: HubProcess) -> int:
    counts: dict[str, int] = hub.get("/v1/status")["counts"]["mitigations"]
    return counts.get("active", 0)


def _rules() -> Iterator[str]:
    for number in range(RULES):
        pps = ">= 1" if number == RULES - 1 else f">= {10_000 - number}"
        yield (
            f"  - name: r{number}\n"
            f"    when: {{direction: incoming, protocol: tcp, pps: '{pps}'}}\n"
            "    then: [tcp]\n"
            "    ttl: 10m\n"
        )
