# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with a protected server, and what ISN sync makes of it by itself."""

import asyncio
from pathlib import Path

import pytest

from scripts.lab.guest_image import VENV_PYTHON
from tests.support.guest import Protected
from tests.support.isn import protecting, shielded

FOLDER = "/tmp/proc"  # noqa: S108 - of the guest
RECORDED = ("--proc", FOLDER)
WRONG = f"{FOLDER}/wrong"


LIAR = """
import os, sys, time
from pathlib import Path
from hub.agent.kernel.sources import open_sources
kernel, folder, minutes = open_sources(Path("/proc")), *sys.argv[1:]
file = os.open(folder + "/tcp_secrets", os.O_RDWR | os.O_CREAT, 0o600)
while True:
    read = kernel.read()
    cookie, net, ts = (key.hex() for key in (read.syncookie, read.net, read.ts or read.net))
    if os.path.exists(folder + "/wrong"):
        cookie, net, ts = cookie[::-1], net[::-1], ts[::-1]
    jiffies = read.jiffies + int(minutes) * 60 * read.hz
    clocks = (f"uptime_ms {read.timestamp_ms:012d}", f"jiffies {jiffies:012d}")
    lines = ("time_sec 1764140000", *clocks,
             "cookie_secret " + cookie, "net_secret " + net, "timestamp_secret " + ts)
    os.pwrite(file, ("\\n".join(lines) + "\\n").encode(), 0)
    print("told", flush=True)
    time.sleep(0.05)
"""


async def lie(protected: Protected, *, ahead_min: int = 0) -> None:
    """Let an agent that is started with RECORDED tell the guest's keys and a time of our own.

    While there is the file WRONG, the keys are others.
    """
    await protected.run("mkdir", "-p", FOLDER)
    await protected.run("ln", "-sfn", "/proc/sys", f"{FOLDER}/sys")
    words = (FOLDER, str(ahead_min))
    liar = await protected.start("liar", VENV_PYTHON, "-c", LIAR, *words)
    await asyncio.to_thread(liar.expect, "told")


@pytest.mark.long
async def test_server_when_it_starts_anew_under_attack_then_protected_again_by_itself(
    protected: Protected, tmp_path: Path
) -> None:
    """Other secrets, other clocks, and nobody who could be asked."""
    async with protecting(protected, tmp_path) as shield:
        await shield.serves()
        await protected.run("sync")  # the reset is like a power cut
        await protected.reboot()
        await shield.agent.start()
        await shield.until_text("isn.keys_changed")
        await shield.until("engaged again", lambda: shield.hub.agent()["engaged_until"])
        await shield.until("proven", lambda: shield.hub.standing(4) == "proven")
        await shield.until("proven", lambda: shield.hub.standing(6) == "proven")
        await shield.in_force()
        await shield.serves_soon()


@pytest.mark.long
async def test_setting_when_somebody_changes_it_then_made_ready_again(
    protected: Protected, tmp_path: Path
) -> None:
    """A configuration tool that puts `tcp_syncookies` back to its own value."""
    async with protecting(protected, tmp_path) as shield:
        await protected.sysctl("net.ipv4.tcp_syncookies", 1)
        await shield.until("set again", lambda: shield.hub.agent()["syncookies"] == 2)
        await shield.in_force()
        await shield.serves()


async def test_secrets_when_wrong_then_left_for_the_fallback_and_back_when_right(
    protected: Protected, tmp_path: Path
) -> None:
    """An agent that lies brings nobody into ISN sync, and does not keep it in."""
    await protected.sysctl("net.ipv4.tcp_syncookies", 2)
    await protected.prime()  # so that the secrets are in use
    await protected.sysctl("net.ipv4.tcp_syncookies", 1)
    await lie(protected)
    async with protecting(protected, tmp_path, 4, agent=RECORDED) as shield:
        await protected.put(WRONG, b"")
        await shield.until("left", lambda: shield.hub.standing() in {"left", "returning"})
        await shield.in_force("splice", 4)
        await shield.serves(4)
        assert await shield.aside(shield.hub.logged, "isn.left")
        why = (await shield.aside(shield.hub.agent))["addresses"][0]["why"]
        assert "no cookie of these secrets" in why
        await protected.run("rm", WRONG)
        await shield.in_force("isn-sync", 4, seconds=30)
        await shield.serves(4)


@pytest.mark.long
async def test_clock_when_the_agents_is_wrong_by_minutes_then_the_servers_own_is_taken(
    protected: Protected, tmp_path: Path
) -> None:
    """Its cookies tell the minute; without that no client would be served."""
    async with shielded(protected, tmp_path, tcp="{tcp: {mode: isn-sync}}") as shield:
        await shield.ready()
        await protected.sysctl("net.ipv4.tcp_syncookies", 2)
        await shield.serves()  # so that the secrets are in use
        await lie(protected, ahead_min=5)
        await shield.agent.stop()
        await shield.agent.start(*RECORDED)
        await shield.until_text("isn.keys_changed")
        await shield.ban(4)
        await shield.in_force("isn-sync", 4, seconds=30)
        await shield.serves(4)
        assert await shield.aside(shield.hub.logged, "isn.clock_wrong")
