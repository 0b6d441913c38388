# SPDX-License-Identifier: Apache-2.0
"""The key by which hubs recognise this server."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncssh

from hub.credentials import forbidden_bits
from hub.errors import HubError

ALGORITHM: Final = "ssh-ed25519"
CREDENTIAL: Final = "host_ed25519"
"""Name by which systemd hands it to an agent that is not root."""
_ABSENT: Final = b"none"
"""What the unit gives where there is no file, so that it starts all the same."""
_LARGEST: Final = 1 << 16
_READABLE_BY_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class HostKeyError(HubError):
    """The host key cannot be read or made."""


def read(path: Path) -> asyncssh.SSHKey:
    """Return the host key.

    Raises:
        HostKeyError: there is none, it is no ed25519 key, or others can read it.
    """
    try:
        with path.open("rb") as file:
            forbidden = forbidden_bits(path, _READABLE_BY_OTHERS)
            if os.fstat(file.fileno()).st_mode & forbidden:
                raise HostKeyError(
                    "others than root can read it", where=str(path), todo=f"chmod 0600 {path}"
                )
            text = file.read(_LARGEST)
        if text == _ABSENT:
            raise HostKeyError(
                "there is none", where=str(path), todo="run: fnm-agent host-key; restart fnm-agent"
            )
        key = asyncssh.import_private_key(text)
    except OSError as error:
        raise HostKeyError(
            f"cannot be read: {error.strerror}", where=str(path), todo="run: fnm-agent host-key"
        ) from None
    except asyncssh.KeyImportError:
        raise HostKeyError("is no private key that can be read", where=str(path)) from None
    if key.get_algorithm() != ALGORITHM:
        raise HostKeyError("is no ed25519 key", where=str(path), todo="move it away, make another")
    return key


def handed_over(environment: Mapping[str, str], path: Path) -> Path:
    """Return where the key is that systemd has handed over; `path` where it has not."""
    folder = environment.get("CREDENTIALS_DIRECTORY", "")
    found = Path(folder) / CREDENTIAL
    return found if folder and found.exists() else path


def read_or_make(path: Path) -> asyncssh.SSHKey:
    """Return the host key, making it when there is none; never replaces one."""
    if not path.exists():
        key = asyncssh.generate_private_key(ALGORITHM, comment="fnm-agent")
        fresh = path.with_name(f"{path.name}.new")
        try:
            fresh.unlink(missing_ok=True)
            with open(fresh, "xb", opener=_private) as file:
                file.write(key.export_private_key())
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except OSError as error:
            raise HostKeyError(f"cannot be made: {error.strerror}", where=str(path)) from None
    return read(path)


def known_hosts_line(key: asyncssh.SSHKey, host: str, port: int) -> str:
    """Return the line that pins this key on a hub."""
    words = key.export_public_key().decode("ascii").split()
    return f"[{host}]:{port} {words[0]} {words[1]}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
