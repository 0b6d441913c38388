# SPDX-License-Identifier: Apache-2.0
"""What root opens for the agent: on its way through systemd's store, and in hostile hands."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hub.agent import handover, store
from hub.agent.answers import get_text, look
from hub.agent.handover import DOCUMENT, NAMES, packed, unpacked
from hub.agent.kernel.memory import OTHER_CLOCK
from hub.agent.kernel.secrets import SourceError
from hub.agent.kernel.sources import Kernel, NoSourceError, open_sources
from hub.agent.store import StoreError, give, received
from hub.systemd import Manager
from tests.support.kernel_files import DATA, PLACES, SECRETS, Memory, without_capabilities
from tests.support.kernel_files import settings as write_settings

MODULES = {
    "tcp_secrets": {"tcp_secrets": (DATA / "tcpsecrets-2.4.txt").read_text("ascii")},
    "isn_sync_v22": {"isn_sync": (DATA / "isn_sync-22.02.txt").read_text("ascii")},
    "isn_sync": {f"isn_sync_{name}": f"{value.hex()}\n" for name, value in SECRETS.items()},
}


@contextlib.contextmanager
def kernel_of(proc: Path, source: str) -> Iterator[None]:
    """Let a kernel with this source of keys be there."""
    write_settings(proc)
    if source == "kcore":
        with Memory(proc):
            yield
        return
    for name, text in MODULES[source].items():
        (proc / name).write_text(text)
        (proc / name).chmod(0o044)  # as isn_sync has them, or stricter
    yield


def told(kernel: Kernel, proc: Path) -> dict[str, str]:
    """Return what is told of the kernel, without what goes on with time."""
    text = get_text(kernel, proc, syncookies=1, engaged_s=0)
    said = dict(line.split(": ", 1) for line in text.splitlines())
    return {name: said[name] for name in said if name not in {"time", "time_ms", *_GOES_ON}}


_GOES_ON = ("jiffies", "timestamp_ms")


def sent(kernel: Kernel | NoSourceError) -> dict[str, int]:
    """Return the descriptors as another process gets them."""
    files = packed(kernel)
    theirs = {name: os.dup(number) for name, number in files.items()}
    os.close(files[DOCUMENT])
    return theirs


def is_open(number: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("source", ["kcore", *MODULES])
def test_source_when_handed_over_then_read_on_without_any_right(
    tmp_path: Path, source: str
) -> None:
    """The other process tells the same, opens nothing, and needs what root needed no more."""
    with kernel_of(tmp_path, source):
        ours = open_sources(tmp_path)
        assert ours.source == source
        expected, files = told(ours, tmp_path), sent(ours)
        assert set(files) <= set(NAMES)
        ours.close()
        for name in ("kcore", "kallsyms", *(n for one in MODULES.values() for n in one)):
            (tmp_path / name).unlink(missing_ok=True)

        def take() -> dict[str, str]:
            kernel = unpacked(files)
            try:
                return told(kernel, tmp_path)
            finally:
                kernel.close()

        assert without_capabilities(take) == expected
        assert not any(is_open(number) for number in files.values())


def test_memory_when_the_module_is_loaded_later_then_the_taker_says_so(tmp_path: Path) -> None:
    """What is looked for again and again is still looked for, at the same place."""
    with kernel_of(tmp_path, "kcore"):
        ours = open_sources(tmp_path)
        kernel = unpacked(sent(ours))
        ours.close()
        assert kernel.read().net == SECRETS["net_secret"]
        (tmp_path / OTHER_CLOCK).touch()
        with pytest.raises(SourceError, match="start the agent again"):
            kernel.read()
        kernel.close()


def test_source_when_there_is_none_then_the_taker_says_why(tmp_path: Path) -> None:
    """The words are those of the process that has looked."""
    found = look(tmp_path)
    assert isinstance(found, NoSourceError)
    with pytest.raises(NoSourceError) as caught:
        unpacked(sent(found))
    assert str(caught.value) == str(found)
    assert caught.value.tried == found.tried


def test_document_when_made_then_sealed_and_without_secrets(tmp_path: Path) -> None:
    """Addresses are in the sealed memory alone; secrets are nowhere."""
    with kernel_of(tmp_path, "kcore"):
        kernel = open_sources(tmp_path)
        files = packed(kernel)
        text = os.pread(files[DOCUMENT], 1 << 16, 0).decode()
        with pytest.raises(PermissionError):
            os.pwrite(files[DOCUMENT], b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(files[DOCUMENT], 0)
        assert str(PLACES["net_secret"]) in text
        for value in SECRETS.values():
            assert value.hex() not in text
        for shown in (repr(kernel.handed()), repr(kernel)):
            assert str(PLACES["net_secret"]) not in shown
            assert f"{PLACES['net_secret']:x}" not in shown
        os.close(files[DOCUMENT])
        kernel.close()


def memory(content: bytes, *, seal: bool = True) -> int:
    """Return memory with this content."""
    made = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(made, content)
    if seal:
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, handover._SEALS)
    return made


def changed(**more: Any) -> Callable[[dict[str, Any]], bytes]:
    """Return what makes another document of a right one."""
    return lambda document: json.dumps(document | more).encode()


@pytest.mark.parametrize(
    "make",
    [
        lambda _: b"",
        lambda _: b"{",
        lambda _: b"[1]",
        lambda _: b"[" * 100_000,
        lambda document: json.dumps(document).encode()[:-3],
        changed(version=2),
        changed(tried=None),
        changed(tried=[{"sources": 1}]),
        changed(source="none such"),
        changed(source=["kcore"]),
        changed(source="tcp_secrets"),
        changed(source="isn_sync"),
        changed(about=None),
        changed(about={}),
        changed(about={"symbols": {}, "hz": 250, "other_clock": "/x"}),
        changed(about={"symbols": {**PLACES, "net_secret": -1}, "hz": 250, "other_clock": "/x"}),
        changed(about={"symbols": {**PLACES, "net_secret": 4096}, "hz": 250, "other_clock": "/x"}),
        changed(about={"symbols": {**PLACES, "net_secret": 1 << 70}, "hz": 250, "other_clock": ""}),
        changed(about={"symbols": PLACES, "hz": "250", "other_clock": "/x"}),
        changed(about={"symbols": PLACES, "hz": 250, "other_clock": 7}),
    ],
)
def test_document_when_not_ours_then_refused_and_nothing_stays_open(
    tmp_path: Path, make: Callable[[dict[str, Any]], bytes]
) -> None:
    """One clear error whatever it says; every descriptor that came is closed."""
    with kernel_of(tmp_path, "kcore"):
        kernel = open_sources(tmp_path)
        files = sent(kernel)
        kernel.close()
        document = json.loads(os.pread(files[DOCUMENT], 1 << 16, 0))
        os.close(files[DOCUMENT])
        files[DOCUMENT] = memory(make(document))
        with pytest.raises(SourceError):
            unpacked(files)
        assert not any(is_open(number) for number in files.values())


def test_descriptors_when_wrong_or_missing_then_refused_and_what_to_do(tmp_path: Path) -> None:
    """No document, one that can still be changed, another file in the source's place, none."""

    def refused(change: Callable[[dict[str, int]], Any]) -> SourceError:
        kernel = open_sources(tmp_path)
        files = sent(kernel)
        kernel.close()
        change(files)
        with pytest.raises(SourceError) as caught:
            unpacked(files)
        assert not any(is_open(number) for number in files.values())
        return caught.value

    def exchange(name: str, number: int) -> Callable[[dict[str, int]], Any]:
        def change(files: dict[str, int]) -> None:
            os.close(files[name])
            files[name] = number

        return change

    with kernel_of(tmp_path, "kcore"):
        without = refused(lambda files: os.close(files.pop(DOCUMENT)))
        assert "systemctl stop fnm-agent" in without.todo
        assert "holds no source" in without.what
        loose = refused(exchange(DOCUMENT, memory(b"{}", seal=False)))
        assert "not sealed" in loose.what
        refused(exchange(DOCUMENT, os.open("/dev/zero", os.O_RDONLY)))
        refused(exchange("kernel.kcore", memory(b"\x7fELF")))
        refused(exchange("kernel.kcore", os.open("/dev/null", os.O_RDONLY)))
        refused(exchange("kernel.kcore", os.open(tmp_path, os.O_RDONLY)))
        refused(lambda files: os.close(files.pop("kernel.kcore")))
    with pytest.raises(SourceError, match="holds no source"):
        unpacked({})


