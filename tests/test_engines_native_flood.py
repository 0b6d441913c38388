# SPDX-License-Identifier: Apache-2.0
"""A real flood, a real FastNetMon that goes blind, hub and synproxyd: one attack, no flapping."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from hub.clock import SystemClock
from scripts.lab import counters, parts, place, synproxyd
from scripts.lab.commands import Process, wait_until
from scripts.lab.demo import build
from scripts.lab.engines import Native
from scripts.lab.floods import FLOODS, raging
from scripts.lab.hub_api import HubApi
from scripts.lab.network import Network
from scripts.lab.parts import Lab
from scripts.lab.story import Outcome, Pace, Story
from scripts.lab.timeline import Timeline
from tests.support.native_build import built

FLOOD = FLOODS[0]
NOTICED = 10.0
TTL = 12.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Make a lab without programs, and remove all of it afterwards."""
    built()
    folder = place.create()
    network = Network(place.tag(folder))
    try:
        with network:
            yield Lab(folder, network)
    finally:
        place.remove(folder)


def rules(lab: Lab, ttl: str = "1h") -> Path:
    """Write the shipped rules with a short linger."""
    path = lab.place / "rules.yaml"
    text = parts.SHIPPED_RULES.read_text().replace("linger: 30s", "linger: 1s")
    path.write_text(text.replace("ttl: 1h", f"ttl: {ttl}"))
    return path


def logged(lab: Lab, event: str) -> list[dict[str, Any]]:
    """Return what the hub logged under one name."""
    lines = (lab.logs / "hub.log").read_text().splitlines()
    found = (json.loads(line) for line in lines if line.startswith("{"))
    return [line for line in found if line["event"] == event]


def test_flood_when_the_detector_goes_blind_then_one_attack_and_its_end_is_noticed(
    lab: Lab,
) -> None:
    """From calm to calm: the unban in the middle is not believed, the real end is seen at once."""
    clock, said = SystemClock(), StringIO()
    timeline, engine, outcome = Timeline(clock, said), Native(), Outcome(FLOOD)
    with ExitStack() as stack:
        watch = build(lab, stack, timeline, clock, rules=rules(lab), engine=engine)
        story = Story(lab, engine, watch, timeline, clock=clock, pace=Pace(calm=1.0, flood=11.0))
        story.attack(outcome)

    assert outcome.finished, said.getvalue()
    assert outcome.broken == [], said.getvalue()
    assert outcome.protected is not None
    assert outcome.protected.arrived <= 0.01 * outcome.protected.sent
    assert outcome.unban_s is not None
    assert outcome.unban_s < 0, "the detector was not blind: this test has shown nothing"
    assert outcome.off_s is not None
    assert outcome.off_s <= NOTICED
    assert outcome.during is not None
    assert outcome.during.retried <= 2
    assert outcome.verdicts["cookie_sent"] > 0.8 * outcome.protected.sent
    assert len(logged(lab, "attack.began")) == len(logged(lab, "attack.quiet")) == 1
    assert logged(lab, "attack.returned") == logged(lab, "mitigation.missing") == []


