# SPDX-License-Identifier: Apache-2.0
"""What the agent tells systemd: that it serves, and that its keeper answers."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.agent import Agent, Home, soon
from tests.support.manager import Listener


@pytest.mark.beside
def test_agent_when_its_keeper_hangs_then_starved_and_the_next_one_replaces_it(
    folder: Path,
) -> None:
    """READY once it serves, fed while the keeper answers; a keeper that hangs is killed."""
    with Listener(folder / "notify") as manager, Home() as home:
        home.make_host_key()
        with Agent(home, environment=manager.environment(1.2)) as agent:
            manager.wait("READY=1")
            home.connect_socket().close()
            lines = manager.wait("WATCHDOG=1")
            assert lines[-1] == "STATUS=keys by tcp_secrets; tcp_syncookies is 1"
            hung = home.keeper_pid()
            os.kill(hung, signal.SIGSTOP)
            assert soon(lambda: bool(agent.events("agent.keeper_silent")), 20)
            manager.heard()
            manager.quiet(1.5)
            agent.kill()
        with Agent(home, environment=manager.environment()) as other:
            manager.wait("WATCHDOG=1")
            assert other.events("keeper.killed")[0]["pid"] == hung
            assert home.keeper_pid() != hung
        assert "STOPPING=1" in manager.heard()
