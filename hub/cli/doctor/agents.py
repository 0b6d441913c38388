# SPDX-License-Identifier: Apache-2.0
"""The agents on protected servers, as the running hub knows them."""

from typing import Any, Final

from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation

_TODO: Final = {
    "unreachable": "is fnm-agent running, and is its port open for this machine?",
    "untrusted": "compare the fingerprint, then: fnm-hub agents trust NAME",
    "changed": "was it installed anew? compare the fingerprint, then: fnm-hub agents trust NAME",
    "denied": "put the line of `fnm-hub key show` into its /etc/fnm-agent/keys",
    "unusable": "see its log: journalctl -u fnm-agent",
}
_MOST: Final = 20


def look(situation: Situation, report: Report) -> None:
    """Look at every agent."""
    config = situation.config
    if config is None or not config.isn_sync.inventory().agents:
        report.skip("agents", "none is configured")
        return
    if not config.engines.native.enabled:
        report.skip("agents", "engines.native is off, so that none is asked")
        return
    if situation.hub.status is None:
        report.skip("agents", "only a running hub asks them")
        return
    agents = situation.hub.agents
    bad = [one for one in agents if one["state"] not in {"ok", "new"}]
    for one in bad[:_MOST]:
        todo = _TODO.get(one["state"], "fnm-hub agent NAME").replace("NAME", one["name"])
        report.fail("agents", f"{one['name']} is {one['state']}: {one['why']}", todo)
    if bad[_MOST:]:
        report.fail("agents", f"and {len(bad) - _MOST} more", "fnm-hub agents")
    fresh = [one for one in agents if one["state"] == "new"]
    if fresh:
        report.skip("agents", f"{len(fresh)} have not answered yet", "look again in a moment")
    good = len(agents) - len(bad) - len(fresh)
    if good:
        report.ok("agents", f"{good} of {len(agents)} answer, are trusted and usable")
    _standings(agents, report)


def _standings(agents: tuple[dict[str, Any], ...], report: Report) -> None:
    left = [
        (one["name"], address)
        for one in agents
        for address in one["addresses"]
        if address["standing"] in {"left", "returning"}
    ]
    for name, address in left[:_MOST]:
        text = f"{address['address']} behind {name} has left ISN sync: {address['why']}"
        report.warn("probes", text, f"fnm-hub agent {name}: the last probe of each port")
    if not left:
        report.ok("probes", "no address has left ISN sync")
