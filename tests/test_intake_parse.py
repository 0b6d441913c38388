# SPDX-License-Identifier: Apache-2.0
"""One detector call made a report, whoever made it."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.errors import NotUnderstoodError
from hub.intake.model import Report, no_counters
from hub.intake.parse import parse
from hub.intake.view import report_view
from tests.support.fastnetmon import Sample, packet_line, payload, sample, samples, text_report

MANUAL = "unknown unknown unknown"
EXPECTED = {
    "1.2.4-bandwidth-ban": "incoming udp_flood udp",
    "1.2.4-gre-ban": "incoming other unknown",
    "1.2.4-icmp-answered-attack_details": "unknown icmp_flood icmp",
    "1.2.4-icmp-answered-ban": "unknown icmp_flood icmp",
    "1.2.4-icmp-spoofed-attack_details": "incoming icmp_flood icmp",
    "1.2.4-icmp-spoofed-ban": "incoming icmp_flood icmp",
    "1.2.4-ipv6-icmp-ban": "unknown other unknown",
    "1.2.4-ipv6-syn-ban": "incoming syn_flood tcp",
    "1.2.4-ipv6-udp-ban": "incoming udp_flood udp",
    "1.2.4-manual-api-ban": MANUAL,
    "1.2.4-manual-api-ipv6-ban": MANUAL,
    "1.2.4-netflow-udp-attack_details": "incoming udp_flood udp",
    "1.2.4-netflow-udp-ban": "incoming udp_flood udp",
    "1.2.4-no-conntrack-no-details-ban": "incoming udp_flood udp",
    "1.2.4-outgoing-udp-attack_details": "outgoing udp_flood udp",
    "1.2.4-outgoing-udp-ban": "outgoing udp_flood udp",
    "1.2.4-redis-icmp-answered-ban": "unknown icmp_flood icmp",
    "1.2.4-redis-syn-spoofed-ban": "incoming syn_flood tcp",
    "1.2.4-stale-rebans-after-manual-unban-ban": "incoming udp_flood udp",
    "1.2.4-syn-answered-attack_details": "incoming syn_flood tcp",
    "1.2.4-syn-answered-ban": "incoming syn_flood tcp",
    "1.2.4-syn-spoofed-attack_details": "incoming syn_flood tcp",
    "1.2.4-syn-spoofed-ban": "incoming syn_flood tcp",
    "1.2.4-udp-attack_details": "incoming udp_flood udp",
    "1.2.4-udp-ban": "incoming udp_flood udp",
    "1.2.4-udp-fragments-attack_details": "incoming ip_fragmentation udp",
    "1.2.4-udp-fragments-ban": "incoming ip_fragmentation udp",
    "1.2.9-icmp-answered-ban": "unknown icmp_flood icmp",
    "1.2.9-icmp-spoofed-ban": "incoming icmp_flood icmp",
    "1.2.9-ipv6-icmp-ban": "unknown icmp_flood icmp",
    "1.2.9-ipv6-syn-ban": "incoming syn_flood tcp",
    "1.2.9-ipv6-udp-ban": "incoming udp_flood udp",
    "1.2.9-manual-api-ban": MANUAL,
    "1.2.9-netflow-udp-ban": "incoming udp_flood udp",
    "1.2.9-outgoing-udp-ban": "outgoing udp_flood udp",
    "1.2.9-redis-icmp-answered-ban": "unknown icmp_flood icmp",
    "1.2.9-redis-syn-spoofed-ban": "incoming syn_flood tcp",
    "1.2.9-syn-answered-ban": "incoming syn_flood tcp",
    "1.2.9-syn-spoofed-ban": "incoming syn_flood tcp",
    "1.2.9-udp-ban": "incoming udp_flood udp",
    "1.2.9-udp-fragments-ban": "incoming ip_fragmentation udp",
    "advanced-host-attack_status": "incoming udp_flood udp",
    "advanced-host-ban": "incoming udp_flood udp",
    "advanced-host-ban-ipv6": "incoming udp_flood udp",
    "advanced-host-unban": "incoming udp_flood udp",
    "advanced-hostgroup-ban": "incoming udp_flood udp",
    "advanced-partial_block": "incoming udp_flood udp",
    "advanced-partial_block-rate-limit": "incoming udp_flood udp",
}
"""What was really going on, from the scenario of each recording; no `unban` of Community says."""


def derived(report: Report) -> str:
    """Return the judgement as three words."""
    judgement = report.derived
    return f"{judgement.direction} {judgement.attack_type} {judgement.protocol}"


def test_parse_when_recorded_then_every_sample_has_its_expectation() -> None:
    """No recording is left without an expectation, no expectation without a recording."""
    telling = {call.name for call in samples() if call.stdin}
    assert telling == set(EXPECTED)


@pytest.mark.parametrize("call", samples(), ids=lambda call: call.name)
def test_parse_when_recorded_call_then_understood_as_it_was(call: Sample) -> None:
    """Every recorded call gives its action, its target, what it says and what it means."""
    report = parse(call.args, call.stdin)
    expected_action = call.name.rsplit("-", 1)[1]
    if call.name.startswith("advanced"):
        expected_action = json.loads(call.stdin)["action"]
    assert expected_action == report.action
    assert EXPECTED.get(call.name, MANUAL) == derived(report)
    if call.args and not call.name.startswith("advanced"):
        address, direction, pps, _ = call.args
        assert (direction, int(pps)) == (report.reported.direction, report.reported.pps)
        assert (":" in address) == (":" in str(report.target))
    if call.stdin and not call.name.startswith(("advanced", "1.2.4-redis", "1.2.9-redis")):
        assert f"Attack type: {report.reported.attack_type}\n".encode() in call.stdin
        assert f"Attack protocol: {report.reported.protocol}\n".encode() in call.stdin
        assert report.dialect == ("community-a" if "1.2.4" in call.name else "community-b")
        assert call.stdin.count(b" sample ratio: ") == report.packets
        assert call.stdin.count(b" packets\n") == report.flows
        head = call.stdin.decode().split("\n")
        for way in ("incoming", "outgoing"):
            pps_line = f"Total {way} pps: {report.counters[way]['total'].pps} packets per second"
            assert pps_line in head


def test_parse_when_recorded_head_then_all_its_counters() -> None:
    """A whole head of each dialect, figure by figure."""
    report = parse(*_call("1.2.4-udp-fragments-ban"))
    table = {way: {k: (c.pps, c.bps) for k, c in r.items()} for way, r in report.counters.items()}
    million = 1_000_000
    assert table == {
        "incoming": {
            "total": (247, million),
            "tcp": (0, 0),
            "tcp_syn": (0, 0),
            "udp": (247, million),
            "icmp": (0, 0),
            "fragmented": (247, million),
            "dropped": (None, None),
        },
        "outgoing": {
            "total": (1, 0),
            "tcp": (0, 0),
            "tcp_syn": (0, 0),
            "udp": (0, 0),
            "icmp": (1, 0),
            "fragmented": (0, 0),
            "dropped": (None, None),
        },
    }
    assert report.counters["incoming"]["total"].flows == 128
    assert report.counters["incoming"]["udp"].flows is None


def _call(name: str) -> tuple[tuple[str, ...], bytes]:
    call = sample(name)
    return call.args, call.stdin


def test_parse_when_document_and_any_arguments_then_arguments_do_not_matter() -> None:
    """Advanced's arguments are obsolete: whatever stands there, the document is the event."""
    stdin = json.dumps(payload("advanced-host-ban")).encode()
    expected = parse((), stdin)
    for args in (["unban", "192.0.2.99"], ["192.0.2.99", "x", "1", "unban"], ["\udcff"] * 9):
        assert expected == parse(args, stdin)


