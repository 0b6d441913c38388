# SPDX-License-Identifier: Apache-2.0
"""FastNetMon's JSON, by shape."""

import json
from typing import Any

import pytest

from hub.errors import NotUnderstoodError
from hub.intake.advanced import is_document, load_document, parse_advanced
from hub.intake.arguments import read_arguments
from hub.intake.model import Counter, Report, Reported, no_counters
from tests.support.fastnetmon import packet_line, payload

HOST = "advanced-host-ban"
RULE = {"destination_prefix": "192.0.2.10/32", "action_type": "discard", "action": {}}


def parse(document: Any, *args: str) -> Report:
    """Parse one document after a trip through JSON text."""
    return parse_advanced(load_document(json.dumps(document).encode()), read_arguments(args))


def details(**fields: Any) -> dict[str, Any]:
    """Return a minimal host ban with `attack_details`."""
    return {"action": "ban", "ip": "192.0.2.10", "attack_details": fields}


def test_parse_advanced_when_host_ban_then_every_field() -> None:
    """All that the document says arrives in its place."""
    report = parse(payload(HOST))
    assert (report.action, report.scope, str(report.target)) == ("ban", "host", "192.0.2.10")
    assert report.attack_uuid == "7b0d1f0e-5f2c-4f0e-9a55-0a4f2a1d0c11"
    assert (report.hostgroup, report.dialect) == ("global", "advanced-json")
    assert report.reported == Reported("incoming", "udp_flood", "udp", 412033)
    assert report.counters["incoming"]["total"] == Counter(412033, 1687687168, 1824)
    assert report.counters["incoming"]["udp"] == Counter(411980, 1687520000)
    assert report.counters["outgoing"]["total"] == Counter(37, 32800, 0)
    assert (report.packets, report.flows) == (2, 0)


def test_parse_advanced_when_host_group_then_no_target() -> None:
    """A host group has a name and networks, and no address."""
    report = parse(payload("advanced-hostgroup-ban"))
    assert (report.scope, report.target, report.hostgroup) == ("hostgroup", None, "customers")
    assert [str(network) for network in report.networks] == ["192.0.2.0/24", "198.51.100.0/25"]
    assert (report.derived.direction, report.derived.attack_type) == ("incoming", "udp_flood")


@pytest.mark.parametrize("scope", [None, "", "hostgroup", 5, [], "total"])
@pytest.mark.parametrize("ip", [None, "0.0.0.0", "", "::"])
def test_parse_advanced_when_named_group_and_no_host_then_host_group(scope: Any, ip: Any) -> None:
    """Whatever the scope says or leaves out, a group's name without a host is a host group."""
    document = payload("advanced-hostgroup-ban", alert_scope=scope, ip=ip)
    assert parse(document, "ban", "192.0.2.77").target is None


@pytest.mark.parametrize("scope", [None, "", "host", {}, "Host"])
def test_parse_advanced_when_host_and_any_scope_then_host(scope: Any) -> None:
    """Old versions leave the scope out; a host address makes a host."""
    report = parse(payload(HOST, alert_scope=scope, hostgroup_name="x"))
    assert (report.scope, str(report.target), report.hostgroup) == ("host", "192.0.2.10", "x")


