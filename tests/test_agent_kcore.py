# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory: names from kallsyms, bytes from an ELF core file, HZ from its jiffies."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.agent.kernel import kallsyms as kallsyms_module
from hub.agent.kernel import memory
from hub.agent.kernel.hz import COMMON_HZ, Moment, WrongClockError, hz_since_boot, measure_hz
from hub.agent.kernel.kallsyms import SymbolError, find_symbols
from hub.agent.kernel.kcore import Kcore, KcoreError
from hub.agent.kernel.memory import MemorySource, locked_down
from hub.agent.kernel.secrets import SourceError
from hub.errors import HubError
from tests.support.kernel_files import (
    BASE,
    PAGE,
    PLACES,
    SECRETS,
    Memory,
    core,
    kallsyms,
    without_capabilities,
)

NAMES = tuple(PLACES)
SAMPLE = bytes(range(256)) * 16


def kcore(folder: Path, content: bytes) -> Kcore:
    """Return an open core file with that content."""
    path = folder / "kcore"
    path.write_bytes(content)
    return Kcore.open(path)


def refused(folder: Path, content: bytes) -> str:
    """Return why a core file cannot be opened."""
    with pytest.raises(KcoreError) as caught:
        kcore(folder, content)
    return str(caught.value)


def symbols(folder: Path, text: str | bytes) -> dict[str, int]:
    """Return what is found in that text."""
    path = folder / "kallsyms"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return find_symbols(path, NAMES)


# kallsyms


def test_symbols_when_listed_then_found_and_nothing_else(tmp_path: Path) -> None:
    """The addresses of the variables, not of what only begins or ends like them."""
    text = kallsyms() + "ffffffff9e0000f0 d net_secret.1\nffffffff9e0000f0 d my_net_secret\n"
    assert symbols(tmp_path, text) == PLACES


def test_symbols_when_of_a_module_then_only_ipv6_counts(tmp_path: Path) -> None:
    """A module may call its own variable the same; ipv6 may be a module."""
    text = (
        "ffffffffc0000000 d net_secret\t[isn_sync]\n"
        "ffffffff9e000010 d net_secret\n"
        "ffffffffc0000020 b syncookie6_secret\t[ipv6]\n"
        "ffffffffc0000030 b syncookie6_secret\t[other]\n"
        "ffffffffc0000040 b ts_secret\t[ipv6]\n"
        "ffffffffc0000050 t syncookie_secret\n"
    )
    expected = {"net_secret": 0xFFFFFFFF9E000010, "syncookie6_secret": 0xFFFFFFFFC0000020}
    assert symbols(tmp_path, text) == expected


def test_symbols_when_hidden_then_said_so(tmp_path: Path) -> None:
    """kptr_restrict=2, or no CAP_SYSLOG: every address is zero."""
    hidden = kallsyms(dict.fromkeys(PLACES, 0))
    with pytest.raises(SymbolError, match=r"hides its addresses.*kptr_restrict"):
        symbols(tmp_path, hidden)


def test_symbols_when_twice_then_refused_unless_the_same(tmp_path: Path) -> None:
    """Two variables of one name cannot be told apart."""
    assert symbols(tmp_path, kallsyms() * 2) == PLACES
    with pytest.raises(SymbolError, match="lists net_secret twice"):
        symbols(tmp_path, kallsyms() + "ffffffff9e000010 d net_secret\n")


def test_symbols_when_not_there_then_said_so(tmp_path: Path) -> None:
    """No file, no permission and no line are three different things."""
    with pytest.raises(SymbolError, match="CONFIG_KALLSYMS"):
        find_symbols(tmp_path / "none", NAMES)
    assert symbols(tmp_path, "") == {}
    (tmp_path / "kallsyms").chmod(0)
    with pytest.raises(SymbolError, match="cannot be read: Permission denied"):
        without_capabilities(lambda: find_symbols(tmp_path / "kallsyms", NAMES))


def test_symbols_when_a_line_is_too_long_then_its_rest_is_none(tmp_path: Path) -> None:
    """What stands behind a kibibyte of garbage in one line is garbage."""
    text = b"x" * 1024 + b"ffffffff9e000010 d net_secret\n" + b"ffffffff9e000020 d ts_secret\n"
    assert symbols(tmp_path, text) == {"ts_secret": 0xFFFFFFFF9E000020}


