# SPDX-License-Identifier: Apache-2.0
"""The agent and its keeper as their units run them, by a systemd of its own.

What they may do, what outlives what, and how an installation from before they were two goes on.
"""

from collections.abc import Iterator

import pytest

from tests.support.agent import COOKIE_SECRET, NET_SECRET, TCP_SECRETS
from tests.support.systemd_machine import Machine

AGENT, KEEPER = "fnm-agent", "fnm-keeper"
CAP_NET_ADMIN = 1 << 12
SYSCTL = "/proc/sys/net/ipv4/tcp_syncookies"
PROGRAM = ("/opt/fnm-agent/venv/bin/python", "-I", "-m", "hub.agent.main")
HOST_KEY = "/etc/fnm-agent/host_ed25519"
SET_UP = """
useradd --system --user-group --no-create-home fnm-agent
useradd --system --user-group --no-create-home fnm-keeper
install -d /etc/fnm-agent /opt/proc
for name in sys net self thread-self uptime stat modules; do ln -s /proc/$name /opt/proc/; done
: >/etc/fnm-agent/keys
"""
UNITS = """
cp /opt/checkout/scripts/units/fnm-agent.service /opt/checkout/scripts/units/fnm-keeper.service \
  /etc/systemd/system/
mkdir -p /etc/systemd/system/fnm-agent.service.d
"""
DROP_IN = """[Service]
ExecStartPre=
ExecStartPre=-+/opt/fnm-agent/venv/bin/python -I -m hub.agent.main open --proc /opt/proc
ExecStart=
ExecStart=/opt/fnm-agent/venv/bin/python -I -m hub.agent.main run --proc /opt/proc {options}
RestartSec=100ms
"""
FORMER = """[Service]
Type=notify
ExecStart=/opt/fnm-agent/venv/bin/python -I -m hub.agent.main run --proc /opt/proc
Restart=always
KillMode=process
RuntimeDirectory=fnm-agent
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
UMask=0077
ProtectSystem=strict
PrivateTmp=yes
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    """Return a machine with the agent's program."""
    with Machine() as made:
        made.environment("/opt/fnm-agent/venv")
        made.run("sh", "-ec", SET_UP)
        secrets = made.place("/opt/proc/tcp_secrets")
        secrets.write_text(TCP_SECRETS)
        secrets.chmod(0o600)
        yield made


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """Return it with the units as shipped, and nothing of an earlier test."""
    booted.run("sh", "-ec", UNITS)
    agent(booted, "host-key")
    quick(booted, KEEPER)
    configure(booted)
    try:
        yield booted
    finally:
        booted.run("systemctl", "stop", AGENT, check=False)
        agent(booted, "restore", check=False)
        booted.run("systemctl", "stop", KEEPER, check=False)
        booted.run("sh", "-c", f"rm -rf /run/fnm-agent; echo 1 >{SYSCTL}")


def configure(machine: Machine, options: str = "") -> None:
    """Let the unit read the recorded kernel."""
    drop_in = machine.place("/etc/systemd/system/fnm-agent.service.d/test.conf")
    drop_in.write_text(DROP_IN.format(options=options))
    machine.run("systemctl", "daemon-reload")


def quick(machine: Machine, unit: str, *more: str) -> None:
    """Let a unit start again at once, and change it by `more` lines, until the next test."""
    folder = f"/run/systemd/system/{unit}.service.d"
    machine.run("mkdir", "-p", folder)
    lines = ("[Service]", "RestartSec=100ms", *more)
    machine.place(f"{folder}/quick.conf").write_text("\n".join(lines) + "\n")
    machine.run("systemctl", "daemon-reload")


def agent(machine: Machine, *words: str, check: bool = True) -> str:
    """Run `fnm-agent` as root."""
    return machine.run(*PROGRAM, *words, check=check)


def ask(machine: Machine, line: str) -> dict[str, str]:
    """Return the answer to a request, as a forced command gives it."""
    command = f"SSH_ORIGINAL_COMMAND='{line}' {' '.join(PROGRAM)} exec --as a --proc /opt/proc"
    said = machine.run("sh", "-c", command)
    return dict(one.split(": ", 1) for one in said.splitlines())


def sysctl(machine: Machine) -> str:
    """Return net.ipv4.tcp_syncookies."""
    return machine.run("cat", SYSCTL).strip()


def user_of(machine: Machine, unit: str) -> str:
    """Return whose the unit's process is."""
    return machine.run("ps", "-o", "user:32=", "-p", machine.shown(unit, "MainPID")).strip()


def serves_anew(machine: Machine, unit: str, before: str) -> None:
    """Wait until another process than `before` has started, and says that it is ready."""

    def look() -> bool:
        other = machine.shown(unit, "MainPID") not in (before, "0")
        return other and machine.shown(unit, "ActiveState") == "active"

    machine.until(f"another {unit} serves", look, unit)