def test_parse_advanced_when_group_lines_then_way_by_membership() -> None:
    """Packet lines of a host group are told apart by its networks."""
    dump = [packet_line("203.0.113.1", "192.0.2.77", "gre")] * 3
    document = payload("advanced-hostgroup-ban", packet_dump=dump)
    document["attack_details"] = {
        "total_incoming_pps": 900,
        "total_outgoing_pps": 0,
        **{f"incoming_{kind}_pps": 0 for kind in ("tcp", "udp", "icmp")},
    }
    report = parse(document)
    assert (report.packets, report.derived.protocol) == (3, "gre")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([RULE], "192.0.2.10"),
        ([RULE, RULE], "192.0.2.10"),
        ([{"destination_prefix": "2001:db8::1/128"}], "2001:db8::1"),
        ([{"destination_prefix": "192.0.2.0/24"}], "None"),
        ([RULE, {"destination_prefix": "192.0.2.11/32"}], "None"),
        ([RULE, {}], "None"),
        ([{"destination_prefix": ["192.0.2.10/32"]}], "None"),
        ([{"destination_prefix": "0.0.0.0/32"}], "None"),
        ([{}], "None"),
    ],
)
@pytest.mark.parametrize("action", ["partial_block", "partial_unblock"])
def test_parse_advanced_when_manual_flow_spec_then_target_of_the_rule(
    action: str, rules: list[Any], expected: str
) -> None:
    """0.0.0.0 stands for rules made by hand: the one host that they block, else none."""
    document = {"action": action, "alert_scope": "", "ip": "0.0.0.0", "flow_spec_rules": rules}
    report = parse(document)
    assert (expected, tuple(rules)) == (str(report.target), report.flow_spec_rules)


def test_parse_advanced_when_rule_has_wrong_items_then_only_objects_kept() -> None:
    """What is no object is no rule; deep nesting and lone surrogates do not get through."""
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    rules = [RULE, "text", None, [RULE], {"tcp_flags": ["\ud800"], "deep": deep}]
    report = parse(payload("advanced-partial_block", flow_spec_rules=rules))
    assert len(report.flow_spec_rules) == 2
    assert report.flow_spec_rules[1]["tcp_flags"] == ["?"]
    json.dumps(report.flow_spec_rules).encode()


@pytest.mark.parametrize(
    "value",
    [
        "5",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1",
        "1.5",
        "true",
        "null",
        "[]",
        "9" * 5000,
        '"5"',
        "99999999999999999999",
    ],
)
def test_parse_advanced_when_counter_is_wrong_then_only_that_counter_is_none(value: str) -> None:
    """NaN, infinities, signs, strings and giants cost one field, never the event."""
    text = f"""{{"action": "ban", "ip": "192.0.2.10", "attack_details":
        {{"total_incoming_pps": {value}, "total_outgoing_pps": 7, "attack_uuid": {value}}}}}"""
    report = parse_advanced(load_document(text.encode()), read_arguments(()))
    expected = 5 if value == "5" else None
    assert expected == report.counters["incoming"]["total"].pps
    assert report.counters["outgoing"]["total"].pps == 7


def test_parse_advanced_when_bits_are_absent_then_bytes_times_eight() -> None:
    """`*_traffic` is bytes per second; bits win where both are there and sane."""
    report = parse(
        details(
            total_incoming_traffic=1000,
            incoming_udp_traffic=1000,
            incoming_udp_traffic_bits=8008,
            outgoing_tcp_traffic=2**62,
            incoming_tcp_traffic=5,
            incoming_tcp_traffic_bits="40",
        )
    )
    incoming = report.counters["incoming"]
    assert (incoming["total"].bps, incoming["udp"].bps, incoming["tcp"].bps) == (8000, 8008, 40)
    assert report.counters["outgoing"]["tcp"].bps is None


@pytest.mark.parametrize(
    ("uuid", "expected"),
    [
        ("00000000-0000-0000-0000-000000000000", None),
        ("", None),
        (None, None),
        (5, None),
        (["a"], None),
        ("7B0d1f0e-5f2c-4f0e-9a55-0a4f2a1d0c11", "7B0d1f0e-5f2c-4f0e-9a55-0a4f2a1d0c11"),
    ],
)
def test_parse_advanced_when_uuid_then_verbatim_or_none(uuid: Any, expected: str | None) -> None:
    """Community writes zeros for want of an id; Advanced's id joins ban and unban as it is."""
    assert expected == parse(details(attack_uuid=uuid)).attack_uuid


