# SPDX-License-Identifier: Apache-2.0
"""The short past of what engines count: by hand, and against the kernel's own counters."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.engines.native.reasons import Reason, Verdict
from hub.engines.nftables.telemetry import NAMES, STATISTICS
from hub.engines.verdicts import verdict_of, words_of
from hub.history import VERDICTS, History
from tests.support.hub_process import HubProcess, until
from tests.support.netns import inside, run

TARGET = "192.0.2.10"


def engine(history: History, now: float) -> dict[str, Any]:
    """Return what is remembered of the only engine."""
    (one,) = history.view(now)["engines"]
    assert isinstance(one, dict)
    return one


def test_take_when_asked_twice_then_what_came_in_between() -> None:
    """The first look shows nothing; each further one what has been counted since."""
    history = History(verdict_of)
    history.take("native", {"cookie_sent": 1000, "acl_drop": 5, "work.samples": 9}, 100.0)
    assert engine(history, 100.0)["time"] == []
    history.take("native", {"cookie_sent": 1200, "acl_drop": 5, "work.samples": 99}, 105.0)
    history.take("native", {"cookie_sent": 1200, "acl_drop": 8, "known_flow": 2}, 112.0)
    assert engine(history, 112.0) == {
        "name": "native",
        "time": [105.0, 112.0],
        "seconds": [5.0, 7.0],
        "pass": [0, 2],
        "answer": [200, 0],
        "drop": [0, 3],
        "packets": {"acl_drop": [0, 3], "cookie_sent": [200, 0], "known_flow": [0, 2]},
    }


def test_take_when_counters_begin_anew_then_what_came_since() -> None:
    """A table that was made anew makes no negative and no enormous count."""
    history = History(verdict_of)
    history.take("nftables", {"acl.dropped": 500}, 100.0)
    history.take("nftables", {"acl.dropped": 3}, 105.0)
    assert engine(history, 105.0)["drop"] == [3]


def test_take_when_it_is_long_ago_then_forgotten() -> None:
    """Memory is bounded by the span, also while nothing comes any more."""
    history = History(verdict_of, span=20.0)
    for second in range(0, 100, 5):
        history.take("native", {"acl_drop": second}, float(second))
    assert engine(history, 95.0)["time"] == [80.0, 85.0, 90.0, 95.0]
    assert len(history._engines["native"].samples) == 4
    assert engine(history, 108.0)["time"] == [90.0, 95.0]
    assert engine(history, 200.0)["packets"] == {}


def test_take_when_no_time_has_passed_then_nothing_is_lost() -> None:
    """Two looks at one moment are one; what came counts for the next."""
    history = History(verdict_of)
    history.take("native", {"acl_drop": 1}, 10.0)
    history.take("native", {"acl_drop": 2}, 10.0)
    history.take("native", {"acl_drop": 4}, 11.0)
    assert engine(history, 11.0)["drop"] == [3]


def test_take_when_an_engine_counts_no_packets_then_it_is_not_there() -> None:
    """A webhook counts messages, which have no verdict."""
    history = History(verdict_of)
    history.take("oncall", {"sent": 1}, 1.0)
    assert history.view(2.0) == {"span": 900.0, "engines": []}


def test_verdict_when_a_counter_is_a_reason_then_as_the_program_says() -> None:
    """Every reason has a verdict and words; what the daemon itself counts has none."""
    said = {Verdict.PASS: "pass", Verdict.TX: "answer", Verdict.DROP: "drop"}
    for reason in Reason:
        assert verdict_of(reason.word) == said[reason.verdict]
        assert words_of(reason.word) == reason.words
    assert {verdict_of(reason.word) for reason in Reason} == set(VERDICTS)
    for other in ("work.samples", "held.flows", "sent", "cookie", ""):
        assert (verdict_of(other), words_of(other)) == (None, "")


def test_verdict_when_nftables_counts_a_packet_twice_then_it_has_one() -> None:
    """An ACK is counted when it comes to the proxy and again by what became of it."""
    counters = {*NAMES.values(), *STATISTICS.values()}
    judged = {name for name in counters if verdict_of(name)}
    again = {"tcp.ack_packets", "tcp.cookie_retransmits", "tcp.reopened", "sorb.blocked"}
    assert counters - judged == again
    assert all(words_of(name) for name in judged)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """Run a hub in whose namespace the target is this machine."""
    made = HubProcess(tmp_path)
    with made:
        run("ip", "-n", made.namespace, "address", "add", f"{TARGET}/32", "dev", "lo")
        yield made


def kernel_counter(hub: HubProcess, name: str) -> int:
    """Return the packets of a counter as nft tells them."""
    argv = ("ip", "netns", "exec", hub.namespace, "nft", "-j", "list", "counters")
    objects = json.loads(run(*argv))["nftables"]
    found = [
        one["counter"]["packets"] for one in objects if one.get("counter", {}).get("name") == name
    ]
    return sum(found)


def test_history_when_packets_are_dropped_then_it_is_the_kernels_own_count(
    hub: HubProcess,
) -> None:
    """What `/v1/history` adds up to is what nft has counted."""
    hub.send("ban", udp=True)
    until("active", hub.active)
    until("looked at once", lambda: hub.get("/v1/history")["engines"])

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(2000):
                sender.sendto(b"x", (TARGET, 9))

    inside(hub.namespace, flood)
    dropped = kernel_counter(hub, "sorb_dropped")
    assert dropped > 1000

    def seen() -> bool:
        (one,) = hub.get("/v1/history")["engines"]
        return bool(sum(one["drop"]) == dropped)

    until("in the history", seen)
    status, history = hub.request("GET", "/v1/history")
    assert status == http.client.OK
    (one,) = history["engines"]
    assert one["name"] == "nftables"
    assert sum(one["packets"]["sorb.dropped"]) == dropped
    assert {len(one[key]) for key in ("time", "seconds", *VERDICTS)} == {len(one["time"])}
    assert history["now"] >= one["time"][-1]
