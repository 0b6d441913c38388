# SPDX-License-Identifier: Apache-2.0
"""The keys file: who may ask this agent, in the form that ssh-keygen writes."""

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from hub.errors import HubError

TYPE: Final = "ssh-ed25519"
LARGEST_FILE: Final = 1 << 20
LONGEST_TAG: Final = 64
_OTHER_TYPES: Final = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-", "rsa-", "x509v3-")
_BLOB: Final = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
_POINT_BYTES: Final = 32
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

log = structlog.get_logger(__name__)


class KeyLineError(HubError):
    """A line of the keys file is not taken."""


class KeysFileError(HubError):
    """The whole keys file is not taken."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that may ask.

    Attributes:
        blob: the key as SSH sends it (RFC 8709, section 4).
        tag: the line's comment, only shown in logs; printable ASCII, may be empty.
        fingerprint: `SHA256:...` as OpenSSH prints it.
    """

    blob: bytes
    tag: str
    fingerprint: str


def fingerprint(blob: bytes) -> str:
    """Return OpenSSH's SHA256 fingerprint of a public key."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


def printable(text: str, longest: int = LONGEST_TAG) -> str:
    """Return `text` without what could disturb a log or a terminal."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in text[:longest])


def parse_line(line: str) -> Key | None:
    """Return the key of one line, None for an empty line or a comment.

    Raises:
        KeyLineError: the line has no key that is taken; says why.
    """
    words = line.split(maxsplit=2)
    if not words or words[0].startswith("#"):
        return None
    if words[0] != TYPE:
        raise _refused(words[0], line)
    if len(words) == 1:
        raise KeyLineError("the key is missing", todo="paste the whole line of the hub")
    tag = words[2].strip() if len(words) > 2 else ""  # noqa: PLR2004 - type, key, tag
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if not blob.startswith(_BLOB) or len(blob) != len(_BLOB) + _POINT_BYTES:
        raise KeyLineError("this is no ed25519 key", todo="paste the whole line of the hub")
    return Key(blob, printable(tag), fingerprint(blob))


def parse(text: str) -> tuple[dict[bytes, Key], list[tuple[int, KeyLineError]]]:
    """Return the keys of a file by their blob, and the lines that are not taken."""
    keys: dict[bytes, Key] = {}
    refused: list[tuple[int, KeyLineError]] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            key = parse_line(line)
        except KeyLineError as error:
            refused.append((number, error))
            continue
        if key is None:
            continue
        if key.blob in keys:
            refused.append((number, KeyLineError("this key stands above already")))
            continue
        keys[key.blob] = key
    return keys, refused


class KeysFile:
    """The keys as the file has them now; it is read again whenever it has changed.

    A file that cannot be read, or that others than its owner can write, gives no key at all.
    """

    def __init__(self, path: Path, owners: Iterable[int] | None = None) -> None:
        self.path = path
        self._owners = frozenset((0, os.geteuid()) if owners is None else owners)
        self._seen: tuple[int, ...] | None = None
        self._keys: dict[bytes, Key] = {}
        self._complaint = ""

    def keys(self) -> dict[bytes, Key]:
        """Return the keys by their blob; reads the disk, so not for the event loop."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
                self._check(found)
                if seen != self._seen:
                    self._take(file.read(LARGEST_FILE + 1))
                    self._seen = seen
        except (OSError, KeysFileError) as error:
            self._nothing(error)
        return self._keys

    def find(self, blob: bytes) -> Key | None:
        """Return the key if it may ask; reads the disk."""
        return self.keys().get(blob)

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise KeysFileError("this is no regular file")
        if found.st_mode & _WRITABLE_BY_OTHERS or found.st_uid not in self._owners:
            raise KeysFileError(
                "others than root can write it", todo=f"chown root {self.path}; chmod go-w it"
            )
        if found.st_size > LARGEST_FILE:
            raise KeysFileError("it is larger than 1 MiB", todo="write one line for each hub")

    def _take(self, data: bytes) -> None:
        if len(data) > LARGEST_FILE:
            raise KeysFileError("it is larger than 1 MiB", todo="write one line for each hub")
        self._keys, refused = parse(data.decode("utf-8", "replace"))
        self._complaint = ""
        for number, error in refused:
            log.warning(
                "keys.line_skipped",
                file=str(self.path),
                line=number,
                why=error.what,
                todo=error.todo,
            )
        log.info("keys.read", file=str(self.path), keys=len(self._keys), skipped=len(refused))

    def _nothing(self, error: OSError | KeysFileError) -> None:
        self._keys, self._seen = {}, None
        text = error.what if isinstance(error, KeysFileError) else (error.strerror or str(error))
        if text == self._complaint:
            return
        self._complaint = text
        log.error(
            "keys.unusable",
            file=str(self.path),
            why=text,
            todo=getattr(error, "todo", "") or "nobody can log in until this file can be read",
        )


def _refused(word: str, line: str) -> KeyLineError:
    if word.startswith(_OTHER_TYPES):
        return KeyLineError(
            f"keys of the type {printable(word)} are not taken", todo="use an ed25519 key"
        )
    if any(other == TYPE or other.startswith(_OTHER_TYPES) for other in line.split()[1:]):
        return KeyLineError(
            "options before the key are not taken",
            todo="begin the line with ssh-ed25519: a key may only ever run the agent's commands",
        )
    return KeyLineError("this is no key", todo="paste the whole line of the hub")
