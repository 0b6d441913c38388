# SPDX-License-Identifier: Apache-2.0
"""The units: what systemd says of them, and what they grant."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from hub.agent import handover, keeping, place

REPOSITORY = Path(__file__).parents[1]
UNITS = REPOSITORY / "scripts/units"
HUB = UNITS / "fnm-hub.service"
AGENT = UNITS / "fnm-agent.service"
KEEPER = UNITS / "fnm-keeper.service"
SYNPROXYD = REPOSITORY / "native/synproxyd.service"
NFTABLES, ISN_SYNC = "nftables.conf", "isn-sync.conf"

OPENED = {AGENT: handover.NAMES, KEEPER: keeping.NAMES}

Service = dict[str, list[str]]


def staged(root: Path, unit: Path, *drop_ins: str) -> Path:
    """Put a unit with these of its drop-ins below `root`; return its path there."""
    folder = root / "etc/systemd/system"
    folder.mkdir(parents=True)
    shutil.copy(unit, folder)
    more = folder / f"{unit.name}.d"
    more.mkdir()
    for name in drop_ins:
        shutil.copy(UNITS / f"{unit.name}.d" / name, more)
    return folder / unit.name


def exposure(root: Path, unit: Path) -> float:
    """Return how exposed systemd finds a unit with its drop-ins: 0 is best, 10 is worst."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}", unit.name],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def service(*files: Path) -> Service:
    """Return every directive of the [Service] sections with all its values, in order."""
    found: Service = {}
    for file in files:
        text = file.read_text().partition("\n[Service]\n")[2].partition("\n[")[0]
        for line in text.splitlines():
            if "=" in line and not line.startswith("#"):
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    ("unit", "drop_ins", "most"),
    [
        (HUB, (), 1.5),
        (HUB, (ISN_SYNC,), 1.5),
        (HUB, (NFTABLES,), 1.7),
        (HUB, (NFTABLES, ISN_SYNC), 1.8),
        (SYNPROXYD, (), 1.5),
        (AGENT, (), 1.3),
        (KEEPER, (), 1.3),
    ],
)
def test_unit_when_judged_then_exposed_no_more_than_documented(
    tmp_path: Path, unit: Path, drop_ins: tuple[str, ...], most: float
) -> None:
    """The figures of docs/operations.md: what is above 1.5 has its reason there."""
    _ = staged(tmp_path, unit, *drop_ins)
    assert exposure(tmp_path, unit) <= most


@pytest.mark.parametrize("unit", [HUB, SYNPROXYD, AGENT, KEEPER])
def test_unit_when_read_then_it_is_watched_and_proves_itself_first(unit: Path) -> None:
    """Ready when it says so, killed when it hangs, started again for ever, checked before."""
    text, found = unit.read_text(), service(unit)
    assert found["Type"] == ["notify"]
    opens = unit in (AGENT, KEEPER)
    assert found["NotifyAccess"] == ["exec" if opens else "main"]
    assert found["Restart"] == ["always"]
    assert re.fullmatch(r"[0-9]+s", found["WatchdogSec"][0])
    assert (" open" if opens else " check") in found["ExecStartPre"][-1]
    assert found["LimitCORE"] == ["0"]
    assert "\nStartLimitIntervalSec=0\n" in text


def test_hub_when_reloaded_then_only_after_configuration_and_rule_tests_have_passed() -> None:
    """Three steps in this order: systemd stops at the first that fails."""
    steps = service(HUB)["ExecReload"]
    assert [step.rpartition("config.yaml ")[2] for step in steps] == [
        "config check",
        "rules check",
        "/bin/kill -HUP $MAINPID",
    ]


def test_agent_when_it_runs_then_root_has_only_opened_and_is_gone() -> None:
    """Both programs start as their own users; what only root can do is one short step before.

    That step may fail and the program says so itself; it may speak to systemd's store.
    """
    for unit, user, rights in ((AGENT, "fnm-agent", ""), (KEEPER, "fnm-keeper", "CAP_NET_ADMIN")):
        found = service(unit)
        assert found["User"] == found["Group"] == [user]
        assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == [rights]
        (before,) = found["ExecStartPre"]
        assert before.startswith("-+/opt/fnm-agent/venv/bin/python -I -m hub.agent.main open")
        (start,) = found["ExecStart"]
        assert start.startswith("/opt/fnm-agent/")
        assert int(found["FileDescriptorStoreMax"][0]) > len(OPENED[unit])
        for name in ("PrivateDevices", "ProtectKernelLogs", "ProtectKernelTunables"):
            assert found[name] == ["yes"]
        assert "~@privileged" in " ".join(found["SystemCallFilter"])
        assert found["RuntimeDirectoryPreserve"] == ["yes"]
    assert service(KEEPER)["RestartKillSignal"] == ["SIGUSR1"]
    assert int(place.HAND_OVER) == signal.SIGUSR1


def test_hub_when_no_engine_needs_it_then_no_capability() -> None:
    """The unit as shipped has none; each drop-in adds one and nothing besides what that takes."""
    assert service(HUB)["CapabilityBoundingSet"] == [""]
    assert service(HUB)["AmbientCapabilities"] == [""]
    for name, capability in ((NFTABLES, "CAP_NET_ADMIN"), (ISN_SYNC, "CAP_NET_RAW")):
        more = service(UNITS / "fnm-hub.service.d" / name)
        assert more["CapabilityBoundingSet"] == more["AmbientCapabilities"] == [capability]
