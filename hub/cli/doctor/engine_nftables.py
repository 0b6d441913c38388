# SPDX-License-Identifier: Apache-2.0
"""The engine nftables, seen from the kernel: its table is there, and its counters move."""

import asyncio
from pathlib import Path
from typing import Any, Final

from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation
from hub.clock import Clock
from hub.config import NftablesEngine
from hub.engines.nftables.nft import Nft
from hub.errors import EngineError

_PATIENCE: Final = 2.5
_WINDOW: Final = 1.0
_BOOT: Final = Path("/etc/nftables.conf")


def look(situation: Situation, nft: NftablesEngine, report: Report) -> None:
    """Look at the table."""
    _flush(report)
    if not situation.is_root:
        report.skip("table", "reading the ruleset needs root", "run as root")
        return
    report.look("nft list ruleset")
    engine = situation.hub.engine("nftables")
    try:
        tables, moved = asyncio.run(_ask(nft, situation.clock))
    except EngineError as error:
        report.fail("table", f"the ruleset cannot be read: {error.what}", error.todo)
        return
    if nft.table in tables:
        report.ok("table", f"table inet {nft.table} is in the kernel")
    elif situation.hub.status is None:
        report.skip("table", f"table inet {nft.table} is not there; the hub installs it")
        return
    else:
        text = f"table inet {nft.table} is gone, and the hub runs"
        todo = "the hub puts it back within seconds; who takes it away? /etc/nftables.conf"
        report.fail("table", text, todo)
        return
    _moving(engine, moved, report)


async def _ask(nft: NftablesEngine, clock: Clock) -> tuple[set[str], int]:
    program = Nft(nft.nft, _PATIENCE)
    before = await program.structure()
    await clock.sleep(_WINDOW)
    after = await program.structure()
    names = {
        str(one["table"]["name"])
        for one in after
        if "table" in one and one["table"]["family"] == "inet"
    }
    return names, _counted(after, nft.table) - _counted(before, nft.table)


def _counted(ruleset: list[dict[str, Any]], table: str) -> int:
    counters = (one["counter"] for one in ruleset if "counter" in one)
    return sum(int(one["packets"]) for one in counters if one["table"] == table)


def _moving(engine: dict[str, Any], moved: int, report: Report) -> None:
    if moved:
        report.ok("table_counters", f"{moved} packets counted within {_WINDOW:g} s")
    elif engine:
        text = "no packet was treated within a second, which is so while nothing is in force"
        report.ok("table_counters", text)


def _flush(report: Report) -> None:
    try:
        lines = [line.strip() for line in _BOOT.read_text().splitlines()]
    except (OSError, ValueError):
        return
    if "flush ruleset" in lines:
        text = f"{_BOOT} flushes the whole ruleset, the hub's table too, whenever it is loaded"
        todo = "delete and load your own tables by name there; see Beside an existing firewall"
        report.warn("firewall", text, todo)
    else:
        report.ok("firewall", f"{_BOOT} leaves the hub's table alone")
