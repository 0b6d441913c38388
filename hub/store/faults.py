# SPDX-License-Identifier: Apache-2.0
"""What SQLite's and the system's error codes mean for the journal, in an operator's words."""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from hub.errors import StoreError, StoreFullError

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNREADABLE: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
        sqlite3.SQLITE_IOERR_DATA,
    }
)
_DENIED: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH}
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FREE_SPACE: Final = "free space on that file system; the journal then goes on by itself"


class DamageError(sqlite3.DatabaseError):
    """A check of ours found the file damaged; stands beside SQLite's own `malformed`."""


def is_damage(error: BaseException) -> bool:
    """Tell whether `error` says that the file's contents are broken or cannot be read."""
    code = _code(error)
    return isinstance(error, DamageError) or code & 0xFF in _DAMAGE or code in _UNREADABLE


def is_callers(error: Exception) -> bool:
    """Tell whether the values handed in are at fault, and not the file or the disk."""
    own = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
    return isinstance(error, own) or not isinstance(error, sqlite3.Error | OSError)


def explain(error: Exception, path: Path) -> StoreError:
    """Return what the operator is told about `error`; a StoreError as it is."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, OSError):
        return _explain_system(error, path)
    if is_callers(error):
        return StoreError(f"cannot keep this value: {error}", where=str(path))
    return _explain_sqlite(error, path)


def _explain_sqlite(error: Exception, path: Path) -> StoreError:
    where, code = str(path), _code(error)
    primary = code & 0xFF
    if is_damage(error):
        return StoreError(f"damaged: {error}", where=where, todo="look at the disk and its log")
    if primary == sqlite3.SQLITE_FULL:
        return StoreFullError("no space is left", where=where, todo=_FREE_SPACE)
    if primary == sqlite3.SQLITE_IOERR:
        what = f"cannot be read or written: {error} ({getattr(error, 'sqlite_errorname', '')})"
        todo = "look at free space, the disk and its log; the journal tries again by itself"
        return StoreFullError(what, where=where, todo=todo)
    if primary in _DENIED:
        return StoreError(f"cannot be opened: {error}", where=where, todo=_permission())
    if primary in _BUSY:
        todo = "close what has the file open, such as the sqlite3 shell"
        return StoreError("locked by another program", where=where, todo=todo)
    return StoreError(str(error), where=where)


def _explain_system(error: OSError, path: Path) -> StoreError:
    where = str(error.filename or path)
    text = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        return StoreFullError(f"no space is left ({text})", where=where, todo=_FREE_SPACE)
    if error.errno == errno.EIO:
        return StoreFullError(text, where=where, todo="look at the disk and its log")
    if error.errno == errno.EROFS:
        return StoreError(text, where=where, todo="set store.path to a place that can be written")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError(text, where=where, todo=_permission())
    return StoreError(text, where=where)


def _permission() -> str:
    return f"let user id {os.geteuid()} write the file and its directory, or set store.path"


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) or 0
