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
_SPLICED: Final = ("asked", "open", "closing")
_TABLES: Final = ("flows4", "flows6", "sources", "mitigations", "splices")


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
            continue
        elif name.endswith(_BYTES):
            judged = name.removesuffix(_BYTES)
            figures.bytes.put(engine, _verdict(judged), judged, value=count)
        else:
            figures.packets.put(engine, _verdict(name), name, value=count)
    _show_tables(figures, engine, counters)


def _show_tables(figures: EngineFigures, engine: str, counters: Mapping[str, int]) -> None:
    held = _below("held.", counters)
    limits = _below("limit.", counters)
    if "memory_bytes" in held:
        figures.memory.labels(engine).set(held["memory_bytes"])
    if "splices_rows" in held:
        limits["splices"] = held["splices_rows"]
        held["splices"] = sum(held.get(f"splices_{state}", 0) for state in _SPLICED)
    if "flows" in held:
        held["flows4"] = held["flows"] - held.get("flows6", 0)
    for table in _TABLES:
        if table in held and table in limits:
            figures.rows.labels(engine, table).set(held[table])
            figures.limits.labels(engine, table).set(limits[table])


def _below(prefix: str, counters: Mapping[str, int]) -> dict[str, int]:
    return {
        name.removeprefix(prefix): count
        for name, count in counters.items()
        if name.startswith(prefix)
    }


def _verdict(counter: str) -> str:
    return verdict_of(counter) or _NOT_COUNTED_ONCE
