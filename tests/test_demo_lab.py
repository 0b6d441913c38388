# SPDX-License-Identifier: Apache-2.0
"""The lab that scripts/demo tells its story in: namespaces, floods, visitor, FastNetMon."""

import asyncio
import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from ipaddress import ip_address
from pathlib import Path

import pytest

from hub.clock import SystemClock
from hub.intake.envelope import decode
from scripts.lab import counters, parts, place
from scripts.lab.client import PAGE, fetch
from scripts.lab.commands import LabError, started, wait_until
from scripts.lab.counters import Count
from scripts.lab.demo import build
from scripts.lab.engines import Nftables
from scripts.lab.floods import FLOODS, Flood, raging
from scripts.lab.gateway import gates
from scripts.lab.network import NODES, SERVER, Network
from scripts.lab.parts import Lab
from scripts.lab.story import Outcome, Pace, Story
from scripts.lab.table import table, verdicts
from scripts.lab.timeline import Timeline
from scripts.lab.visits import Served, Visits


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Make a lab without programs, and remove all of it afterwards."""
    folder = place.create()
    network = Network(place.tag(folder))
    try:
        with network:
            yield Lab(folder, network)
    finally:
        place.remove(folder)


def _namespaces(network: Network) -> list[str]:
    return [node for node in NODES if Path("/run/netns", network.namespace(node)).exists()]


def test_network_when_a_packet_is_for_elsewhere_then_it_has_no_way_out(lab: Lab) -> None:
    """Whatever the attacker sends, no packet can leave the lab's namespaces."""
    for elsewhere in ("203.0.113.200", "192.0.2.1"):
        assert "dev" in lab.network.run("internet", "ip", "route", "get", elsewhere)

    with pytest.raises(LabError):
        lab.network.run("internet", "ip", "route", "get", "100.64.0.1")


def test_network_when_taken_down_twice_then_nothing_is_left_and_nothing_fails(lab: Lab) -> None:
    """Removing a lab ends what runs in it, whoever started it, and may be repeated."""
    command = lab.network.command("server", "sleep", "60")
    with started("sleep", command, log=lab.logs / "sleep.log") as process:
        lab.network.down()
        process.popen.wait(5)
        lab.network.down()

    assert _namespaces(lab.network) == []


def test_network_when_building_fails_then_nothing_is_left(lab: Lab) -> None:
    """A lab that cannot be built whole leaves no half behind."""
    other = Network(f"{lab.network.tag}x")
    subprocess.run(["ip", "netns", "add", other.namespace("server")], check=True)

    with pytest.raises(LabError, match="exit status"), other:
        pytest.fail("it was built over a namespace that was there before")

    assert _namespaces(other) == []


def test_visitor_when_the_server_serves_then_every_page_is_counted(lab: Lab) -> None:
    """The legitimate client gets pages from the real web server through the gateway."""
    with parts.web_server(lab), parts.visitor(lab) as visitor:
        visits = Visits(lab.visits)
        wait_until("ten visits", lambda: visits.between(0, 1e12).asked >= 10, seconds=20)
        assert visitor.running

    served = visits.between(0, 1e12)
    assert served.answered == served.asked
    assert visits.errors(0, 1e12) == []


def test_visitor_when_nobody_serves_then_it_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that gets no page makes the lab fail, with the place of its notes."""
    monkeypatch.setattr(parts, "READY", 1.0)

    with pytest.raises(LabError, match="client is ready") as raised, parts.visitor(lab):
        pytest.fail("it counted a page that nobody served")

    assert raised.value.where == str(lab.visits)


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: str(flood.key))
def test_flood_when_it_rages_then_it_is_counted_and_ends_by_itself(lab: Lab, flood: Flood) -> None:
    """Each attack is bounded, hits the server only, and is counted at both ends."""
    counters.install(lab.network)
    with raging(lab.network, flood, lab.logs, 0.5) as processes:
        for process in processes:
            process.popen.wait(20)

    seen = counters.count(lab.network, flood.key)
    assert len(processes) * round(0.5 * flood.pps) == seen.sent
    # An eighth of all invented addresses is never forwarded (multicast and loopback sources).
    assert 0.7 * seen.sent < seen.arrived <= seen.sent


def test_fastnetmon_when_flooded_then_it_calls_fnm_notify(lab: Lab) -> None:
    """The packaged FastNetMon sees the flood and calls the script, which keeps the event."""
    spool = lab.place / "spool"
    spool.mkdir()
    with (
        parts.web_server(lab),
        parts.fastnetmon(lab),
        raging(lab.network, FLOODS[0], lab.logs, 10.0),
    ):
        wait_until("a spooled event", lambda: any(spool.glob("*.json")), seconds=15)

    envelope = decode(next(iter(sorted(spool.glob("*.json")))).read_bytes())
    assert (envelope.args[0], envelope.args[3]) == (SERVER, "ban")
    assert envelope.detector == "gateway"
    assert envelope.stdin.startswith(f"IP: {SERVER}\n".encode())


def test_syn_flood_when_real_then_it_is_seen_met_and_forgotten(lab: Lab) -> None:
    """From a real flood over the real FastNetMon to a real countermeasure, and back to calm."""
    # The shipped rules, but protection lingers for a second instead of half a minute.
    rules = lab.place / "rules.yaml"
    rules.write_text(parts.SHIPPED_RULES.read_text().replace("linger: 30s", "linger: 1s"))
    clock, said = SystemClock(), StringIO()
    timeline = Timeline(clock, said)
    outcome = Outcome(FLOODS[0])
    with ExitStack() as stack:
        engine = Nftables()
        watch = build(lab, stack, timeline, clock, rules=rules, engine=engine)
        Story(lab, engine, watch, timeline, clock=clock, pace=Pace(calm=2.0, flood=5.0)).attack(
            outcome
        )

    assert outcome.finished, said.getvalue()
    assert outcome.protected is not None
    assert outcome.protected.arrived <= 0.1 * outcome.protected.sent
    assert outcome.during is not None
    assert outcome.during.percent >= 90, said.getvalue()


def test_gateway_when_only_learned_flows_are_left_then_no_gate_is_open(lab: Lab) -> None:
    """A gateway without the hub's table, or with empty gates, counts as clean again."""
    assert gates(lab.network) == {}

    hub_table = (
        "table inet fnm_hub {\nchain work { }\n"
        f"set known4 {{ type ipv4_addr; elements = {{ {SERVER} }}; }}\n"
        "map empty { type ipv4_addr : verdict; }\n"
        f"map full {{ type ipv4_addr : verdict; elements = {{ {SERVER} : goto work }}; }}\n}}"
    )
    lab.network.run("gateway", "nft", "-f", "-", stdin=hub_table)

    found = gates(lab.network)
    assert list(found) == ["full"]
    assert SERVER in found["full"]


