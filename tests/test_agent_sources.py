# SPDX-License-Identifier: Apache-2.0
"""What kernel modules show below /proc, and which source is taken where there are several."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.agent.answers import get_text
from hub.agent.kernel.modules import IsnSyncSource, IsnSyncTextSource, TcpSecretsSource
from hub.agent.kernel.secrets import SourceError
from hub.agent.kernel.sources import NoSourceError, open_sources
from hub.isn_sync.report import Report, parse_report
from tests.support.kernel_files import (
    BOOT_ID,
    DATA,
    SECRETS,
    SYSCTLS,
    Memory,
    without_capabilities,
)
from tests.support.kernel_files import settings as write_settings

FILES = {
    "tcp_secrets": {"tcp_secrets": (DATA / "tcpsecrets-2.4.txt").read_text("ascii")},
    "tcp_secrets of 2.3": {"tcp_secrets": (DATA / "tcpsecrets-2.3.txt").read_text("ascii")},
    "isn_sync_v22": {"isn_sync": (DATA / "isn_sync-22.02.txt").read_text("ascii")},
    "isn_sync": {f"isn_sync_{name}": f"{value.hex()}\n" for name, value in SECRETS.items()},
}
OLD = "isn_sync_syncookie6_secret"
RECORDED = parse_report(FILES["tcp_secrets"]["tcp_secrets"])


def write(proc: Path, files: dict[str, str]) -> None:
    """Write what the modules show."""
    for name, text in files.items():
        (proc / name).write_text(text)


def told(proc: Path) -> Report:
    """Return what the hub understands of the agent's answer."""
    write_settings(proc)
    kernel = open_sources(proc)
    text = get_text(kernel, proc, syncookies=2, engaged_s=170)
    kernel.close()
    return parse_report(text)


def nowhere(proc: Path) -> str:
    """Return why there is no source."""
    with pytest.raises(NoSourceError) as caught:
        open_sources(proc)
    return str(caught.value)


def assert_common(report: Report) -> None:
    """Compare what no source changes."""
    assert (report.kind, report.boot_id, report.syncookies) == ("fnm-agent", BOOT_ID, 2)
    assert (report.ecn, report.sack) == (SYSCTLS["tcp_ecn"], SYSCTLS["tcp_sack"])
    assert report.timestamps == SYSCTLS["tcp_timestamps"]
    assert report.window_scaling == SYSCTLS["tcp_window_scaling"]
    assert report.engaged_s == 170
    assert report.version
    assert report.release
    assert report.utc_ms is not None
    assert report.utc_step_ms == 1


@pytest.mark.parametrize("files", ["tcp_secrets", "tcp_secrets of 2.3", "isn_sync_v22"])
def test_get_when_from_a_module_s_text_then_the_hub_reads_all_of_it(
    tmp_path: Path, files: str
) -> None:
    """Every field of the file reaches the report, under our names."""
    write(tmp_path, FILES[files])
    report = told(tmp_path)
    assert_common(report)
    assert report.source == files.removesuffix(" of 2.3")
    assert (report.net, report.cookie, report.ts) == (RECORDED.net, RECORDED.cookie, RECORDED.ts)
    assert report.cookie6 is None
    assert (report.jiffies, report.timestamp_ms) == (4295012345, 123456)
    assert report.cookie_clock == "jiffies"
    assert report.hz == (250 if files == "isn_sync_v22" else None)


@pytest.mark.parametrize("missing", [None, OLD, "isn_sync_ts_secret"])
def test_get_when_from_isn_sync_then_cookies_go_by_utc(tmp_path: Path, missing: str | None) -> None:
    """Four files, or three: the one for IPv6 came late, and a kernel may have no `ts_secret`."""
    write(tmp_path, {name: text for name, text in FILES["isn_sync"].items() if name != missing})
    report = told(tmp_path)
    assert_common(report)
    assert (report.source, report.cookie_clock) == ("isn_sync", "utc")
    assert (report.net, report.cookie) == (SECRETS["net_secret"], SECRETS["syncookie_secret"])
    assert report.cookie6 == (None if missing == OLD else SECRETS["syncookie6_secret"])
    assert report.ts == (None if missing == "isn_sync_ts_secret" else SECRETS["ts_secret"])
    assert (report.jiffies, report.hz, report.timestamp_ms) == (None, None, None)


