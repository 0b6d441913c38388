# SPDX-License-Identifier: Apache-2.0
"""What is in force, what carries it out, and the agents behind it."""

from typing import Any, Final

from hub.api.daemon import View
from hub.api.page.markup import Html, badge, el, table, together
from hub.api.page.snapshot import Snapshot
from hub.api.page.words import BAD, GOOD, address, lasted, moment, pps, remaining, state

_MOST: Final = 100
_OVER: Final = frozenset({"released", "failed"})


def mitigations(snapshot: Snapshot) -> Html:
    """Return the section of what is in force."""
    live = [one for one in snapshot.mitigations if one["state"] not in _OVER]
    columns = ("State", "Target", "By", "Remaining", "Hostile", "Dropped", "Passed", "Why")
    left = len(live) - _MOST
    return together(
        [
            table(
                "Countermeasures, newest first; rates over the engine's last second",
                columns,
                [_mitigation(one, snapshot.now) for one in live[:_MOST]],
                empty="Nothing is in force.",
            ),
            el("p", f"{left} more: fnm-hub mitigations", class_="quiet") if left > 0 else None,
        ]
    )


def _mitigation(row: View, now: float) -> tuple[Any, ...]:
    rates = row.get("rates")
    measured = [
        pps(rates[name]) if rates else "-" for name in ("hostile_pps", "dropped_pps", "passed_pps")
    ]
    why = [f"rule {row['rule']}", *(f"; {row[key]}" for key in ("reason", "error") if row.get(key))]
    kind = row["action"]["kind"]
    mode = row["action"].get("mode")
    how = f"{kind} ({mode})" if mode and mode != "auto" else kind
    return (
        state(row["state"], alarm=bool(row.get("error"))),
        [el("b", address(row["target"])), " ", el("code", row["id"])],
        f"{'DRILL ' if row.get('drill') else ''}{how} by {row['engine']}",
        el("span", remaining(row["deadline"], now), data_deadline=f"{row['deadline']:.3f}"),
        *measured,
        why,
    )


def engines(snapshot: Snapshot) -> Html:
    """Return the section of engines."""
    return table(
        "What carries countermeasures out",
        ("State", "Engine", "Carries out", "Works at", "Detail"),
        [_engine(one) for one in snapshot.status["engines"]],
        empty="No engine is configured.",
    )


def _engine(engine: View) -> tuple[Any, ...]:
    places = [f"{one['name']} ({one['mode']} mode)" for one in engine.get("interfaces", [])]
    foreign = [f"not ours: {what}" for what in engine.get("foreign", [])]
    return (
        badge("ready", GOOD) if engine["ok"] else badge("NOT READY", BAD),
        el("b", engine["name"]),
        ", ".join(engine["kinds"]),
        ", ".join(places) or "-",
        "; ".join([*([engine["detail"]] if engine["detail"] else []), *foreign]) or "-",
    )


def agents(snapshot: Snapshot) -> Html:
    """Return the section of agents."""
    return table(
        "Agents on protected servers",
        ("State", "Agent", "Addresses", "Last answer", "Detail"),
        [_agent(one, snapshot.now) for one in snapshot.agents],
        empty="No agent is configured.",
    )


def _agent(agent: View, now: float) -> tuple[Any, ...]:
    standings = [
        el(
            "span",
            address(one["address"]),
            " ",
            state(one["standing"]),
            f" {one['why']}" if one["why"] else "",
            class_="pair",
        )
        for one in agent["addresses"]
    ]
    polled = agent["polled_at"]
    answered = [moment(polled), f", {lasted(polled, now)} ago"] if polled else "never"
    detail = agent["why"] or " ".join(
        part for part in (agent["agent"], agent["release"], agent["source"]) if part
    )
    return state(agent["state"]), el("b", agent["name"]), standings or "-", answered, detail or "-"
