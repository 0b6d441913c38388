# SPDX-License-Identifier: Apache-2.0
"""Each program as its unit runs it, by a systemd of its own: what it may do, how it is watched."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.systemd_machine import Machine

UNIT = "fnm-hub"
DROP_INS = "/etc/systemd/system/fnm-hub.service.d/*"
LOOSE = "net/netfilter/nf_conntrack_tcp_loose"
CAP_NET_ADMIN = 1 << 12
CAP_NET_RAW = 1 << 13
CONFIG = """
dry_run: false
guard: {own_prefixes: [192.0.2.0/24]}
rules: [rules.yaml]
intake:
  unix: {allow_users: [root]}
  tcp: {port: 0, hmac_keys: [{id: a, secret_file: "credential:key-1"}]}
engines:
  native: {enabled: NATIVE}
  webhook: {oncall: {url: "credential:url"}}
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
install -d -m 0700 /etc/fnm-hub/credentials
umask 077
openssl rand -hex 32 >/etc/fnm-hub/credentials/key-1
echo https://127.0.0.1:1/secret >/etc/fnm-hub/credentials/url
"""
CREDENTIALS = """[Service]
LoadCredential=key-1:/etc/fnm-hub/credentials/key-1
LoadCredential=url:/etc/fnm-hub/credentials/url
"""
SYNPROXYD = """
make --silent -C /opt/checkout/native install
systemd-sysusers
mkdir -p /etc/systemd/system/synproxyd.service.d
cat >/etc/systemd/system/synproxyd.service.d/test.conf <<END
[Service]
Environment="SYNPROXYD_OPTIONS=--interface fnm0"
WatchdogSec=3s
RestartSec=100ms
END
ip link add fnm0 type veth peer name fnm1
ip link set fnm0 up
ip link set fnm1 up
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Return a machine with the hub installed."""
    with Machine() as made:
        made.install_hub()
        made.run("sh", "-ec", SET_UP)
        yield made


def configure(machine: Machine, *, native: bool = False) -> None:
    """Write the configuration; the engine nftables is on."""
    text = CONFIG.replace("NATIVE", str(native).lower())
    machine.place("/etc/fnm-hub/config.yaml").write_text(text)
    machine.place("/etc/fnm-hub/rules.yaml").write_text(RULES)
    drop_in(machine, "credentials.conf", CREDENTIALS)


def drop_in(machine: Machine, name: str, text: str | None = None) -> None:
    """Add one of the unit's own drop-ins, or another one."""
    folder = "/etc/systemd/system/fnm-hub.service.d"
    if text is None:
        machine.run("cp", f"/opt/checkout/scripts/units/fnm-hub.service.d/{name}", folder)
    else:
        machine.place(f"{folder}/{name}").write_text(text)
    machine.run("systemctl", "daemon-reload")


@contextmanager
def started(machine: Machine) -> Iterator[None]:
    """Start the hub, and take away what it leaves."""
    try:
        machine.start(UNIT)
        yield
    finally:
        machine.run("systemctl", "stop", UNIT, check=False)
        machine.run("sh", "-c", f"rm -rf {DROP_INS} /var/lib/fnm-hub")


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
    machine.environment("/opt/fnm-agent/venv")
    machine.run("sh", "-c", "cp /opt/checkout/native/build/synproxyd /usr/sbin/")
    machine.run("sh", "-c", "cp /opt/checkout/native/*.service /etc/systemd/system/")
    machine.run("sh", "-c", "cp /opt/checkout/scripts/units/*.service /etc/systemd/system/")
    units = [
        f"/etc/systemd/system/{name}.service"
        for name in ("fnm-hub", "fnm-agent", "fnm-keeper", "synproxyd")
    ]
    try:
        assert machine.run("systemd-analyze", "verify", "--man=no", *units) == ""
    finally:
        machine.run("sh", "-c", f"rm -rf {DROP_INS}")