def test_parse_advanced_when_before_1_2_3_then_ban_from_shape() -> None:
    """Redis before 1.2.3: no action, no scope, bytes only, counters wrapped below zero."""
    document = {
        "ip": "192.0.2.10",
        "attack_details": {
            "attack_type": "syn_flood",
            "initial_attack_power": 30000,
            "peak_attack_power": 30000,
            "attack_direction": "incoming",
            "attack_protocol": "tcp",
            "total_incoming_traffic": -2_094_967_296,
            "total_incoming_pps": 30000,
            "total_outgoing_pps": 0,
            "incoming_tcp_pps": 30000,
            "incoming_syn_tcp_pps": 29990,
        },
        "network_load": {"incoming pps": 99},
    }
    report = parse(document)
    assert (report.action, report.scope, report.dialect) == ("ban", "host", "community-json")
    assert report.reported == Reported("incoming", "syn_flood", "tcp", 30000)
    assert report.counters["incoming"]["total"] == Counter(pps=30000)
    assert report.derived.attack_type == "syn_flood"
    assert parse(document, "192.0.2.10", "incoming", "5", "unban").action == "unban"


def test_parse_advanced_when_oldest_json_then_labels_as_keys() -> None:
    """The first JSON used the labels of the text as keys."""
    report = parse(
        {
            "ip": "192.0.2.10",
            "attack_details": {
                "Attack type": "udp_flood",
                "Initial attack power": 7,
                "Total incoming pps": 9,
                "Incoming syn tcp pps": 3,
                "Incoming ip fragmented traffic": 10,
            },
        }
    )
    incoming = report.counters["incoming"]
    assert (report.reported.attack_type, report.reported.pps) == ("udp_flood", 7)
    assert (incoming["total"].pps, incoming["tcp_syn"].pps) == (9, 3)
    assert incoming["fragmented"].bps == 80


def test_parse_advanced_when_mongodb_document_then_attack_under_its_key() -> None:
    """MongoDB holds the same object under one key per attack, beside its own id."""
    inner = payload("1.2.4-redis-syn-spoofed-ban")
    wrapped = {"_id": {"$oid": "5f"}, "192_0_2_11_information_21_11_26_02:36:10": inner}
    assert parse(inner) == parse(wrapped)


def test_parse_advanced_when_new_direction_field_then_it_stands_in() -> None:
    """`attack_direction` is deprecated; the threshold's direction is what replaces it."""
    report = parse(details(attack_detection_threshold_direction="outgoing"))
    assert report.reported == Reported(direction="outgoing")


def test_parse_advanced_when_fields_are_missing_then_null_and_unknown() -> None:
    """The least that is an event is an action and an address."""
    report = parse({"action": "unban", "ip": "2001:0DB8::1"})
    assert str(report.target) == "2001:db8::1"
    assert no_counters() == report.counters
    assert Reported() == report.reported
    assert (report.hostgroup, report.attack_uuid, report.networks) == (None, None, ())
    assert report.derived.attack_type == "unknown"


def test_parse_advanced_when_every_field_has_a_wrong_type_then_still_the_event() -> None:
    """Wrong types everywhere but in action and address change nothing about the event."""
    wrongs: tuple[Any, ...] = (5, True, "x", [], [[]], {}, {"a": {}}, None, 1.5)
    for wrong in wrongs:
        document = {key: wrong for key in payload(HOST) if key not in {"action", "ip"}}
        document |= {"action": "ban", "ip": "192.0.2.10", "alert_scope": wrong}
        document |= {"hostgroup_networks": wrong, "flow_spec_rules": wrong}
        assert str(parse(document).target) == "192.0.2.10"
        document["attack_details"] = dict.fromkeys(payload(HOST)["attack_details"], wrong)
        assert str(parse(document).target) == "192.0.2.10"


def test_parse_advanced_when_text_and_objects_disagree_then_the_longer_dump() -> None:
    """A document may hold its packets as text, as objects, or as one long text."""
    lines = [packet_line("198.51.100.1", "192.0.2.10", "udp")] * 5
    assert parse(payload(HOST, packet_dump=lines)).packets == 5
    assert parse(payload(HOST, packet_dump="".join(lines))).packets == 5
    assert parse(payload(HOST, packet_dump=None)).packets == 2
    assert parse(payload(HOST, packet_dump=None, packet_dump_detailed=None)).packets == 0