def test_agent_when_run_by_its_unit_then_it_never_has_a_right(machine: Machine) -> None:
    """Its own user from the start, bounding set empty; it reads by what it was given alone.

    What `check` finds is in the journal, and neither secrets nor addresses are.
    """
    machine.start(AGENT)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert machine.number(AGENT, name) == 0
    assert machine.number(AGENT, "NoNewPrivs") == 1
    assert machine.number(AGENT, "Seccomp:") == 2
    assert user_of(machine, AGENT) == "fnm-agent"
    assert ":7100 " in machine.run("ss", "-ltn")
    said = ask(machine, "get")
    assert (said["source"], said["net_secret"]) == ("tcp_secrets", NET_SECRET)
    machine.until(
        "its keeper has answered",
        lambda: "keys by tcp_secrets" in machine.shown(AGENT, "StatusText"),
        AGENT,
    )
    journal = machine.journal(AGENT)
    assert "source: ok, tcp_secrets" in journal
    assert "syncookies: ok, net.ipv4.tcp_syncookies is 1" in journal
    assert "SHA256:" in journal  # its host key, by LoadCredential=
    assert NET_SECRET not in journal
    assert COOKIE_SECRET not in journal
    modes = machine.run("stat", "-c", "%U:%G %a", "/run/fnm-agent", "/run/fnm-agent/agent")
    assert modes.splitlines() == ["root:root 755", "fnm-agent:fnm-agent 755"]
    socket = machine.run("stat", "-c", "%U:%G %a", "/run/fnm-agent/agent/control.sock")
    assert socket.strip() == "fnm-agent:fnm-agent 660"


def test_keeper_when_run_by_its_unit_then_it_has_one_right_and_one_file(machine: Machine) -> None:
    """CAP_NET_ADMIN, no file of /proc/sys to write but what was opened, no core, no tracing."""
    machine.start(AGENT)
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert machine.number(KEEPER, name) == CAP_NET_ADMIN
    assert machine.number(KEEPER, "CapAmb") == 0
    assert machine.number(KEEPER, "Seccomp:") == 2
    assert user_of(machine, KEEPER) == "fnm-keeper"
    pid = machine.shown(KEEPER, "MainPID")
    files = machine.run("sh", "-c", f"readlink /proc/{pid}/fd/*")
    assert files.count(SYSCTL.removeprefix("/proc")) == 1
    mounts = machine.run("cat", f"/proc/{pid}/mounts").splitlines()
    assert [one.split()[3][:2] for one in mounts if one.split()[1] == "/proc/sys"] == ["ro"]
    assert '"sends_syns": true' in machine.journal(KEEPER)
    assert machine.run("stat", "-c", "%U", f"/proc/{pid}/environ").strip() == "root"
    command = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        "s.connect('/run/fnm-agent/keeper/socket'); print(s.recv(99))"
    )
    for user, answer in (("nobody", "b''"), ("fnm-agent", "ready"), ("root", "ready")):
        assert answer in machine.run("runuser", "-u", user, "--", PROGRAM[0], "-c", command)


def test_agent_when_killed_then_protection_stays_and_the_next_one_reads_the_keys_again(
    machine: Machine,
) -> None:
    """A lease is the keeper's; the next agent gets what is opened for it anew."""
    machine.start(AGENT)
    assert ask(machine, "engage 600 7100")["tcp_syncookies"] == "2"
    keeper = machine.shown(KEEPER, "MainPID")
    for _ in range(2):
        before = machine.shown(AGENT, "MainPID")
        machine.run("kill", "-9", before)
        serves_anew(machine, AGENT, before)
        assert sysctl(machine) == "2"
        said = ask(machine, "get")
        assert said["net_secret"] == NET_SECRET
        assert int(said["engaged_s"]) > 500
    assert machine.shown(KEEPER, "MainPID") == keeper
    # The store has what the last `open` gave, and not what those before it did.
    assert machine.shown(AGENT, "NFileDescriptorStore") == "2"
    assert ask(machine, "release")["tcp_syncookies"] == "1"


@pytest.mark.long
def test_keeper_when_killed_hung_or_started_anew_then_the_lease_stays(machine: Machine) -> None:
    """The next one goes on from the record; the agent comes back to it by itself."""
    machine.start(AGENT)
    ask(machine, "engage 600")
    for how in ("kill", "restart", "hang"):
        keeper, before = (machine.shown(unit, "MainPID") for unit in (KEEPER, AGENT))
        if how == "kill":
            machine.run("kill", "-9", keeper)
        elif how == "restart":
            quick(machine, KEEPER, "WatchdogSec=2s")
            machine.run("systemctl", "restart", KEEPER)
        else:
            machine.hang(KEEPER)
        serves_anew(machine, KEEPER, keeper)
        serves_anew(machine, AGENT, before)
        assert sysctl(machine) == "2"
        machine.until(
            "the agent asks it", lambda: int(ask(machine, "get")["engaged_s"]) > 500, AGENT
        )
    machine.run("systemctl", "stop", AGENT)
    assert sysctl(machine) == "2"
    machine.run("systemctl", "stop", KEEPER)
    assert sysctl(machine) == "1"


