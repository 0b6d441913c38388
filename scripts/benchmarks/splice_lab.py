# SPDX-License-Identifier: Apache-2.0
"""A gateway between clients and a server that cost next to nothing, with a proxy on it or none."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

from scripts.benchmarks.dataplane_lab import ATTACK_CPU, BUILT
from scripts.lab import synproxyd
from scripts.lab.commands import LabError
from tests.support.hub_process import until
from tests.support.netns import inside, run

SERVER: Final = "192.0.2.10"
CLIENTS: Final = "198.18.0.0/16"
FORWARD: Final = "forwarding"
NFT: Final = "nft synproxy"
SPLICE: Final = "splice"

_OUTSIDE: Final = "outside"
_INSIDE: Final = "inside"
_READY_SECONDS: Final = 20.0
_FOREVER_MS: Final = 3_600_000
# How it is done by the book: the SYN untracked, loose pick-up of flows off.
_SYNPROXY: Final = r"""
table inet bench {
  chain raw {
    type filter hook prerouting priority raw;
    iifname "outside" tcp dport 80 tcp flags & (fin|syn|rst|ack) == syn notrack
  }
  chain forward {
    type filter hook forward priority filter;
    iifname "outside" tcp dport 80 ct state invalid,untracked \
      synproxy mss 1460 wscale 7 timestamp sack-perm
    ct state invalid drop
  }
}
"""

_numbers = count()


class Route:
    """Three namespaces in a row; everything that is sent in them is done by one CPU.

    Clients and server are XDP programs of native/bench/splice.bpf.c, which count what arrives.
    """

    def __init__(self, proxy: str) -> None:
        number = f"{os.getpid()}x{next(_numbers)}"
        self.proxy = proxy
        self._names = {role: f"fnms{number}{role}" for role in ("client", "gateway", "server")}
        self._stack = ExitStack()
        self._control = Path()

    def __enter__(self) -> Self:
        """Build it."""
        with ExitStack() as stack:
            stack.callback(self._remove)
            self._build()
            if self.proxy == NFT:
                self._load_rules()
            elif self.proxy == SPLICE:
                self._control = stack.enter_context(self._synproxyd())
            self._traffic = stack.enter_context(self._generator())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self._stack.close()

    def do(self, *command: object) -> dict[str, Any]:
        """Let bench-splice do one thing and return what it has seen."""
        if self._traffic.stdin is None or self._traffic.stdout is None:
            msg = "it has pipes"
            raise AssertionError(msg)
        self._traffic.stdin.write(" ".join(map(str, command)) + "\n")
        self._traffic.stdin.flush()
        line = self._traffic.stdout.readline()
        if not line:
            msg = "bench-splice has ended; what it said is above"
            raise RuntimeError(msg)
        found: dict[str, Any] = json.loads(line)
        return found

    def counts(self) -> dict[str, int]:
        """Return how often synproxyd has given each reason; nothing where there is none."""
        if self.proxy != SPLICE:
            return {}
        packets: dict[str, int] = synproxyd.ask(self._control, "stats")["packets"]
        return packets

    def forget_rules(self) -> None:
        """Let nftables translate no more."""
        run("ip", "netns", "exec", self._names["gateway"], "nft", "flush", "ruleset")

    def _build(self) -> None:
        for role, name in self._names.items():
            run("ip", "netns", "add", name)
            # Whatever its timers send may come from another CPU, which then takes part in the work.
            self._write("net/ipv6/conf/default/disable_ipv6", "1", role)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self._join("client", _OUTSIDE, 1, "198.51.100")
        self._join("server", _INSIDE, 2, "192.0.2")
        gateway = self._names["gateway"]
        run("ip", "-n", gateway, "route", "add", CLIENTS, "via", "198.51.100.10")
        for key in ("all", "default", _OUTSIDE, _INSIDE):
            self._write(f"net/ipv4/conf/{key}/rp_filter", "0")
        self._write("net/ipv4/ip_forward", "1")

    def _join(self, role: str, link: str, number: int, network: str) -> None:
        # The addresses are in native/bench/splice.bpf.c, too.
        mac = f"02:00:00:00:{number:02}"
        gateway, far = self._names["gateway"], self._names[role]
        peer = ("type", "veth", "peer", "name", "eth0", "netns", far)
        run("ip", "-n", gateway, "link", "add", link, *peer)
        for name, device, last, host in ((gateway, link, "02", 1), (far, "eth0", "01", 10)):
            run("ip", "-n", name, "link", "set", device, "address", f"{mac}:{last}", "up")
            run("ip", "-n", name, "address", "add", f"{network}.{host}/24", "dev", device)
            # GRO gives the link a NAPI without XDP; checksums are to be true on the wire.
            run("ip", "netns", "exec", name, "ethtool", "-K", device, "gro", "on", "tx", "off")
        fixed = ("lladdr", f"{mac}:01", "dev", link, "nud", "permanent")
        run("ip", "-n", gateway, "neighbour", "add", f"{network}.10", *fixed)

    def _remove(self) -> None:
        for name in self._names.values():
            run("ip", "netns", "delete", name, check=False)

    def _write(self, name: str, value: str, role: str = "gateway") -> None:
        inside(self._names[role], lambda: (Path("/proc/sys") / name).write_text(value))

    def _load_rules(self) -> None:
        self._write("net/netfilter/nf_conntrack_tcp_loose", "0")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "rules"
            path.write_text(_SYNPROXY)
            run("ip", "netns", "exec", self._names["gateway"], "nft", "-f", str(path))

    @contextmanager
    def _generator(self) -> Iterator[subprocess.Popen[str]]:
        argv = [str(BUILT / "bench-splice"), str(BUILT), str(ATTACK_CPU)]
        argv += [self._names["client"], self._names["server"]]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                if process.stdout is None or process.stdout.readline().strip() != "ready":
                    msg = "bench-splice does not begin; what it said is above"
                    raise RuntimeError(msg)
                yield process
            finally:
                process.kill()

    @contextmanager
    def _synproxyd(self) -> Iterator[Path]:
        with TemporaryDirectory() as folder, synproxyd.pins(Path(folder) / "bpf") as pins:
            control = Path(folder) / "control.sock"
            command = (
                *("ip", "netns", "exec", self._names["gateway"], str(synproxyd.PROGRAM), "run"),
                *("--interface", _OUTSIDE, "--pin-dir", f"{pins}/s", "--socket", str(control)),
                # As on a network card; conntrack verifies them, too.
                *("--verify-checksums", "on"),
            )
            with (
                (Path(folder) / "log").open("w+") as log,
                subprocess.Popen(command, stdout=log, stderr=log) as process,
            ):
                try:
                    where = (process, control, Path(folder) / "log")
                    until("synproxyd answers", lambda: _answers(*where), _READY_SECONDS)
                    _protect(control)
                    yield control
                finally:
                    process.kill()


def _answers(process: subprocess.Popen[bytes], control: Path, log: Path) -> bool:
    if process.poll() is not None:
        msg = f"synproxyd has ended:\n{log.read_text()}"
        raise RuntimeError(msg)
    with suppress(LabError):
        return bool(synproxyd.ask(control, "stats"))
    return False


def _protect(control: Path) -> None:
    strict = {"grace": {"for_ms": 0, "pps": 0}, "unknown_pps": 0}
    synproxyd.ask(
        control,
        "put",
        id="bench",
        revision=1,
        target=f"{SERVER}/32",
        expires_ms=_FOREVER_MS,
        kind="tcp",
        tcp={"mode": "splice", **strict},
    )
