# SPDX-License-Identifier: Apache-2.0
"""What was acknowledged survives the death of the program at any moment."""

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.support.store import opened
from tests.support.store_appender import raw_of

ROOT = Path(__file__).parents[1]
KILLS = 20


def run_and_kill(path: Path, alive: float, *, from_open: bool) -> list[str]:
    """Run the program, kill it `alive` seconds after it said `open` or began; return its words."""
    command = [sys.executable, "-m", "tests.support.store_appender", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as program:
        assert program.stdout is not None
        try:
            said = [program.stdout.readline()] if from_open else []
            time.sleep(alive)
        finally:
            program.kill()
        said += program.stdout.readlines()
    whole = [line for line in said if line.endswith(b"\n")]
    return [line.decode().strip() for line in whole]


def test_append_event_when_killed_at_any_moment_then_every_acknowledged_one_is_there(
    tmp_path: Path,
) -> None:
    """P1: nothing acknowledged is lost, nothing is half there, and the file is never damaged."""
    path = tmp_path / "j"
    rng = random.Random()
    events: dict[str, int] = {}
    count = 0

    async def verify() -> None:
        async with opened(path) as journal:
            assert journal.recovered_from is None
            stored = {event.delivery_id: event for event in await journal.events(limit=10**6)}
            lost = [name for name, number in events.items() if stored[name].number != number]
            assert lost == []
            assert all(raw_of(name) == event.raw for name, event in stored.items())
            settled = int((await journal.settings()).get("count", "0"))
            assert settled >= count
            audit = await journal.audit(limit=10**6)
            assert list(range(1, settled + 1)) == [int(row.doc) for row in audit]
            docs = [row.doc for row in await journal.open_attacks()]
            assert ([str(settled)] if settled else []) == docs

    for turn in range(KILLS):
        # One in five dies while it starts and opens, the others while they write.
        starting = turn % 5 == 0
        alive = rng.uniform(0.0, 0.5 if starting else 0.08)
        said = run_and_kill(path, alive, from_open=not starting)
        for line in said:
            kind, *words = line.split()
            if kind == "event":
                events[words[1]] = int(words[0])
            elif kind == "count":
                count = int(words[0])
        if turn % 5 == 4:
            asyncio.run(verify())
    assert len(events) > KILLS