def test_symbols_when_endless_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without end is not read for ever."""
    monkeypatch.setattr(kallsyms_module, "_MOST_LINES", 1000)
    with pytest.raises(SymbolError, match="does not end"):
        find_symbols(Path("/dev/zero"), NAMES)


@given(noise=st.binary(max_size=3000), at=st.integers(0, 400))
def test_symbols_when_garbage_is_in_between_then_an_error_or_true_ones(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    """No other exception, and no address that was not there."""
    whole = kallsyms().encode()
    text = whole[:at] + noise + whole[at:]
    try:
        found = symbols(tmp_path_factory.getbasetemp(), text)
    except SymbolError:
        return
    assert all(b"%x" % address in text.lower() for address in found.values())


# kcore


def test_read_when_segments_touch_and_overlap_then_the_bytes_of_each(tmp_path: Path) -> None:
    """The same memory may be shown twice; a span must lie in one segment."""
    content = core([(BASE, SAMPLE), (BASE + PAGE, SAMPLE[::-1])])
    made = kcore(tmp_path, content)
    assert made.read([(BASE + 1, 4), (BASE + PAGE, 2)]) == [SAMPLE[1:5], SAMPLE[::-1][:2]]
    for span in ((BASE - 1, 4), (BASE + PAGE - 2, 4), (BASE + 2 * PAGE - 1, 2), (0, 1)):
        with pytest.raises(KcoreError, match="has no segment"):
            made.read([span])
    made.close()


def test_read_when_two_segments_disagree_then_refused(tmp_path: Path) -> None:
    """Nobody can say which of two contents is the kernel's."""
    made = kcore(tmp_path, core([(BASE, SAMPLE), (BASE + 16, SAMPLE)]))
    assert made.read([(BASE, 16)]) == [SAMPLE[:16]]
    with pytest.raises(KcoreError, match="at two places"):
        made.read([(BASE + 16, 16)])
    made.close()


def test_read_when_memory_was_plugged_in_then_the_right_bytes_still(tmp_path: Path) -> None:
    """More segments make longer headers, and all that follows moves."""
    made = kcore(tmp_path, core([(BASE, SAMPLE)]))
    assert made.read([(BASE, 32)]) == [SAMPLE[:32]]
    (tmp_path / "kcore").write_bytes(core([(BASE, SAMPLE)], spare=200))
    assert made.read([(BASE, 32)]) == [SAMPLE[:32]]
    (tmp_path / "kcore").write_bytes(core([(BASE, SAMPLE)]))
    assert made.read([(BASE, 32)]) == [SAMPLE[:32]]
    made.close()


def test_open_when_the_machine_is_huge_then_all_segments_count(tmp_path: Path) -> None:
    """As many as the header can count; one more would have to be told elsewhere."""
    made = kcore(tmp_path, core([(BASE, SAMPLE)], spare=65_532))
    assert made.read([(BASE, 8)]) == [SAMPLE[:8]]
    made.close()
    assert "another shape" in refused(tmp_path, core([(BASE, SAMPLE)], spare=65_533))


def edited(at: int, value: int, size: int) -> bytes:
    """Return a core file with one field of its headers changed."""
    content = bytearray(core([(BASE, SAMPLE)]))
    content[at : at + size] = value.to_bytes(size, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty: a container hides it"),
        (b"\x7fELF\x02\x01", "ends too early"),
        (core([(BASE, SAMPLE)])[:100], "ends too early"),
        (SAMPLE, "is no 64 bit"),
        (edited(4, 1, 1), "is no 64 bit"),
        (edited(5, 2, 1), "is no 64 bit"),
        (edited(16, 2, 2), "is no 64 bit"),
        (edited(32, (1 << 64) - 1, 8), "out of reach"),
        (edited(32, 1 << 40, 8), "ends too early"),
        (edited(54, 32, 2), "another shape"),
        (edited(56, 0, 2), "another shape"),
        (edited(56, 1, 2), "holds no memory"),
        (edited(64 + 56 + 16, (1 << 64) - 8, 8), "holds no memory"),
        (edited(64 + 56 + 8, (1 << 64) - 8, 8), "holds no memory"),
    ],
    ids=[
        *("empty", "header cut", "table cut", "not ELF", "32 bit", "big-endian", "no core"),
        *("table nowhere", "table behind the end", "entry", "count", "notes only"),
        *("behind the top", "position"),
    ],
)
def test_open_when_it_is_none_then_said_why(tmp_path: Path, content: bytes, why: str) -> None:
    """Each says what is wrong; none is read in part."""
    assert why in refused(tmp_path, content)