def test_get_when_from_memory_then_the_hub_reads_all_of_it(tmp_path: Path) -> None:
    """A stock kernel tells everything."""
    with Memory(tmp_path) as kernel:
        before, report, after = kernel.jiffies(), told(tmp_path), kernel.jiffies()
    assert_common(report)
    assert (report.source, report.cookie_clock, report.hz) == ("kcore", "jiffies", 250)
    assert (report.net, report.cookie) == (SECRETS["net_secret"], SECRETS["syncookie_secret"])
    assert (report.cookie6, report.ts) == (SECRETS["syncookie6_secret"], SECRETS["ts_secret"])
    assert report.jiffies is not None
    assert before - 100 <= report.jiffies <= after
    assert report.cookie_ms == report.jiffies * 4
    assert report.timestamp_ms is not None


def test_get_when_secrets_are_unused_then_told_as_zeros_and_read_as_none(tmp_path: Path) -> None:
    """The kernel makes a secret when it is first needed; until then there is none to trust."""
    files = {name: f"{'0' * (len(text) - 1)}\n" for name, text in FILES["isn_sync"].items()}
    write(tmp_path, files)
    report = told(tmp_path)
    assert (report.net, report.cookie, report.cookie6, report.ts) == (None,) * 4
    kernel = open_sources(tmp_path)
    assert kernel.read().unused == tuple(SECRETS)
    kernel.close()


def test_read_when_the_file_changes_then_what_it_says_now(tmp_path: Path) -> None:
    """The descriptor stays, its content does not; a file that is emptied is an error."""
    write(tmp_path, FILES["isn_sync"])
    source = IsnSyncSource.open(tmp_path)
    (tmp_path / "isn_sync_net_secret").write_text("ab" * 16)
    assert source.read().net == b"\xab" * 16
    (tmp_path / "isn_sync_net_secret").write_text("")
    with pytest.raises(SourceError, match="does not hold what it should"):
        source.read()
    source.close()


def test_tcp_secrets_when_read_twice_then_hz_is_known(tmp_path: Path) -> None:
    """Less than a second tells nothing, what fits no HZ is not taken, and a restart begins anew."""
    file = tmp_path / "tcp_secrets"
    text = FILES["tcp_secrets"]["tcp_secrets"]

    def after(ms: int, ticks: int) -> int | None:
        file.write_text(
            text.replace("uptime_ms 123456", f"uptime_ms {(123456 + ms) % 2**32}").replace(
                "jiffies 4295012345", f"jiffies {4295012345 + ticks}"
            )
        )
        return source.read().hz

    file.write_text(text)
    source = TcpSecretsSource.open(tmp_path)
    assert source.read().hz is None
    assert after(900, 225) is None
    assert after(1000, 275) is None
    assert after(10_000, 2500) == 250
    assert after(20_000, 5600) == 250
    assert after(-1000, 10) == 250
    assert after(9_000, 10 + 3000) == 300
    source.close()


# what is refused


def test_tcp_secrets_when_of_its_first_version_then_refused_with_words(tmp_path: Path) -> None:
    """Its lines have no names; what to do is said."""
    text = (DATA / "tcpsecrets-1.2.txt").read_text("ascii")
    write(tmp_path, {"tcp_secrets": text})
    why = nowhere(tmp_path)
    assert "tcp_secrets: is of tcpsecrets 1, which names no keys; rmmod tcpsecrets" in why
    assert text.splitlines()[1][:8] not in why


@pytest.mark.parametrize("files", ["tcp_secrets", "isn_sync_v22"])
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (r"net_secret(:?) .*", r"net_secret\1 d9d0d4a3", "net_secret is not 32 hex digits"),
        (r"\nnet_secret.*", "", "net_secret is not 32 hex digits"),
        (r"cookie_secret(:?) ..", r"cookie_secret\1 ", "syncookie_secret is not 64 hex digits"),
        (r"jiffies(:?) .*", r"jiffies\1 d0f0e58c20988d55", "jiffies is missing or out of range"),
        (r"jiffies(:?) .*", r"jiffies\1 99999999999999999999", "jiffies is missing or out of"),
        (r"uptime_ms", "downtime_ms", "uptime_ms is missing or out of range"),
        (r"\A", "garbage\n", "line 1 is not as expected"),
        (r"\Z", "net_secret: d9d0d4a3132f495c67ffa4dae0378cc5\n", "is not as expected"),
        (r"\A", "\x80", "does not hold what it should"),
        (r"\Z", "x" * 4096, "does not hold what it should"),
    ],
)
def test_text_when_malformed_then_said_where_and_no_secret(
    tmp_path: Path, files: str, old: str, new: str, why: str
) -> None:
    """What is wrong is named; what it holds is not, as it may be a secret."""
    ((name, text),) = FILES[files].items()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    write(tmp_path, {name: changed})
    said = nowhere(tmp_path)
    assert why in said
    assert re.search("d0f0e58c|d9d0d4a3|c15bcffb", said) is None