@pytest.mark.parametrize(
    "stdin", [b'{"action": "ban"', b'{"a":' + b"[" * 100_000, b'{"action": "ban", "ip": "' * 2]
)
def test_parse_when_document_is_broken_then_arguments_suffice(stdin: bytes) -> None:
    """A cut or hostile document does not cost an event that the arguments also tell."""
    report = parse(["ban", "192.0.2.1"], stdin)
    assert (report.action, str(report.target), report.dialect) == ("ban", "192.0.2.1", "advanced")
    assert no_counters() == report.counters
    report = parse(["192.0.2.1", "incoming", "7", "unban"], stdin)
    assert (report.action, report.reported.pps, report.dialect) == ("unban", 7, "community")
    with pytest.raises(NotUnderstoodError, match="stdin starts like a JSON object"):
        parse([], stdin)


def test_parse_when_same_attack_in_every_form_then_same_judgement() -> None:
    """One SYN flood of a closed port is judged alike from both texts and from JSON."""
    speeds = {
        "incoming": {"total": 500, "tcp": 500, "tcp_syn": 500},
        "outgoing": {"total": 500, "tcp": 500},
    }
    document = {
        "action": "ban",
        "ip": "192.0.2.10",
        "attack_details": {
            "total_incoming_pps": 500,
            "total_outgoing_pps": 500,
            "incoming_tcp_pps": 500,
            "outgoing_tcp_pps": 500,
            "incoming_syn_tcp_pps": 500,
            "outgoing_syn_tcp_pps": 0,
        },
    }
    args = ["192.0.2.10", "outgoing", "500", "ban"]
    for stdin in (
        text_report(dialect="a", speeds=speeds),
        text_report(dialect="b", speeds=speeds),
        json.dumps(document),
    ):
        assert derived(parse(args, stdin.encode())) == "incoming syn_flood tcp"