def test_open_when_not_there_or_not_allowed_then_said_so(tmp_path: Path) -> None:
    """The two cases have different remedies."""
    path = tmp_path / "kcore"
    with pytest.raises(KcoreError, match="CONFIG_PROC_KCORE, or a container"):
        Kcore.open(path)
    path.write_bytes(core([(BASE, SAMPLE)]))
    path.chmod(0)
    with pytest.raises(KcoreError, match=r"may not be opened: Permission denied.*CAP_SYS_RAWIO"):
        without_capabilities(lambda: Kcore.open(path))


def test_read_when_cut_off_meanwhile_then_refused(tmp_path: Path) -> None:
    """Part of a secret is not given for all of it."""
    made = kcore(tmp_path, core([(BASE, SAMPLE)]))
    with (tmp_path / "kcore").open("r+b") as file:
        file.truncate(PAGE + 20)
    with pytest.raises(KcoreError, match="ends too early"):
        made.read([(BASE, 32)])
    made.close()


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 30), changes=st.integers(1, 6))
def test_core_when_damaged_then_never_another_exception(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: int
) -> None:
    """Whatever its headers say."""
    rolled = random.Random(seed)
    content = bytearray(core([(BASE, SAMPLE)]))
    for _ in range(changes):
        content[rolled.randrange(64 + 112)] = rolled.choice((0, 1, 0x7F, 0x80, 0xFF))
    try:
        made = kcore(tmp_path_factory.getbasetemp(), bytes(content))
    except KcoreError:
        return
    try:
        assert len(made.read([(BASE, 32)])[0]) == 32
    except KcoreError:
        pass
    finally:
        made.close()


# HZ


class Machine:
    """A machine with a clock of its own; its jiffies may lag for a while, and then catch up.

    Args:
        hz: true.
        up_ms: since the boot.
        shift: jiffies that nobody expects.
        lags_ms: by how much jiffies lag at each look.
    """

    def __init__(self, hz: int, up_ms: int, shift: int = 0, lags_ms: tuple[int, ...] = ()) -> None:
        self.hz, self.now, self.shift, self.begun = hz, up_ms, shift, up_ms
        self.lags_ms = list(lags_ms)

    def look(self) -> Moment:
        """Return the present moment."""
        lag = self.lags_ms.pop() if self.lags_ms else 0
        ticks = self.hz * (self.now - lag - 300_000) // 1000
        return self.now, (1 << 32) + ticks + self.shift

    def wait(self, ms: int) -> None:
        """Let time go on."""
        self.now += ms

    def measured(self) -> int:
        """Return what is measured."""
        return measure_hz(self.look, self.wait)


@pytest.mark.parametrize("hz", COMMON_HZ)
def test_hz_when_the_machine_is_idle_then_known_in_a_quarter_of_a_second(hz: int) -> None:
    """The count since the boot and one short look agree."""
    machine = Machine(hz, 86_400_000)
    assert machine.measured() == hz
    assert machine.now - machine.begun == 250


@given(
    hz=st.sampled_from(COMMON_HZ),
    up_s=st.integers(1, 200_000_000),
    shift=st.sampled_from((0, 0, 1 << 20, -100_000)),
    lags=st.lists(st.integers(0, 100), max_size=21),
)
def test_hz_when_the_machine_is_loaded_then_never_wrong_and_never_refused(
    hz: int, up_s: int, shift: int, lags: list[int]
) -> None:
    """A virtual CPU that does not run for a tenth of a second makes jiffies late."""
    assert Machine(hz, up_s * 1000, shift, tuple(lags)).measured() == hz


def test_hz_when_the_boot_seems_to_tell_another_then_what_is_counted_is_believed() -> None:
    """Jiffies that have jumped by a million fit another HZ by chance."""
    assert Machine(250, 1_692_000, 1 << 20).measured() == 250


@given(hz=st.sampled_from(COMMON_HZ), lags=st.lists(st.integers(0, 1500), min_size=21))
def test_hz_when_it_hardly_runs_at_all_then_the_boot_tells(hz: int, lags: list[int]) -> None:
    """What was counted since the boot is enough where nothing can be measured."""
    assert Machine(hz, 86_400_000, 0, tuple(lags)).measured() == hz


