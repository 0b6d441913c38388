# SPDX-License-Identifier: Apache-2.0
"""Runs all groups of checks side by side within a time limit, and shows what they found."""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final, TextIO

from hub.cli.doctor import (
    agents,
    configuration,
    disk,
    engines,
    fastnetmon,
    machine,
    rights,
    store,
    timekeeping,
    unit,
)
from hub.cli.doctor.finding import Finding, Report, Status
from hub.cli.doctor.situation import Hub, Situation, ask_hub, read_config
from hub.cli.text import Screen, clean
from hub.clock import Clock, SystemClock

Look = Callable[[Situation, Report], None]

GROUPS: Final[Sequence[tuple[str, Look]]] = (
    ("machine", machine.look),
    ("time", timekeeping.look),
    ("disk", disk.look),
    ("rights", rights.look),
    ("service", unit.look),
    ("configuration", configuration.look),
    ("engines", engines.look),
    ("agents", agents.look),
    ("store", store.look),
    ("fastnetmon", fastnetmon.look),
)
FIRST: Final = 3.5
"""Seconds to read the configuration and to ask the hub; then the groups begin."""
LIMIT: Final = 8.0
"""Seconds that the groups have, all at once."""
_STYLES: Final = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "alarm"}


def doctor(config: Path, socket: Callable[[], Path], fastnetmon_conf: Path) -> list[Finding]:
    """Look at everything and return what was found, in the order of the groups.

    Whatever hangs, it ends: what has not answered then is a finding of its own.
    """
    clock = SystemClock()
    found: list[Situation] = []

    def begin() -> None:
        start = f"fnm-hub run --config {config}"
        hub = ask_hub(socket(), start, clock)
        found.append(Situation(config, read_config(config), fastnetmon_conf, hub, clock))

    _start("situation", begin).join(FIRST)
    hangs = Hub(
        trouble=f"{config}, or the hub's socket, does not answer", todo="look at the disk's log"
    )
    situation = found[0] if found else Situation(config, None, fastnetmon_conf, hangs, clock)
    return examine(situation, GROUPS, LIMIT)


def examine(
    situation: Situation, groups: Iterable[tuple[str, Look]], limit: float
) -> list[Finding]:
    """Return what `groups` find within `limit` seconds."""
    begun = []
    for name, look in groups:
        report = Report(name)
        work = partial(_look, look, situation, report)
        begun.append((report, _start(name, work)))
    _wait((thread for _, thread in begun), situation.clock, limit)
    all_found: list[Finding] = []
    for report, thread in begun:
        all_found += report.findings()
        if thread.is_alive():
            waits = f" while it waited for {report.looking_at}" if report.looking_at else ""
            text = f"did not end within {limit:g} s{waits}: the rest of this group is unknown"
            todo = "look at that by hand: it hangs"
            all_found.append(Finding(report.group, "time_limit", Status.FAIL, text, todo))
    return all_found


def _start(name: str, work: Callable[[], None]) -> threading.Thread:
    # A thread in a system call cannot be ended: as a daemon it does not keep the program alive.
    thread = threading.Thread(target=work, name=f"doctor {name}", daemon=True)
    thread.start()
    return thread


def _look(look: Look, situation: Situation, report: Report) -> None:
    try:
        look(situation, report)
    except Exception as error:  # noqa: BLE001 - one check's defect must not hide the others
        text = f"this group could not be finished: {type(error).__name__}: {error}"
        report.fail("doctor", text, "report it to the project, with this line")


def _wait(threads: Iterable[threading.Thread], clock: Clock, limit: float) -> None:
    end = clock.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, end - clock.monotonic()))


def show(screen: Screen, found: Sequence[Finding]) -> None:
    """Print the findings under the headings of their groups, and how many there are of each."""
    group = ""
    for one in found:
        if one.group != group:
            if group:
                screen.line()
            group = one.group
            screen.line(group, "bold")
        screen.field(one.status, f"{one.check}: {clean(one.text)}", _style(one), at=8)
        if one.todo:
            screen.text(f"-> {clean(one.todo)}", indent=8)
    counts = [(sum(one.status is each for one in found), each) for each in Status]
    screen.line()
    screen.line(", ".join(f"{count} {each}" for count, each in counts))


def _style(finding: Finding) -> str:
    return _STYLES.get(finding.status, "dim")


def print_json(found: Sequence[Finding], out: TextIO) -> None:
    """Print the findings as one list of objects."""
    text = json.dumps([asdict(one) for one in found], indent=2)
    # JSON leaves DEL as it is, and some terminals take it for a command.
    print(text.replace("\x7f", "\\u007f"), file=out)


def exit_code(found: Sequence[Finding], *, strict: bool) -> int:
    """Return 1 when something failed, with `strict` also when something warns, else 0."""
    bad = {Status.FAIL, Status.WARN} if strict else {Status.FAIL}
    return int(any(one.status in bad for one in found))
