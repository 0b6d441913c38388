# SPDX-License-Identifier: Apache-2.0
"""Five network namespaces joined by veth links; no packet of theirs can leave the machine.

attacker 198.51.100.2-5 --+
                          +-- internet -- 198.18.0.2 gateway 192.0.2.1 -- 192.0.2.10 server
client   203.0.113.2    --+

`internet` routes between its neighbours and swallows what goes anywhere else, as the answers to
invented sources do. All addresses are reserved for documentation and tests (RFC 5737, RFC 2544).
"""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from scripts.lab.commands import LabError, run, wait_until

SERVER: Final = "192.0.2.10"
CLIENT: Final = "203.0.113.2"
ATTACKERS: Final = ("198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5")
GATEWAY_INSIDE: Final = "192.0.2.1"
PROTECTED: Final = "192.0.2.0/24"
OUTSIDE: Final = "outside"
INSIDE: Final = "inside"
NODES: Final = ("attacker", "client", "internet", "gateway", "server")
END_OF_PROCESSES: Final = 5.0


@dataclass(frozen=True, slots=True)
class _End:
    node: str
    interface: str
    addresses: tuple[str, ...]


_LINKS: Final = (
    (
        _End("attacker", "eth0", tuple(f"{address}/24" for address in ATTACKERS)),
        _End("internet", "attacker", ("198.51.100.1/24",)),
    ),
    (_End("client", "eth0", (f"{CLIENT}/24",)), _End("internet", "client", ("203.0.113.1/24",))),
    (_End("internet", "gateway", ("198.18.0.1/30",)), _End("gateway", OUTSIDE, ("198.18.0.2/30",))),
    (_End("gateway", INSIDE, (f"{GATEWAY_INSIDE}/24",)), _End("server", "eth0", (f"{SERVER}/24",))),
)
_ROUTES: Final = (
    ("attacker", ("default", "via", "198.51.100.1")),
    ("client", ("default", "via", "203.0.113.1")),
    ("internet", (PROTECTED, "via", "198.18.0.2")),
    ("internet", ("blackhole", "default")),
    ("gateway", ("default", "via", "198.18.0.1")),
    ("server", ("default", "via", GATEWAY_INSIDE)),
)
_ROUTERS: Final = ("internet", "gateway")
# Routers must take packets whose source is no neighbour: this flood invents its sources.
_ROUTER_SYSCTLS: Final = (
    "echo 1 >/proc/sys/net/ipv4/ip_forward; "
    "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done"
)


class Network:
    """The namespaces `fnm-TAG-NODE`; use as a context manager, or call `up` and `down`."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __enter__(self) -> Self:
        """Build it; nothing is left behind when that fails."""
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Remove it with everything that still runs in it."""
        self.down()

    def namespace(self, node: str) -> str:
        """Return the namespace's name as `ip netns` knows it."""
        return f"fnm-{self.tag}-{node}"

    def command(self, node: str, *argv: str) -> tuple[str, ...]:
        """Return the command that runs `argv` on `node`."""
        return ("ip", "netns", "exec", self.namespace(node), *argv)

    def run(self, node: str, *argv: str, stdin: str = "") -> str:
        """Run `argv` on `node` to its end and return its standard output."""
        return run(*self.command(node, *argv), stdin=stdin)

    def up(self) -> None:
        """Make the namespaces, links, addresses and routes.

        Raises:
            LabError: the kernel or `ip` refused.
        """
        for node in NODES:
            run("ip", "netns", "add", self.namespace(node))
            self._ip(node, "link", "set", "lo", "up")
        for one, other in _LINKS:
            self._ip(
                one.node, "link", "add", one.interface, "type", "veth",
                "peer", "name", other.interface, "netns", self.namespace(other.node),
            )  # fmt: skip
            for end in (one, other):
                for address in end.addresses:
                    self._ip(end.node, "addr", "add", address, "dev", end.interface)
                self._ip(end.node, "link", "set", end.interface, "up")
        for node in _ROUTERS:
            self.run(node, "sh", "-c", _ROUTER_SYSCTLS)
        for node, route in _ROUTES:
            self._ip(node, "route", "add", *route)

    def down(self) -> None:
        """End every process inside and remove the namespaces; removing twice does no harm."""
        for node in NODES:
            namespace = self.namespace(node)
            if not Path("/run/netns", namespace).exists():
                continue
            for process in self._processes(namespace):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            with suppress(LabError):
                wait_until(
                    f"processes in {namespace} end",
                    partial(self._empty, namespace),
                    seconds=END_OF_PROCESSES,
                )
            run("ip", "netns", "del", namespace)

    def _ip(self, node: str, *args: str) -> None:
        run("ip", "-n", self.namespace(node), *args)

    def _empty(self, namespace: str) -> bool:
        return not self._processes(namespace)

    @staticmethod
    def _processes(namespace: str) -> list[int]:
        return [int(line) for line in run("ip", "netns", "pids", namespace).split()]
