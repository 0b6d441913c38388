# SPDX-License-Identifier: Apache-2.0
"""Secrets that a kernel module shows: tcpsecrets, and isn_sync in both of its forms."""

import os
import re
from pathlib import Path
from typing import ClassVar, Final, Self

from hub.agent.kernel.hz import nearest_hz
from hub.agent.kernel.secrets import NEEDED, SIZES, Handed, Secrets, SourceError

_LARGEST: Final = 4096
_LEAST_MS: Final = 1000
_LINE: Final = re.compile(r"([a-z0-9_.]+):? +([0-9A-Fa-f]{1,64})")
_BEGET: Final = re.compile(r"[0-9]+ [0-9]+ [0-9]+\s*\n")
"""How the text of the first tcpsecrets begins: jiffies, minutes, HZ."""
_TEXT_NAMES: Final = {
    "cookie_secret": "syncookie_secret",
    "timestamp_secret": "ts_secret",
    "net_secret": "net_secret",
}
_MOST: Final = 1 << 53
_MOST_HZ: Final = 10_000


class NotLoadedError(SourceError):
    """The module of a source is not there."""


class _File:
    """A file below /proc that is read anew each time through the same descriptor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        try:
            return cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except FileNotFoundError:
            raise NotLoadedError(
                "does not exist: the module is not loaded", where=str(path)
            ) from None
        except OSError as error:
            raise SourceError(
                f"may not be opened: {error.strerror}",
                where=str(path),
                todo="start it as root with CAP_DAC_READ_SEARCH, or let its owner read that file",
            ) from error

    def text(self) -> str:
        try:
            data = os.pread(self.descriptor, _LARGEST + 1, 0)
        except OSError as error:
            raise SourceError(
                f"cannot be read: {error.strerror}",
                where=str(self.path),
                todo="was the module removed? start the agent again",
            ) from error
        if not data or len(data) > _LARGEST or not data.isascii():
            raise SourceError("does not hold what it should", where=str(self.path))
        return data.decode("ascii")

    def close(self) -> None:
        os.close(self.descriptor)


def _handed(files: dict[str, _File]) -> Handed:
    about = {"paths": {name: str(file.path) for name, file in files.items()}}
    return Handed(about, {name: file.descriptor for name, file in files.items()})


def _taken(handed: Handed) -> dict[str, _File]:
    paths = handed.about["paths"]
    return {name: _File(Path(paths[name]), number) for name, number in handed.files.items()}


def _secret(text: str, name: str, where: Path) -> bytes:
    word = text.strip()
    if len(word) != 2 * SIZES[name] or re.fullmatch(r"[0-9A-Fa-f]+", word) is None:
        # The word itself may be a secret.
        raise SourceError(f"{name} is not {2 * SIZES[name]} hex digits", where=str(where))
    return bytes.fromhex(word)


def _fields(file: _File) -> dict[str, str]:
    found: dict[str, str] = {}
    text = file.text()
    if _BEGET.match(text):
        raise SourceError(
            "is of tcpsecrets 1, which names no keys",
            where=str(file.path),
            todo="rmmod tcpsecrets: a distribution's kernel needs no module",
        )
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[1] in found:
            raise SourceError(f"line {number} is not as expected", where=str(file.path))
        found[match[1]] = match[2]
    return found


def _number(
    fields: dict[str, str], name: str, where: Path, least: int = 0, most: int = _MOST
) -> int:
    text = fields.get(name, "")
    if not text.isdecimal() or not least <= int(text) <= most:
        # The word itself may be a secret.
        raise SourceError(f"{name} is missing or out of range", where=str(where))
    return int(text)


def _secrets(fields: dict[str, str], where: Path) -> dict[str, bytes]:
    return {name: _secret(fields.get(key, ""), name, where) for key, name in _TEXT_NAMES.items()}


class _OneFile:
    """A source that is one file below /proc."""

    _NAME: ClassVar[str]

    def __init__(self, file: _File) -> None:
        self._file = file

    @classmethod
    def open(cls, proc: Path) -> Self:
        """Open it."""
        return cls(_File.open(proc / cls._NAME))

    def handed(self) -> Handed:
        """Return what another process needs to go on."""
        return _handed({"file": self._file})

    @classmethod
    def take(cls, handed: Handed) -> Self:
        """Return the source that another process has opened; errors as of `MemorySource`."""
        return cls(_taken(handed)["file"])

    def close(self) -> None:
        """Close it."""
        self._file.close()


class TcpSecretsSource(_OneFile):
    """`/proc/tcp_secrets` of the module tcpsecrets: `name value` lines, without HZ."""

    _NAME = "tcp_secrets"

    def __init__(self, file: _File) -> None:
        super().__init__(file)
        self._first: tuple[int, int] | None = None
        self._hz: int | None = None

    def read(self) -> Secrets:
        """Return what it says now; HZ once two readings are far enough apart."""
        where, fields = self._file.path, _fields(self._file)
        secrets = _secrets(fields, where)
        jiffies = _number(fields, "jiffies", where)
        uptime = _number(fields, "uptime_ms", where)
        self._measure(jiffies, uptime)
        return Secrets(
            net=secrets["net_secret"],
            syncookie=secrets["syncookie_secret"],
            syncookie6=None,
            ts=secrets["ts_secret"],
            cookie_clock="jiffies",
            jiffies=jiffies,
            hz=self._hz,
            timestamp_ms=uptime,
        )

    def _measure(self, jiffies: int, uptime: int) -> None:
        if self._first is None or uptime < self._first[1]:
            self._first = (jiffies, uptime)
        passed = uptime - self._first[1]
        if passed >= _LEAST_MS:
            self._hz = nearest_hz(jiffies - self._first[0], passed) or self._hz


class IsnSyncSource:
    """`/proc/isn_sync_*` of the module isn_sync since 23.08: a file of hex digits for each.

    That module counts the minutes of cookies by UTC, and puts timestamps near UTC as well.
    """

    def __init__(self, files: dict[str, _File]) -> None:
        self._files = files

    @classmethod
    def open(cls, proc: Path) -> Self:
        """Open those that there are; `syncookie6_secret` came with 26.04."""
        files: dict[str, _File] = {}
        try:
            for name in SIZES:
                try:
                    files[name] = _File.open(proc / f"isn_sync_{name}")
                except NotLoadedError:
                    if name in NEEDED:
                        raise
        except SourceError:
            for file in files.values():
                file.close()
            raise
        return cls(files)

    def handed(self) -> Handed:
        """Return what another process needs to go on."""
        return _handed(self._files)

    @classmethod
    def take(cls, handed: Handed) -> Self:
        """Return the source that another process has opened; errors as of `MemorySource`."""
        files = _taken(handed)
        for name in NEEDED:
            _ = files[name]
        return cls(files)

    def read(self) -> Secrets:
        """Return what they say now."""
        found = {name: _secret(file.text(), name, file.path) for name, file in self._files.items()}
        return Secrets(
            net=found["net_secret"],
            syncookie=found["syncookie_secret"],
            syncookie6=found.get("syncookie6_secret"),
            ts=found.get("ts_secret"),
            cookie_clock="utc",
            jiffies=None,
            hz=None,
            timestamp_ms=None,
        )

    def close(self) -> None:
        """Close them."""
        for file in self._files.values():
            file.close()


class IsnSyncTextSource(_OneFile):
    """`/proc/isn_sync` of the module isn_sync 22.02: `name: value` lines."""

    _NAME = "isn_sync"

    def read(self) -> Secrets:
        """Return what it says now."""
        where, fields = self._file.path, _fields(self._file)
        secrets = _secrets(fields, where)
        return Secrets(
            net=secrets["net_secret"],
            syncookie=secrets["syncookie_secret"],
            syncookie6=None,
            ts=secrets["ts_secret"],
            cookie_clock="jiffies",
            jiffies=_number(fields, "clock.jiffies", where),
            hz=_number(fields, "clock.hz", where, 1, _MOST_HZ),
            timestamp_ms=_number(fields, "clock.uptime_ms", where),
        )
