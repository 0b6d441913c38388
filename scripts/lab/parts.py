# SPDX-License-Identifier: Apache-2.0
"""The programs of the lab: web server, visitor, hub and FastNetMon, each on its node."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.lab.client import PAGE
from scripts.lab.commands import LabError, Process, started, wait_until
from scripts.lab.hub_api import HubApi
from scripts.lab.network import GATEWAY_INSIDE, OUTSIDE, PROTECTED, SERVER, Network
from scripts.lab.visits import Visits

CHECKOUT: Final = Path(__file__).resolve().parents[2]
SHIPPED_RULES: Final = CHECKOUT / "rules/default.yaml"
PACKAGED_CONFIGURATION: Final = Path("/etc/fastnetmon.conf")
THRESHOLD_PPS: Final = 300
READY: Final = 20.0


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab: where its files are and which namespaces are its own."""

    place: Path
    network: Network

    @property
    def logs(self) -> Path:
        """The folder with one log a program."""
        return self.place / "logs"

    @property
    def api(self) -> Path:
        """The hub's operator socket."""
        return self.place / "api.sock"

    @property
    def visits(self) -> Path:
        """The visitor's notes."""
        return self.logs / "client.jsonl"

    @property
    def hub_configuration(self) -> Path:
        """The hub's configuration file."""
        return self.place / "config.yaml"

    def started(
        self, name: str, node: str, *argv: str, log: Path | None = None
    ) -> AbstractContextManager[Process]:
        """Run a program on `node` until the context ends."""
        command = self.network.command(node, *argv)
        return started(name, command, log=log or self.logs / f"{name}.log")

    @staticmethod
    def python(module: str, *argv: str) -> tuple[str, ...]:
        """Return the command of a module of this checkout, wherever another one is installed."""
        return ("env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", module, *argv)


@contextmanager
def web_server(lab: Lab) -> Iterator[Process]:
    """Serve one page from the server by nginx."""
    (lab.place / "www").mkdir()
    (lab.place / "www/index.html").write_text(PAGE)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {kind}_temp_path {lab.place}/nginx-{kind};" for kind in kinds)
    configuration = lab.place / "nginx.conf"
    configuration.write_text(
        "daemon off;\nuser root;\nworker_processes 1;\n"
        f"pid {lab.place}/nginx.pid;\nerror_log stderr;\nevents {{ }}\n"
        f"http {{\n  access_log off;\n{temporary}\n"
        f"  server {{ listen {SERVER}:80; root {lab.place}/www; }}\n}}\n"
    )
    argv = ("nginx", "-p", str(lab.place), "-c", str(configuration), "-e", "stderr")
    with lab.started("nginx", "server", *argv) as process:
        yield process


@contextmanager
def visitor(lab: Lab) -> Iterator[Process]:
    """Fetch the page ten times a second from the client, once the first one has come."""
    lab.visits.touch()
    argv = lab.python("scripts.lab.client", SERVER)
    with lab.started("client", "client", *argv, log=lab.visits) as process:
        visits = Visits(lab.visits)
        _ready(process, lambda: visits.between(0, float("inf")).answered > 0)
        yield process


def hub_settings(
    lab: Lab, rules: Path = SHIPPED_RULES, engines: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the hub's configuration for the lab."""
    return {
        "dry_run": False,
        "engines": engines or {},
        "services": [
            {
                "name": "web",
                "prefixes": [f"{SERVER}/32"],
                "tcp_ports": [80],
                "interface": OUTSIDE,
            }
        ],
        "rules": [str(rules)],
        "guard": {"own_prefixes": [PROTECTED], "never_block": [f"{GATEWAY_INSIDE}/32"]},
        "intake": {
            "unix": {"path": str(lab.place / "intake.sock")},
            "spool": str(lab.place / "spool"),
        },
        "api": {"path": str(lab.api), "metrics_port": None},
        "store": {"path": str(lab.place / "journal.sqlite3")},
        # Three attacks on one server within minutes would each be held longer than the last.
        "attacks": {"hold_growth": 1.0},
        "log": {"format": "json"},
    }


@contextmanager
def hub(
    lab: Lab,
    rules: Path = SHIPPED_RULES,
    engines: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> Iterator[Process]:
    """Run the hub on the gateway, from when it answers on its operator socket."""
    (lab.place / "spool").mkdir(exist_ok=True)
    settings = hub_settings(lab, rules, engines) | (more or {})
    lab.hub_configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    argv = lab.python("hub", "run", "--config", str(lab.hub_configuration))
    with lab.started("hub", "gateway", *argv) as process:
        _ready(process, HubApi(lab.api).ready)
        yield process


@contextmanager
def fastnetmon(lab: Lab) -> Iterator[Process]:
    """Run the packaged FastNetMon on the gateway, watching what comes in from outside."""
    notify = lab.place / "notify"
    call = (
        CHECKOUT / "scripts/fnm-notify",
        "--config=/dev/null",
        f"--socket={lab.place}/intake.sock",
        f"--spool={lab.place}/spool",
        "--detector=gateway",
    )
    # FastNetMon takes a path only, no options: hence a script of one line in between.
    notify.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, call))} -- "$@"\n')
    notify.chmod(0o700)
    (lab.place / "networks_list").write_text(f"{PROTECTED}\n")
    (lab.place / "networks_whitelist").touch()
    configuration = lab.place / "fastnetmon.conf"
    configuration.write_text(
        PACKAGED_CONFIGURATION.read_text() + _fastnetmon_overrides(lab.place, notify)
    )
    log = lab.logs / "fastnetmon.log"
    argv = ("fastnetmon", "--configuration_file", str(configuration), "--log_file", str(log))
    with lab.started("fastnetmon", "gateway", *argv, log=lab.logs / "fastnetmon.out") as process:
        _ready(process, lambda: _answers(lab))
        yield process


def fnm_hub() -> Path:
    """Return the installed `fnm-hub` of this environment."""
    return Path(sys.executable).with_name("fnm-hub")


def _fastnetmon_overrides(place: Path, notify: Path) -> str:
    # The last value of a key wins, so the packaged file stays whole above this.
    settings = {
        "disable_usage_report": "on",
        "monitor_local_ip_addresses": "off",
        "networks_list_path": place / "networks_list",
        "white_list_path": place / "networks_whitelist",
        "mirror_afpacket": "on",
        "interfaces": OUTSIDE,
        "threshold_pps": THRESHOLD_PPS,
        "average_calculation_time": 1,
        "ban_time": 4,
        "notify_script_path": notify,
        "pid_path": place / "fastnetmon.pid",
        "cli_stats_file_path": place / "fastnetmon.dat",
        "cli_stats_ipv6_file_path": place / "fastnetmon6.dat",
    }
    return "\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


def _answers(lab: Lab) -> bool:
    # The client's exit status is 0 even when the daemon is not there: its words tell.
    ask = lab.network.command("gateway", "fastnetmon_api_client", "get_banlist")
    with started("ask", ask, log=lab.logs / "fastnetmon-ready.out") as question:
        question.popen.wait(READY)
        answered = not question.log.read_bytes()
        question.log.unlink()
    return answered


def _ready(process: Process, condition: Callable[[], bool]) -> None:
    def check() -> bool:
        process.require()
        return condition()

    try:
        wait_until(f"{process.name} is ready", check, seconds=READY)
    except LabError as error:
        raise LabError(error.what, where=error.where or str(process.log), todo=error.todo) from None