class Store:
    """The end of the socket at which systemd sits, as far as its store goes."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.said: list[list[str]] = []
        self.files: dict[str, int] = {}

    def hear(self, seconds: float = 0) -> None:
        """Take what comes up to a barrier, which is let go after `seconds`."""
        while True:
            message, files, flags, _ = socket.recv_fds(self._socket, 4096, 4)
            assert not flags & socket.MSG_CTRUNC
            lines = message.decode().split("\n")
            self.said.append(lines)
            if "FDSTORE=1" in lines:
                (number,) = files
                assert "FDPOLL=0" in lines
                self.files[lines[1].removeprefix("FDNAME=")] = number
            if lines == ["BARRIER=1"]:
                threading.Event().wait(seconds)
                for number in files:
                    os.close(number)
                return

    def close(self) -> None:
        """Let go of all."""
        self._socket.close()
        for number in self.files.values():
            with contextlib.suppress(OSError):
                os.close(number)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Store]:
    """Return such an end."""
    made = Store(tmp_path / "notify")
    yield made
    made.close()


def test_store_when_given_then_the_former_go_first_and_the_barrier_is_waited_for(
    systemd: Store,
) -> None:
    """It returns when the manager has read all: it may end then."""
    over = threading.Event()

    def hear() -> None:
        systemd.hear(0.3)
        over.set()

    thread = threading.Thread(target=hear, name="systemd")
    thread.start()
    number = memory(b"x")
    manager = Manager.of(dict(systemd.environment))
    give(manager, {"kernel": number}, ("kernel", "kernel.kcore"))
    assert systemd.said == [
        ["FDSTOREREMOVE=1", "FDNAME=kernel"],
        ["FDSTOREREMOVE=1", "FDNAME=kernel.kcore"],
        ["FDSTORE=1", "FDNAME=kernel", "FDPOLL=0"],
        ["BARRIER=1"],
    ]
    thread.join(20)
    assert over.is_set()
    assert os.fstat(systemd.files["kernel"]).st_ino == os.fstat(number).st_ino
    os.close(number)
    manager.close()


def test_store_when_nobody_keeps_it_then_an_error_says_what_it_is_for(
    systemd: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand there is no store; and a manager that never answers is not waited for for ever."""
    with pytest.raises(StoreError, match="systemctl restart fnm-agent"):
        give(Manager(), {}, ())
    monkeypatch.setattr(store, "_PATIENCE_S", 0.1)
    manager = Manager.of(dict(systemd.environment))
    with pytest.raises(StoreError, match="does not take"):
        give(manager, {}, ())
    manager.close()


