# SPDX-License-Identifier: Apache-2.0
"""OpenSSH at either end: its client at the agent's port, and sshd with `exec` as its command."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.agent import KEEPER, NET_SECRET, PORT, Agent, Home, soon
from tests.support.netns import inside

SSHD_PORT = 7122


@pytest.fixture
def home() -> Iterator[Home]:
    """Return a server's folders, a hub's key in OpenSSH's form, and known_hosts."""
    with Home() as made:
        key = asyncssh.generate_private_key("ssh-ed25519", comment="hub one")
        key.write_private_key(str(made.folder / "id"))
        (made.folder / "id").chmod(0o600)
        made.allow(key)
        made.make_host_key()
        words = (asyncssh.read_private_key(str(made.host_key)).export_public_key()).decode().split()
        pins = [f"[127.0.0.1]:{port} {words[0]} {words[1]}\n" for port in (PORT, SSHD_PORT)]
        (made.folder / "known_hosts").write_text("".join(pins))
        yield made


def ssh(home: Home, *words: str, port: int = PORT, user: str = "any") -> tuple[int, str, str]:
    """Return what OpenSSH's client returns and prints."""
    options = [
        *("-F", "none", "-i", str(home.folder / "id"), "-p", str(port)),
        *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"),
        *("-o", f"UserKnownHostsFile={home.folder / 'known_hosts'}"),
    ]
    done = subprocess.run(
        ["ip", "netns", "exec", home.namespace, "ssh", *options, *words[:-1], f"{user}@127.0.0.1"]
        + ([words[-1]] if words[-1] else []),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def execute(
    home: Home, line: str, *more: str, user: str | None = None, group: str | None = None
) -> tuple[int, str, str]:
    """Return what `fnm-agent exec` returns and prints, as sshd would call it."""
    done = inside(
        home.namespace,
        lambda: subprocess.run(
            [
                *(sys.executable, "-I", "-m", "hub.agent.main", "exec", "--proc", str(home.proc)),
                *("--runtime", str(home.runtime), "--keeper-user", KEEPER, *more),
            ],
            env={"SSH_ORIGINAL_COMMAND": line, "PATH": os.environ["PATH"]},
            user=user,
            group=group,
            extra_groups=[] if user else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        ),
    )
    return done.returncode, done.stdout, done.stderr


def test_client_when_openssh_then_it_gets_the_answer_and_nothing_else(home: Home) -> None:
    """The protocol is plain SSH: OpenSSH's client gets answers, errors and refusals."""
    with Agent(home) as agent:
        code, out, _ = ssh(home, "get")
        assert (code, f"net_secret: {NET_SECRET}" in out.splitlines()) == (0, True)
        assert ssh(home, "engage 60")[:2] == (
            0,
            "tcp_syncookies: 2\nold_tcp_syncookies: 1\nengaged_s: 60\n",
        )
        assert ssh(home, "release")[1].startswith("tcp_syncookies: 1\n")
        code, out, err = ssh(home, "reboot")
        assert (code, out) == (2, "")
        assert "Error: reboot is no command; send one of: get, " in err

        assert ssh(home, "")[0] != 0  # a shell
        assert ssh(home, "-tt", "get")[:2] == (255, "")  # a terminal
        assert ssh(home, "-s", "sftp")[0] != 0
        assert ssh(home, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "")[0] != 0
        assert "administratively prohibited" in ssh(home, "-W", "127.0.0.1:7100", "")[2]
        said = agent.events("agent.command")
        assert said[0]["tag"] == "hub one"


def test_transport_when_sshd_then_the_forced_command_asks_the_running_agent(home: Home) -> None:
    """With --no-listen no port is ours, and sshd's forced command gives the same answers."""
    wrapper = home.folder / "exec"
    wrapper.write_text(
        f"#!/bin/sh\nexec {sys.executable} -I -m hub.agent.main exec --as hub1 "
        f"--runtime {home.runtime} --proc {home.proc}\n"
    )
    wrapper.chmod(0o755)
    public = asyncssh.read_private_key(str(home.folder / "id")).export_public_key().decode()
    (home.folder / "authorized").write_text(f'restrict,command="{wrapper}" {public}')
    config = home.folder / "sshd_config"
    config.write_text(
        f"Port {SSHD_PORT}\nListenAddress 127.0.0.1\nHostKey {home.host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {home.folder / 'authorized'}\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin forced-commands-only\nPasswordAuthentication no\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with Agent(home, "--no-listen") as agent:
        assert agent.events("agent.started")[0]["listen"].startswith("none")
        server = subprocess.Popen(
            ["ip", "netns", "exec", home.namespace, "/usr/sbin/sshd", "-D", "-e", "-f", config],
            stderr=subprocess.DEVNULL,
        )
        try:
            assert soon(lambda: ssh(home, "get", port=SSHD_PORT, user="root")[0] == 0)
            code, out, _ = ssh(home, "engage 60", port=SSHD_PORT, user="root")
            assert (code, out.splitlines()[0]) == (0, "tcp_syncookies: 2")
            assert "engaged_s: 60" in out
            assert ssh(home, "rm -rf /; get", port=SSHD_PORT, user="root")[0] == 2
            assert ssh(home, "release", port=SSHD_PORT, user="root")[1].endswith("engaged_s: 0\n")
            code, _, err = ssh(home, "", port=SSHD_PORT, user="root")
            assert code == 2
            assert "there is no command; send one of: get, listeners" in err
        finally:
            server.terminate()
            server.wait(10)
        assert {one["tag"] for one in agent.events("agent.command")} == {"hub1"}


def test_exec_when_the_caller_is_not_of_the_group_then_it_is_refused(home: Home) -> None:
    """The control socket takes root, the agent's user and its group, and nobody else."""
    with Agent(home, "--no-listen"):
        assert execute(home, "get")[0] == 0
        assert execute(home, "get", user="nobody", group="nogroup")[0] == 0
        assert execute(home, "get", user="games", group="nogroup")[0] == 0
        code, out, err = execute(home, "get", user="games", group="games")
        assert (code, out) == (1, "")
        assert "Permission denied" in err
        assert execute(home, "restore")[0] == 2


def test_exec_when_the_tag_is_odd_then_it_is_refused(home: Home) -> None:
    """A tag goes into the log and into a file, so it is a plain word."""
    with Agent(home, "--no-listen"):
        code, _, err = execute(home, "get", "--as", "a b\n")
        assert (code, err.startswith("Error: not a tag")) == (2, True)


def test_exec_when_no_agent_runs_then_root_does_it_alone(home: Home) -> None:
    """Without an agent root's answer is the same, and a lease has a keeper of its own."""
    home.runtime.mkdir()
    code, out, _ = execute(home, "get")
    assert (code, f"net_secret: {NET_SECRET}" in out.splitlines()) == (0, True)
    assert execute(home, "engage 60", "--as", "a")[1].endswith("engaged_s: 60\n")
    assert execute(home, "engage 70", "--as", "b")[0] == 0
    assert home.sysctl() == 2
    assert "tcp_syncookies: 2" in execute(home, "get", "--as", "a")[1]
    assert execute(home, "release", "--as", "a")[1].startswith("tcp_syncookies: 2")
    assert execute(home, "release", "--as", "b")[1].startswith("tcp_syncookies: 1")
    assert home.sysctl() == 1
    code, _, err = execute(home, "get", user="games", group="games")
    assert (code, "no agent runs here" in err) == (1, True)


def restore(home: Home) -> tuple[int, str]:
    """Return what `fnm-agent restore` returns and prints."""
    done = inside(
        home.namespace,
        lambda: subprocess.run(
            [
                *(sys.executable, "-I", "-m", "hub.agent.main", "restore"),
                *("--proc", str(home.proc), "--runtime", str(home.runtime)),
                *("--keeper-user", KEEPER),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        ),
    )
    return done.returncode, done.stdout


def test_restore_when_the_agent_was_killed_then_the_old_value_stands(home: Home) -> None:
    """What an uninstall runs ends all leases, with and without an agent."""
    with Agent(home) as agent:
        ssh(home, "engage 600")
        assert restore(home) == (0, "tcp_syncookies: 1\n")
        assert home.sysctl() == 1
        assert agent.code is None
        ssh(home, "engage 600")
        agent.kill()
    assert home.sysctl() == 2
    assert restore(home) == (0, "tcp_syncookies: 1\n")
    assert home.sysctl() == 1
    assert restore(home) == (0, "tcp_syncookies: 1\n")
