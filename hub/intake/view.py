# SPDX-License-Identifier: Apache-2.0
"""The stable JSON form of a report, as `fnm-hub events parse` prints it (docs/protocols.md)."""

from typing import Any

from hub.errors import IntakeError
from hub.intake.envelope import decode
from hub.intake.model import TRAFFIC_KINDS, WAYS, Report
from hub.intake.parse import parse


def report_view(report: Report) -> dict[str, Any]:
    """Return `report` as an object of JSON types; None stands for what is missing."""
    reported, derived = report.reported, report.derived
    return {
        "action": report.action.value,
        "scope": report.scope.value,
        "target": None if report.target is None else str(report.target),
        "hostgroup": report.hostgroup,
        "dialect": report.dialect,
        "attack_uuid": report.attack_uuid,
        "reported": {
            "direction": reported.direction,
            "attack_type": reported.attack_type,
            "protocol": reported.protocol,
            "pps": reported.pps,
        },
        "derived": {
            "direction": derived.direction.value,
            "attack_type": derived.attack_type.value,
            "protocol": derived.protocol,
        },
        "counters": {
            way: {kind: _counter(report, way, kind) for kind in TRAFFIC_KINDS} for way in WAYS
        },
        "packets": report.packets,
        "flows": report.flows,
        "networks": [str(network) for network in report.networks],
        "flow_spec_rules": [dict(rule) for rule in report.flow_spec_rules],
    }


def _counter(report: Report, way: str, kind: str) -> dict[str, int | None]:
    counter = report.counters[way][kind]
    return {"pps": counter.pps, "bps": counter.bps, "flows": counter.flows}


def stored_report(raw: bytes) -> dict[str, Any] | None:
    """Return what the bytes of a stored event say, None where they are not understood."""
    try:
        envelope = decode(raw)
        return report_view(parse(envelope.args, envelope.stdin))
    except IntakeError:
        return None