def test_hub_when_run_as_shipped_then_it_serves_without_any_capability(machine: Machine) -> None:
    """Bounding set empty, filter on, its own user; what it cannot use is in the status.

    A reload with a mistake is refused by systemctl, and changes nothing.
    """
    configure(machine)
    with started(machine):
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert machine.number(UNIT, name) == 0
        assert machine.number(UNIT, "NoNewPrivs") == 1
        assert machine.number(UNIT, "Seccomp:") == 2
        user = machine.run("id", "-u", "fnm-hub").strip()
        assert machine.status(UNIT, "Uid") == user
        # The listener of detectors is open beside that of metrics, so that its key was read.
        assert machine.run("ss", "-ltnH").count("127.0.0.1:") == 2
        assert "credential:" not in machine.journal(UNIT)
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
    # The kernel's SYN proxy wants a setting changed.
    rules = RULES.replace("then: [", "then: [tcp, ")
    machine.place("/etc/fnm-hub/rules.yaml").write_text(rules)
    drop_in(machine, "watchdog.conf", "[Service]\nWatchdogSec=4s\nRestartSec=100ms\n")
    with started(machine):
        assert machine.number(UNIT, "CapEff") == machine.number(UNIT, "CapPrm") == CAP_NET_ADMIN
        assert machine.number(UNIT, "CapBnd") == CAP_NET_ADMIN | CAP_NET_RAW
        ban(machine)
        machine.until("in the kernel", lambda: "192.0.2.10" in table(machine), UNIT)
        said = machine.journal(UNIT)
        for trouble in ("isn.no_probe", "isn.right_kept", "nftables.sysctl_failed"):
            assert trouble not in said
        # The one setting that it has to change it can, and no other.
        loose = ("cat", f"/proc/sys/{LOOSE}")
        machine.until("it is changed", lambda: machine.run(*loose) == "0\n", UNIT)
        mounts = machine.run("cat", f"/proc/{machine.shown(UNIT, 'MainPID')}/mountinfo")
        rights = {words[4]: words[5][:2] for words in map(str.split, mounts.splitlines())}
        assert (rights["/proc/sys"], rights["/proc/sys/net"]) == ("ro", "rw")
        machine.hang(UNIT)
        assert "192.0.2.10" in table(machine)


def test_doctor_when_the_hub_runs_by_its_unit_then_it_finds_nothing_to_mend(
    machine: Machine,
) -> None:
    """By systemd's own word: enabled, started again, confined; its user, limits, credentials."""
    configure(machine)
    machine.run("systemctl", "enable", UNIT)
    with started(machine):
        said = machine.run("/opt/fnm-hub/bin/fnm-hub", "doctor", "--json", check=False)
    found = [one for one in json.loads(said) if one["group"] in {"rights", "service"}]
    assert {one["check"]: one["status"] for one in found} == dict.fromkeys(
        (
            "user",
            "descriptors",
            "config",
            "secrets",
            "spool_mode",
            "sockets",
            "unit",
            "restart",
            "hardening",
        ),
        "ok",
    ), found
    writable = [one for one in json.loads(said) if one["check"] == "writable"]
    assert [one["status"] for one in writable] == ["ok", "ok"]
    assert all("fnm-hub may write" in one["text"] for one in writable)


def table(machine: Machine) -> str:
    """Return what the engine has in the machine's kernel."""
    return machine.run("nft", "list", "table", "inet", "fnm_hub")


def test_synproxyd_when_run_by_its_unit_then_checked_attached_and_watched(
    machine: Machine,
) -> None:
    """Each start is preceded by `check`; one that hangs is replaced, and its program stays."""
    machine.run("sh", "-ec", SYNPROXYD)
    try:
        machine.start("synproxyd")
        assert "ok   fnm0: takes the program in native mode" in machine.journal("synproxyd")
        assert machine.shown("synproxyd", "StatusText") == "0 mitigations in force"
        assert machine.number("synproxyd", "CapEff") == machine.number("synproxyd", "CapPrm") == 0
        assert "xdp" in machine.run("ip", "link", "show", "fnm0")
        machine.hang("synproxyd")
        assert "fnm0: a synproxyd is attached" in machine.journal("synproxyd")
        assert "no   " not in machine.journal("synproxyd")
        assert "xdp" in machine.run("ip", "link", "show", "fnm0")
    finally:
        machine.run("systemctl", "stop", "synproxyd", check=False)
        machine.run("synproxyd", "detach", check=False)
