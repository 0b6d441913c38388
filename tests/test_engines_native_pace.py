# SPDX-License-Identifier: Apache-2.0
"""What is hostile under `splice`: told by the pace of single reasons, not by sums alone."""

from typing import Any

import pytest

from hub.engines.native.answers import measured, rates_of
from hub.engines.native.pace import Pace
from tests.support.engines import FakeClock


def listed(age_ms: int, name: str = "m-1", **packets: int) -> dict[str, Any]:
    """Return a list with one mitigation that has counted these."""
    one = {"id": name, "revision": 1, "kind": "tcp", "mode": "splice", "target": "192.0.2.7/32",
           "expires_ms": 1000, "age_ms": age_ms, "packets": packets, "rates": {}}  # fmt: skip
    return {"mitigations": [one]}


def test_pace_when_looked_at_again_then_what_has_grown_since(clock: FakeClock) -> None:
    """At first since it began; a look too soon after shows the same; what is over is forgotten."""
    pace = Pace(clock)
    assert pace.look(listed(4000, splice_open=80)) == {"m-1": {"splice_open": 20}}
    clock.now += 0.1
    assert pace.look(listed(4100, splice_open=180)) == {"m-1": {"splice_open": 20}}
    clock.now += 1.9
    again = pace.look(listed(6000, splice_open=280, splice_refused=6))
    assert again == {"m-1": {"splice_open": 100, "splice_refused": 3}}
    clock.now += 1
    assert pace.look(listed(7000, splice_open=4)) == {"m-1": {"splice_open": 0}}
    assert pace.look(listed(0, "m-2", splice_open=4)) == {"m-2": {}}


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that only a test moves."""
    return FakeClock()


def test_rates_when_clients_are_spliced_then_none_of_it_is_hostile() -> None:
    """5,000 clients a second: a cookie, the server's answer, first data that is kept."""
    said = {"answered_pps": 10_000, "cookie_sent_pps": 5000, "dropped_pps": 5500}
    pace = {"splice_open": 5000, "splice_held": 5000, "splice_early": 500}
    rates = rates_of(said, {}, pace)
    assert (rates.hostile_pps, rates.cookie_good_pps, rates.dropped_pps) == (0, 5000, 5500)


def test_rates_when_a_flood_meets_closed_ports_then_refusals_do_not_hide_it() -> None:
    """Every answer to it is an answer; none of it was proven."""
    said = {"answered_pps": 90_000, "cookie_sent_pps": 40_000, "dropped_pps": 0}
    rates = rates_of(said, {}, {"splice_open": 10, "splice_refused": 49_990})
    assert rates.hostile_pps == 39_990 + 49_990
    assert rates.cookie_good_pps == 10


def test_rates_when_a_proven_client_floods_before_the_server_answers_then_hostile() -> None:
    """More than a first window of segments is not what a client sends."""
    said = {"answered_pps": 20, "cookie_sent_pps": 10, "dropped_pps": 70_000}
    pace = {"splice_open": 10, "splice_held": 10, "splice_early": 69_990}
    assert rates_of(said, {}, pace).hostile_pps == 70_000 - 100


def test_measured_when_paces_are_known_then_each_mitigation_has_its_own() -> None:
    """By id."""
    answer = listed(1000)
    answer["mitigations"][0]["rates"] = {"answered_pps": 30, "cookie_sent_pps": 10}
    assert measured(answer, {"m-1": {"splice_refused": 20}})["m-1"].hostile_pps == 10 + 20
    assert measured(answer, {"m-2": {"splice_refused": 20}})["m-1"].hostile_pps == 0
