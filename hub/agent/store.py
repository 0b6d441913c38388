# SPDX-License-Identifier: Apache-2.0
"""systemd's store of descriptors: what root has opened for a service that is not root.

A short-lived process of root's opens, and gives to the store; the service gets all of it at its
start, and holds nothing that it could open by itself (sd_notify(3), sd_listen_fds(3)).
"""

import os
import select
from collections.abc import Collection, Mapping, MutableMapping
from typing import Final

from hub.errors import HubError
from hub.systemd import Manager

_FIRST: Final = 3
_MOST: Final = 64
_PATIENCE_S: Final = 10.0


class StoreError(HubError):
    """Descriptors did not get from one process to the other as they should."""


def give(manager: Manager, files: Mapping[str, int], former: Collection[str]) -> None:
    """Put `files` into the store in place of all that is there by the names `former`.

    Returns once the manager has them: whoever spoke for the service may end then.

    Raises:
        StoreError: there is no manager, or it does not listen.
    """
    if not manager.listens:
        raise StoreError(
            "no service manager is there to keep what is opened",
            todo="this command is for the unit: systemctl restart fnm-agent",
        )
    try:
        # A store survives the service's end by a fault, so what it holds may be an older kernel's.
        for name in former:
            manager.say("FDSTOREREMOVE=1", f"FDNAME={name}")
        for name, number in files.items():
            manager.say("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", files=[number])
        _wait(manager)
    except OSError as error:
        raise StoreError(
            f"the service manager does not take what was opened: {error.strerror or error}",
            todo="look at: systemctl status; then systemctl restart fnm-agent",
        ) from None


def received(environment: MutableMapping[str, str]) -> dict[str, int]:
    """Return the descriptors that this process was started with, by name; takes the variables out.

    Programs that this one starts do not get them.

    Raises:
        StoreError: two have one name, or the variables make no sense.
    """
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    if not count or pid != str(os.getpid()):
        return {}
    if not count.isdecimal() or len(names) != int(count) or int(count) > _MOST:
        raise StoreError("the descriptors of the service manager have no names", todo=_ANEW)
    found: dict[str, int] = {}
    for number, name in enumerate(names, _FIRST):
        if name in found:
            raise StoreError(f"the service manager has two descriptors {name!r}", todo=_ANEW)
        try:
            os.set_inheritable(number, False)  # noqa: FBT003 - the function's only choice
        except OSError:
            raise StoreError(f"the descriptor {name!r} is not open", todo=_ANEW) from None
        found[name] = number
    return found


_ANEW: Final = "empty the store: systemctl stop fnm-agent fnm-keeper; systemctl start fnm-agent"


def _wait(manager: Manager) -> None:
    """Return when the manager has read everything: it closes what comes with BARRIER=1 then."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            manager.say("BARRIER=1", files=[theirs])
        finally:
            os.close(theirs)
        if not _ended(ours):
            raise TimeoutError("no answer")
    finally:
        os.close(ours)


def _ended(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLHUP)
    return bool(poll.poll(_PATIENCE_S * 1000))