class Field:
    """A lab under a steady flood, whose programs come and go one by one."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab, self.engine, self._stack = lab, Native(), stack
        self.api = HubApi(lab.api)
        self.processes: dict[str, Process] = {}

    def begin(self) -> None:
        """Start everything; return when a countermeasure is in force."""
        lab, stack = self.lab, self._stack
        counters.install(lab.network)
        stack.enter_context(parts.web_server(lab))
        (self.processes["synproxyd"],) = self.engine.start(lab, stack)
        self.start_hub()
        stack.enter_context(parts.fastnetmon(lab))
        stack.enter_context(raging(lab.network, FLOOD, lab.logs, 60.0))
        wait_until("a countermeasure is in force", lambda: self.states() == ["active"], seconds=15)

    def start_hub(self) -> None:
        """Start the hub, with a lifetime of a few seconds."""
        settings = self.engine.settings(self.lab)
        hub = parts.hub(self.lab, rules(self.lab, f"{TTL:.0f}s"), settings)
        self.processes["hub"] = self._stack.enter_context(hub)

    def start_synproxyd(self) -> None:
        """Start it on the pins that the former one left."""
        self.processes["synproxyd"] = self._stack.enter_context(again(self.lab, self.engine))

    def kill(self, name: str) -> None:
        """End a program by SIGKILL."""
        self.processes[name].popen.kill()
        self.processes[name].popen.wait(10)

    def reports(self, action: str) -> bool:
        """Tell whether FastNetMon has said that."""
        return any(event["action"] == action for event in self.api.items("events"))

    def states(self) -> list[str]:
        """Return the states of what the hub has open."""
        over = {"released", "failed"}
        found = self.api.items("mitigations")
        return [item["state"] for item in found if item["state"] not in over]

    def deadline(self) -> float:
        """Return the deadline that synproxyd has, Unix seconds; 0 where nothing is in force."""
        now = SystemClock().time()
        found = synproxyd.in_force(self.engine.control(self.lab)).values()
        return max((now + one["expires_ms"] / 1000 for one in found), default=0.0)

    def leaks(self, seconds: float) -> float:
        """Return the share of the flood that reaches the server in the next seconds."""
        before = counters.count(self.lab.network, FLOOD.key)
        time.sleep(seconds)
        passed = counters.count(self.lab.network, FLOOD.key) - before
        assert passed.sent > 500 * seconds, "the flood has ended"
        return passed.arrived / passed.sent


@contextmanager
def again(lab: Lab, engine: Native) -> Iterator[Process]:
    """Run synproxyd anew on the same pins."""
    argv = synproxyd.arguments(lab.place / synproxyd.PINS, engine.control(lab))
    with lab.started("synproxyd", "gateway", *argv) as process:
        synproxyd.wait_for(process, engine.control(lab))
        yield process


def test_programs_when_killed_under_a_flood_then_protection_stays_to_its_deadline(
    lab: Lab,
) -> None:
    """One, the other, then both are killed: the data plane goes on, and ends by itself."""
    with ExitStack() as stack:
        field = Field(lab, stack)
        field.begin()
        assert field.leaks(2.0) < 0.01

        field.kill("synproxyd")
        assert field.leaks(4.0) < 0.01
        field.start_synproxyd()
        before = field.deadline() + 1.0
        wait_until("it is renewed", lambda: field.deadline() > before, seconds=TTL)

        field.kill("hub")
        assert field.leaks(3.0) < 0.01
        field.start_hub()
        before = field.deadline() + 1.0
        wait_until("it is renewed", lambda: field.deadline() > before, seconds=TTL)
        assert field.states() == ["active"]
        assert field.leaks(1.0) < 0.01

        ends = field.deadline()
        field.kill("hub")
        field.kill("synproxyd")
        left = ends - SystemClock().time()
        assert field.leaks(left - 2.0) < 0.01
        time.sleep(2.0 + 5.0)
        assert field.leaks(1.0) > 0.5, "it outlived its deadline by five seconds"

    assert len(logged(lab, "attack.began")) == 1


def test_synproxyd_when_it_forgets_then_the_hub_puts_it_back(lab: Lab) -> None:
    """Its pins are gone: what should be in force is there again within seconds."""
    with ExitStack() as stack:
        field = Field(lab, stack)
        field.begin()
        wait_until("FastNetMon's details", lambda: field.reports("attack_details"), seconds=10)
        field.kill("synproxyd")
        pinned = lab.place / "bpf/synproxyd"
        for path in sorted(pinned.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        field.start_synproxyd()
        wait_until("it is in force again", lambda: bool(field.engine.held(lab)), seconds=5)
        assert field.leaks(2.0) < 0.01
        assert len(logged(lab, "attack.began")) == 1
        assert logged(lab, "mitigation.missing") != []
