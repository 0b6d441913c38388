# SPDX-License-Identifier: Apache-2.0
"""synproxyd's control socket in hostile hands, and what the daemon can still do then."""

import json
import os
import random
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import run
from tests.support.synproxyd import TARGET, Client, Daemon, Ground, eventually, ground, put

_SECRET = "5ec4e70123456789" * 4
_NOBODY = 65534
_TALK = r"""
import contextlib, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
with contextlib.suppress(BrokenPipeError):  # told and closed before it has spoken
    s.sendall(b'{"op":"hello","version":1}\n')
print(s.makefile().readline())
"""


@pytest.fixture(name="place", scope="module")
def _place() -> Iterator[Ground]:
    with ground() as made:
        yield made


@pytest.fixture(name="daemon", scope="module", params=["synproxyd", "asan/synproxyd"])
def _daemon(place: Ground, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    started = place.run("--user", "nobody", "--allow-user", "daemon", binary=request.param)
    yield started
    assert started.end() == 0, started.text()


def _served(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.good({"op": "list"})


def _isn_sync(**others: Any) -> dict[str, Any]:
    tcp = {
        "mode": "isn-sync",
        "profile": {
            "mss4": 1460,
            "window": 65160,
            "wscale": 7,
            "ttl": 64,
            "sack": True,
            "timestamps": True,
            "ecn": False,
        },
        "keys": {"cookie": _SECRET, "timestamp": _SECRET[:32], "timestamp_scheme": "flow"},
        "clock": {
            "monotonic_ms": time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000,
            "cookie_ms": 4295000000,
            "timestamp_ms": 4711,
        },
    }
    return put("synced", tcp=tcp | others)


def test_it_keeps_no_privilege(daemon: Daemon) -> None:
    """No capability, another user, a system call filter, and no way to get anything back."""
    status = daemon.status()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Groups"] == ""


def test_its_memory_is_nobodys_business(daemon: Daemon) -> None:
    """A process of the same user may not look into it: keys pass through there."""
    for name in ("mem", "environ", "maps"):
        path = f"/proc/{daemon.pid}/{name}"
        done = subprocess.run(
            ["setpriv", "--reuid", "nobody", "--clear-groups", "head", "-c1", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core")]
    assert core.split()[4:6] == ["0", "0"]


def test_only_root_and_named_users_are_served(daemon: Daemon) -> None:
    """Others are told so and closed, also where the file's mode would let them in."""
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o660
    daemon.path.chmod(0o666)
    try:
        answers = {
            user: json.loads(
                run(
                    "setpriv",
                    "--reuid",
                    user,
                    "--clear-groups",
                    "/usr/bin/python3",
                    "-c",
                    _TALK,
                    str(daemon.path),
                )
            )
            for user in ("daemon", "bin", "nobody")
        }
    finally:
        daemon.path.chmod(0o660)
    assert answers["daemon"]["ok"] is True
    for user in ("bin", "nobody"):
        assert answers[user]["ok"] is False
        assert answers[user]["error"] == "denied"
        assert "--allow-user" in answers[user]["todo"]
    _served(daemon)


def test_put_is_idempotent_and_revisions_are_in_order(daemon: Daemon) -> None:
    """The same again renews, a change replaces, an older one is stale, a check does nothing."""
    name = f"a-{daemon.pid}"
    with daemon.client() as client:
        assert client.good(put(name, revision=2, check=True))["outcome"] == "would_create"
        assert name not in client.listed()
        assert client.good(put(name, revision=2))["outcome"] == "created"
        assert client.good(put(name, revision=2))["outcome"] == "renewed"
        assert client.good(put(name, revision=3, expires_ms=9000))["outcome"] == "renewed"
        assert client.listed()[name]["expires_ms"] <= 9000
        stale = client.ask(put(name, revision=2))
        assert (stale["ok"], stale["error"]) == (False, "stale")
        assert client.good(put(name, kind="watch", revision=4))["outcome"] == "replaced"
        assert client.listed()[name]["kind"] == "watch"
        gone = {"op": "delete", "id": name, "revision": 4}
        assert client.good(gone)["outcome"] == "deleted"
        assert client.good(gone)["outcome"] == "absent"
        assert client.ask(put(name, revision=3))["error"] == "stale"


def test_delivery_is_shown_and_logged_until_the_end(daemon: Daemon) -> None:
    """What a mitigation goes back to is in the list and in each line, also after a change."""
    name, delivery = f"d-{daemon.pid}", f"delivery.of:{daemon.pid}-1"
    with daemon.client() as client:
        client.good(put(name, delivery=delivery))
        assert client.listed()[name]["delivery"] == delivery
        client.good(put(name, revision=2, expires_ms=9000))
        client.good(put(name, kind="watch", revision=3))
        assert client.listed()[name]["delivery"] == delivery
        client.good({"op": "delete", "id": name, "revision": 3})
        client.good(put(f"{name}-2"))
        assert "delivery" not in client.listed()[f"{name}-2"]
        for wrong in ("", "x" * 65, "a b", 1):
            assert client.ask(put(name, revision=4, delivery=wrong))["error"] == "bad_request"
        client.good({"op": "delete", "id": f"{name}-2", "revision": 1})
    lines = [json.loads(line) for line in daemon.text().splitlines()]
    said = [line["event"] for line in lines if line.get("delivery") == delivery]
    assert said == ["mitigation.put", "mitigation.deleted"]


def test_secrets_come_out_nowhere(daemon: Daemon) -> None:
    """Neither answers nor the log hold key material, whether a put is good or broken."""
    with daemon.client() as client:
        answers = [client.ask(_isn_sync())]
        assert answers[0]["ok"], answers
        answers += [
            client.ask(request)
            for request in (
                _isn_sync(keys={"cookie": _SECRET[:-1]}),
                _isn_sync(keys={_SECRET: 1}),
                {"op": "put", "keys": _SECRET},
                {"op": "list"},
                {"op": "stats"},
                {"op": "samples"},
                {"op": "delete", "id": "synced", "revision": 1},
            )
        ]
        for raw in (b'{"cookie":"' + _SECRET.encode() + b"}\n", _SECRET.encode() + b"\n"):
            client.socket.sendall(raw)
            answers.append(client.answer())
    text = json.dumps(answers) + daemon.text()
    assert _SECRET[:16] not in text
    assert bytes.fromhex(_SECRET[:16]).hex(" ") not in text


def _memory(daemon: Daemon) -> Iterator[bytes]:
    with Path(f"/proc/{daemon.pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{daemon.pid}/maps").read_text().splitlines():
            area, rights = line.split()[:2]
            low, high = (int(word, 16) for word in area.split("-"))
            if "w" in rights and high - low < 2**28:
                memory.seek(low)
                with suppress(OSError):
                    yield memory.read(high - low)


def test_keys_stay_only_where_the_data_plane_reads_them(place: Ground) -> None:
    """Their hex digits are wiped from the daemon's memory once a put is answered."""
    run("ip", "-n", place.gateway, "link", "add", "wipe0", "type", "veth", "peer", "name", "wipe1")
    where = ("--pin-dir", str(place.bpf / "wipe"), "--socket", str(place.folder / "wipe.sock"))
    daemon = place.run(*where, interface="wipe0")
    with daemon.client() as client:
        client.good(_isn_sync())
        assert client.ask(_isn_sync(keys={"cookie": _SECRET, "more": 1}))["error"] == "bad_request"
        areas = list(_memory(daemon))
    assert sum(area.count(bytes.fromhex(_SECRET)) for area in areas) == 1
    assert not [area for area in areas if _SECRET[16:48].encode() in area]
    assert daemon.end() == 0


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"{",
        b"null",
        b"[" * 100000,
        b'{"op":"hello","version":1e999}',
        b'{"op":"hello","version":1,"version":1}',
        b'{"op":"put","id":"' + b"x" * 100000 + b'"}',
        b'{"op":"hello","version":1,"seq":{}}',
        b'{"op":"\\u0000"}',
    ],
    ids=lambda line: line[:24].decode("latin-1").encode("unicode_escape").decode(),
)
def test_hostile_line_gets_an_error_and_the_connection_lives(daemon: Daemon, line: bytes) -> None:
    """One answer a line, whatever the line is."""
    with daemon.client() as client:
        client.socket.sendall(line + b"\n")
        answer = client.answer()
        assert answer["ok"] is False
        assert answer["error"] == "bad_request"
        client.good({"op": "list"})


def test_random_bytes_hurt_nobody(daemon: Daemon) -> None:
    """Noise, in pieces, with and without line ends."""
    noise = random.Random(4711)
    for _ in range(30):
        with daemon.client() as client:
            client.socket.sendall(noise.randbytes(noise.randrange(1, 20000)))
    _served(daemon)


def test_line_without_end_is_cut_off(daemon: Daemon) -> None:
    """More than 1 MiB without a line end is answered and closed."""
    with daemon.client() as client:
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            client.socket.sendall(b"x" * 2**23)
        assert client.answer()["error"] == "bad_request"
    _served(daemon)


# Once is enough: the daemon gives such a client ten seconds.
@pytest.mark.parametrize("daemon", ["asan/synproxyd"], indirect=True)
def test_one_that_does_not_read_does_not_hold_up_the_others(daemon: Daemon) -> None:
    """Its requests wait, it is dropped in the end, and the others are served meanwhile."""
    with daemon.client() as deaf:
        deaf.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            deaf.socket.sendall(b'{"op":"hello","version":1}\n' * 1000000)
        _served(daemon)
        eventually(lambda: bool(daemon.events("client.too_slow")), "it is dropped", 15)
        _served(daemon)


def test_connections_are_bounded(daemon: Daemon) -> None:
    """The 33rd is told so; when one ends there is room again."""
    eventually(lambda: _connections(daemon) == 0, "earlier connections are gone")
    clients = [daemon.client() for _ in range(32)]
    try:
        with Client(daemon.path, greet=False) as refused:
            answer = refused.answer()
        assert answer["error"] == "full"
    finally:
        clients.pop().close()
    eventually(lambda: _connections(daemon) == 31, "one is gone")
    _served(daemon)
    for client in clients:
        client.close()


def _connections(daemon: Daemon) -> int:
    """Return how many sockets it has beside its listener and the one that it asks for names."""
    count = 0
    for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += str(descriptor.readlink()).startswith("socket:")
    return count - 2


def test_requests_before_hello_are_refused(daemon: Daemon) -> None:
    """A greeting comes first, in a version that is spoken."""
    with daemon.client(greet=False) as client:
        assert client.ask({"op": "list", "seq": 1}) == {
            "ok": False,
            "error": "hello_first",
            "message": "a connection begins with hello",
            "seq": 1,
        }
        assert client.ask({"op": "hello", "version": 2})["error"] == "version"
        client.good({"op": "hello", "version": 1})


def test_many_requests_at_once_are_answered_in_order(daemon: Daemon) -> None:
    """Also those that walk through tables, which take longer than others."""
    kinds = ("list", "flows", "stats", "samples")
    with daemon.client() as client:
        lines = [json.dumps({"op": kinds[i % 4], "seq": i}) for i in range(400)]
        client.socket.sendall("".join(f"{line}\n" for line in lines).encode())
        assert [client.answer()["seq"] for _ in range(400)] == list(range(400))


def test_daemon_may_start_without_being_root(place: Ground) -> None:
    """Three capabilities and a directory of its own on the bpf file system are enough."""
    pins, path = place.bpf / "own", place.folder / "own"
    pins.mkdir(mode=0o700)
    os.chown(pins, _NOBODY, _NOBODY)
    place.bpf.chmod(0o755)
    path.mkdir()
    os.chown(path, _NOBODY, _NOBODY)
    run("ip", "-n", place.gateway, "link", "add", "own0", "type", "veth", "peer", "name", "own1")
    capabilities = "+bpf,+net_admin,+perfmon"
    only = f"-all,{capabilities}"
    who = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
    rights = ("--inh-caps", only, "--ambient-caps", only, "--bounding-set", only)
    daemon = place.run(
        *("--pin-dir", str(pins), "--socket", str(path / "control.sock")),
        interface="own0",
        prefix=(*who, *rights),
    )
    status = daemon.status()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0
    with daemon.client() as client:
        assert client.good({"op": "stats"})["memory_bytes"] > 20_000_000
        client.good(put("web"))
    assert daemon.end() == 0


def test_socket_of_a_dead_daemon_is_replaced_and_a_file_is_not(place: Ground) -> None:
    """A stale socket is nobody's; anything else at its place belongs to somebody."""
    run("ip", "-n", place.gateway, "link", "add", "dead0", "type", "veth", "peer", "name", "dead1")
    path = place.folder / "dead.sock"
    options = ("--pin-dir", str(place.bpf / "dead"), "--socket", str(path))
    place.run(*options, interface="dead0").end(signal.SIGKILL)
    assert path.exists()
    place.run(*options, interface="dead0").end()
    path.unlink()
    path.write_text("precious")
    said = place.refused(*options, interface="dead0")
    assert str(path) in said["message"]
    assert path.read_text() == "precious"


def test_targets_of_both_families_and_widths(daemon: Daemon) -> None:
    """Prefixes and hosts of both families at once; what is too much on one target is `full`."""
    with daemon.client() as client:
        targets = [f"{TARGET}/32", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::1/128", "::/0"]
        for number, target in enumerate(targets):
            client.good(put(f"t-{number}", kind="watch", target=target))
        listed = client.listed()
        assert [listed[f"t-{number}"]["target"] for number in range(5)] == targets
        client.good(put("t-5", kind="watch", target=f"{TARGET}/32"))
        full = client.ask(put("t-6", kind="watch", target="192.0.0.0/16"))
        assert full["error"] == "full"
        assert TARGET in full["message"]
        for number in range(6):
            client.good({"op": "delete", "id": f"t-{number}", "revision": 1})
