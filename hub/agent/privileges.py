# SPDX-License-Identifier: Apache-2.0
"""Becoming an ordinary user for good, with at most a few capabilities kept."""

import ctypes
import os
import pwd
import resource
from collections.abc import Collection
from typing import Final

from hub.errors import HubError

CAP_NET_ADMIN: Final = 12

PR_SET_DUMPABLE: Final = 4
PR_CAP_AMBIENT: Final = 47
CAPABILITY_VERSION: Final = 0x20080522
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_FILES: Final = 512
_AS_SHIPPED: Final = "use the unit as it is shipped, or start it as root"


class PrivilegeError(HubError):
    """The process has not the privileges it needs, or cannot get rid of them."""


class Header(ctypes.Structure):
    """Whose capabilities are meant (struct __user_cap_header_struct)."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class Sets(ctypes.Structure):
    """Half of them: two make a whole (struct __user_cap_data_struct)."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def need_root(what: str) -> None:
    """Raise PrivilegeError unless this process is root."""
    if os.geteuid() != 0:
        raise PrivilegeError(f"{what} must be started as root", todo="run it as root")


def myself() -> pwd.struct_passwd:
    """Return the user whose process this is.

    Raises:
        PrivilegeError: it has no name.
    """
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        raise PrivilegeError(
            f"there is no user with the number {os.geteuid()}", todo="run scripts/install-agent"
        ) from None


def account(name: str) -> pwd.struct_passwd:
    """Return the user `name`, which must exist and not be root."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(
            f"there is no user {name}", todo=f"run scripts/install-agent, or: useradd -r {name}"
        ) from None
    if found.pw_uid == 0:
        raise PrivilegeError(f"{name} is root", todo="name a user without privileges")
    return found


def become(user: pwd.struct_passwd, keep: Collection[int] = ()) -> None:
    """Become `user` for good; `keep` are the capabilities (< 32) that stay effective.

    Afterwards no program started can gain privileges, and the process can neither be dumped
    nor traced by its own user, because it holds what only root may see.

    Raises:
        PrivilegeError: something was not granted; the process must end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if keep:
            call(libc, "prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        _set_capabilities(libc, keep)
        _confine(libc)
    except OSError as error:
        raise PrivilegeError(
            f"cannot become {user.pw_name}: {error.strerror}",
            todo="start it as root, with CAP_SETUID and CAP_SETGID",
        ) from None
    if os.getresuid() != (user.pw_uid,) * 3 or os.getgroups():
        raise PrivilegeError(f"did not become {user.pw_name}", todo="report this as a defect")


def settle(keep: Collection[int] = ()) -> None:
    """Become what `become` makes of root, in a process that was started as its user.

    It can have no capability besides `keep` (< 32): nothing here could take one away for good
    that its unit has given it.

    Raises:
        PrivilegeError: it has more, or something was not granted; the process must end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _confine(libc)
        held = _capabilities(libc)
    except OSError as error:
        raise PrivilegeError(
            f"cannot give up what is not needed: {error.strerror}", todo=_AS_SHIPPED
        ) from None
    if held & ~sum(1 << number for number in keep):
        raise PrivilegeError(f"has capabilities that it must not have: {held:#x}", todo=_AS_SHIPPED)


def _confine(libc: ctypes.CDLL) -> None:
    call(libc, "prctl", PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    call(libc, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(libc, "prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _capabilities(libc: ctypes.CDLL) -> int:
    """Return the permitted ones as bits."""
    sets = (Sets * 2)()
    call(libc, "capget", ctypes.byref(Header(CAPABILITY_VERSION, 0)), sets)
    low: int = sets[0].permitted
    high: int = sets[1].permitted
    return high << 32 | low


def _set_capabilities(libc: ctypes.CDLL, keep: Collection[int]) -> None:
    bits = sum(1 << number for number in keep)
    sets = (Sets * 2)(Sets(bits, bits, 0), Sets(0, 0, 0))
    call(libc, "capset", ctypes.byref(Header(CAPABILITY_VERSION, 0)), sets)


def call(libc: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Call a function of `libc` that returns 0 when all is well; raises OSError."""
    # prctl is variadic and takes longs, which ctypes would not make of plain integers.
    longs = [ctypes.c_ulong(item) if isinstance(item, int) else item for item in arguments]
    if getattr(libc, name)(*longs):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
