# SPDX-License-Identifier: Apache-2.0
"""Packets by verdict: plots of the last quarter of an hour, and every counter exactly."""

from collections.abc import Sequence
from typing import Any, Final

from hub.api.daemon import View
from hub.api.page.markup import Html, el, svg, table, together
from hub.api.page.snapshot import Snapshot
from hub.api.page.words import exact, pps
from hub.engines.verdicts import verdict_of, words_of

_WIDTH: Final = 900.0
_HEIGHT: Final = 100.0
_TITLES: Final = {"pass": "passed", "answer": "answered", "drop": "dropped"}
_ORDER: Final = ("drop", "answer", "pass")


def traffic(snapshot: Snapshot) -> Html:
    """Return the section."""
    pasts = {one["name"]: one for one in snapshot.history["engines"]}
    found = [one for one in snapshot.status["engines"] if _counters(one)]
    if not found:
        return el("p", "No engine counts packets by verdict.", class_="quiet")
    return together(_engine(one, pasts.get(one["name"]), snapshot) for one in found)


def _counters(engine: View) -> dict[str, int]:
    return {name: count for name, count in engine["telemetry"].items() if verdict_of(name)}


def _engine(engine: View, past: View | None, snapshot: Snapshot) -> Html:
    parts: list[Any] = [el("h3", engine["name"])]
    if past is None or not past["time"]:
        parts.append(el("p", "Plots begin with the second look at its counters.", class_="quiet"))
    else:
        span = snapshot.history["span"]
        came = [verdict for verdict in _ORDER if any(past[verdict])]
        plots = [_plot(verdict, past, snapshot.now, span) for verdict in came]
        parts.append(el("div", *plots, class_="plots") if plots else None)
        none = " or ".join(_TITLES[verdict] for verdict in _ORDER if verdict not in came)
        if none:
            what = none if came else "judged"
            since = f"No packet {what} in the last {span / 60:.0f} minutes."
            parts.append(el("p", since, class_="quiet"))
    parts.append(_table(engine, past))
    return el("section", *parts, class_="engine", aria_label=engine["name"])


def _plot(verdict: str, past: View, now: float, span: float) -> Html:
    rates = [count / seconds for count, seconds in zip(past[verdict], past["seconds"], strict=True)]
    peak = max(rates)
    title = f"Packets {_TITLES[verdict]}"
    words = f"now {pps(rates[-1])}, highest {pps(peak)}, {exact(sum(past[verdict]))} in all"
    drawing = svg(
        el("line", x1=0, y1=_HEIGHT / 2, x2=_WIDTH, y2=_HEIGHT / 2, class_="grid"),
        el("path", d=_path(rates, past, now, span), class_=f"area {verdict}"),
        el("line", x1=0, y1=_HEIGHT, x2=_WIDTH, y2=_HEIGHT, class_="base"),
        view_box=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        preserve_aspect_ratio="none",
        role="img",
        aria_label=f"{title} over the last {span / 60:.0f} minutes: {words}",
        class_="plot",
    )
    return el(
        "figure",
        el("figcaption", el("b", title), " ", words),
        el("div", el("span", pps(peak), class_="peak", aria_hidden="true"), drawing),
        el(
            "div",
            el("span", f"{span / 60:.0f} min ago"),
            el("span", "now"),
            class_="axis",
            aria_hidden="true",
        ),
    )


def _path(rates: Sequence[float], past: View, now: float, span: float) -> str:
    """Return a column for each sample, as wide as the time that it covers."""
    peak = max([*rates, 1.0])
    parts = []
    for rate, end, seconds in zip(rates, past["time"], past["seconds"], strict=True):
        left = max(0.0, _WIDTH * (end - seconds - now + span) / span)
        right = max(0.0, _WIDTH * (end - now + span) / span)
        top = _HEIGHT * (1 - rate / peak)
        parts.append(f"M{left:.1f},{_HEIGHT:.0f}V{top:.1f}H{right:.1f}V{_HEIGHT:.0f}Z")
    return "".join(parts)


def _table(engine: View, past: View | None) -> Html:
    rows = [
        (
            el("code", name),
            _TITLES[verdict_of(name) or "pass"],
            el("span", exact(count), data_counter=f"{engine['name']} {name}"),
            pps(_newest(name, past)),
            words_of(name),
        )
        for name, count in sorted(_counters(engine).items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    return table(
        "Every counter above 0, since the engine's tables were made",
        ("Reason", "Verdict", "Packets", "Now", "Meaning"),
        rows,
        empty="It has judged no packet yet.",
    )


def _newest(name: str, past: View | None) -> float:
    if past is None or not past["time"] or name not in past["packets"]:
        return 0.0
    return float(past["packets"][name][-1] / past["seconds"][-1])
