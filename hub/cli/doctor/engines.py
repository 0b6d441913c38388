# SPDX-License-Identifier: Apache-2.0
"""The engines: what the running hub says of them, and what is really in the kernel."""

from hub.cli.doctor import engine_native, engine_nftables
from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation
from hub.config import traffic_engines


def look(situation: Situation, report: Report) -> None:
    """Look at every engine that is configured."""
    _hub(situation, report)
    config = situation.config
    if config is None:
        report.skip("engine", "the configuration cannot be read, so the engines are unknown")
        return
    if not traffic_engines(config.engines):
        text = "neither engines.native nor engines.nftables is on: no traffic can be treated"
        report.warn("engine", text, "switch one of them on")
    if config.engines.native.enabled:
        engine_native.look(situation, config.engines.native, report)
    if config.engines.nftables.enabled:
        engine_nftables.look(situation, config.engines.nftables, report)


def _hub(situation: Situation, report: Report) -> None:
    hub = situation.hub
    if hub.status is None:
        judge = report.skip if hub.denied else report.fail
        judge("hub", hub.trouble, hub.todo)
        return
    report.ok("hub", f"the hub answers, pid {hub.status['pid']}")
    for engine in hub.status["engines"]:
        name, detail = engine["name"], engine["detail"]
        if engine["ok"]:
            report.ok("engine", f"{name} works" + (f": {detail}" if detail else ""))
        else:
            text = f"{name} cannot work: {detail or 'no reason given'}"
            report.fail("engine", text, "see engine.not_ready in the runbook, docs/operations.md")
        if engine["foreign"]:
            text = f"{name}: {len(engine['foreign'])} things of somebody else's in our place"
            report.warn("foreign", text, "fnm-hub status shows them; the hub leaves them alone")
    for name, cap in hub.status["caps"].items():
        if cap["limit"] and cap["used"] >= 0.8 * cap["limit"]:
            text = f"{name}: {cap['used']} of {cap['limit']} are used"
            report.warn("caps", text, "fnm-hub mitigations: release some, or raise the cap")
