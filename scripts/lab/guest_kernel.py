# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels for the guest: fetched by apt, verified, unpacked beside the system's.

Nothing is installed: a package is only unpacked in a cache that every lab of the machine shares.
"""

import fcntl
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as memory
from pathlib import Path
from typing import Final

from scripts.lab.commands import LabError, run

STOCK: Final = "linux-image-cloud-amd64"
"""Debian 12's kernel; the package names the newest point release."""
NEXT: Final = "linux-image-6.12-cloud-amd64"
"""The kernel of the next release, for Debian 12."""
BUSYBOX: Final = "busybox-static"

_CACHE: Final = "FNM_LAB_CACHE"
_DEFAULT_CACHE: Final = Path("/var/cache/fnm-hub-lab")
_DOWNLOAD_S: Final = 300
_STOCK_NAME: Final = re.compile(r"linux-image-6\.1\.0-(\d+)-cloud-amd64")
_FIELD: Final = re.compile(r"^(Version|SHA256|Depends): (.*)$", re.MULTILINE)
_LISTS: Final = Path("/var/lib/apt/lists")
_SAID: Final = "apt.json"
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")


def cache() -> Path:
    """Return the folder for packages and images, made when it is not there."""
    folder = Path(os.environ.get(_CACHE, _DEFAULT_CACHE))
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return folder


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep every other process from filling the cache meanwhile."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class _Offered:
    """A version of a package that apt would take, the SHA-256 of its archive, what it needs."""

    version: str
    digest: str
    depends: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package.

    Attributes:
        package: Debian's name of it.
        folder: what was unpacked.
    """

    package: str
    folder: Path

    @property
    def image(self) -> Path:
        """The file that qemu boots."""
        (image,) = (self.folder / "boot").glob("vmlinuz-*")
        return image

    @property
    def release(self) -> str:
        """What `uname -r` says in it."""
        return self.image.name.removeprefix("vmlinuz-")

    def modules(self, names: Sequence[str]) -> list[tuple[str, bytes]]:
        """Return modules and what they depend on, in an order in which they can be inserted.

        A name that is no module of this kernel is built in, and left out.
        """
        files = {
            file.name.split(".")[0].replace("-", "_"): file
            for file in self.folder.glob("lib/modules/*/kernel/**/*.ko*")
        }
        found: dict[str, bytes] = {}

        def need(name: str) -> None:
            if name in found or name not in files:
                return
            content = _plain(files[name])
            depends = _DEPENDS.search(content)
            for other in depends[1].decode().split(",") if depends and depends[1] else ():
                need(other)
            found[name] = content

        for name in names:
            need(name)
        return list(found.items())


def _plain(module: Path) -> bytes:
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content


def kernel(package: str = STOCK) -> Kernel:
    """Return a kernel by its package, or by the package that depends on the newest one.

    Raises:
        LabError: apt does not know it, or cannot fetch it.
    """
    offered = _offered(package)
    while image := re.search(r"\blinux-image-\S+", offered.depends):
        package = image[0]
        offered = _offered(package)
    return Kernel(package, unpacked(package))


@memory
def oldest() -> str:
    """Return the package of the oldest Debian 12 kernel that apt still offers."""
    names = run("apt-cache", "pkgnames", "linux-image-6.1.0-").split()
    numbers = sorted(int(name[1]) for name in map(_STOCK_NAME.fullmatch, names) if name)
    for number in numbers:
        package = f"linux-image-6.1.0-{number}-cloud-amd64"
        if _shown(package) is not None:
            return package
    return STOCK


def busybox() -> Path:
    """Return a statically linked busybox."""
    return unpacked(BUSYBOX) / "bin" / "busybox"


def unpacked(package: str) -> Path:
    """Return the folder with a package's files, fetched when the cache has not got this version."""
    offered = _offered(package)
    folder = cache() / "packages" / f"{package}_{offered.version.replace(':', '%3a')}"
    if folder.is_dir():
        return folder
    with claimed(cache()):
        if not folder.is_dir():
            folder.parent.mkdir(exist_ok=True)
            _fetch(package, offered, folder)
    return folder


def _fetch(package: str, offered: _Offered, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        _apt("download", f"{package}={offered.version}", folder=place)
        (archive,) = Path(place).glob("*.deb")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != offered.digest:
            raise LabError("it is not what apt's list says", where=archive.name)
        made = Path(place, "files")
        run("dpkg-deb", "-x", str(archive), str(made))
        made.chmod(0o755)
        shutil.move(made, folder)


@memory
def _offered(package: str) -> _Offered:
    """Return what apt would take for a package, with fresh lists if it knows none."""
    offered = _shown(package)
    if offered is None:
        _apt("update", "--quiet")
        _known.cache_clear()  # what the old lists said is not to be taken for what the new ones say
        offered = _shown(package)
    if offered is None:
        raise LabError("apt does not know this package", where=package, todo="look at its sources")
    return offered


@memory
def _known() -> dict[str, list[str]]:
    """Return what apt has said since its lists changed: it takes half a second for each answer."""
    try:
        lists, known = json.loads((cache() / _SAID).read_text())
    except (OSError, ValueError):
        return {}
    return known if lists == _age_of_lists() else {}


def _age_of_lists() -> int:
    return _LISTS.stat().st_mtime_ns if _LISTS.exists() else 0


def _shown(package: str) -> _Offered | None:
    known = _known()
    if package not in known:
        done = subprocess.run(
            ("apt-cache", "--no-all-versions", "show", package),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        found = dict(_FIELD.findall(done.stdout))
        if "SHA256" not in found:
            return None
        known[package] = [found["Version"], found["SHA256"], found.get("Depends", "")]
        with claimed(cache()):
            draft = cache() / f"{_SAID}.new"
            draft.write_text(json.dumps([_age_of_lists(), known]))
            draft.rename(cache() / _SAID)
    return _Offered(*known[package])


def _apt(*arguments: str, folder: str | None = None) -> None:
    done = subprocess.run(
        ("apt-get", *arguments),
        cwd=folder, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_S,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LabError(last, where=f"apt-get {' '.join(arguments)}", todo="can apt reach its host?")


def main() -> None:
    """Fill the cache, so that no test has to wait for a download."""
    busybox()
    # Old lists may not know NEXT, and the other two are to be chosen from the same, new ones.
    _offered(NEXT)
    for package in (STOCK, oldest(), NEXT):
        print(f"{package}: {kernel(package).release}")


if __name__ == "__main__":
    main()
