# SPDX-License-Identifier: Apache-2.0
"""Secrets that systemd hands over: `credential:NAME` in place of a path (systemd.exec(5))."""

import os
import re
import stat
from pathlib import Path
from typing import Final

from hub.errors import HubError

SCHEME: Final = "credential:"
_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
_MOST: Final = 64 * 2**10


class CredentialError(HubError):
    """A credential is not there, or is none."""


def is_credential(text: str) -> bool:
    """Tell whether `text` means a credential, well written or not."""
    return text.startswith(SCHEME)


def check_name(text: str) -> None:
    """Raise ValueError unless `text` is `credential:` and a name of a file."""
    if not _NAME.fullmatch(text.removeprefix(SCHEME)):
        msg = f"{text!r} names no credential; write it as credential:oncall-token"
        raise ValueError(msg)


def located(path: Path) -> Path:
    """Return where a secret is: at `path` itself, or where systemd has put the credential.

    Raises:
        CredentialError: it means a credential, and systemd has handed over none of that name.
    """
    text = str(path)
    if not is_credential(text):
        return path
    name, folder = text.removeprefix(SCHEME), os.environ.get(_DIRECTORY, "")
    todo = f"in the unit: LoadCredential={name}:/etc/fnm-hub/keys/{name}"
    if not folder:
        raise CredentialError("systemd has handed over no credentials", where=text, todo=todo)
    found = Path(folder) / name
    try:
        there = _NAME.fullmatch(name) is not None and found.is_file()
    except OSError as error:
        raise CredentialError(f"it cannot be read: {error.strerror}", where=text) from None
    if not there:
        raise CredentialError("systemd has not handed it over", where=text, todo=todo)
    return found


def how_to_make(path: Path) -> str:
    """Return what to do where `path` has to hold a secret of 32 random bytes."""
    if is_credential(str(path)):
        return "put one into the file that LoadCredential= names: openssl rand -hex 32"
    return f"make one: (umask 077; openssl rand -hex 32 > {path})"


def forbidden_bits(path: Path, bits: int) -> int:
    """Return which of the mode bits `bits` the file at `path` must not have.

    systemd gives credentials to the service's user by an access list, and the mask of that list
    stands where the group's rights do: they show mode 0440, and no group may read them.
    """
    folder = os.environ.get(_DIRECTORY, "")
    if not folder or path.parent != Path(folder):
        return bits
    try:
        status = path.parent.stat()
    except OSError:
        return bits
    theirs = status.st_uid in (0, os.geteuid()) and not status.st_mode & (
        stat.S_IWGRP | stat.S_IRWXO
    )
    return bits & ~stat.S_IRGRP if theirs else bits


def read(text: str) -> str:
    """Return what is in the credential that `text` means, without white space around it.

    Raises:
        CredentialError: there is none, or it holds no text.
    """
    path = located(Path(text))
    try:
        with path.open("rb") as file:
            content = file.read(_MOST).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        content = ""
    if not content:
        raise CredentialError("it holds no text", where=text, todo="put one line into its file")
    return content
