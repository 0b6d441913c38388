# SPDX-License-Identifier: Apache-2.0
"""Attacks on a time line, and the table beside it."""

from typing import Any, Final

from hub.api.daemon import View
from hub.api.page.markup import Html, el, svg, table, together
from hub.api.page.snapshot import Snapshot
from hub.api.page.words import address, lasted, moment, state
from hub.shown import amount

SECONDS: Final = 3600.0
"""How far the time line goes back."""
_TRACKS: Final = 30
_MARKS: Final = ("60 min ago", "45", "30", "15", "now")
_LEGEND: Final = (
    "Bar: reported by a detector. Striped bar: no detector reports it any more, and protection "
    "stays for a while. Outlined bar: over. Line below: countermeasures in force."
)


def attacks(snapshot: Snapshot) -> Html:
    """Return the section."""
    since = snapshot.now - SECONDS
    shown = [one for one in snapshot.attacks if _end(one, snapshot.now) >= since]
    live = [one for one in shown if one["state"] != "ended"]
    shown = [*live, *(one for one in shown if one["state"] == "ended")]
    if not shown:
        return el("p", "No attack within the last hour.", class_="quiet")
    tracks = [_track(one, snapshot) for one in shown[:_TRACKS]]
    left = len(shown) - len(tracks)
    more = f"{left} more: fnm-hub attacks --all" if left > 0 else None
    marks = el("div", *(el("span", mark) for mark in _MARKS), class_="axis", aria_hidden="true")
    return together(
        [
            _patterns(),
            el("ul", *tracks, class_="tracks"),
            marks,
            el("p", _LEGEND, class_="legend"),
            el("p", more, class_="quiet") if more else None,
            _table(shown[:_TRACKS], snapshot),
        ]
    )


def _end(attack: View, now: float) -> float:
    return float(attack["ended_at"] or now)


def _names(attack: View) -> str:
    mark = "DRILL " if attack.get("drill") else ""
    if attack["hostgroup"]:
        return f"{mark}host group {attack['hostgroup']}"
    return mark + ", ".join(address(one) for one in attack["targets"])


def _track(attack: View, snapshot: Snapshot) -> Html:
    start, end = attack["started_at"], _end(attack, snapshot.now)
    held = [one for one in snapshot.mitigations if attack["id"] in one["attacks"]]
    word = attack["state"]
    bar = svg(
        _rect(start, end, snapshot.now, y=1, height=12, kind=f"attack {word}"),
        *(_shield(one, snapshot.now) for one in held if one["active_at"]),
        class_="bar",
        aria_hidden="true",
        focusable="false",
    )
    what = f"{attack['attack_type']}, {word}, {lasted(start, end)}"
    return el("li", el("span", el("b", _names(attack)), " ", what, class_="what"), bar)


def _shield(mitigation: View, now: float) -> Html:
    end = mitigation["released_at"] or now
    return _rect(mitigation["active_at"], end, now, y=16, height=4, kind="shield")


def _rect(start: float, end: float, now: float, *, y: int, height: int, kind: str) -> Html:
    left = max(0.0, min(1.0, (start - now + SECONDS) / SECONDS))
    right = max(0.0, min(1.0, (end - now + SECONDS) / SECONDS))
    width = max(0.003, right - left)
    return el(
        "rect",
        x=f"{100 * min(left, 1 - width):.2f}%",
        y=y,
        width=f"{100 * width:.2f}%",
        height=height,
        class_=kind,
        fill="url(#stripes)" if "ending" in kind else None,
    )


def _patterns() -> Html:
    stripe = el("path", d="M0,8L8,0M-2,2L2,-2M6,10L10,6", class_="stripe")
    pattern = el("pattern", stripe, id="stripes", width=8, height=8, patternUnits="userSpaceOnUse")
    return svg(el("defs", pattern), class_="defs", aria_hidden="true", width=0, height=0)


def _table(shown: list[View], snapshot: Snapshot) -> Html:
    columns = ("State", "Target", "What", "Packets/s", "Bits/s", "Since", "Lasted", "Reported by")
    return table(
        "Attacks within the last hour; rates are the highest that was reported",
        columns,
        [_row(one, snapshot.now) for one in shown],
        empty="",
    )


def _row(attack: View, now: float) -> tuple[Any, ...]:
    what = f"{attack['attack_type']} ({attack['protocol']}, {attack['direction']})"
    return (
        state(attack["state"], alarm=attack["state"] == "active"),
        [el("b", _names(attack)), " ", el("code", attack["id"])],
        what,
        amount(attack["pps"]),
        amount(attack["bps"]),
        moment(attack["started_at"]),
        lasted(attack["started_at"], _end(attack, now)),
        _holders(attack),
    )


def _holders(attack: View) -> str:
    if attack["holders"]:
        return ", ".join(holder["detector"] for holder in attack["holders"])
    if attack.get("held"):
        return f"nobody; {attack['held']}"
    why = attack.get("end_reason")
    return f"nobody any more: {why}" if why else "nobody any more"
