# SPDX-License-Identifier: Apache-2.0
"""Runs rule tests against a simulator and says where what happened is not what was expected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from hub.attacks.change import Sighting
from hub.config import Config
from hub.errors import Problem
from hub.net import IPAddress, IPNetwork
from hub.rates import Rates
from hub.rules.ruleset import RuleSet
from hub.rules.suite import Case, Expectation, Suite
from hub.units import format_duration
from hub.yamlnode import Loc

START: Final = 1_750_000_000.0
"""Unix time at which every rule test begins, so that each run is the same."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that the hub did, as far as rules decide it.

    Attributes:
        what: `on` begun, `would` begun but for dry-run, `off` either of them over, `refused` by a
            guard.
        kind: the countermeasure: tcp, acl, sorb, notify or command.
        target: the prefix concerned.
        rule: name of the rule that asked for it.
        guard: the guard that refused it, empty otherwise.
        name: configured name that a notify or command uses, empty otherwise.
    """

    what: Literal["on", "off", "would", "refused"]
    kind: str
    target: IPNetwork
    rule: str
    guard: str = ""
    name: str = ""

    def __str__(self) -> str:
        """Return the effect as a test file writes it."""
        words = [f"refused: {self.guard}, kind: {self.kind}"]
        if self.what != "refused":
            words = [f"{self.what}: {self.kind}"]
        words.append(f"target: {self.target}")
        if self.name:
            words.append(f"{'to' if self.kind == 'notify' else 'run'}: {self.name}")
        words.append(f"rule: {self.rule}")
        return "{" + ", ".join(words) + "}"


class Simulator(Protocol):
    """The hub without a world: tracker, rules, guards and ledger on a clock that is told.

    Engines answer at once and always succeed. Time never goes back from one call to the next.
    From the first call of `measure` on, the native engine measures, and hides attacks it meets.
    """

    def advance(self, now: float) -> Sequence[Effect]:
        """Let time pass up to and including `now`, Unix seconds; return what that did, in order.

        Everything that comes due on the way happens at its own time, not at `now`.
        """
        ...

    def feed(self, sighting: Sighting, now: float) -> Sequence[Effect]:
        """Take in one event at `now`; return what it did, in order."""
        ...

    def measure(self, rates: Rates, target: IPAddress | None, now: float) -> Sequence[Effect]:
        """Let the engine measure this from `now` on, of one attack or of each; return as above."""
        ...


SimulatorFactory = Callable[[RuleSet, Config], Simulator]
"""Makes a simulator with no attacks; `Config.dry_run` is what the test wants it to be."""


def run_suite(
    suite: Suite, rules: RuleSet, config: Config, simulator: SimulatorFactory
) -> list[Problem]:
    """Run every test of `suite` and return the mismatches, each at the line that expected.

    Args:
        suite: the tests.
        rules: the rules under test.
        config: the configuration that the tests' own `config` is laid over.
        simulator: makes a fresh simulator for each test.
    """
    problems: list[Problem] = []
    for index, case in enumerate(suite.spec.tests):
        overrides = suite.spec.config
        if case.config is not None:
            overrides = case.config.over(overrides)
        measured = next((n for n, step in enumerate(case.steps) if step.engine is not None), None)
        if measured is not None and not config.engines.native.enabled:
            loc: Loc = ("tests", index, "steps", measured, "engine")
            todo = "set engines.native.enabled: true in the configuration"
            problems.append(suite.document.problem(loc, "no enabled engine measures", todo))
            continue
        fresh = simulator(rules, overrides.apply(config))
        problems.extend(_run_case(suite, index, case, fresh))
    return problems


def _run_case(suite: Suite, index: int, case: Case, simulator: Simulator) -> list[Problem]:
    """Run one test up to its first step that goes wrong; what follows would only confuse."""
    for number, step in enumerate(case.steps):
        now = START + step.at
        happened = list(simulator.advance(now))
        if step.engine is not None:
            happened += simulator.measure(step.engine.rates, step.engine.target, now)
        if step.event is not None:
            happened += simulator.feed(step.event.sighting(number + 1, START, step.at), now)
        loc: Loc = ("tests", index, "steps", number)
        about = f"test {case.name!r}, at {format_duration(step.at)}"
        problems = _compare(suite, loc, about, step.expect, happened)
        if problems:
            return problems
    return []


def _compare(
    suite: Suite,
    loc: Loc,
    about: str,
    expected: Sequence[Expectation],
    happened: Sequence[Effect],
) -> list[Problem]:
    met = _assign(expected, happened)
    surplus = [effect for number, effect in enumerate(happened) if number not in met.values()]
    problems = [
        suite.document.problem(
            (*loc, "expect", number),
            f"{about}: did not happen",
            f"instead: {_listed(surplus)}" if surplus else "nothing else happened either",
        )
        for number in range(len(expected))
        if number not in met
    ]
    if surplus and not problems:
        what = f"{about}: also happened: {_listed(surplus)}"
        problems.append(suite.document.problem((*loc, "expect"), what))
    return problems


def _listed(effects: Sequence[Effect]) -> str:
    return ", ".join(map(str, effects))


def _assign(expected: Sequence[Expectation], happened: Sequence[Effect]) -> dict[int, int]:
    """Return which effect meets which expectation, as many as can be met at once.

    An expectation that leaves much out must not take the only effect that a precise one fits:
    augmenting paths (Kuhn) find the largest assignment.
    """
    taken: dict[int, int] = {}

    def find(wanted: int, tried: set[int]) -> bool:
        for number, effect in enumerate(happened):
            if number in tried or not _fits(expected[wanted], effect):
                continue
            tried.add(number)
            if number not in taken or find(taken[number], tried):
                taken[number] = wanted
                return True
        return False

    for wanted in range(len(expected)):
        find(wanted, set())
    return {wanted: number for number, wanted in taken.items()}


def _fits(wanted: Expectation, effect: Effect) -> bool:
    asked = {
        "on": wanted.on,
        "off": wanted.off,
        "would": wanted.would,
        "refused": wanted.refused,
    }
    value = asked[effect.what]
    if value is None or value != (effect.guard if effect.what == "refused" else effect.kind):
        return False
    return all(
        want is None or want == have
        for want, have in (
            (wanted.kind, effect.kind),
            (wanted.target, effect.target),
            (wanted.rule, effect.rule),
            (wanted.to, effect.name),
            (wanted.run, effect.name),
        )
    )
