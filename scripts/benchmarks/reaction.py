# SPDX-License-Identifier: Apache-2.0
"""From the alarm to the countermeasure in the kernel."""

import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.figure import Figure, at
from tests.support.hub_process import REPOSITORY, HubProcess, until

NOTIFY = REPOSITORY / "scripts" / "fnm-notify"
CALLS = 100


def notify_to_active() -> dict[str, Figure]:
    """Measure from the start of fnm-notify, interpreter included, to the engine's answer."""
    with TemporaryDirectory() as folder, HubProcess(Path(folder), reconcile="30s") as hub:
        started: dict[str, float] = {}
        for index in range(CALLS):
            target = f"192.0.2.{100 + index}"
            started[f"{target}/32"] = time.time()  # noqa: TID251 - measures another process
            _notify(hub, target)
        until("all active", lambda: len(hub.active()) == CALLS)
        took = [(row["active_at"] - started[row["target"]]) * 1000 for row in hub.active()]
    return {
        "notify_to_active_p50_ms": at(took, 0.5, "<= 100", "ms"),
        "notify_to_active_p99_ms": at(took, 0.99, "<= 250", "ms"),
    }


def event_to_active() -> dict[str, Figure]:
    """Measure from the event's acceptance to the engine's answer, one event at a time."""
    with TemporaryDirectory() as folder, HubProcess(Path(folder), reconcile="30s") as hub:
        for index in range(CALLS):
            hub.send("ban", f"192.0.2.{100 + index}")
            until("active", lambda count=index + 1: len(hub.active()) == count)  # type: ignore[misc]
        received = {
            event["target"]: event["received_at"]
            for event in hub.get(f"/v1/events?limit={CALLS}")["items"]
        }
        took = [
            (row["active_at"] - received[row["target"].removesuffix("/32")]) * 1000
            for row in hub.active()
        ]
    return {
        "event_to_active_p50_ms": at(took, 0.5, "<= 10", "ms"),
        "event_to_active_p99_ms": at(took, 0.99, "<= 30", "ms"),
    }


def _notify(hub: HubProcess, target: str) -> None:
    options = ["--socket", str(hub.folder / "intake.sock"), "--spool", str(hub.folder / "spool")]
    text = (
        "Total incoming pps: 1000 packets per second\n"
        "Incoming tcp pps: 1000 packets per second\n"
        "Incoming syn tcp pps: 1000 packets per second\n"
    )
    subprocess.run(
        ["/usr/bin/python3", "-I", "-S", str(NOTIFY), *options, target, "incoming", "1000", "ban"],
        input=text.encode(),
        check=True,
    )