@pytest.mark.parametrize(
    ("document", "args", "expected"),
    [
        ({"action": "ban"}, ("unban", "192.0.2.9"), ("ban", "192.0.2.9")),
        ({"ip": "192.0.2.8"}, ("unban", "192.0.2.9"), ("unban", "192.0.2.8")),
        ({"action": 5, "ip": 5}, ("192.0.2.9", "x", "0", "ban"), ("ban", "192.0.2.9")),
        ({"action": "ban", "ip": "0.0.0.0"}, ("ban", "192.0.2.9"), ("ban", "192.0.2.9")),
        ({}, ("192.0.2.9", "incoming", "0", "unban"), ("unban", "192.0.2.9")),
        ({"action": "ban", "ip": "192.0.2.8"}, ("unban", "192.0.2.9"), ("ban", "192.0.2.8")),
    ],
)
def test_parse_advanced_when_document_lacks_something_then_arguments_fill_in(
    document: Any, args: tuple[str, ...], expected: tuple[str, str]
) -> None:
    """The document wins; the arguments give only what it does not say."""
    report = parse(document, *args)
    assert expected == (report.action, str(report.target))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "name an action"),
        ({"action": "blackhole", "ip": "192.0.2.1"}, "'blackhole' is none"),
        ({"action": "\x1b[2J\ud800", "ip": "192.0.2.1"}, r"\\x1b\[2J"),
        ({"action": "ban"}, "name a target"),
        ({"action": "ban", "ip": "0.0.0.0"}, r"'0\.0\.0\.0' is not the address of one host"),
        ({"action": "ban", "alert_scope": "host", "ip": "::", "hostgroup_name": "x"}, "'::'"),
        ({"action": "unban", "ip": "192.0.2.0/24"}, "is not the address of one host"),
        ({"action": "ban", "ip": "0.0.0.0", "flow_spec_rules": [RULE]}, "of one host"),
        ({"action": "partial_block", "ip": "0.0.0.0"}, "of one host"),
        ({"action": "partial_block", "flow_spec_rules": []}, "name a target"),
        ({"action": "ban", "alert_scope": "hostgroup"}, "neither a name nor networks"),
    ],
)
def test_parse_advanced_when_nothing_to_act_on_then_reason(document: Any, reason: str) -> None:
    """No known action, or nothing attacked: refused with what is wrong."""
    with pytest.raises(NotUnderstoodError, match=reason):
        parse(document)


def test_is_document_when_object_after_mark_or_space_then_true() -> None:
    """An object may follow a byte order mark and white space; nothing else is a document."""
    assert is_document(b"{}")
    assert is_document(b"\xef\xbb\xbf \r\n{")
    assert not is_document(b"[{}]")
    assert not is_document(b"IP: {")
    assert not is_document(b"")


@pytest.mark.parametrize(
    "stdin",
    [
        b'{"action": "ban", "ip": "192.0.2.1"',
        b"{" * 100,
        b'{"a":' * 200_000,
        b'{"a":' + b"[" * 200_000,
        b'{"action": "ban"} {"action": "unban"}',
        b"{'action': 'ban'}",
        b"{\x00}",
    ],
)
def test_load_document_when_broken_then_not_understood(stdin: bytes) -> None:
    """Cut, doubled, malformed and endlessly nested documents are refused, not crashed on."""
    with pytest.raises(NotUnderstoodError, match="cannot be read"):
        load_document(stdin)


def test_load_document_when_bytes_are_no_utf8_then_only_they_are_lost() -> None:
    """One broken name does not cost the event."""
    document = load_document(b'\xef\xbb\xbf{"action": "ban", "x": "Z\xfcrich"}\n\0')
    assert document == {"action": "ban", "x": "Z\ufffdrich"}
