# SPDX-License-Identifier: Apache-2.0
"""The demo's way of ISN sync: a guest with a stock kernel as the server, and an agent inside."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh

from scripts.lab.client import PAGE
from scripts.lab.commands import LabError, Process, run, wait_until
from scripts.lab.engines import Native
from scripts.lab.guest import Guest, Plug, Program
from scripts.lab.guest_image import VENV_PYTHON
from scripts.lab.hub_api import HubApi
from scripts.lab.network import GATEWAY_INSIDE, SERVER
from scripts.lab.parts import Lab

HELD: Final = 20
PORT: Final = 7100
MODE: Final = "isn-sync"
READY: Final = 30.0
_TAP: Final = "guest"
_NGINX: Final = f"""daemon off;
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  keepalive_requests 1000000;
  server {{ listen {SERVER}:80; root /www; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Bridged(Plug):
    """Plugs the guest in beside the server's namespace, which becomes a switch."""

    def make(self) -> None:
        """Make the tap device and join it with the link to the gateway."""
        for words in (
            f"tuntap add dev {self.interface} mode tap",
            "link add switch type bridge",
            f"address delete {SERVER}/24 dev eth0",
            f"link set {self.interface} master switch",
            "link set eth0 master switch",
            f"link set {self.interface} up",
            "link set switch up",
        ):
            run("ip", "-n", self.namespace, *words.split())


class IsnSync(Native):
    """synproxyd in XDP, with the keys of a guest's own kernel.

    Attributes:
        guest: the protected server; None before `serve`.
        modes: what was seen in force.
    """

    shows = "synproxyd"

    def __init__(self) -> None:
        self.guest: Guest | None = None
        self.agent: Program | None = None
        self.modes: set[str] = set()
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")

    def serve(self, lab: Lab, stack: ExitStack) -> tuple[Process, ...]:
        """Boot the guest, and start its web server and its agent."""
        stack.enter_context(self._booted(lab))
        self._put("/www/index.html", PAGE.encode())
        self._put("/etc/nginx.conf", _NGINX.encode())
        self._put("/etc/fnm-agent/keys", self._key.export_public_key())
        self._put("/etc/fnm-agent/host_ed25519", self._host_key.export_private_key(), 0o600)
        _ = self._guest.start("nginx", "nginx", "-c", "/etc/nginx.conf", "-e", "stderr")
        self.agent = self._guest.start("fnm-agent", VENV_PYTHON, "-m", "hub.agent.main", "run")
        self.agent.expect("agent.started", READY)
        return ()

    def more_settings(self, lab: Lab) -> dict[str, Any]:
        """Return what else the hub's configuration needs: the agent, its key, ours."""
        folder = lab.place / "isn-sync"
        folder.mkdir(mode=0o700)
        private = folder / "id_ed25519"
        private.touch(0o600)
        private.write_bytes(self._key.export_private_key())
        line = f"[{SERVER}]:{PORT} {self._host_key.export_public_key().decode()}"
        (folder / "known_hosts").write_text(line)
        places = {"key": str(private), "known_hosts": str(folder / "known_hosts")}
        return {"isn_sync": {"servers": SERVER, **places}}

    def held(self, lab: Lab) -> dict[str, str]:
        """Return what synproxyd enforces, and remember in which mode."""
        found = super().held(lab)
        self.modes |= {json.loads(text).get("mode", "none") for text in found.values()}
        return found

    def know_agent(self, lab: Lab) -> None:
        """Wait until the hub knows the guest's agent."""
        api = HubApi(lab.api)
        wait_until(
            "the hub knows the agent",
            lambda: [one["state"] for one in api.items("agents")] == ["ok"],
            seconds=READY,
            todo="see hub.log",
        )

    def kernel(self) -> str:
        """Return the guest's kernel."""
        return self._guest.release

    def kill_agent(self) -> None:
        """End the agent without a word."""
        if self.agent is not None:
            self.agent.stop(signal.SIGKILL)

    @property
    def _guest(self) -> Guest:
        if self.guest is None:
            raise LabError("the guest does not run")
        return self.guest

    def _put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._guest.put(path, content, mode)

    @contextmanager
    def _booted(self, lab: Lab) -> Iterator[None]:
        namespace = lab.network.namespace("server")
        plug = Bridged(namespace, _TAP, (f"{GATEWAY_INSIDE}/24",), (f"{SERVER}/24",))
        with Guest(plug) as self.guest:
            yield


@contextmanager
def holder(lab: Lab) -> Iterator[Path]:
    """Hold connections from the client open; yield the file in which they are counted."""
    log = lab.logs / "holder.jsonl"
    argv = lab.python("scripts.lab.holder", SERVER, "--number", str(HELD))
    with lab.started("holder", "client", *argv, log=log):
        wait_until("all connections are open", lambda: held_open(log) == HELD, seconds=READY)
        yield log


def held_open(log: Path) -> int:
    """Return how many of the held connections are open."""
    lines = log.read_text().splitlines()
    return int(json.loads(lines[-1])["open"]) if lines else 0


def answers(log: Path) -> int:
    """Return how many answers have come over them so far."""
    lines = log.read_text().splitlines()
    return int(json.loads(lines[-1])["answers"]) if lines else 0