@given(hz=st.sampled_from(COMMON_HZ), up_ms=st.integers(0, 1 << 42), late=st.integers(0, 3000))
def test_hz_when_told_by_the_boot_then_true(hz: int, up_ms: int, late: int) -> None:
    """One moment tells it or tells nothing, at any time and around 300 s after the boot, too."""
    told = hz_since_boot(Machine(hz, up_ms, lags_ms=(late,)).look())
    assert told in ({hz} if abs(up_ms - 300_000) > 400_000 else {hz, None})


@pytest.mark.parametrize(
    "machine",
    [Machine(0, 10**9), Machine(500, 10**9), Machine(180, 10**9), Machine(-250, 10**9)],
    ids=["stands", "500", "180", "backwards"],
)
def test_hz_when_it_is_none_then_refused_after_a_while(machine: Machine) -> None:
    """What does not count as jiffies do is not taken for them."""
    with pytest.raises(WrongClockError, match="fits no CONFIG_HZ"):
        machine.measured()
    assert machine.now - machine.begun == 5000


# all of it


@pytest.mark.parametrize("hz", [250, 1000])
def test_source_when_all_is_there_then_secrets_and_clocks(tmp_path: Path, hz: int) -> None:
    """A file whose jiffies go on gives every secret, HZ, and the jiffies of now."""
    with Memory(tmp_path, hz=hz) as kernel:
        source = MemorySource.open(tmp_path)
        before, read, after = kernel.jiffies(), source.read(), kernel.jiffies()
        source.close()
    assert (read.net, read.syncookie) == (SECRETS["net_secret"], SECRETS["syncookie_secret"])
    assert (read.syncookie6, read.ts) == (SECRETS["syncookie6_secret"], SECRETS["ts_secret"])
    assert (read.hz, read.cookie_clock, read.unused) == (hz, "jiffies", ())
    assert read.jiffies is not None
    assert before - hz // 2 <= read.jiffies <= after
    assert "hidden" in repr(read)
    assert SECRETS["net_secret"].hex()[:8] not in repr(read)


def test_source_when_the_other_module_comes_then_refused_and_again_read_without(
    tmp_path: Path,
) -> None:
    """The module isn_sync counts cookies by another clock, so the kernel's is wrong."""
    some = {name: SECRETS[name] for name in ("net_secret", "syncookie_secret")}
    with Memory(tmp_path, some):
        source = MemorySource.open(tmp_path)
        assert (source.read().ts, source.read().syncookie6) == (None, None)
        (tmp_path / "isn_sync_net_secret").touch()
        with pytest.raises(SourceError, match=r"isn_sync is loaded.*start the agent again"):
            source.read()
        (tmp_path / "isn_sync_net_secret").unlink()
        assert source.read().net == SECRETS["net_secret"]
        source.close()


def test_source_when_names_are_missing_then_said_which(tmp_path: Path) -> None:
    """A kernel without CONFIG_KALLSYMS_ALL lists functions only."""
    (tmp_path / "kallsyms").write_text("ffffffff9e000000 T _stext\n")
    with pytest.raises(SourceError, match=r"no net_secret and no syncookie_secret.*KALLSYMS_ALL"):
        MemorySource.open(tmp_path)


def test_source_when_locked_down_then_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confidentiality hides memory; integrity and none do not."""
    mode = tmp_path / "lockdown"
    monkeypatch.setattr(memory, "LOCKDOWN", mode)
    assert locked_down() == ""
    with Memory(tmp_path):
        mode.write_text("none integrity [confidentiality]\n")
        with pytest.raises(SourceError, match="lockdown=integrity"):
            MemorySource.open(tmp_path)
        mode.write_text("none [integrity] confidentiality\n")
        assert locked_down() == "integrity"
        MemorySource.open(tmp_path).close()


def test_errors_when_a_secret_is_near_then_they_do_not_show_it(tmp_path: Path) -> None:
    """Neither the message nor a cause of it has bytes of the memory."""
    with Memory(tmp_path):
        source = MemorySource.open(tmp_path)
    content = (tmp_path / "kcore").read_bytes()
    (tmp_path / "kcore").write_bytes(content[: -PAGE + 200])
    with pytest.raises(HubError) as caught:
        source.read()
    source.close()
    said = f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"
    assert "ends too early" in said
    assert not any(one[:4].hex() in said or repr(one[:4])[2:-1] in said for one in SECRETS.values())
