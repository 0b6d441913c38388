# SPDX-License-Identifier: Apache-2.0
"""Sorts what an engine counts into metrics, by the verdict that each counter stands for."""

from collections.abc import Mapping
from typing import Final

from hub.engines.native.reasons import Reason
from hub.engines.verdicts import verdict_of
from hub.figures import EngineFigures

_NOT_COUNTED_ONCE: Final = "none"
"""Verdict of what another counter has as well, and of what is no packet with a verdict."""
_BYTES: Final = "_bytes"
_SPLICE_ROOM: Final = "splices_rows"


def show_telemetry(
    figures: EngineFigures, engine: str, kinds: frozenset[str], counters: Mapping[str, int]
) -> None:
    """Set the metrics of one engine.

    Args:
        figures: to be set.
        engine: its name.
        kinds: countermeasures that it carries out.
        counters: its telemetry.
    """
    if kinds == {"notify"}:
        for outcome, count in counters.items():
            figures.notifications.put(engine, outcome, value=count)
    elif kinds == {"command"}:
        for outcome, count in counters.items():
            figures.commands.put(engine, outcome, value=count)
    else:
        _show_traffic(figures, engine, counters)


def _show_traffic(figures: EngineFigures, engine: str, counters: Mapping[str, int]) -> None:
    if any(name.startswith("held.") for name in counters):
        # synproxyd leaves out what it has not met: at 0 it is there from the start.
        counters = {reason.word: 0 for reason in Reason} | dict(counters)
    for name, count in counters.items():
        part, _, rest = name.partition(".")
        if part == "work":
            figures.work.put(engine, rest, value=count)
        elif part == "logged":
            figures.lines.put(engine, rest, value=count)
        elif part in ("held", "limit"):
            _show_table(figures, engine, part, rest, count)
        elif name.endswith(_BYTES):
            judged = name.removesuffix(_BYTES)
            figures.bytes.put(engine, _verdict(judged), judged, value=count)
        else:
            figures.packets.put(engine, _verdict(name), name, value=count)


def _show_table(figures: EngineFigures, engine: str, part: str, name: str, count: int) -> None:
    if name == "memory_bytes":
        figures.memory.labels(engine).set(count)
    elif name == _SPLICE_ROOM:
        figures.limits.labels(engine, "splices").set(count)
    elif part == "limit":
        figures.limits.labels(engine, name).set(count)
    else:
        figures.rows.labels(engine, name).set(count)


def _verdict(counter: str) -> str:
    return verdict_of(counter) or _NOT_COUNTED_ONCE
