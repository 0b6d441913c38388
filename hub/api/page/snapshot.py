# SPDX-License-Identifier: Apache-2.0
"""All that the page shows of one moment, asked of the daemon."""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from hub.api.daemon import Daemon, View
from hub.errors import StoreError

PATIENCE: Final = 2.0
"""Seconds for the journal: a disk that hangs must not hide what is in force."""
_OVER: Final = 100
_DECISIONS: Final = 60
_MOST: Final = 500


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the hub.

    Attributes:
        host: name of this machine.
        now: Unix seconds, by the hub's own clock, as every time in here.
        status: of the whole.
        attacks: open ones, and the newest that are over; newest first.
        mitigations: the same of mitigations.
        agents: all of them.
        history: what engines counted lately.
        decisions: newest of the audit record, newest first.
        unreadable: why what is only in the journal is missing; empty when it is not.
    """

    host: str
    now: float
    status: View
    attacks: list[View]
    mitigations: list[View]
    agents: list[View]
    history: View
    decisions: list[View]
    unreadable: str = ""


async def take(daemon: Daemon, now: float) -> Snapshot:
    """Return the present moment; what is open is there without the journal as well."""
    attacks = await daemon.attacks(include_ended=False, limit=_MOST)
    mitigations = await daemon.mitigations(include_ended=False, limit=_MOST)
    over: tuple[list[View], list[View]] = ([], [])
    decisions: list[View] = []
    unreadable = ""
    try:
        async with asyncio.timeout(PATIENCE):
            over = (
                await daemon.attacks(include_ended=True, limit=_OVER),
                await daemon.mitigations(include_ended=True, limit=_OVER),
            )
            decisions = await daemon.decisions(limit=_DECISIONS)
    except StoreError as error:
        unreadable = str(error)
    except TimeoutError:
        unreadable = "it does not answer; look at the disk"
    return Snapshot(
        host=os.uname().nodename,
        now=now,
        status=daemon.status(),
        attacks=_with(attacks, over[0], "started_at"),
        mitigations=_with(mitigations, over[1], "created_at"),
        agents=daemon.agents(),
        history=daemon.history(),
        decisions=decisions,
        unreadable=unreadable,
    )


def _with(live: list[View], stored: list[View], since: str) -> list[View]:
    """Return both without doubles; what is in memory is newer than what is stored."""
    known = {one["id"] for one in live}
    found = [*live, *(one for one in stored if one["id"] not in known)]
    return sorted(found, key=lambda one: -float(one[since]))