@pytest.mark.long
def test_root_when_no_agent_runs_then_it_works_and_the_units_go_on(machine: Machine) -> None:
    """By a keeper of its own, which the unit's replaces; by the unit's, where that runs."""
    assert ask(machine, "engage 600")["tcp_syncookies"] == "2"
    machine.start(AGENT)
    assert int(ask(machine, "get")["engaged_s"]) > 500
    keeper = machine.shown(KEEPER, "MainPID")
    machine.run("systemctl", "stop", AGENT)
    assert int(ask(machine, "get")["engaged_s"]) > 500
    assert ask(machine, "release")["tcp_syncookies"] == "1"
    ask(machine, "engage 600")
    assert machine.shown(KEEPER, "MainPID") == keeper
    assert agent(machine, "restore") == "tcp_syncookies: 1\n"
    machine.start(AGENT)
    assert agent(machine, "restore") == "tcp_syncookies: 1\n"


def test_units_when_they_follow_an_agent_that_began_as_root_then_its_leases_go_on(
    machine: Machine,
) -> None:
    """The steps of the installer: nothing is put back in between, and owners are right after."""
    unit = machine.place("/etc/systemd/system/fnm-agent.service")
    drop_in = machine.place("/etc/systemd/system/fnm-agent.service.d/test.conf")
    drop_in.unlink()
    unit.write_text(FORMER)
    machine.start(AGENT)
    assert user_of(machine, AGENT) == "fnm-agent"
    said = ask(machine, "engage 600 80")
    assert (said["tcp_syncookies"], said["old_tcp_syncookies"]) == ("2", "1")
    former = machine.run("cat", "/run/fnm-agent/keeper/lock").strip()
    for left in ("control.sock", "agent.lock"):
        machine.place(f"/run/fnm-agent/{left}").touch()

    machine.run("sh", "-ec", UNITS)
    configure(machine)
    machine.run("systemctl", "restart", KEEPER)
    machine.run("systemctl", "restart", AGENT)
    assert sysctl(machine) == "2"
    assert not machine.place(f"/proc/{former}").exists()
    assert int(ask(machine, "get")["engaged_s"]) > 500
    assert machine.number(AGENT, "CapBnd") == 0
    owners = machine.run("sh", "-c", "cd /run/fnm-agent && stat -c '%U %n' * keeper/* | sort")
    assert owners.splitlines() == [
        "fnm-agent agent",
        "fnm-keeper keeper",
        "fnm-keeper keeper/lease.json",
        "fnm-keeper keeper/lock",
        "fnm-keeper keeper/socket",
    ]
    assert ask(machine, "release")["tcp_syncookies"] == "1"


def test_agent_when_it_has_no_host_key_then_it_starts_where_it_needs_none(machine: Machine) -> None:
    """OpenSSH's transport needs none; a port of its own does, and the log says what to do."""
    machine.run("mv", HOST_KEY, "/etc/fnm-agent/away")
    configure(machine, "--no-listen")
    machine.start(AGENT)
    assert ":7100 " not in machine.run("ss", "-ltn")
    assert ask(machine, "get")["source"] == "tcp_secrets"
    configure(machine)
    machine.run("systemctl", "restart", AGENT, check=False)
    machine.until(
        "systemd leaves it", lambda: machine.shown(AGENT, "ActiveState") == "failed", AGENT
    )
    assert machine.shown(AGENT, "ExecMainStatus") == "78"
    assert "run: fnm-agent host-key; restart fnm-agent" in machine.journal(AGENT)


def test_agent_when_the_kernel_shows_nothing_then_its_log_says_why(machine: Machine) -> None:
    """What `open` has found stands in the journal, and in the agent's own last line."""
    machine.run("mv", "/opt/proc/tcp_secrets", "/opt/proc/away")
    try:
        machine.run("systemctl", "start", AGENT, check=False)
        machine.until(
            "systemd leaves it", lambda: machine.shown(AGENT, "ActiveState") == "failed", AGENT
        )
    finally:
        machine.run("mv", "/opt/proc/away", "/opt/proc/tcp_secrets")
    assert machine.shown(AGENT, "ExecMainStatus") == "78"
    journal = machine.journal(AGENT)
    assert "source: failed, none; one of the above is enough" in journal
    last = [line for line in journal.splitlines() if "agent.failed" in line][-1]
    assert "kcore: " in last
    assert "kallsyms" in last
