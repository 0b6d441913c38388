# SPDX-License-Identifier: Apache-2.0
"""The last step of the demo of ISN sync: everything of ours dies in the middle of an attack."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hub.clock import Clock
from scripts.lab.commands import LabError, Process, wait_until
from scripts.lab.engines import Native
from scripts.lab.floods import Flood, raging
from scripts.lab.guest_engine import HELD, IsnSync, answers, held_open
from scripts.lab.network import SERVER
from scripts.lab.parts import Lab
from scripts.lab.synproxyd import in_force
from scripts.lab.timeline import Timeline
from scripts.lab.visits import Visits

FLOOD: Final = 20.0
AFTER: Final = 6.0


def everything_dies(
    lab: Lab,
    engine: IsnSync,
    ours: Sequence[Process],
    log: Path,
    flood: Flood,
    *,
    timeline: Timeline,
    clock: Clock,
) -> list[str]:
    """Kill hub, synproxyd and agent under a flood; return what did not hold.

    Args:
        lab: with all its programs.
        engine: knows the guest.
        ours: hub and synproxyd.
        log: where held connections are counted.
        flood: that rages meanwhile.
        timeline: is told.
        clock: measures.
    """
    control = Native.control(lab)
    with raging(lab.network, flood, lab.logs, FLOOD):
        wait_until(
            "protection by isn-sync is in force again",
            lambda: any(one.get("mode") == "isn-sync" for one in in_force(control).values()),
            seconds=15.0,
            todo="see hub.log",
        )
        before = held_open(log)
        for process in ours:
            process.popen.send_signal(signal.SIGKILL)
            process.popen.wait(5)
        engine.kill_agent()
        died, said = clock.time(), answers(log)
        timeline.say("gateway", "hub, synproxyd and agent are killed, by SIGKILL, under the flood")
        try:
            wait_until(
                "the held connections go on",
                lambda: answers(log) >= said + 4 * HELD,
                seconds=2 * AFTER,
            )
        except LabError as error:
            return [str(error)]
        wait_until("some time passes", lambda: clock.time() > died + AFTER, seconds=2 * AFTER)
    alive = held_open(log)
    served = Visits(lab.visits).between(died, clock.time() - 1)
    timeline.say("client", f"{alive} of {before} open connections live on, {answers(log)} answers")
    timeline.say("client", f"new connections to {SERVER} with everything dead: {served}")
    broken = [] if alive == before == HELD else [f"only {alive} of {HELD} connections live on"]
    if served.percent < 99.0:  # noqa: PLR2004 - as for the attacks before
        broken.append(f"only {served.percent:.1f} % of new connections were served")
    return broken
