# SPDX-License-Identifier: Apache-2.0
"""What agents answer, from every agent and from a hostile one."""

import re
import traceback
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.isn_sync.report import NotUnderstoodReportError, Report, hz_from, parse_report

DATA = Path(__file__).parent / "data" / "isn_sync"


def made_up(name: str, size: int) -> bytes:
    """Return the secret of that name in the recorded answers."""
    return sha256(f"made up {name}".encode()).digest()[:size]


COOKIE, COOKIE6 = made_up("cookie", 32), made_up("cookie6", 32)
NET, TS = made_up("net", 16), made_up("ts", 16)
FULL = Report(kind="isn_sync", source="", cookie=COOKIE, cookie6=COOKIE6, net=NET, ts=TS)
OURS = replace(
    FULL,
    kind="fnm-agent",
    version="0.1.0",
    source="kcore",
    release="6.1.0-56-cloud-amd64",
    boot_id="0f8b3f7e-5f0e-4f7b-9d0c-3c1f6f1f2a11",
    cookie_clock="jiffies",
    jiffies=4295012345,
    hz=250,
    cookie_ms=17180049380,
    timestamp_ms=123456,
    utc_ms=1764140000123,
    utc_step_ms=1,
    ecn=2,
    sack=1,
    timestamps=1,
    window_scaling=1,
    syncookies=2,
    engaged_s=170.0,
)
SETTINGS = {"ecn": 2, "sack": 1, "timestamps": 1, "window_scaling": 1}
MODULE = replace(
    FULL,
    kind="isn_sync",
    version="26.04",
    source="isn_sync",
    cookie_clock="utc",
    utc_ms=1764140000000,
    utc_step_ms=1000,
    **SETTINGS,  # type: ignore[arg-type]
)
PROC = Report(
    kind="tcpsecrets",
    source="tcp_secrets",
    cookie=COOKIE,
    net=NET,
    ts=TS,
    jiffies=4295012345,
    timestamp_ms=123456,
    utc_ms=1764140000123,
)
EXPECTED = {
    "fnm-agent": OURS,
    "isn_sync-26.04": MODULE,
    "isn_sync-23.08": replace(MODULE, version="", cookie6=None, utc_ms=None, utc_step_ms=1),
    "isn_sync-22.02": replace(
        PROC,
        kind="isn_sync",
        source="isn_sync_v22",
        hz=250,
        cookie_ms=17180049380,
        **SETTINGS,  # type: ignore[arg-type]
    ),
    "tcpsecrets-2.4": PROC,
    "tcpsecrets-2.3": replace(PROC, utc_ms=1764140000000, utc_step_ms=1000),
}


def recorded(name: str) -> str:
    """Return a recorded answer."""
    return (DATA / f"{name}.txt").read_text("ascii")


def refused(text: str) -> str:
    """Return the message for an answer that must be refused."""
    with pytest.raises(NotUnderstoodReportError) as caught:
        parse_report(text)
    assert not caught.value.retryable
    assert caught.value.todo
    return str(caught.value)


@pytest.mark.parametrize("name", EXPECTED)
def test_parse_when_recorded_then_all_that_it_tells(name: str) -> None:
    """Every agent's answer gives every field that it holds, and no other."""
    assert parse_report(recorded(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_parse_when_line_ends_and_unknown_names_differ_then_the_same(name: str) -> None:
    """CRLF, empty lines and names that nobody knows change nothing."""
    text = recorded(name)
    extra = "some_new_thing: 5\n" if ":" in text else "some_new_thing 5\n"
    assert parse_report(f"{extra}\n{text}\n".replace("\n", "\r\n")) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("freebsd-25.06", "does not run Linux"),
        ("tcpsecrets-1.2", "tcpsecrets 1"),
    ],
)
def test_parse_when_known_and_unusable_then_says_why(name: str, words: str) -> None:
    """What cannot be used is recognised, and the reason is given."""
    assert words in refused(recorded(name))


