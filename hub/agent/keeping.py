# SPDX-License-Identifier: Apache-2.0
"""How a keeper comes to what it works with: by its unit, or by the process that starts it."""

import contextlib
import json
import os
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from hub.agent import privileges, store
from hub.agent.keeper import Keeper, Means
from hub.agent.peers import SOCKET, Peers
from hub.agent.place import FOLDER, SYSCTL, KeeperError, Place
from hub.agent.window import Window
from hub.errors import HubError
from hub.systemd import Manager

_SYSCTL: Final = "sysctl"
_RAW: Final = {"syn4": 4, "syn6": 6}
NAMES: Final = (_SYSCTL, *_RAW)
"""Of the descriptors that root opens for the keeper of the unit."""


def for_starter(link: int, user: str, runtime: Path, proc: Path) -> None:
    """Keep leases for the process at the other end of `link`; to be called as root.

    Raises:
        HubError, OSError: it cannot; the other end knows why.
    """
    with socket.socket(fileno=link) as end:
        try:
            window = Window.open()  # needs CAP_NET_RAW, which is not kept
            privileges.become(privileges.account(user), (privileges.CAP_NET_ADMIN,))
            Keeper(Place(runtime / FOLDER), proc, Peers(end), Means(window)).serve()
        except (HubError, OSError) as error:
            with contextlib.suppress(OSError):
                end.send(json.dumps({"error": str(error)}).encode())
            raise


def for_unit(
    agent_user: str, runtime: Path, proc: Path, environment: MutableMapping[str, str]
) -> None:
    """Keep leases for root and `agent_user`, with what root has opened for this process.

    Raises:
        HubError, OSError: it cannot.
    """
    manager, given = Manager.of(environment), store.received(environment)
    users = (0, privileges.account(agent_user).pw_uid)
    privileges.settle((privileges.CAP_NET_ADMIN,))
    folder = runtime / FOLDER
    if not folder.is_dir():
        raise KeeperError(
            "does not exist", where=str(folder), todo="start it by its unit: fnm-keeper"
        )
    means = Means(_window(given), given.get(_SYSCTL), manager)
    Keeper(Place(folder), proc, Peers.at(folder / SOCKET, users), means).serve()


def opened(proc: Path) -> tuple[Window, dict[str, int]]:
    """Return what the unit's keeper gets, as far as root can have it here, by name.

    The descriptors are open as long as the window is, and after that of the sysctl.
    """
    window = Window.open()
    by_version = {version: name for name, version in _RAW.items()}
    files = {by_version[version]: number for version, number in window.files.items()}
    with contextlib.suppress(OSError):
        files[_SYSCTL] = os.open(proc / SYSCTL, os.O_RDWR | os.O_CLOEXEC)
    return window, files


def _window(given: Mapping[str, int]) -> Window:
    return Window.of({version: given[name] for name, version in _RAW.items() if name in given})
