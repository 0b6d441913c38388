# SPDX-License-Identifier: Apache-2.0
"""What was decided and done last, by whom and why."""

from typing import Any, Final

from hub.api.daemon import View
from hub.api.page.markup import Html, el, table
from hub.api.page.snapshot import Snapshot
from hub.api.page.words import address, moment

_SHOWN: Final = 30


def decisions(snapshot: Snapshot) -> Html:
    """Return the section."""
    if snapshot.unreadable:
        return el("p", f"The audit record cannot be read: {snapshot.unreadable}", class_="trouble")
    return table(
        "Newest of the audit record",
        ("Time", "What", "About", "Outcome and reason", "Who"),
        [_row(one) for one in snapshot.decisions[:_SHOWN]],
        empty="Nothing was decided yet.",
    )


def _row(row: View) -> tuple[Any, ...]:
    details = row.get("details", {})
    ids = [el("code", row[key]) for key in ("attack", "mitigation") if row.get(key)]
    about = [el("b", address(details["target"])), " "] if details.get("target") else []
    action = details.get("action")
    if isinstance(action, dict):
        about.append(f"{action.get('kind')} by {details.get('engine')} ")
    said = ": ".join(part for part in (row["outcome"], row["reason"]) if part) or "-"
    return (
        moment(row["time"]),
        row["what"],
        [*about, *_spaced(ids)] or "-",
        [el("span", said), _trace(row)],
        row["actor"],
    )


def _spaced(parts: list[Html]) -> list[Any]:
    return [piece for part in parts for piece in (part, " ")]


def _trace(row: View) -> Html | None:
    lines = row.get("trace") or []
    if not lines:
        return None
    name = f"trace-{row.get('seq', row['time'])}"
    items = [el("li", line) for line in lines]
    return el("details", el("summary", "how it came to this"), el("ul", *items), id=name)
