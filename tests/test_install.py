# SPDX-License-Identifier: Apache-2.0
"""The installer on a gateway with its own systemd and FastNetMon, from nothing to nothing."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.installing import OWN, Gateway, later, make_package

# A package is built, on whatever machine this is.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
CONF = "/etc/fastnetmon.conf"
CONFIG = "/etc/fnm-hub/config.yaml"
NO_SYSTEMD = """
mount -t tmpfs none /run/systemd
mkdir /tmp/bin
printf '#!/bin/sh\\necho 5.10.0-28-amd64\\n' >/tmp/bin/uname
chmod 755 /tmp/bin/uname
export PATH=/tmp/bin:$PATH
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package of the checkout, which workers that run side by side share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "package"
    folder.mkdir(exist_ok=True)
    return make_package(folder)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory, older: Path) -> Path:
    """Return a package of a later version, which does not take every configuration any more."""
    wide = "min_prefix_v4: Annotated[int, Field(ge=8"
    narrower = (wide, wide.replace("ge=8", "ge=24"))
    return later(older, tmp_path_factory.mktemp("newer"), "0.2.0", config=narrower)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Return a gateway that has never seen the hub."""
    with Gateway() as made:
        yield made


def place_of(package: Path) -> str:
    """Return the folder that a package fills."""
    return "/opt/" + package.name.partition("_")[0]


class Caller:
    """Calls fnm-notify without a pause until it is told to stop; use as a context manager."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._stop = gateway, threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.sent: list[str] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop, after the call that goes on."""
        self._stop.set()
        self._thread.join()

    def _call(self) -> None:
        while not self._stop.is_set():
            number = len(self.sent)
            target = f"198.18.{number // 250}.{number % 250}"
            _ = self._gateway.notify(target)
            self.sent.append(target)
            _ = self._stop.wait(0.5)


def pids(gateway: Gateway) -> list[str]:
    """Return the main processes of the services."""
    return [gateway.shown(unit, "MainPID") for unit in ("fnm-hub", "synproxyd", "fastnetmon")]


def heard(gateway: Gateway) -> str:
    """Return the list of events, once nothing waits in the spool any more."""
    gateway.until(
        "the spool is empty",
        lambda: not gateway.run("find", "/var/spool/fnm-hub", "-type", "f"),
        "fnm-hub",
    )
    return gateway.run("fnm-hub", "--json", "events", "-n", "10000")


def edit(gateway: Gateway, path: str, old: str, new: str) -> None:
    """Change one place of a file, as an editor that keeps owner and mode."""
    place = gateway.place(path)
    text = place.read_text()
    assert text.count(old) == 1, text
    place.write_text(text.replace(old, new))


def install_through_kills(gateway: Gateway, package: str) -> None:
    """Kill the installer at several moments of its way, and then let it run to its end."""
    words = ("--package", package, "--yes", "--own-prefix", OWN)
    for seconds in (0.3, 1.0, 2.0, 3.0, 5.0):
        _ = gateway.call(
            *("timeout", "--signal=KILL", str(seconds), "/opt/checkout/scripts/install", *words),
            timeout=300,
        )
    done = gateway.install(*words)
    assert done.returncode == 0, done.stdout


