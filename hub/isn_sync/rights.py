# SPDX-License-Identifier: Apache-2.0
"""Opens the probe, gives up the right that this took, and keeps what is learned out of cores."""

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from hub.agent.privileges import (
    CAPABILITY_VERSION,
    PR_CAP_AMBIENT,
    PR_SET_DUMPABLE,
    Header,
    Sets,
    call,
)
from hub.clock import Clock
from hub.errors import HubError
from hub.isn_sync.prober import Prober

log = structlog.get_logger(__name__)

_CAP_NET_RAW: Final = 13
_PR_CAP_AMBIENT_LOWER: Final = 3


@contextmanager
def probing(clock: Clock) -> Iterator[Prober | None]:
    """Yield the probe, None where it is not permitted; see capabilities(7).

    To be entered before any thread is started: each thread has capabilities of its own.
    """
    keep_memory_private()
    try:
        prober = Prober.open(clock)
    except HubError as error:
        log.error("isn.no_probe", why=str(error), todo="give the hub's unit CAP_NET_RAW")
        yield None
        return
    try:
        give_up_raw()
        yield prober
    finally:
        prober.close()


def keep_memory_private() -> None:
    """Let this process leave no core file and be read by no debugger: it will hold secrets."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_up_raw() -> None:
    """Give up CAP_NET_RAW for good, also for programs started later; root keeps what it has."""
    if os.geteuid() == 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = Header(CAPABILITY_VERSION, 0), (Sets * 2)()
    keep = ~(1 << _CAP_NET_RAW)
    try:
        call(libc, "capget", ctypes.byref(header), sets)
        for name, _ in Sets._fields_:
            setattr(sets[0], name, getattr(sets[0], name) & keep)
        call(libc, "prctl", PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, _CAP_NET_RAW, 0, 0)
        call(libc, "capset", ctypes.byref(header), sets)
    except OSError as error:
        log.warning(
            "isn.right_kept", why=error.strerror, todo="report it; the hub works all the same"
        )