def listen_variables(files: Mapping[str, int]) -> dict[str, str]:
    """Return what a service finds in its environment."""
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(files)),
        "LISTEN_FDNAMES": ":".join(files),
    }


def test_received_when_for_us_then_by_name_and_not_for_children() -> None:
    """In a process of its own, because the numbers are fixed."""
    program = """
import os
from hub.agent.store import StoreError, received
def given(**more):
    names = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    return names | more
one = os.open("/dev/null", os.O_RDONLY)
os.dup2(one, 3); os.dup2(one, 4)
environment = given(OTHER="x")
assert received(environment) == {"a": 3, "b": 4}
assert environment == {"OTHER": "x"}
assert not os.get_inheritable(3) and not os.get_inheritable(4)
assert received(given(LISTEN_PID="1")) == {} == received({})
for wrong in ({"LISTEN_FDNAMES": "a:a"}, {"LISTEN_FDNAMES": "a"}, {"LISTEN_FDS": "x"},
              {"LISTEN_FDS": "9" * 30}, {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c"}):
    os.closerange(5, 10)
    try:
        received(given(**wrong))
    except StoreError as error:
        assert "systemctl stop fnm-agent fnm-keeper" in error.todo
    else:
        raise AssertionError(wrong)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False
    )
    assert done.returncode == 0
    assert received(listen_variables({}) | {"LISTEN_FDS": ""}) == {}


def test_open_when_run_by_a_unit_then_the_store_has_a_source_and_the_journal_the_findings(
    tmp_path: Path, systemd: Store
) -> None:
    """The whole of `fnm-agent open`; what earlier agents left is cleared away."""
    proc, runtime = tmp_path / "proc", tmp_path / "run"
    runtime.mkdir()
    (runtime / "control.sock").touch()
    proc.mkdir()
    with kernel_of(proc, "isn_sync_v22"):
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-m", "hub.agent.main", "open"),
                *("--proc", str(proc), "--runtime", str(runtime)),
            ],
            env=os.environ | systemd.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        systemd.hear()
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "source: ok, isn_sync_v22\n" in said
        assert "syncookies: ok, " in said
        kernel = unpacked(systemd.files)
        assert told(kernel, proc)["hz"] == "250"
        kernel.close()
    assert list(runtime.iterdir()) == []
    assert systemd.said[: len(NAMES)] == [["FDSTOREREMOVE=1", f"FDNAME={name}"] for name in NAMES]