def test_install_when_lived_with_then_nothing_is_lost_and_nothing_is_left(
    gateway: Gateway, older: Path, newer: Path
) -> None:
    """Installed through kills, refused, upgraded, broken, rolled back, and taken off again."""
    found, before = gateway.listing(), gateway.read(CONF)
    first = gateway.take(older)
    install_through_kills(gateway, first)

    # It serves, in dry-run, and FastNetMon's user reaches it.
    shown = gateway.run("fnm-hub", "status")
    assert "DRY-RUN" in shown
    assert "native on wan0 (native mode)" in shown
    assert gateway.notify("192.0.2.9") == ""
    assert "192.0.2.9" in heard(gateway)
    gateway.run("fastnetmon_api_client", "ban", "192.0.2.77")
    gateway.until("FastNetMon has called", lambda: "192.0.2.77" in heard(gateway), "fnm-hub")
    modes = gateway.run(
        "stat", "-c", "%a %U:%G %n", CONFIG, "/var/lib/fnm-hub", "/var/spool/fnm-hub"
    )
    assert modes.splitlines() == [
        f"400 fnm-hub:fnm-hub {CONFIG}",
        "700 fnm-hub:fnm-hub /var/lib/fnm-hub",
        "2770 root:fnm-hub /var/spool/fnm-hub",
    ]
    config = gateway.read(CONFIG)
    assert f'own_prefixes: ["{OWN}"]' in config
    assert 'never_block: ["192.0.2.1/32", "192.0.2.254/32"]' in config
    changed = set(gateway.read(CONF).splitlines()) ^ set(before.splitlines())
    assert "notify_script_path = /usr/local/bin/fnm-notify" in changed
    assert len(changed) == 2
    assert gateway.read("/var/lib/fnm-hub-install/fastnetmon.conf") == before

    # Once more changes nothing, and nobody is restarted.
    running, listed = pids(gateway), gateway.listing()
    done = gateway.install("--yes", by="/opt/fnm-hub")
    assert done.returncode == 0, done.stdout
    assert pids(gateway) == running
    assert set(gateway.listing()) ^ set(listed) == set()

    # A version that refuses the configuration leaves everything as it is.
    second = gateway.take(newer)
    edit(gateway, CONFIG, "min_prefix_v4: 32", "min_prefix_v4: 16")
    done = gateway.install("--yes", "--package", second)
    assert done.returncode == 1
    assert "min_prefix_v4" in done.stdout
    assert "this version refuses the configuration; nothing was changed" in done.stdout
    assert pids(gateway) == running
    assert gateway.read("/opt/fnm-hub/pyvenv.cfg") == gateway.read(f"{place_of(older)}/pyvenv.cfg")
    edit(gateway, CONFIG, "min_prefix_v4: 16", "min_prefix_v4: 32")

    # An upgrade loses no call, keeps a unit that a person has changed, and lets synproxyd run.
    unit = "/etc/systemd/system/fnm-hub.service"
    edit(gateway, unit, "LimitNOFILE=65536", "LimitNOFILE=70000")
    with Caller(gateway) as caller:
        done = gateway.install("--yes", "--package", second)
    assert done.returncode == 0, done.stdout
    assert "fnm-hub 0.2.0" in gateway.run("fnm-hub", "status")
    assert pids(gateway)[1:] == running[1:]
    events = heard(gateway)
    assert len(caller.sent) > 2
    assert [target for target in caller.sent if f'"{target}"' not in events] == []
    assert gateway.read(CONFIG) == config

    # A version that does not serve is taken back.
    main = gateway.run(
        "sh", "-c", f"echo {place_of(older)}/lib/python3*/site-packages/hub/daemon.py"
    )
    gateway.place(main.strip()).write_text("raise SystemExit(3)\n")
    done = gateway.install("--yes", by=place_of(older))
    assert done.returncode == 1
    assert f"the new version does not serve, and {place_of(newer)[5:]} runs again" in done.stdout
    assert "fnm-hub 0.2.0" in gateway.run("fnm-hub", "status")
    assert [target for target in caller.sent if f'"{target}"' not in heard(gateway)] == []

    # What is in the kernel is told of, and FastNetMon gets its own back. The unit is a person's.
    done = gateway.install("--uninstall", "--yes", by="/opt/fnm-hub")
    assert done.returncode == 0, done.stdout
    assert "still in the kernel: XDP programs" in done.stdout
    assert gateway.read(CONF) == before
    assert gateway.read(CONFIG) == config
    assert gateway.shown("fnm-hub", "ActiveState") == "inactive"
    gateway.run("rm", "-r", "/sys/fs/bpf/synproxyd")
    assert "xdp" not in gateway.run("ip", "link", "show", "wan0")
    done = gateway.install("--uninstall", "--purge", "--yes")
    assert done.returncode == 0, done.stdout
    left = set(gateway.listing()) ^ set(found)
    assert {line for line in left if unit not in line} == set()
    assert f"f 644 root:root {unit} " in left


def test_install_when_no_systemd_runs_then_everything_waits_for_it(
    gateway: Gateway, older: Path
) -> None:
    """An old kernel gets nftables, the units are laid down and enabled, and work once started."""
    gateway.place("/etc/networks_list").write_text("# ours\n198.51.100.7/24\n\n2001:db8::/32\n")
    done = gateway.install("--yes", "--package", gateway.take(older), before=NO_SYSTEMD)
    assert done.returncode == 0, done.stdout
    assert "the engine is nftables: kernel 5.10.0-28-amd64 is older than 5.18" in done.stdout
    assert "systemd does not run here: the units are in /etc/systemd/system" in done.stdout
    assert "restart FastNetMon by hand" in done.stdout
    assert 'own_prefixes: ["198.51.100.0/24", "2001:db8::/32"]' in gateway.read(CONFIG)

    gateway.run("systemctl", "daemon-reload")
    assert gateway.run("systemctl", "is-enabled", "fnm-hub").strip() == "enabled"
    gateway.run("systemctl", "start", "fnm-hub")
    gateway.until(
        "the engine is ready",
        lambda: "nftables  ok" in gateway.run("fnm-hub", "status"),
        "fnm-hub",
    )
    assert gateway.notify("198.51.100.9") == ""
    assert "198.51.100.9" in heard(gateway)
    edit(gateway, CONFIG, "dry_run: until-armed", "dry_run: false")
    gateway.run("fnm-hub", "reload")
    table = ("nft", "list", "table", "inet", "fnm_hub")
    gateway.until("it is in force", lambda: "198.51.100.9" in gateway.run(*table), "fnm-hub")

    done = gateway.install("--uninstall", "--detach", "--yes")
    assert done.returncode == 0, done.stdout
    assert "ending what is in force" in done.stdout
    assert "still" not in done.stdout
    assert "fnm_hub" not in gateway.run("nft", "list", "tables")
