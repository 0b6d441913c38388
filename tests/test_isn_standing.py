# SPDX-License-Identifier: Apache-2.0
"""When ISN sync is entered, left and entered again: by probes, and by nothing else."""

from dataclasses import replace

import pytest

from hub.isn_sync.evidence import Finding
from hub.isn_sync.standing import SILENCE, Address

MATCH = Finding(
    verdict="match",
    why="",
    scheme="flow",
    count=7,
    cookie_floor_ms=None,
    cookie_ceil_ms=None,
    timestamp_floor_ms=None,
    timestamp_ceil_ms=None,
    syn_ack=None,
)
MISMATCH = replace(MATCH, verdict="mismatch", why="another cookie")
CLOSED = replace(MATCH, verdict="closed", why="nothing listens")
SILENT = replace(MATCH, verdict="silent", why="no answer")
PLAIN = replace(MATCH, verdict="no_cookie", why="a plain sequence number")


def address(*ports: int, wanted: bool = True) -> Address:
    """Return an address with these ports, at the time 0."""
    made = Address(good_probes=3)
    made.expect(ports)
    if wanted:
        made.want(0.0)
    return made


def state(one: Address) -> str:
    """Return its state now; it changes behind the type checker's back."""
    return one.state


def note(one: Address, port: int, finding: Finding, now: float) -> bool:
    """Take in a probe at a time that is monotonic and of the wall alike."""
    return one.note(port, finding, now, now)


def test_address_when_every_open_port_matches_then_proven() -> None:
    """One match each; a closed port has nobody to harm."""
    one = address(80, 443, 8080)
    assert not note(one, 80, MATCH, 1)
    assert not note(one, 443, CLOSED, 1)
    assert "8080: not probed yet" in one.why
    assert note(one, 8080, MATCH, 1)
    assert (one.state, one.why) == ("proven", "")


def test_address_when_nothing_listens_then_not_proven() -> None:
    """Nothing has shown that our cookies are right."""
    one = address(80)
    note(one, 80, CLOSED, 1)
    assert (one.state, one.why) == ("unknown", "every port is closed")


@pytest.mark.parametrize("finding", [MISMATCH, PLAIN])
def test_address_when_it_mismatches_twice_in_a_row_then_left_at_once(finding: Finding) -> None:
    """One may be an accident; a match between two begins anew."""
    one = address(80, 443)
    note(one, 443, MATCH, 1)
    note(one, 80, MATCH, 1)
    assert not note(one, 80, finding, 2)
    assert not note(one, 80, MATCH, 3)
    assert not note(one, 80, finding, 4)
    assert state(one) == "proven"
    assert note(one, 80, finding, 5)
    assert state(one) == "left"
    assert one.since == 5
    assert one.why.startswith("port 80: ")


def test_address_when_silent_then_left_after_a_hundred_seconds() -> None:
    """The server's window of 120 s must not close before."""
    one = address(80, 443)
    note(one, 80, MATCH, 10)
    note(one, 443, MATCH, 10)
    for now in range(20, 111, 10):
        note(one, 443, MATCH, now)
        note(one, 80, SILENT, now)
        assert state(one) == "proven", now
    assert one.judge(10 + SILENCE + 1, 0)
    assert state(one) == "left"
    assert "no good probe for 101 s" in one.why


def test_address_when_never_proven_though_wanted_then_left_after_a_hundred_seconds() -> None:
    """After a restart of the hub what is in force is not left alone for ever."""
    one = address(80)
    note(one, 80, SILENT, 5)
    assert not one.judge(SILENCE, 0)
    assert one.judge(SILENCE + 1, 0)
    assert state(one) == "left"


def test_address_when_left_then_back_after_three_good_rounds() -> None:
    """One mismatch begins the count anew; meanwhile it is shown as returning."""
    one = address(80, 443)
    for now in (1, 2):
        note(one, 80, MISMATCH, now)
    assert state(one) == "left"
    for now in (3, 4):
        note(one, 80, MATCH, now)
        note(one, 443, MATCH, now)
        assert one.word == "returning"
    note(one, 443, SILENT, 5)
    assert not note(one, 80, MATCH, 5)
    for now in (6, 7):
        assert not note(one, 443, MATCH, now)
    assert note(one, 443, MATCH, 8)
    assert state(one) == "proven"


def test_address_in_peace_when_the_server_sends_no_cookies_then_nothing_is_wrong() -> None:
    """Only an engaged server has to."""
    one = address(80, wanted=False)
    for now in range(0, 1000, 25):
        note(one, 80, PLAIN, now)
        one.judge(now, now)
    assert state(one) == "unknown"
    one.want(1000)
    assert note(one, 80, MATCH, 1001)
    one.unwant()
    for now in range(1002, 2000, 25):
        note(one, 80, PLAIN, now)
        one.judge(now, now)
    assert state(one) == "unknown"


def test_address_when_the_keys_are_new_then_it_must_be_proven_again() -> None:
    """And has its hundred seconds from then on."""
    one = address(80)
    note(one, 80, MATCH, 1)
    note(one, 80, MISMATCH, 90)
    one.restart("the server's keys are new", 90)
    assert state(one) == "unknown"
    assert not note(one, 80, MISMATCH, 91)
    assert not one.judge(189, 0)
    assert note(one, 80, MATCH, 190)


def test_ports_when_expected_anew_then_what_is_known_of_the_rest_stays() -> None:
    """A port that is not protected any more decides nothing."""
    one = address(80, 443)
    note(one, 80, MATCH, 1)
    note(one, 443, SILENT, 1)
    one.expect((80,))
    assert one.judge(2, 2)
    assert state(one) == "proven"