def test_place_when_claimed_then_nobody_else_can_claim_it(lab: Lab) -> None:
    """A lab in use is not removed under the feet of a running demo."""
    assert lab.place in place.existing()
    with place.in_use(lab.place) as first, place.in_use(lab.place) as second:
        assert (first, second) == (True, False)
    with place.in_use(lab.place) as again:
        assert again


def test_hub_settings_when_made_then_they_protect_the_server_for_real(lab: Lab) -> None:
    """The lab's hub is not in dry-run, and the attacked server is its own."""
    settings = parts.hub_settings(lab)

    assert settings["dry_run"] is False
    assert [f"{SERVER}/32"] == settings["services"][0]["prefixes"]


async def test_visitor_when_its_first_connection_is_reset_then_it_tries_once_more() -> None:
    """As browsers do, and it is told; a second reset is an error."""
    resets = list[bool]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if resets.pop(0):
            # Without a lingering close the peer gets RST.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            writer.write(f"HTTP/1.1 200 OK\r\n\r\n{PAGE}".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        resets += [False, True, False, True, True]
        assert await fetch("127.0.0.1", port) == (None, False)
        assert await fetch("127.0.0.1", port) == (None, True)
        error, retried = await fetch("127.0.0.1", port)
    assert retried
    assert "reset" in str(error)
    assert resets == []


def test_verdicts_when_the_engine_counts_them_then_each_floods_shares() -> None:
    """One line a flood, the largest share first; floods without a count have none."""
    counted = Outcome(FLOODS[0], verdicts={"cookie_bad": 1, "cookie_sent": 999, "grace": 0})
    said = verdicts([counted, Outcome(FLOODS[1])])
    assert said == "SYN flood, 1,000 packets judged: cookie_sent 99.90 %, cookie_bad 0.10 %"


def test_visits_when_counted_over_a_span_then_only_that_span_counts(tmp_path: Path) -> None:
    """Served pages are counted by when the visit began, half-written lines not at all."""
    notes = tmp_path / "client.jsonl"
    errors = (None, None, "no whole answer within 4 s", None)
    text = "".join(
        json.dumps({"at": float(at), "ms": 2.0 + at, "error": error}) + "\n"
        for at, error in enumerate(errors)
    )
    notes.write_text(text + '{"at": 3.5')
    visits = Visits(notes)

    assert Served(asked=3, answered=2, median_ms=4.0, worst_ms=5.0) == visits.between(1, 4)
    assert [visit.at for visit in visits.errors(0, 10)] == [2.0]

    notes.write_text(text + '{"at": 3.5, "ms": 1.0, "error": null}\n')
    assert visits.between(1, 4).asked == 4


def test_table_when_attacks_are_unfinished_then_it_fits_and_says_so() -> None:
    """The final table fits 80 columns and never shows a figure that was not measured."""
    done = Outcome(FLOODS[0], 0.9, 38.2, Count(1800, 1700), Count(22_000, 3), finished=True)
    stopped = Outcome(FLOODS[1], 1.2, broken=["every countermeasure is off: did not happen"])
    text = table([done, stopped, Outcome(FLOODS[2])])

    assert max(len(line) for line in text.splitlines()) <= 80
    rows = {line[:32].strip(): line[32:].split() for line in text.splitlines()}
    assert rows["result"] == ["ok", "FAILED", "not", "finished"]
    assert rows["notify to active"] == ["38", "ms", "-", "-"]


def test_floods_when_listed_then_all_aim_at_the_server_from_reserved_or_invented_sources() -> None:
    """No flood of the lab can be aimed at anything but its own server."""
    for flood in FLOODS:
        for command in flood.commands(1.0):
            assert command[-1] == SERVER
            assert str(round(flood.pps)) == command[command.index("-c") + 1]
        for sender in flood.senders or ():
            assert ip_address(sender).is_private