@pytest.mark.parametrize(
    "stdin",
    [
        b"\n" * 10 * 2**20,
        b"1:" * 5 * 2**20,
        b"\n2026-11-21 02:44:59 1:" * 400_000,
        (b"\n" + b"a" * 64 + b":1 < " + b"b" * 64 + b":1 5 bytes") * 70_000,
        b'{"a":' * 2 * 2**20,
        b'{"action":"ban","ip":"192.0.2.1","packet_dump_detailed":[' + b"{}," * 3_000_000 + b"1]}",
        b"\xff" * 10 * 2**20,
    ],
    ids=["lines", "colons", "dates", "flows", "deep", "objects", "bytes"],
)
@pytest.mark.timeout(60)
def test_parse_when_ten_mebibytes_of_anything_then_the_event(stdin: bytes) -> None:
    """Size and shape of stdin cannot hold the hub up; the event in the arguments survives."""
    report = parse(["192.0.2.1", "incoming", "5", "ban"], stdin)
    assert str(report.target) == "192.0.2.1"


def test_parse_when_report_is_large_then_every_line_counted() -> None:
    """1000 records per dump are 200 kB, and all of them count."""
    dump = packet_line("198.51.100.1", "192.0.2.10", "udp") * 2000
    text = text_report(dialect="b", speeds={}, dump=dump)
    flow = "192.0.2.10:53 < 198.51.100.1:3126 1242 bytes 1 packets\n"
    report = parse(["192.0.2.10", "incoming", "5", "ban"], (text + flow * 2002).encode())
    assert (report.packets, report.flows) == (2000, 2002)


ARGS = st.one_of(
    st.lists(st.text(max_size=12), max_size=5),
    st.tuples(
        st.sampled_from(["192.0.2.10", "2001:0db8:000b::0010", ":0001", "0.0.0.0", "x"]),
        st.sampled_from(["incoming", "outgoing", "other", "\udcff"]),
        st.sampled_from(["0", "319", "-1", "x"]),
        st.sampled_from(["ban", "unban", "attack_details", "attack_status", "x"]),
    ),
    st.tuples(st.sampled_from(["ban", "unban", "partial_block"]), st.just("192.0.2.10")),
)
STDIN = st.one_of(
    st.binary(max_size=400),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.one_of(
                    st.sampled_from(sorted(payload("advanced-partial_block"))),
                    st.sampled_from(sorted(payload("advanced-host-ban")["attack_details"])),
                    st.text(max_size=8),
                ),
                inner,
                max_size=8,
            ),
        ),
        max_leaves=20,
    ).map(lambda value: json.dumps(value).encode()),
)


@given(ARGS, STDIN)
@example(["192.0.2.10", "incoming", "5", "ban"], b"{}")
def test_parse_when_any_input_then_report_or_not_understood(args: list[str], stdin: bytes) -> None:
    """Nothing but a report or a refusal comes out, and a report always prints and encodes."""
    try:
        report = parse(args, stdin)
    except NotUnderstoodError as refusal:
        reason = str(refusal)
    else:
        reason = ""
        text = json.dumps(report_view(report), ensure_ascii=False, allow_nan=False)
        assert text.encode()
        assert report.scope == "hostgroup" or report.target or report.flow_spec_rules
    assert reason.isprintable()