@pytest.mark.parametrize("hz", ["0", "10001"])
def test_text_when_hz_is_impossible_then_refused(tmp_path: Path, hz: str) -> None:
    """The hub divides by it."""
    text = FILES["isn_sync_v22"]["isn_sync"].replace("clock.hz: 250", f"clock.hz: {hz}")
    write(tmp_path, {"isn_sync": text})
    assert "clock.hz is missing or out of range" in nowhere(tmp_path)


@settings(max_examples=60)
@given(at=st.integers(0, 330), noise=st.binary(max_size=40), cut=st.integers(0, 40))
def test_text_when_damaged_then_one_kind_of_error_without_secrets(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes, cut: int
) -> None:
    """Any damage is a SourceError, or harmless; eight digits of a secret never show."""
    folder = tmp_path_factory.getbasetemp()
    whole = FILES["isn_sync_v22"]["isn_sync"].encode()
    (folder / "isn_sync").write_bytes(whole[:at] + noise + whole[at + cut :])
    source = IsnSyncTextSource.open(folder)
    try:
        read = source.read()
    except SourceError as error:
        said = f"{error}{error!r}{error.__cause__!r}"
        words = re.findall("[0-9a-f]{8}", whole.decode())
        assert not any(word in said for word in words)
    else:
        assert (len(read.net or b""), len(read.syncookie or b"")) == (16, 32)
    finally:
        source.close()


# which source


def test_sources_when_none_is_there_then_kcore_s_reason_alone_is_told(tmp_path: Path) -> None:
    """Modules that nobody has loaded are no news; `tried` still has them all."""
    with pytest.raises(NoSourceError) as caught:
        open_sources(tmp_path)
    assert str(caught.value).startswith(f"kcore: {tmp_path}/kallsyms: does not exist")
    assert "isn_sync" not in str(caught.value)
    names = ["tcp_secrets", "isn_sync", "isn_sync_v22", "kcore"]
    assert [one.source for one in caught.value.tried] == names
    assert [one.absent for one in caught.value.tried] == [True, True, True, False]


def test_sources_when_a_module_s_file_is_damaged_then_memory_is_taken(tmp_path: Path) -> None:
    """Any source is as good as another, except where the module changes the clock."""
    with Memory(tmp_path):
        write(tmp_path, {"tcp_secrets": "garbage\n"})
        kernel = open_sources(tmp_path)
        assert kernel.source == "kcore"
        assert [one.source for one in kernel.tried if not (one.ok or one.absent)] == ["tcp_secrets"]
        kernel.close()


def test_sources_when_isn_sync_cannot_be_read_then_memory_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    """The module's files lack the owner's right to read; its clock is in force all the same."""
    with Memory(tmp_path):
        write(tmp_path, FILES["isn_sync"])
        for path in tmp_path.glob("isn_sync_*"):
            path.chmod(0o044)
        why = without_capabilities(lambda: nowhere(tmp_path))
    assert "may not be opened: Permission denied" in why
    assert "CAP_DAC_READ_SEARCH" in why
    assert "counts the minutes of cookies by UTC" in why


def test_isn_sync_when_an_optional_file_may_not_be_read_then_refused(tmp_path: Path) -> None:
    """A secret that is there is not left out in silence."""
    write(tmp_path, FILES["isn_sync"])
    (tmp_path / "isn_sync_ts_secret").chmod(0)
    with pytest.raises(SourceError, match="isn_sync_ts_secret: may not be opened"):
        without_capabilities(lambda: IsnSyncSource.open(tmp_path))
