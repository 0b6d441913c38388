# SPDX-License-Identifier: Apache-2.0
"""Runs benchmarks and prints a table: `scripts/bench [--quick] [--json FILE] [KEY...]`."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.benchmarks import (
    agents,
    core,
    dataplane,
    dataplane_transitions,
    intake,
    reaction,
    splice,
)
from scripts.benchmarks.figure import Figure, machine

BENCHMARKS: Final[dict[tuple[str, ...], Callable[[], dict[str, Figure]]]] = {
    (
        "syn_vs_helper",
        "bad_ack_vs_helper",
        "known_flow_vs_helper",
        "unprotected_vs_helper",
    ): dataplane.program,
    ("veth_syn_vs_nft",): dataplane.link,
    ("served_under_flood_pct", "connect_p99_vs_idle"): dataplane.service,
    ("splice_pps_vs_nft", "splice_pps_vs_forward", "splice_cps_vs_nft"): splice.compared,
    ("transition_flows_lost",): dataplane_transitions.lost_flows,
    ("notify_to_active_p50_ms", "notify_to_active_p99_ms"): reaction.notify_to_active,
    ("event_to_active_p50_ms", "event_to_active_p99_ms"): reaction.event_to_active,
    ("durable_events_per_s", "burst_lost"): intake.durable_events,
    ("rules_1000_ms",): core.rules,
    ("rss_10k_attacks_mb",): core.memory,
    ("agents_1000_round_s", "agent_memory_mb", "hub_memory_per_agent_kb"): agents.polled,
}


def main() -> int:
    """Measure what was asked for."""
    keys = [key for group in BENCHMARKS for key in group]
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("keys", nargs="*", metavar="KEY", help=f"of: {', '.join(keys)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument(
        "--quick", action="store_true", help="data plane: short runs, to see that it works"
    )
    args = parser.parse_args()
    if args.quick:
        os.environ[dataplane.QUICK] = "1"
    unknown = sorted(set(args.keys) - set(keys))
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]}; there are: {', '.join(keys)}")
    found: dict[str, Figure] = {}
    for group, measure in BENCHMARKS.items():
        wanted = [key for key in group if not args.keys or key in args.keys]
        if wanted:
            figures = measure()
            found |= {key: figures[key] for key in wanted}
            for key in wanted:
                _show(key, found[key])
    if args.json is not None:
        figures_json = {key: figure.to_json() for key, figure in found.items()}
        args.json.write_text(json.dumps({**figures_json, "machine": machine()}, indent=2) + "\n")
    return 0


def _show(key: str, figure: Figure) -> None:
    low, high = figure.spread
    verdict = "met" if figure.met else "MISSED"
    print(
        f"{key:<26} {figure.value:>10.2f} {figure.unit:<9} target {figure.target:<8} {verdict:<7}"
        f" runs {figure.runs}, {low:.2f} to {high:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
