# SPDX-License-Identifier: Apache-2.0
"""The demo: three real attacks on a small internet, seen by a real FastNetMon, met by the hub."""

import argparse
import os
import shlex
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from hub.clock import Clock, SystemClock
from scripts.lab import counters, parts, place
from scripts.lab.commands import LabError
from scripts.lab.engines import ENGINES, LabEngine, Native, Nftables
from scripts.lab.floods import FLOODS
from scripts.lab.guest_engine import HELD, MODE, IsnSync, answers, held_open, holder
from scripts.lab.hub_api import HubApi
from scripts.lab.last_step import everything_dies
from scripts.lab.network import SERVER, Network
from scripts.lab.parts import Lab
from scripts.lab.story import Outcome, Pace, Story
from scripts.lab.synproxyd import PROGRAM
from scripts.lab.table import table, verdicts
from scripts.lab.timeline import Timeline
from scripts.lab.watch import Watch

DESCRIPTION = """\
Shows on this one machine what fnm-hub does: an attacker, a client, a gateway and a web server
live in network namespaces; FastNetMon and the hub run on the gateway. Three floods follow each
other while the client fetches a page ten times a second. Nothing leaves the machine."""
PLAY_SECONDS = 60.0
INTERRUPTED = 130


def main() -> int:
    """Return 0 when every step held, 1 when one did not, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--engine",
        choices=sorted(ENGINES, reverse=True),
        default="native",
        help="what meets the attacks: synproxyd in XDP, or the kernel's SYN proxy by nft",
    )
    parser.add_argument(
        "--isn-sync",
        action="store_true",
        help="one flood against a stock kernel in a virtual machine, served by its own SYN "
        "cookies; in the end everything of ours is killed",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--keep", action="store_true", help="leave the lab up to play with")
    group.add_argument("--down", action="store_true", help="remove every lab that was left up")
    options = parser.parse_args()
    if options.down:
        return down()
    if options.isn_sync and options.keep:
        parser.error("--isn-sync ends with its virtual machine: it cannot be kept")
    engine = IsnSync() if options.isn_sync else ENGINES[options.engine]()
    return demo(keep=options.keep, engine=engine)


def down() -> int:
    """Remove every lab that nobody is using."""
    status = 0
    for lab in place.existing():
        with place.in_use(lab) as ours:
            if ours:
                place.remove(lab)
                print(f"removed {lab}")
            else:
                print(
                    f"{lab} belongs to a demo that is running; press Ctrl-C there", file=sys.stderr
                )
                status = 1
    return status


def demo(*, keep: bool, engine: LabEngine) -> int:
    """Build the lab, run the attacks, print the table."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    clock = SystemClock()
    timeline = Timeline(clock)
    lab = place.create()
    floods = FLOODS[:1] if isinstance(engine, IsnSync) else FLOODS
    outcomes = [Outcome(flood) for flood in floods]
    with place.in_use(lab), ExitStack() as stack:
        try:
            made = Lab(lab, Network(place.tag(lab)))
            status = _run(made, engine, stack, timeline, clock=clock, outcomes=outcomes)
        except KeyboardInterrupt:
            status = INTERRUPTED
            timeline.say("lab", "interrupted: removing everything")
        finally:
            # A second Ctrl-C must not leave half of the lab behind.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        if keep and status != INTERRUPTED:
            print(_how_to_play(lab, engine), flush=True)
            # Past every clean-up: a collected context manager would end its program, too.
            os._exit(status)
    if status == 1:
        print(f"\nlogs: {lab}/logs (scripts/demo --down removes them)", file=sys.stderr)
    else:
        shutil.rmtree(lab)
    return status


