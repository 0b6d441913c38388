# SPDX-License-Identifier: Apache-2.0
"""The file of a backup: a compressed tar archive whose first member says what the others hold."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from hub.backup.parts import Part
from hub.errors import HubError
from hub.store import files

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
JOURNAL: Final = "journal.sqlite3"
FILES: Final = "files"
_COMPRESSION: Final = 3
_PIECE: Final = 2**20
_LONGEST_MANIFEST: Final = 2**20
_NO_BACKUP: Final = "name a file that `fnm-hub backup` has written"


class BundleError(HubError):
    """A file is no backup, or a damaged one, or cannot be written."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a backup.

    Attributes:
        made_at: Unix seconds.
        version: of the hub that made it.
        schema: version of the journal's tables.
        host: the machine's name.
        counts: rows of the journal, by kind.
        sums: SHA-256 of each member, hexadecimal.
        left_out: files and values that are missing, and why.
        format: of the backup itself.
    """

    made_at: float
    version: str
    schema: int
    host: str
    counts: Mapping[str, int]
    sums: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def read(cls, text: bytes, where: str) -> Self:
        """Return what the first member says.

        Raises:
            BundleError: it is none, or of a newer hub.
        """
        try:
            fields = json.loads(text)
            form = int(fields["format"])
            if form > FORMAT:
                raise BundleError(
                    f"a backup of format {form}, this hub knows {FORMAT}",
                    where=where,
                    todo="put it back with the fnm-hub that made it, or a newer one",
                )
            made = cls(**fields)
            _ = (float(made.made_at), int(made.schema), dict(made.sums), dict(made.counts))
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError("is no backup of fnm-hub", where=where, todo=_NO_BACKUP) from error
        return made


def write(target: Path, manifest: Manifest, journal: Path, parts: list[Part]) -> None:
    """Write a backup, read it again, and only then give it its name.

    Args:
        target: must not be there.
        manifest: without sums and what is left out.
        journal: the copy that goes in.
        parts: the files beside it.

    Raises:
        BundleError: it cannot be written, or reads back otherwise.
    """
    refuse_present(target)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, manifest, journal, parts)
            file.flush()
            os.fsync(file.fileno())
        check(part)
        # Of two backups under one name the first one stays.
        os.link(part, target)
        files.sync_directory(target.parent)
    except OSError as error:
        raise _failed(error, target) from error
    finally:
        part.unlink(missing_ok=True)


def refuse_present(target: Path) -> None:
    """Refuse to write over a file, whatever it is.

    Raises:
        BundleError: there is one, or no folder for it.
    """
    if not target.parent.is_dir():
        todo = f"install -d -m 0700 {target.parent}"
        raise BundleError("the folder is not there", where=str(target.parent), todo=todo)
    if target.exists() or target.is_symlink():
        raise BundleError("is there already", where=str(target), todo="choose another name")


def check(path: Path) -> Manifest:
    """Read through a backup, and return what it says of itself.

    Raises:
        BundleError: something in it is missing or not as it was written.
    """
    with _opened(path) as (manifest, members):
        seen = set()
        for name, source in members:
            if manifest.sums.get(name) != _sum(source):
                raise _damaged(path, f"{name} is not as it was written")
            seen.add(name)
        if missing := sorted(manifest.sums.keys() - seen):
            raise _damaged(path, f"{missing[0]} is missing")
    return manifest


def unpack(path: Path, wanted: Mapping[str, Path]) -> None:
    """Write members of a backup that was checked to new files, mode 0600.

    Args:
        path: the backup.
        wanted: where each member goes; its folder is made.

    Raises:
        BundleError: it cannot be read, or a file is there already.
    """
    with _opened(path) as (manifest, members):
        for name, source in members:
            target = wanted.get(name)
            if target is None:
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                files.make_private(target)
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, _PIECE)
            except OSError as error:
                raise _failed(error, target) from error
            with target.open("rb") as written:
                if _sum(written) != manifest.sums.get(name):
                    raise _damaged(path, f"{name} is not as it was written")


def places(manifest: Manifest, folder: Path) -> dict[str, Path]:
    """Return where the files beside the journal go, as the tree that they were in.

    Raises:
        BundleError: a name leads out of the folder.
    """
    found = {}
    for name in manifest.sums:
        head, _, rest = name.partition("/")
        if head == FILES:
            if ".." in rest.split("/") or rest.startswith("/") or not rest:
                raise BundleError(f"holds a file with the name {name!r}", todo=_NO_BACKUP)
            found[name] = folder / rest
    return found


def _write(file: BinaryIO, manifest: Manifest, journal: Path, parts: list[Part]) -> None:
    kept = [one for one in parts if one.content is not None]
    with journal.open("rb") as source:
        manifest.sums[JOURNAL] = _sum(source)
    for one in kept:
        manifest.sums[_name(one)] = hashlib.sha256(one.content or b"").hexdigest()
    manifest.left_out.update({str(one.path): one.note for one in parts if one.note})
    text = json.dumps(asdict(manifest), indent=2).encode()
    with (
        gzip.GzipFile(fileobj=file, mode="wb", filename="", compresslevel=_COMPRESSION) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        _add(archive, MANIFEST, io.BytesIO(text), len(text), manifest.made_at)
        with journal.open("rb") as source:
            _add(archive, JOURNAL, source, journal.stat().st_size, manifest.made_at)
        for one in kept:
            content = one.content or b""
            _add(archive, _name(one), io.BytesIO(content), len(content), manifest.made_at)


def _add(archive: tarfile.TarFile, name: str, source: Any, size: int, at: float) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(at)
    archive.addfile(member, source)


def _name(part: Part) -> str:
    return f"{FILES}{part.path}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Manifest, Iterator[tuple[str, Any]]]]:
    """Yield what a backup says of itself, and its other members one after the other."""
    try:
        with tarfile.open(path, "r|gz") as archive:
            first = archive.next()
            if first is None or first.name != MANIFEST or first.size > _LONGEST_MANIFEST:
                raise BundleError("is no backup of fnm-hub", where=str(path), todo=_NO_BACKUP)
            source = archive.extractfile(first)
            manifest = Manifest.read(source.read() if source else b"", str(path))
            yield manifest, _members(archive)
    except FileNotFoundError:
        raise BundleError("there is no such file", where=str(path), todo=_NO_BACKUP) from None
    except PermissionError as error:
        raise BundleError(str(error.strerror), where=str(path), todo="run it as root") from error
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        if error.filename is None:
            raise _damaged(path, str(error)) from error
        raise


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, Any]]:
    while (member := archive.next()) is not None:
        source = archive.extractfile(member) if member.isreg() else None
        if source is not None:
            yield member.name, source


def _sum(source: Any) -> str:
    total = hashlib.sha256()
    while piece := source.read(_PIECE):
        total.update(piece)
    return total.hexdigest()


def _damaged(path: Path, what: str) -> BundleError:
    todo = "take another backup; this one is damaged, or no backup at all"
    return BundleError(f"cannot be used: {what}", where=str(path), todo=todo)


def _failed(error: OSError, path: Path) -> BundleError:
    return BundleError(
        f"cannot be written: {error.strerror or error}",
        where=str(path),
        todo="choose a place with space that this user may write to",
    )