@pytest.mark.parametrize("drop", ["uname: FreeBSD\n", "version: 25.06\n"])
def test_parse_when_freebsd_without_uname_then_known_by_its_fields(drop: str) -> None:
    """FreeBSD's fields give it away, also under the names of its sysctls."""
    text = recorded("freebsd-25.06").replace(drop, "").replace("uname: FreeBSD\n", "")
    assert "does not run Linux" in refused(text)
    assert "does not run Linux" in refused(re.sub("(?m)^", "isn_sync.params.", text.strip()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("net_secret: 00", "net_secret is not 32 hexadecimal digits"),
        (f"syncookie6_secret: {'g' * 64}", "syncookie6_secret is not 64 hexadecimal digits"),
        (f"ts_secret: {'ab' * 17}", "ts_secret is not 32"),
        ("ts_secret: ab cd", "ts_secret is not 32"),
        ("hz: 0", "hz is 0"),
        ("hz: 10001", "hz is no whole number from 0 to 10000"),
        ("jiffies: -1", "jiffies is no whole number"),
        ("jiffies: 99999999999999999999", "jiffies is no whole number"),
        ("jiffies: 9007199254740993", "jiffies is no whole number"),
        ("time_ms: 1e9", "time_ms is no whole number"),
        ("time_ms: 0x10", "time_ms is no whole number"),
        (f"time_ms: {'9' * 5000}", "time_ms is no whole number"),
        ("tcp_sack: 256", "tcp_sack is no whole number from 0 to 255"),
        ("tcp_ecn: on", "tcp_ecn is no whole number"),
        ("engaged_s: nan", "engaged_s is no number of seconds"),
        ("engaged_s: -1", "engaged_s is no number of seconds"),
        ("engaged_s: 9999999999", "engaged_s is no number of seconds"),
        ("cookie_clock: sundial", "cookie_clock is neither"),
        (f"version: {'1' * 129}", "version has 129 characters"),
        ("boot_id: \x1b[2J", "line 1 holds the character 0x1b"),
        ("boot_id: a\tb", "line 1 holds the character 0x09"),
        ("boot_id: a\rb", "line 1 holds the character 0x0d"),
        ("boot_id: a\0b", "line 1 holds the character 0x00"),
        ("boot_id: é", "line 1 holds the character 0xe9"),
        ("boot_id: \ud800", "line 1 holds the character 0xd800"),
        ("no colon here", "line 1 is not a name and a value"),
        (f"{'n' * 65}: 1", "line 1 is not a name and a value"),
        ("\n" * 300, "lines; 200 are the most"),
        ("time: 1\ntime: 2", "line 2 gives again"),
        ("cookie_secret: 00", "told under two names"),
    ],
    ids=lambda value: value[:24].encode("ascii", "backslashreplace").decode(),
)
def test_parse_when_hostile_then_one_clear_error(line: str, words: str) -> None:
    """What an agent must not say is refused by its name, and no bytes of it are shown raw."""
    name = line.partition(":")[0]
    kept = "".join(
        one
        for one in recorded("fnm-agent").splitlines(keepends=True)
        if not one.startswith(f"{name}:")
    )
    said = refused(f"{line}\n{kept}")
    assert words in said
    assert said.isprintable()
    assert len(said) < 300


def test_parse_when_one_line_of_100_mb_then_refused_at_once() -> None:
    """The length alone refuses it: nothing of it is looked at."""
    said = refused(f"x: {'1' * 100_000_000}")
    assert "100000003 characters; 16384 are the most" in said


@pytest.mark.parametrize("text", ["", "\n", "   \n\r\n", "net_secret:", "agent: fnm-other", "x: y"])
def test_parse_when_nothing_is_told_then_refused_or_without_keys(text: str) -> None:
    """An empty answer is refused; fields without a value count as absent."""
    if text == "net_secret:":
        assert parse_report(text) == Report("isn_sync", source="isn_sync", cookie_clock="utc")
    else:
        refused(text)


@pytest.mark.parametrize(
    ("field", "name", "size"),
    [
        ("cookie", "syncookie_secret", 32),
        ("cookie6", "syncookie6_secret", 32),
        ("net", "net_secret", 16),
        ("ts", "ts_secret", 16),
    ],
)
def test_parse_when_secret_is_zero_or_absent_then_none(field: str, name: str, size: int) -> None:
    """A secret of zeros has not been drawn yet: it is as good as none."""
    text = recorded("fnm-agent")
    zero = re.sub(rf"(?m)^{name}: .*$", f"{name}: {'0' * 2 * size}", text)
    upper = re.sub(rf"(?m)^{name}: (.*)$", lambda found: found[0].upper(), text).replace(
        name.upper(), name
    )
    assert parse_report(zero) == replace(OURS, **{field: None})  # type: ignore[arg-type]
    assert parse_report(re.sub(rf"(?m)^{name}: .*\n", "", text)) == replace(
        OURS,
        **{field: None},  # type: ignore[arg-type]
    )
    assert parse_report(upper) == OURS


