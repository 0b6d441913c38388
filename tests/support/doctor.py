# SPDX-License-Identifier: Apache-2.0
"""A hub and the packaged FastNetMon in one namespace, as `nobody`, and the doctor beside them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hub.cli.doctor.finding import Finding, Report, Status
from hub.cli.doctor.situation import Hub, Situation, read_config
from tests.support.hub_process import CONFIG, REPOSITORY, HubProcess, until

NOBODY: Final = 65534
SCRIPT: Final = REPOSITORY / "scripts/fnm-notify"
PACKAGED: Final = Path("/etc/fastnetmon.conf")
DETECTOR: Final = "edge"


@contextmanager
def place() -> Iterator[Path]:
    """Yield a folder that other users may enter, as those of an installation are."""
    folder = Path(tempfile.mkdtemp(prefix="fnm-doctor-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Installation:
    """What a machine with a hub and FastNetMon has on its disk.

    Args:
        folder: for all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        closed = folder / "journal"
        self.hub = HubProcess(folder, own="192.0.2.0/24", store=closed / "journal.sqlite3")
        self.hub.config_text = CONFIG.replace(
            "allow_users: [root]", "allow_users: [root, nobody], group: nogroup"
        )
        self.hub.config_text += f"isn_sync: {{key: {closed}/key}}\n"
        self.conf = folder / "fastnetmon.conf"
        self.script = folder / "fnm-notify"
        self.notify = folder / "notify.conf"

    def install(self) -> None:
        """Write FastNetMon's files and the hook."""
        spool = self.folder / "spool"
        spool.mkdir()
        os.chown(spool, 0, NOBODY)
        spool.chmod(0o2770)
        shutil.copy(SCRIPT, self.folder / "bin-fnm-notify")
        target = self.folder / "bin"
        target.mkdir()
        shutil.move(self.folder / "bin-fnm-notify", target / "fnm-notify")
        self.notify.write_text(
            f"socket = {self.folder}/intake.sock\nspool = {spool}\ndetector = {DETECTOR}\n"
            f"syslog = {self.folder}/no-syslog\n"
        )
        self.script.write_text(f'#!/bin/sh\nexec {target}/fnm-notify --config={self.notify} "$@"\n')
        self.script.chmod(0o755)
        (self.folder / "run").mkdir()
        os.chown(self.folder / "run", NOBODY, NOBODY)
        (self.folder / "networks_list").write_text("192.0.2.0/24\n2001:db8::/32\n")
        (self.folder / "networks_whitelist").touch()
        self.write_conf()

    def write_conf(self, **changes: object) -> None:
        """Write FastNetMon's configuration: the packaged one, and what differs below it."""
        folder = self.folder
        settings: dict[str, object] = {
            "disable_usage_report": "on",
            "monitor_local_ip_addresses": "off",
            "networks_list_path": folder / "networks_list",
            "white_list_path": folder / "networks_whitelist",
            "netflow": "on",
            "netflow_host": "127.0.0.1",
            "notify_script_path": self.script,
            "pid_path": folder / "run/fastnetmon.pid",
            "cli_stats_file_path": folder / "run/fastnetmon.dat",
            "cli_stats_ipv6_file_path": folder / "run/fastnetmon6.dat",
            "prometheus": "off",
            **changes,
        }
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        self.conf.write_text(PACKAGED.read_text() + "\n" + lines)

    @contextmanager
    def fastnetmon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the packaged FastNetMon as `nobody` beside the hub, from when its API answers."""
        log, out = self.folder / "run/fastnetmon.log", self.folder / "run/fastnetmon.out"
        argv = ["fastnetmon", "--configuration_file", str(self.conf), "--log_file", str(log)]
        user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
        inside = ["ip", "netns", "exec", self.hub.namespace]
        with out.open("ab") as file:
            process = subprocess.Popen(
                [*inside, "setpriv", *user, *argv],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            until("FastNetMon's API answers", lambda: self.client("get_banlist") == "", 20)
            yield process
        finally:
            process.kill()
            process.wait(20)

    def client(self, *words: str) -> str:
        """Ask FastNetMon by its own client, and return what it said."""
        inside = ["ip", "netns", "exec", self.hub.namespace]
        done = subprocess.run(
            [*inside, "fastnetmon_api_client", *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stdout + done.stderr

    def doctor(self, *options: str) -> tuple[int, list[dict[str, Any]], str]:
        """Run `fnm-hub doctor --json` there; return its exit code, findings and other output."""
        return self.doctor_by((), *options)

    def doctor_by(
        self, prefix: Sequence[str], *options: str
    ) -> tuple[int, list[dict[str, Any]], str]:
        """Do as `doctor`, behind another program such as setpriv."""
        argv = ["ip", "netns", "exec", self.hub.namespace, *prefix, sys.executable, "-m", "hub"]
        argv += ["doctor", "--config", str(self.folder / "config.yaml"), "--json"]
        argv += ["--fastnetmon-conf", str(self.conf), *options]
        done = subprocess.run(
            argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, json.loads(done.stdout), done.stderr

    def situation(self, hub: Hub | None = None) -> Situation:
        """Return where checks that are called one by one look."""
        path = self.folder / "config.yaml"
        return Situation(path, read_config(path), self.conf, hub or Hub(trouble="down"))


def found(report: Report, check: str) -> list[Finding]:
    """Return what a report says of one check."""
    return [one for one in report.findings() if one.check == check]


def only(report: Report, check: str) -> Finding:
    """Return the one finding of a check."""
    (one,) = found(report, check)
    return one


def worst(report: Report, check: str) -> Status:
    """Return the worst status of a check."""
    order = [Status.FAIL, Status.WARN, Status.SKIP, Status.OK]
    return min((one.status for one in found(report, check)), key=order.index)
