# SPDX-License-Identifier: Apache-2.0
"""What is known of a server: keys that change, clocks that lie, listeners that differ."""

from dataclasses import replace
from ipaddress import ip_address

from hub.engines.native.keys import SynAck
from hub.isn_sync.evidence import Finding
from hub.isn_sync.known import Known, careful
from hub.isn_sync.report import Report

WEB = ip_address("192.0.2.10")
WEB6 = ip_address("2001:db8::10")
COOKIE, COOKIE6, NET = bytes(range(32)), bytes(range(1, 33)), bytes(range(16))
REPORT = Report(
    kind="fnm-agent",
    boot_id="first",
    cookie=COOKIE,
    net=NET,
    jiffies=1_500_000,
    hz=250,
    cookie_ms=6_000_000,
    timestamp_ms=5_000,
    syncookies=2,
)
MATCH = Finding("match", scheme="flow", syn_ack=SynAck(wscale=9))


def known(report: Report = REPORT, at: float = 100.0) -> Known:
    """Return what is known after one answer of the agent and one good probe."""
    made = Known()
    made.take_report(report, at - 0.004, at, 1_764_000_000.0)
    assert made.take_finding(MATCH, (WEB, 80), at) == []
    return made


def bounds(floor: int, ceil: int) -> Finding:
    """Return a match whose cookie says that the clock lies between these, ms."""
    return replace(MATCH, cookie_floor_ms=floor, cookie_ceil_ms=ceil)


def test_keys_when_all_is_known_then_they_hold_for_a_moment_of_ours() -> None:
    """Clocks go on between polls, a little too slow rather than too fast."""
    keys = known().keys(WEB, (80,), 110.0)
    assert keys is not None
    assert keys.secrets.cookie == COOKIE
    assert keys.secrets.timestamp_scheme == "flow"
    assert keys.secrets.timestamp == NET
    assert keys.syn_ack.wscale == 9
    assert keys.clock.monotonic_ms == 110_000
    assert 6_009_990 <= keys.clock.cookie_ms <= 6_010_000
    assert 14_990 <= keys.clock.timestamp_ms <= 15_000


def test_keys_when_something_lacks_then_none() -> None:
    """No guess: no secret of the family, no port probed, no clock."""
    made = known()
    assert made.keys(WEB, (443,), 100.0) is None
    assert made.keys(WEB6, (80,), 100.0) is None
    assert "syncookie6_secret" in made.lacks(WEB6)
    assert made.keys(WEB, (80,), 100.0 + 301) is None
    assert Known().keys(WEB, (80,), 100.0) is None
    assert "has not answered" in Known().lacks(WEB)


def test_server_when_it_starts_anew_then_all_is_forgotten() -> None:
    """Another boot, or another secret under the same boot."""
    for changes in ({"boot_id": "second"}, {"cookie": COOKIE[::-1]}, {"net": NET[::-1]}):
        made = known()
        again = replace(REPORT, **changes, jiffies=0, cookie_ms=0, timestamp_ms=1)
        assert made.take_report(again, 120.0, 120.0, 0.0)
        assert made.scheme is None
        assert made.cookie_ms(120.0) == 0
        assert made.keys(WEB, (80,), 120.0) is None


def test_secret_when_used_for_the_first_time_then_it_is_no_other_server() -> None:
    """A secret that was all zero has no past."""
    made = known(replace(REPORT, cookie=None))
    assert not made.take_report(REPORT, 110.0, 110.0, 0.0)
    assert made.keys(WEB, (80,), 110.0) is not None


def test_clock_when_the_agent_lies_then_the_servers_own_answer_counts() -> None:
    """A wrong clock of the agent is said once and not believed again while it stays wrong."""
    made = known()
    (jump,) = made.take_finding(bounds(6_300_000, 6_359_999), (WEB, 80), 101.0)
    assert jump.ms > 290_000
    assert made.cookie_ms(101.0) == 6_300_000
    assert made.take_finding(bounds(6_300_000, 6_359_999), (WEB, 80), 102.0) == []
    made.take_report(replace(REPORT, cookie_ms=6_003_000), 103.0, 103.0, 0.0)
    assert (made.cookie_ms(103.0) or 0) > 6_301_000


def test_clock_when_the_server_was_asleep_then_the_agent_is_believed_again() -> None:
    """What the agent says fits what the server shows."""
    made = known()
    made.take_finding(bounds(6_300_000, 6_359_999), (WEB, 80), 101.0)
    made.take_report(replace(REPORT, cookie_ms=6_330_000), 102.0, 102.0, 0.0)
    assert made.cookie_ms(102.0) == 6_330_000


def test_clock_when_a_cookie_tells_less_than_the_agent_then_it_stays() -> None:
    """A minute is a coarse clock: it must not push the exact one out."""
    made = known()
    for second in range(20):
        floor = (6_000_000 + 1000 * second) // 60_000 * 60_000
        made.take_finding(bounds(floor, floor + 59_999), (WEB, 80), 100.0 + second)
    assert (made.cookie_ms(119.0) or 0) >= 6_018_990


def test_clock_when_it_is_the_wall_clock_and_ours_is_wrong_then_probes_correct_it() -> None:
    """An agent that tells no time: our own clock is taken until a cookie contradicts it."""
    report = Report(kind="isn_sync", cookie=COOKIE, ts=NET, cookie_clock="utc")
    made = Known()
    made.take_report(report, 0.0, 0.0, 1_764_000_000.0)
    assert made.cookie_ms(0.0) == 1_764_000_000_000
    floor = 1_764_000_300_000 // 60_000 * 60_000
    assert len(made.take_finding(bounds(floor, floor + 59_999), (WEB, 80), 1.0)) == 1
    made.take_report(report, 2.0, 2.0, 1_764_000_002.0)
    assert floor <= (made.cookie_ms(2.0) or 0) <= floor + 60_000


def test_tcpsecrets_when_polled_twice_then_its_ticks_are_known() -> None:
    """That format leaves HZ out."""
    first = Report(kind="tcpsecrets", cookie=COOKIE, ts=NET, jiffies=1_000_000, timestamp_ms=0)
    made = Known()
    made.take_report(first, 0.0, 0.0, 0.0)
    assert made.cookie_ms(0.0) is None
    made.take_report(replace(first, jiffies=1_002_500, timestamp_ms=10_000), 10.0, 10.0, 0.0)
    assert made.cookie_ms(10.0) == 4_010_000
    made.take_report(replace(first, jiffies=1_002_750, timestamp_ms=11_000), 11.0, 11.0, 0.0)
    assert made.cookie_ms(11.0) == 4_011_000


def test_options_when_listeners_differ_then_what_all_of_them_keep() -> None:
    """A window that is announced too large loses data; too small it is only slow."""
    one = SynAck(wscale=7, window=65160, mss4=1460, sack=True, timestamps=True, ecn=True, ttl=63)
    other = SynAck(wscale=3, window=4000, mss4=1400, sack=True, timestamps=True, ecn=False, ttl=62)
    both = careful([one, other])
    assert both == SynAck(wscale=3, window=4000, mss4=1400, ecn=False, ttl=62)
    assert careful([one, replace(other, wscale=None)]).wscale is None
    assert careful([one]) == one


def test_secrets_when_shown_then_hidden() -> None:
    """Neither what is known nor the keys made of it show a byte."""
    made = known()
    for shown in (repr(made), repr(made.report), repr(made.keys(WEB, (80,), 100.0))):
        assert COOKIE.hex() not in shown
        assert repr(COOKIE)[2:20] not in shown
