# SPDX-License-Identifier: Apache-2.0
"""The second leg of ISN sync: the agent's own SYNs keep the kernel's window for cookies open."""

import socket
from contextlib import ExitStack

import pytest

from hub.agent.window import Window
from tests.support.agent import soon
from tests.support.netns import SERVER, Lab, inside

FAMILIES = {4: (socket.AF_INET, "192.0.2.10"), 6: (socket.AF_INET6, "2001:db8:2::10")}


def cookies_sent(lab: Lab) -> int:
    """Return how many cookies the namespace's kernel has sent."""
    text = lab.files(SERVER).read_now("net/netstat")
    names, values = (line.split() for line in text.splitlines() if line.startswith("TcpExt:"))
    return int(values[names.index("SyncookiesSent")])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("wild", [True, False])
def test_window_when_kept_open_then_the_listener_sends_a_cookie_and_nothing_is_left(
    version: int, *, wild: bool
) -> None:
    """One SYN for each listener that was named, none for another, and no connection of it."""
    family, address = FAMILIES[version]
    with Lab() as lab:
        lab.files(SERVER).write_now("sys/net/ipv4/tcp_syncookies", "2")

        def work() -> tuple[int, int, bool]:
            here = ("::" if version == 6 else "") if wild else address
            with ExitStack() as stack:
                named = stack.enter_context(socket.create_server((here, 80), family=family))
                named.settimeout(0.2)
                stack.enter_context(socket.create_server((address, 81), family=family))
                window = Window.open()
                stack.callback(window.close)
                assert window.possible
                before = cookies_sent(lab)
                sent = window.keep_open({80, 443})
                assert soon(lambda: cookies_sent(lab) > before)
                try:
                    named.accept()[0].close()
                except TimeoutError:
                    return sent, cookies_sent(lab) - before, False
                return sent, cookies_sent(lab) - before, True

        assert inside(lab.names[SERVER], work) == (1, 1, False)