def _run(
    lab: Lab,
    engine: LabEngine,
    stack: ExitStack,
    timeline: Timeline,
    *,
    clock: Clock,
    outcomes: list[Outcome],
) -> int:
    step = "building the lab"
    try:
        timeline.head("the lab")
        stack.enter_context(lab.network)
        watch = build(lab, stack, timeline, clock, engine=engine)
        story = Story(lab, engine, watch, timeline, clock=clock, pace=Pace())
        held = stack.enter_context(holder(lab)) if isinstance(engine, IsnSync) else None
        for number, outcome in enumerate(outcomes, 1):
            step = outcome.flood.title
            timeline.head(f"attack {number} of {len(outcomes)}: {step}")
            story.attack(outcome)
        if isinstance(engine, IsnSync) and held is not None:
            step = outcomes[0].flood.title
            outcomes[0].broken += _whole(engine, held, timeline)
            timeline.head("everything of ours dies")
            outcomes[0].broken += everything_dies(
                lab, engine, watch.ours, held, outcomes[0].flood, timeline=timeline, clock=clock
            )
    except LabError as error:
        timeline.say("failed", f"{step}: {error}")
        for outcome in outcomes:
            if outcome.flood.title == step:
                outcome.broken.append(str(error))
    if outcomes[0].before:
        print(f"\n{table(outcomes)}\n")
    if shares := verdicts(outcomes):
        print(f"{shares}\n")
    broken = [f"{outcome.flood.title}: {what}" for outcome in outcomes for what in outcome.broken]
    for line in broken:
        print(f"FAILED  {line}")
    if broken or not all(outcome.finished for outcome in outcomes):
        return 1
    print("Every step held: each flood was seen, met, outlived and forgotten.")
    return 0


def _whole(engine: IsnSync, held: Path, timeline: Timeline) -> list[str]:
    timeline.say(
        "client",
        f"{held_open(held)} of {HELD} connections that were opened before the flood are open, "
        f"{answers(held)} answers came over them",
    )
    broken = [] if held_open(held) == HELD else ["connections broke that were open before"]
    if engine.modes != {MODE}:
        broken.append(f"not {MODE} was in force but {', '.join(sorted(engine.modes)) or 'nothing'}")
    return broken


def build(
    lab: Lab,
    stack: ExitStack,
    timeline: Timeline,
    clock: Clock,
    *,
    rules: Path = parts.SHIPPED_RULES,
    engine: LabEngine | None = None,
) -> Watch:
    """Start the lab's programs in its network, owned by `stack`; return what watches them."""
    engine = engine or Nftables()
    counters.install(lab.network, switched=isinstance(engine, IsnSync))
    timeline.say(
        "lab",
        "attacker and client --- internet --- gateway --- server, each a network namespace "
        f"fnm-{lab.network.tag}-*",
    )
    web = engine.serve(lab, stack)
    if isinstance(engine, IsnSync):
        timeline.say("server", f"is a virtual machine with Debian's kernel {engine.kernel()}")
        timeline.say("server", "fnm-agent reads that kernel's cookie secrets; no module is loaded")
    client = stack.enter_context(parts.visitor(lab))
    timeline.say("server", f"nginx serves a page at {SERVER} port 80")
    timeline.say("client", "fetches it ten times a second from now on")
    more = engine.start(lab, stack)
    for process in more:
        timeline.say("gateway", f"{process.name} is attached to its outside interface, in XDP")
    settings, sections = engine.settings(lab), engine.more_settings(lab)
    hub = stack.enter_context(parts.hub(lab, rules, settings, sections))
    if isinstance(engine, IsnSync):
        engine.know_agent(lab)
    timeline.say("hub", "runs on the gateway and waits for events, with the rules it ships")
    detector = stack.enter_context(parts.fastnetmon(lab))
    timeline.say(
        "fastnetmon",
        f"watches the gateway's outside; above {parts.THRESHOLD_PPS} packets/s to or from one "
        "host it calls fnm-notify",
    )
    watched = (*web, client, hub, detector, *more)
    return Watch(HubApi(lab.api), timeline, clock, watched, ours=(hub, *more))


def _how_to_play(lab: Path, engine: LabEngine) -> str:
    network = Network(place.tag(lab))
    cli = shlex.join((str(parts.fnm_hub()), "--socket", f"{lab}/api.sock"))
    attacks = "\n".join(
        f"  {flood.title:<12}{shlex.join(network.command('attacker', *command))}"
        for flood in FLOODS
        for command in flood.commands(PLAY_SECONDS)[:1]
    )
    kernel = shlex.join(network.command("gateway", "nft", "list", "table", "inet", "fnm_hub"))
    if isinstance(engine, Native):
        kernel = shlex.join((str(PROGRAM), "status", "--socket", f"{lab}/synproxyd.sock"))
    return f"""
The lab stays up, and the client goes on fetching its page. Attack the server for a minute:
{attacks}
Watch the hub:
  live        {cli} tail
  now         {cli} status
  in force    {cli} mitigations
  kernel      {kernel}
Watch the client, one line a visit:
  tail -f {lab}/logs/client.jsonl
All logs: {lab}/logs
Remove it:    scripts/demo --down"""


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("scripts/demo needs root: it makes network namespaces")
    sys.exit(main())
