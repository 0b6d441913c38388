# SPDX-License-Identifier: Apache-2.0
"""`fnm-agent open`: what the units run as root, and for a moment, before their programs start."""

import contextlib
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from hub.agent import answers, handover, keeping, privileges, store
from hub.agent.kernel.sources import Kernel, NoSourceError
from hub.systemd import Manager

_FORMER: Final = ("control.sock", "agent.lock")
"""What earlier agents left in the runtime folder itself."""


def for_agent(
    proc: Path, runtime: Path, environment: MutableMapping[str, str]
) -> Kernel | NoSourceError:
    """Open the kernel's source of keys and give it to systemd, or why there is none.

    Raises:
        HubError: not as root, or systemd does not take it.
    """
    privileges.need_root("fnm-agent open")
    for name in _FORMER:
        with contextlib.suppress(OSError):
            (runtime / name).unlink()
    found = answers.look(proc)
    files = handover.packed(found)
    try:
        store.give(Manager.of(environment), files, handover.NAMES)
    finally:
        os.close(files[handover.DOCUMENT])
    return found


def for_keeper(proc: Path, environment: MutableMapping[str, str]) -> None:
    """Open the sysctl and raw sockets and give them to systemd.

    Raises:
        HubError: not as root, or systemd does not take them.
    """
    privileges.need_root("fnm-agent open")
    window, files = keeping.opened(proc)
    with contextlib.closing(window):
        store.give(Manager.of(environment), files, keeping.NAMES)
