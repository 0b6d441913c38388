# SPDX-License-Identifier: Apache-2.0
"""Drills against a real hub: its own command, the real hook behind a script as FastNetMon has."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub.cli.client import Client
from hub.cli.drill import Wanted
from hub.cli.drill import drill as run_drill
from hub.cli.hook import Identity
from tests.support.hub_process import CONFIG, REPOSITORY, HubProcess

STAGES = ("hook", "accepted", "understood", "decided", "guards", "planned", "unban", "released")
ROOT = Identity("root", 0, 0, (0,), as_detector=True)
NOBODY = Identity("nobody", 65534, 65534, (), as_detector=True)
DRILL = ("drill", "--user", "root", "--notify")
ENFORCED = (*STAGES[:5], "applied", "kernel", *STAGES[6:])


def armable(folder: Path, dry_run: str = "until-armed", **more: Any) -> HubProcess:
    """Return a hub that is to be armed, not started yet."""
    hub = HubProcess(folder, **more)
    hub.config_text = CONFIG.replace("dry_run: DRY", f"dry_run: {dry_run}")
    return hub


def hook(hub: HubProcess, socket: str = "intake.sock") -> Path:
    """Return a script that calls the real fnm-notify with the hub's paths, as operators write."""
    path = hub.folder / "notify.sh"
    notify = REPOSITORY / "scripts" / "fnm-notify"
    path.write_text(
        f"#!/bin/sh\nexec {sys.executable} -IS {notify} --socket {hub.folder / socket} "
        f'--spool {hub.folder / "spool"} --detector fnm1 --syslog /nonexistent "$@"\n'
    )
    path.chmod(0o755)
    return path


def argv(hub: HubProcess, *words: str) -> list[str]:
    """Return the command line of one operator's command."""
    return [sys.executable, "-m", "hub", "--config", str(hub.folder / "config.yaml"), *words]


def command(hub: HubProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one operator's command."""
    return subprocess.run(
        argv(hub, *words),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def drill(
    hub: HubProcess, who: Identity = ROOT, socket: str = "intake.sock", **wish: Any
) -> dict[str, Any]:
    """Run a drill as the command does, and return its result."""
    plain = Wanted("syn", None, None, hook(hub, socket), 100_000, False, 60.0, "")  # noqa: FBT003
    client = Client(hub.folder / "api.sock", start="-")
    return run_drill(client, replace(plain, **wish), who)


def said(result: dict[str, Any]) -> dict[str, Any]:
    """Return each stage by its name."""
    return {stage["name"]: stage for stage in result["stages"]}
