# SPDX-License-Identifier: Apache-2.0
"""The rows and lines of the view: text from outside is only ever text in it."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from rich.console import RenderableType
from rich.text import Text

from hub.cli.lists import action_word, attack_target, left
from hub.cli.text import STATE_STYLES, age, amount, clean, target
from hub.cli.top.feed import Look

RICH_STYLES: Final = {"alarm": "bold red"}
_MOST_WARNINGS: Final = 3


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        key: names it across looks: an id.
        cells: one text a column.
    """

    key: str
    cells: tuple[RenderableType, ...]


def attacks(look: Look) -> Iterator[Row]:
    """Yield open attacks, newest first."""
    now = _now(look)
    for attack in look.attacks:
        cells = (
            Text(clean(attack["id"])),
            _state(attack["state"]),
            Text(attack_target(attack)),
            Text(_drill(attack) + clean(attack["attack_type"])),
            Text(amount(attack["pps"]), justify="right"),
            Text(age(attack["started_at"], now)),
            Text(clean(attack.get("held") or "")),
        )
        yield Row(str(attack["id"]), cells)


def mitigations(look: Look) -> Iterator[Row]:
    """Yield what is in force or on its way, newest first."""
    now = _now(look)
    for row in look.mitigations:
        rates = row.get("rates") or {}
        cells = (
            Text(clean(row["id"])),
            _state(row["state"]),
            Text(_drill(row) + action_word(row["action"])),
            Text(target(row["target"])),
            Text(clean(row["engine"])),
            Text(left(row, now), justify="right"),
            Text(amount(rates.get("dropped_pps")), justify="right"),
            Text(clean(row.get("error") or row["rule"]), "bold red" if row.get("error") else ""),
        )
        yield Row(str(row["id"]), cells)


def _drill(view: dict[str, Any]) -> str:
    return "DRILL " if view.get("drill") else ""


def head(look: Look) -> Text:
    """Return the first lines: what the hub does, its engines and agents, what it warns of."""
    if look.status is None:
        return Text(f"NO ANSWER: {clean(look.trouble)}", "bold white on red")
    status = look.status
    text = Text.assemble(_mode(status), "  engines ")
    for engine in status["engines"]:
        name = clean(engine["name"])
        text.append(
            *((f"{name} ok  ", "green") if engine["ok"] else (f"{name} DOWN  ", "bold red"))
        )
    if look.agents:
        healthy = sum(agent["state"] == "ok" for agent in look.agents)
        style = "green" if healthy == len(look.agents) else "bold red"
        text.append(f"agents {healthy} of {len(look.agents)} ok", style)
    warnings = status.get("warnings", [])
    for warning in warnings[:_MOST_WARNINGS]:
        text.append(f"\n! {clean(warning)}", "yellow")
    if len(warnings) > _MOST_WARNINGS:
        text.append(f"\n! {len(warnings) - _MOST_WARNINGS} more: fnm-hub status", "yellow")
    return text


def _mode(status: dict[str, Any]) -> tuple[str, str]:
    if status.get("draining"):
        return " DRAINING ", "bold white on red"
    if status.get("frozen"):
        who = clean(status["frozen"].get("actor") or "unknown")
        return f" FROZEN by {who} ", "bold white on red"
    if status["dry_run"]:
        return " DRY-RUN: nothing is applied ", "black on cyan"
    return " ENFORCING ", "black on green"


def _state(state: str) -> Text:
    style = STATE_STYLES.get(state, "")
    return Text(clean(state).replace("_", "-"), RICH_STYLES.get(style, style))


def _now(look: Look) -> float:
    return 0.0 if look.status is None else float(look.status["now"])
