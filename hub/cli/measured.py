# SPDX-License-Identifier: Apache-2.0
"""What engines measure: rates a second, and which verdicts packets got."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub.cli.text import Cell, Column, Screen, amount, clean, target

_LEAST_SHARE = 0.001


def show_engine(screen: Screen, engine: dict[str, Any]) -> None:
    """Print where an engine works and what it measures now; nothing of one that measures not."""
    places = [
        f"{clean(one['name'])} ({clean(one['mode'])} mode)" for one in engine.get("interfaces", [])
    ]
    if not places:
        return
    screen.line()
    screen.text(f"{clean(engine['name'])} on {', '.join(places)}", "bold")
    if (rates := engine.get("rates")) is not None:
        screen.field("now", rate_words(rates))
    if counted := {
        name: count for name, count in engine.get("telemetry", {}).items() if "." not in name
    }:
        screen.field("since start", shares(counted))
    rows = [
        (
            Cell(clean(one["id"])),
            Cell(clean(one["kind"])),
            Cell(target(one["target"])),
            *(
                Cell(amount(one["rates"][name]))
                for name in ("hostile_pps", "dropped_pps", "passed_pps", "syn_pps")
            ),
        )
        for one in engine.get("busiest", [])
    ]
    if rows:
        columns = (
            Column("ID"),
            Column("KIND"),
            Column("TARGET", least=15),
            Column("HOSTILE/S", right=True),
            Column("DROPPED/S", right=True),
            Column("PASSED/S", right=True),
            Column("SYN/S", right=True),
        )
        screen.table(columns, rows)


def show_rates(screen: Screen, rows: Sequence[dict[str, Any]]) -> None:
    """Print what is measured of mitigations, one after the other."""
    for row in rows:
        rates = row.get("rates")
        if rates is None:
            continue
        screen.text(f"{clean(row['id'])}: {rate_words(rates)}", indent=2)
        if rates.get("packets"):
            screen.text(shares(rates["packets"]), "dim", indent=4)


def rate_words(rates: Mapping[str, Any]) -> str:
    """Return rates in a line."""
    return (
        f"{amount(rates['hostile_pps'])} hostile packets/s, {amount(rates['dropped_pps'])} "
        f"dropped, {amount(rates['passed_pps'])} passed; {amount(rates['syn_pps'])} SYNs, "
        f"{amount(rates['cookie_good_pps'])} proven; {amount(rates['bps'])} bit/s"
    )


def shares(packets: Mapping[str, int]) -> str:
    """Return which share of packets got which verdict, the largest first."""
    whole = sum(packets.values())
    if not whole:
        return "no packets"
    parts = [
        f"{clean(reason)} {_percent(count / whole)}"
        for reason, count in sorted(packets.items(), key=lambda item: -item[1])
        if count
    ]
    return f"{amount(whole)} packets: {', '.join(parts)}"


def _percent(share: float) -> str:
    return "< 0.1 %" if share < _LEAST_SHARE else f"{100 * share:.1f} %"
