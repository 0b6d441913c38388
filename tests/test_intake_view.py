# SPDX-License-Identifier: Apache-2.0
"""The stable JSON form of a report."""

import json

from hub.intake.parse import parse
from hub.intake.view import report_view
from tests.support.fastnetmon import payload, sample

NO_SPEED = {"pps": None, "bps": None, "flows": None}
KINDS = ("total", "tcp", "tcp_syn", "udp", "icmp", "fragmented", "dropped")
NO_SPEEDS = dict.fromkeys(KINDS, NO_SPEED)


def test_report_view_when_unban_then_every_field_is_there() -> None:
    """The interface is stable: every field is always there, missing ones as null."""
    call = sample("1.2.4-manual-api-ipv6-unban")
    assert report_view(parse(call.args, call.stdin)) == {
        "action": "unban",
        "scope": "host",
        "target": "2001:db8:b::10",
        "hostgroup": None,
        "dialect": "community",
        "attack_uuid": None,
        "reported": {"direction": "other", "attack_type": None, "protocol": None, "pps": 0},
        "derived": {"direction": "unknown", "attack_type": "unknown", "protocol": "unknown"},
        "counters": {"incoming": NO_SPEEDS, "outgoing": NO_SPEEDS},
        "packets": 0,
        "flows": 0,
        "networks": [],
        "flow_spec_rules": [],
    }


def test_report_view_when_flow_spec_then_rules_as_they_came() -> None:
    """Flow spec rules are passed on field by field."""
    document = payload("advanced-partial_block-rate-limit")
    view = report_view(parse((), json.dumps(document).encode()))
    assert document["flow_spec_rules"] == view["flow_spec_rules"]
    assert (view["action"], view["target"]) == ("partial_block", "192.0.2.10")


def test_report_view_when_host_group_then_networks_as_text() -> None:
    """A host group shows its networks and no target."""
    view = report_view(parse((), json.dumps(payload("advanced-hostgroup-ban")).encode()))
    assert view["networks"] == ["192.0.2.0/24", "198.51.100.0/25"]
    assert (view["scope"], view["target"], view["hostgroup"]) == ("hostgroup", None, "customers")
    assert view["counters"]["incoming"]["udp"] == {
        "pps": 411980,
        "bps": 1687520000,
        "flows": None,
    }