def test_parse_when_source_is_the_module_then_minutes_are_of_utc() -> None:
    """fnm-agent on top of the isn_sync module counts by UTC, whether it says so or not."""
    text = recorded("fnm-agent").replace("source: kcore", "source: isn_sync")
    assert parse_report(text.replace("cookie_clock: jiffies\n", "")).cookie_clock == "utc"
    assert parse_report(text).cookie_clock == "jiffies"


def test_report_when_shown_then_no_secret() -> None:
    """Neither repr nor str shows a secret."""
    shown = f"{OURS!r} {OURS}"
    for secret in (COOKIE, COOKIE6, NET, TS):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


@given(st.data())
def test_parse_when_mangled_then_never_shows_a_secret(data: st.DataObject) -> None:
    """However an answer is damaged: a report or the one error, and no part of a secret in it."""
    text = recorded(data.draw(st.sampled_from(sorted(EXPECTED))))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + 40)))
        text = text[:begin] + data.draw(st.text(max_size=3)) + text[end:]
    try:
        parse_report(text)
    except NotUnderstoodReportError:
        shown = traceback.format_exc().partition("NotUnderstoodReportError:")[2]
        for secret in (COOKIE, COOKIE6, NET, TS):
            digits = secret.hex()
            assert not any(digits[at : at + 8] in shown for at in range(len(digits) - 7))


@given(st.text())
def test_parse_when_any_text_then_no_other_error(text: str) -> None:
    """No text raises anything else."""
    said = ""
    try:
        parse_report(text)
    except NotUnderstoodReportError as error:
        said = str(error)
    assert said == "" or said.isprintable()


@given(
    hz=st.sampled_from((100, 250, 300, 1000)),
    start=st.integers(0, 2**40),
    uptime=st.integers(0, 2**32 - 1),
    passed=st.integers(1000, 3_600_000),
    error=st.integers(-1, 1),
)
def test_hz_when_two_polls_then_found(
    hz: int, start: int, uptime: int, passed: int, error: int
) -> None:
    """HZ follows from two reports, also across the wrap of their 32 bits of uptime."""
    first = replace(PROC, jiffies=start, timestamp_ms=uptime)
    ticks = passed * hz // 1000 + error
    second = replace(
        PROC, jiffies=start + ticks, timestamp_ms=(uptime + passed) % 2**32, utc_ms=None
    )
    assert hz_from(first, second) == hz


@pytest.mark.parametrize(
    ("ticks", "passed", "utc"),
    [
        (249, 999, 0),
        (0, 10_000, 0),
        (-5, 10_000, 0),
        (2000, 10_000, 0),
        (10**9, 10_000, 0),
        (2500, None, 9_999),
    ],
    ids=["too soon", "stopped", "backwards", "200 Hz", "nonsense", "only its seconds, too soon"],
)
def test_hz_when_not_told_then_none(ticks: int, passed: int | None, utc: int) -> None:
    """What fits no HZ, or is too short to tell, is not guessed."""
    first = parse_report(recorded("tcpsecrets-2.3"))
    assert first.jiffies is not None
    assert first.timestamp_ms is not None
    assert first.utc_ms is not None
    second = replace(
        first,
        jiffies=first.jiffies + ticks,
        timestamp_ms=None if passed is None else first.timestamp_ms + passed,
        utc_ms=first.utc_ms + utc,
    )
    assert hz_from(first, second) is None


def test_hz_when_uptime_wraps_between_then_found() -> None:
    """tcp_secrets tells 32 bits of uptime, which begin anew after 49.7 days."""
    first = replace(PROC, timestamp_ms=2**32 - 4_000)
    second = replace(PROC, jiffies=4295012345 + 2_500, timestamp_ms=6_000)
    assert hz_from(first, second) == 250


def test_hz_when_no_jiffies_then_none_and_by_utc_when_long_enough() -> None:
    """Without jiffies there is nothing to measure; seconds do, over a minute."""
    assert hz_from(MODULE, MODULE) is None
    bare = replace(PROC, timestamp_ms=None)
    later = replace(bare, jiffies=4295012345 + 15_000, utc_ms=1764140000123 + 60_000)
    assert hz_from(bare, later) == 250
    assert hz_from(bare, replace(later, utc_ms=None)) is None
