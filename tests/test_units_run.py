# SPDX-License-Identifier: Apache-2.0
"""The hub as its unit runs it, by a systemd of its own: what it may do, and what becomes of it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.systemd_machine import Machine

UNIT = "fnm-hub"
CAP_NET_ADMIN = 1 << 12
CAP_NET_RAW = 1 << 13
CONFIG = """
dry_run: false
guard: {own_prefixes: [192.0.2.0/24]}
rules: [rules.yaml]
intake: {unix: {allow_users: [root]}}
engines:
  native: {enabled: NATIVE}
isn_sync: {servers: "192.0.2.99"}
"""
RULES = """
rules:
  - name: all
    when: {direction: [incoming, unknown]}
    engine: nftables
    then: [{sorb: {pps: 100, block: 10m}}]
    ttl: 10m
"""
SET_UP = """
useradd --system --user-group --no-create-home fnm-hub
install -d /etc/fnm-hub /etc/systemd/system/fnm-hub.service.d
install -d -o root -g fnm-hub -m 2770 /var/spool/fnm-hub
cp /opt/checkout/scripts/units/fnm-hub.service /etc/systemd/system/
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Return a machine with the hub installed."""
    with Machine() as made:
        made.program("/opt/fnm-hub/bin/fnm-hub", "hub")
        made.run("sh", "-ec", SET_UP)
        yield made


def configure(machine: Machine, *, native: bool = False) -> None:
    """Write the configuration; the engine nftables is on."""
    text = CONFIG.replace("NATIVE", str(native).lower())
    machine.place("/etc/fnm-hub/config.yaml").write_text(text)
    machine.place("/etc/fnm-hub/rules.yaml").write_text(RULES)


def drop_in(machine: Machine, name: str, text: str | None = None) -> None:
    """Add one of the unit's own drop-ins, or another one."""
    folder = "/etc/systemd/system/fnm-hub.service.d"
    if text is None:
        machine.run("cp", f"/opt/checkout/scripts/units/fnm-hub.service.d/{name}", folder)
    else:
        machine.place(f"{folder}/{name}").write_text(text)
    machine.run("systemctl", "daemon-reload")


@contextmanager
def started(machine: Machine) -> Iterator[str]:
    """Start the hub and take away what it leaves; yield what the kernel says of its process."""
    try:
        yield start(machine)
    finally:
        machine.run("systemctl", "stop", UNIT, check=False)
        machine.run("sh", "-c", "rm -rf /etc/systemd/system/fnm-hub.service.d/* /var/lib/fnm-hub")


def start(machine: Machine) -> str:
    """Start the hub, which is ready then; return what the kernel says of its process."""
    machine.run("systemctl", "daemon-reload")
    try:
        machine.run("systemctl", "start", UNIT)
    except RuntimeError as error:
        raise AssertionError(machine.journal(UNIT)) from error
    assert machine.shown(UNIT, "ActiveState") == "active"
    return machine.run("cat", f"/proc/{machine.shown(UNIT, 'MainPID')}/status")


def number(status: str, name: str) -> int:
    """Return a field of /proc/PID/status that is a number in hex."""
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(name))


def ban(machine: Machine) -> str:
    """Send a drill ban; return what the hub shows of the attack."""
    hub = "/opt/fnm-hub/bin/fnm-hub"
    machine.run("sh", "-c", "/opt/checkout/scripts/fnm-notify 192.0.2.10 incoming 9 ban </dev/null")
    machine.until("the attack is seen", lambda: "192.0.2.10" in machine.run(hub, "attacks"), UNIT)
    return machine.run(hub, "mitigations")


def test_units_when_verified_then_systemd_has_nothing_to_say(machine: Machine) -> None:
    """Every directive is known and every program is there; with the drop-ins as well."""
    drop_in(machine, "nftables.conf")
    drop_in(machine, "isn-sync.conf")
    said = machine.run(
        "systemd-analyze", "verify", "--man=no", "/etc/systemd/system/fnm-hub.service"
    )
    assert said == ""


def test_hub_when_run_as_shipped_then_it_serves_without_any_capability(machine: Machine) -> None:
    """Bounding set empty, filter on, its own user; what it cannot use is in the status.

    A reload with a mistake is refused by systemctl, and changes nothing.
    """
    configure(machine)
    with started(machine) as status:
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert number(status, name) == 0
        assert number(status, "NoNewPrivs") == 1
        assert number(status, "Seccomp:") == 2
        user = machine.run("id", "-u", "fnm-hub").strip()
        uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid"))
        assert uid == user
        ban(machine)
        machine.until(
            "the status says what is missing",
            lambda: "engine nftables: " in machine.shown(UNIT, "StatusText"),
            UNIT,
        )
        assert machine.shown(UNIT, "StatusText").startswith("enforcing; ")
        reload(machine)


def reload(machine: Machine) -> None:
    """Reload with a mistake, and without."""
    pid = machine.shown(UNIT, "MainPID")
    place = machine.place("/etc/fnm-hub/config.yaml")
    right = place.read_text()
    place.write_text(right + "guards: {}\n")
    with pytest.raises(RuntimeError):
        machine.run("systemctl", "reload", UNIT)
    assert "config.yaml:" in machine.journal(UNIT)
    assert "rules.reloaded" not in machine.journal(UNIT)
    place.write_text(right)
    machine.run("systemctl", "reload", UNIT)
    machine.until("reloaded", lambda: "rules.reloaded" in machine.journal(UNIT), UNIT)
    machine.until("settled", lambda: machine.shown(UNIT, "ActiveState") == "active", UNIT)
    assert machine.shown(UNIT, "MainPID") == pid


def test_hub_when_it_has_the_drop_ins_then_its_engines_work(machine: Machine) -> None:
    """A countermeasure in the kernel by CAP_NET_ADMIN; the raw socket open, its right gone.

    A hub that hangs is ended by the watchdog, and the next one goes on with what is in force.
    """
    configure(machine, native=True)
    drop_in(machine, "nftables.conf")
    drop_in(machine, "isn-sync.conf")
    drop_in(machine, "watchdog.conf", "[Service]\nWatchdogSec=4s\nRestartSec=100ms\n")
    with started(machine) as status:
        assert number(status, "CapEff") == number(status, "CapPrm") == CAP_NET_ADMIN
        assert number(status, "CapBnd") == CAP_NET_ADMIN | CAP_NET_RAW
        ban(machine)
        machine.until("in the kernel", lambda: "192.0.2.10" in table(machine), UNIT)
        said = machine.journal(UNIT)
        for trouble in ("isn.no_probe", "isn.right_kept", "nftables.sysctl_failed"):
            assert trouble not in said
        hang(machine)
        assert "192.0.2.10" in table(machine)


def table(machine: Machine) -> str:
    """Return what the engine has in the machine's kernel."""
    return machine.run("nft", "list", "table", "inet", "fnm_hub")


def hang(machine: Machine) -> None:
    """Hold the hub still, and wait until another serves."""
    pid = machine.shown(UNIT, "MainPID")
    machine.run("kill", f"-{signal.SIGSTOP}", pid)

    def replaced() -> bool:
        other = machine.shown(UNIT, "MainPID") not in (pid, "0")
        return other and machine.shown(UNIT, "ActiveState") == "active"

    machine.until("another process serves", replaced, UNIT)
    assert "Watchdog timeout" in machine.journal(UNIT)
