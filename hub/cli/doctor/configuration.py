# SPDX-License-Identifier: Apache-2.0
"""The configuration and its rules: right, the same as what runs, and safe for this machine."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from hub.cli.check import examine
from hub.cli.doctor import addresses
from hub.cli.doctor.finding import Report
from hub.cli.doctor.programs import is_there
from hub.cli.doctor.situation import Situation
from hub.config import Config
from hub.errors import Problem
from hub.net import IPAddress, IPNetwork, covers
from hub.simulator import CoreSimulator


def look(situation: Situation, report: Report) -> None:
    """Look at configuration and rules, and run the rule tests."""
    path = situation.config_path
    if not situation.is_root and is_there(path) and not os.access(path, os.R_OK):
        report.skip("config", f"{path} cannot be read by this user", "run as root")
        return
    report.look(f"{path} and the rule tests")
    found = examine(path, CoreSimulator)
    for problem in found.problems:
        report.fail("config", _place(problem), problem.todo)
    for problem in found.warnings:
        report.warn("config", _place(problem), problem.todo)
    if not found.problems:
        rules, tests = found.facts["rules"], found.facts["tests"]
        report.ok("config", f"{path} is right: {rules} rules, {tests} rule tests hold")
    _in_force(situation, str(found.facts.get("rules_version", "")), report)
    config = situation.config
    if config is None:
        return
    _dry_run(situation, config, report)
    _never_block(config, report)


def _place(problem: Problem) -> str:
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return f"{place}: {problem.what}"


def _in_force(situation: Situation, version: str, report: Report) -> None:
    status = situation.hub.status
    if status is None or not version:
        report.skip("in_force", "no running hub to compare the rules with")
        return
    if status["rules"]["version"] == version:
        report.ok("in_force", "the running hub has these rules")
    else:
        text = "the running hub has other rules than these files"
        report.warn("in_force", text, "fnm-hub reload, when you want them in force")


def _dry_run(situation: Situation, config: Config, report: Report) -> None:
    status = situation.hub.status
    _mode(config, status, report)
    if status is None:
        return
    if status["draining"] or status["frozen"]:
        word = "draining: everything is released" if status["draining"] else "frozen"
        text = f"{word}, and nothing new begins"
        report.warn("frozen", text, "fnm-hub unfreeze, when it is over")
    else:
        report.ok("frozen", "neither frozen nor draining")


def _never_block(config: Config, report: Report) -> None:
    own = unguarded(addresses.local(), config)
    hops = unguarded(addresses.gateways(), config)
    for what, found in (("of this machine", own), ("of the default gateway", hops)):
        if found:
            shown = ", ".join(str(one) for one in found)
            report.warn(
                "never_block",
                f"{shown} {what} may be blocked: in guard.own_prefixes, not in guard.never_block",
                "add it to guard.never_block, or make it a service if it is to be protected",
            )
    if not own and not hops:
        text = "no countermeasure can touch this machine's addresses and default gateways"
        report.ok("never_block", text)


def unguarded(found: Iterable[IPAddress], config: Config) -> list[IPAddress]:
    """Return the addresses that may be acted on, but for those that are services themselves."""
    guard = config.guard
    return sorted(
        (
            one
            for one in found
            if any(covers(prefix, one) for prefix in guard.own_prefixes)
            and not any(covers(prefix, one) for prefix in guard.never_block)
            and not any(_is(prefix, one) for each in config.services for prefix in each.prefixes)
        ),
        key=lambda one: (one.version, int(one)),
    )


def _is(prefix: IPNetwork, address: IPAddress) -> bool:
    return prefix.num_addresses == 1 and address in prefix


def _mode(config: Config, status: Mapping[str, Any] | None, report: Report) -> None:
    if status is None:
        report.skip("dry_run", "whether it is armed is known to the running hub alone")
    elif status["arming"]["config"] != config.dry_run:
        text = f"dry_run is {_word(config.dry_run)} in the file, and not in the running hub"
        report.warn("dry_run", text, "fnm-hub reload, when you mean it")
    elif not status["dry_run"]:
        report.ok("dry_run", "armed: countermeasures are applied")
    elif config.dry_run is True:
        text = "dry-run by the file: everything is decided, nothing is done"
        todo = "write dry_run: until-armed and reload; then fnm-hub drill, fnm-hub arm"
        report.warn("dry_run", text, todo)
    else:
        text = "not armed: everything is decided, nothing is done"
        report.warn("dry_run", text, "fnm-hub drill, then fnm-hub arm, when you agree")


def _word(dry_run: bool | str) -> str:  # noqa: FBT001 - as the file may have it
    return str(dry_run).lower()
