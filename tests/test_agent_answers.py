# SPDX-License-Identifier: Apache-2.0
"""What `fnm-agent check` and `selftest` say, and how names of listeners are read."""

import contextlib
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.agent import answers
from hub.agent.answers import Line, diagnose, look, parse_name, selftest
from hub.agent.kernel import memory
from hub.agent.kernel.sources import open_sources
from hub.agent.sockets import Name
from hub.errors import HubError
from tests.support.kernel_files import DATA, PLACES, SECRETS, Memory, kallsyms, settings

NEEDED = ("net_secret", "syncookie_secret")


def found(proc: Path) -> dict[str, Line]:
    """Return what is found there, by name; each name stands once."""
    kernel = look(proc)
    lines = diagnose(proc, kernel)
    if not isinstance(kernel, HubError):
        kernel.close()
    named = {line.name: line for line in lines}
    assert len(named) == len(lines)
    assert all(line.text.isprintable() for line in lines)
    return named


def failed(named: dict[str, Line]) -> set[str]:
    """Return the names of what failed."""
    return {name for name, line in named.items() if not line.ok}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("80", Name(80)),
        ("65535", Name(65535)),
        ("192.0.2.1:80", Name(80, ip_address("192.0.2.1"))),
        ("[2001:db8::1]:443", Name(443, ip_address("2001:db8::1"))),
    ],
)
def test_name_when_right_then_read(text: str, name: Name) -> None:
    """A port, or an address and a port."""
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "65536", "-1", "+80", "8_0", "80 ", "²", "http", "9" * 4000),
        *(":80", "192.0.2.1", "192.0.2.1:", "[192.0.2.1]:80", "2001:db8::1:80", "[::1]"),
        *("[fe80::1%eth0]:80", "[:80", "web:80", "192.0.2.1/24:80"),
    ],
)
def test_name_when_wrong_then_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"port|address|brackets|interface"):
        parse_name(text)


@given(st.text(max_size=40))
def test_name_when_anything_then_read_or_refused(text: str) -> None:
    """No other exception."""
    with contextlib.suppress(ValueError):
        assert 1 <= parse_name(text).port <= 65535


def test_check_when_all_is_well_then_short_and_all_ok(tmp_path: Path) -> None:
    """What an operator reads when nothing is wrong: no word of modules that nobody has."""
    settings(tmp_path)
    with Memory(tmp_path):
        named = found(tmp_path)
        text, ok = selftest(open_sources(tmp_path), tmp_path)
    assert failed(named) == set()
    expected = ["kernel", "source", "clock", "timestamps", "syncookies", "tcp_timestamps"]
    assert [name for name in named if name != "lockdown"] == [*expected, "sockets"]
    assert named["source"].text == "kcore"
    assert named["clock"].text == "jiffies, 250 Hz"
    assert named["timestamps"].text.startswith("offset by pair of hosts, from ts_secret")
    assert named["syncookies"].text.startswith("net.ipv4.tcp_syncookies is 1, when a queue is full")
    assert ok
    assert "check: source ok kcore\ncheck: clock ok jiffies, 250 Hz\n" in text
    assert all(line.startswith("check: ") for line in text.splitlines())
    assert not any(secret.hex()[:8] in text for secret in SECRETS.values())


def test_check_when_secrets_are_unused_or_missing_then_what_that_means(tmp_path: Path) -> None:
    """Both are no fault: one passes by itself, the other leaves IPv6 out."""
    settings(tmp_path)
    with Memory(tmp_path, {name: bytes(len(SECRETS[name])) for name in NEEDED}):
        named = found(tmp_path)
    assert failed(named) == set()
    assert named["unused"].text.startswith("net_secret, syncookie_secret: the kernel makes them")
    assert "IPv4 alone" in named["ipv6"].text
    assert "restart fnm-agent" in named["ipv6"].text
    assert named["timestamps"].text.startswith("offset by connection, from net_secret")


def test_check_when_nothing_can_be_read_then_each_reason_and_the_rest(tmp_path: Path) -> None:
    """One line for each source; that a module is not loaded is no failure by itself."""
    settings(tmp_path)
    (tmp_path / "kallsyms").write_text("ffffffff9e000000 T _stext\n")
    (tmp_path / "tcp_secrets").write_text((DATA / "tcpsecrets-1.2.txt").read_text("ascii"))
    named = found(tmp_path)
    assert failed(named) == {"tcp_secrets", "kcore", "source"}
    assert "CONFIG_KALLSYMS_ALL" in named["kcore"].text
    assert "tcpsecrets 1" in named["tcp_secrets"].text
    assert named["isn_sync"].text.endswith("the module is not loaded")
    assert named["sockets"].text.endswith(" listeners")


def test_check_when_a_container_hides_memory_then_said_so(tmp_path: Path) -> None:
    """Containers put an empty file in the place of kcore, and make /proc/sys what they like."""
    (tmp_path / "kallsyms").write_text(kallsyms(PLACES))
    (tmp_path / "kcore").touch()
    named = found(tmp_path)
    assert failed(named) == {"kcore", "source", "syncookies"}
    assert "is empty: a container hides it; install the agent on the host" in named["kcore"].text
    assert "CONFIG_SYN_COOKIES, or /proc/sys is hidden" in named["syncookies"].text


def test_check_when_locked_down_then_said_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode itself, and that it is why memory cannot be read."""
    settings(tmp_path)
    mode = tmp_path / "lockdown"
    monkeypatch.setattr(memory, "LOCKDOWN", mode)
    with Memory(tmp_path):
        mode.write_text("none integrity [confidentiality]\n")
        assert failed(found(tmp_path)) == {"lockdown", "kcore", "source"}
        mode.write_text("none [integrity] confidentiality\n")
        named = found(tmp_path)
    assert failed(named) == set()
    assert named["lockdown"].text == "mode integrity"


@pytest.mark.parametrize(
    ("value", "text"), [("0", "is 0, off"), ("2", "is 2, for every"), ("7", "is 7, unknown")]
)
def test_check_when_the_setting_differs_then_what_it_means(
    tmp_path: Path,
    value: str,
    text: str,
) -> None:
    """Any value will do, as the agent sets its own while it is needed."""
    settings(tmp_path)
    (tmp_path / "sys/net/ipv4" / "tcp_syncookies").write_text(f"{value}\n")
    named = found(tmp_path)
    assert failed(named) == {"kcore", "source"}
    assert text in named["syncookies"].text


def test_selftest_when_the_source_broke_then_failed(tmp_path: Path) -> None:
    """A source that worked at the start and does not now is the first thing to see."""
    settings(tmp_path)
    (tmp_path / "isn_sync").write_text((DATA / "isn_sync-22.02.txt").read_text("ascii"))
    kernel = open_sources(tmp_path)
    (tmp_path / "isn_sync").write_text("")
    text, ok = selftest(kernel, tmp_path)
    kernel.close()
    assert not ok
    assert text.startswith("check: source failed isn_sync_v22: ")
    assert "check: syncookies ok" in text


def test_get_when_the_source_broke_then_an_error_and_no_answer(tmp_path: Path) -> None:
    """Nothing is sent where a part would be wrong; the error is one line."""
    settings(tmp_path)
    (tmp_path / "isn_sync").write_text((DATA / "isn_sync-22.02.txt").read_text("ascii"))
    kernel = open_sources(tmp_path)
    (tmp_path / "isn_sync").write_text("net_secret: 00\n")
    with pytest.raises(HubError) as caught:
        answers.get_text(kernel, tmp_path, syncookies=None, engaged_s=0)
    kernel.close()
    assert str(caught.value).isprintable()
