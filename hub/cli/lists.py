# SPDX-License-Identifier: Apache-2.0
"""Tables of attacks, mitigations and events."""

from collections.abc import Sequence
from typing import Any

from hub.cli.measured import show_rates
from hub.cli.text import STATE_STYLES, Cell, Column, Screen, amount, clean, clock, remaining, target
from hub.units import format_duration

_WAYS = {"incoming": "in", "outgoing": "out"}


def show_attacks(screen: Screen, answer: dict[str, Any]) -> None:
    """Print the answer of `/v1/attacks`."""
    now = float(answer["now"])
    rows = []
    for attack in answer["items"]:
        until = attack.get("ended_at") or now
        rows.append(
            (
                Cell(clean(attack["id"])),
                _state(attack["state"], attack.get("drill")),
                Cell(attack_target(attack)),
                Cell(_WAYS.get(attack["direction"], "?")),
                Cell(clean(attack["attack_type"])),
                Cell(amount(attack["pps"])),
                Cell(clock(attack["started_at"])),
                Cell(_span(until - attack["started_at"])),
            )
        )
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("TARGET", least=15),
        Column("DIR"),
        Column("TYPE", least=9, cut=True),
        Column("PPS", right=True),
        Column("STARTED"),
        Column("FOR", right=True),
    )
    _table(screen, columns, rows, "no attacks")


def show_mitigations(screen: Screen, answer: dict[str, Any]) -> None:
    """Print the answer of `/v1/mitigations`."""
    now = float(answer["now"])
    rows = [
        (
            Cell(clean(row["id"])),
            _state(row["state"], row.get("drill")),
            Cell(action_word(row["action"])),
            Cell(clean(row["engine"])),
            Cell(target(row["target"])),
            Cell(left(row, now)),
            Cell(clean(row["rule"])),
        )
        for row in answer["items"]
    ]
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("ACTION"),
        Column("ENGINE", least=8, cut=True),
        Column("TARGET", least=15),
        Column("LEFT", right=True),
        Column("RULE", least=6, cut=True),
    )
    _table(screen, columns, rows, "no mitigations")
    for row in answer["items"]:
        if row.get("error"):
            screen.text(f"{clean(row['id'])}: {clean(row['error'])}", "alarm", indent=2)
    show_rates(screen, answer["items"])


def show_events(screen: Screen, answer: dict[str, Any]) -> None:
    """Print the answer of `/v1/events`, oldest first as logs are read."""
    rows = [
        (
            Cell(clean(row["number"])),
            Cell(clock(row["received_at"])),
            Cell(clean(row["detector"])),
            Cell(clean(row.get("action") or "?")),
            Cell(target(row.get("target") or "-")),
            Cell(
                ("drill " if row.get("drill") else "") + clean(row["status"]),
                STATE_STYLES.get(row["status"], ""),
            ),
            Cell(clean(row.get("attack") or "-")),
        )
        for row in sorted(answer["items"], key=lambda row: row["number"])
    ]
    columns = (
        Column("NUMBER", right=True),
        Column("TIME"),
        Column("DETECTOR", least=8, cut=True),
        Column("ACTION", least=7, cut=True),
        Column("TARGET", least=15),
        Column("STATUS", least=8, cut=True),
        Column("ATTACK"),
    )
    _table(screen, columns, rows, "no events")


def attack_target(attack: dict[str, Any]) -> str:
    """Return what is attacked, in few words."""
    if attack.get("hostgroup"):
        return f"group {clean(attack['hostgroup'])}"
    targets = [target(one) for one in attack["targets"]]
    more = f" +{len(targets) - 1}" if len(targets) > 1 else ""
    return (targets[0] if targets else "-") + more


def action_word(action: dict[str, Any]) -> str:
    """Return the kind of a countermeasure, with its number of rules or its addressee."""
    kind = clean(action.get("kind", "?"))
    for key in ("to", "run"):
        if action.get(key):
            return f"{kind} {clean(action[key])}"
    return kind


def left(mitigation: dict[str, Any], now: float) -> str:
    """Return the time until the deadline of what is in force."""
    if mitigation["state"] in {"released", "failed"}:
        return "-"
    return remaining(mitigation["deadline"], now)


def _state(state: str, drill: object) -> Cell:
    mark = "drill " if drill else ""
    return Cell(mark + clean(state).replace("_", "-"), STATE_STYLES.get(state, ""))


def _span(seconds: float) -> str:
    return format_duration(max(0.0, seconds))


def _table(
    screen: Screen, columns: tuple[Column, ...], rows: Sequence[Sequence[Cell]], none: str
) -> None:
    if rows:
        screen.table(columns, rows)
    else:
        screen.line(none)
