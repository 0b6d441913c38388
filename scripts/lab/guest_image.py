# SPDX-License-Identifier: Apache-2.0
"""The guest's disk: this machine's Python with its libraries, a few tools and busybox, in ext4.

The image holds what seldom changes and is made anew only when a file in it has changed. What a
guest is told, and the checkout's own code, comes with its initramfs (`scripts.lab.guest_boot`).
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache as cache_in_process
from pathlib import Path
from typing import Final

from scripts.lab.commands import LabError, run
from scripts.lab.guest_kernel import busybox, cache, claimed

CODE: Final = "opt/fnm"
"""Where the files are that come with the initramfs."""
PYTHON: Final = os.path.realpath(sys.executable)
"""The interpreter without the packages: it starts sooner."""
VENV_PYTHON: Final = "/opt/venv/bin/python"
"""The interpreter of an environment that has the checkout's packages, as on a server."""

_PACKAGES: Final = ("asyncssh", "cryptography", "cffi", "_cffi_backend", "structlog")
_MODULES: Final = ("typing_extensions",)
_TOOLS: Final = ("ip", "ss", "nginx")
_UNUSED: Final = re.compile(
    r"/(config-[\w.-]+|test|tests|idlelib|lib2to3|tkinter|pydoc_data|ensurepip|turtledemo"
    r"|dist-packages|site-packages|distutils|_tkinter\S*|pycparser|sphinx_ext)(/|$)"
)
_SITE: Final = f"opt/venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
_SIZE: Final = "192M"
_KEPT: Final = 6
_LAYOUT: Final = 6
"""Of the image; raised whenever this file makes it differently from the same inputs."""
_LINKS: Final = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
_FOLDERS: Final = (
    *("dev", "proc", "sys", "run", "root", "tmp", "mnt", "var/lib", "var/log"),
    *("var/lib/nginx", "var/log/nginx", "usr/bin", "usr/sbin", "usr/lib64", "etc", CODE),
    *(_SITE, "opt/venv/bin"),
)
_TEXTS: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    "fnm-agent:x:900:900::/nonexistent:/bin/false\n"
    "fnm-keeper:x:901:901::/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n"
    "fnm-agent:x:900:\nfnm-keeper:x:901:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/inittab": f"::sysinit:/bin/sh /{CODE}/start\n"
    f"::respawn:{PYTHON} -I -S /{CODE}/scripts/lab/guest_inside.py\n",
    "opt/venv/pyvenv.cfg": f"home = {Path(PYTHON).parent}\ninclude-system-site-packages = false\n",
    f"{_SITE}/checkout.pth": f"/{CODE}\n",
}


@cache_in_process
def image() -> Path:
    """Return the image, made when a file of it has changed since another process made it."""
    files = dict(_files())
    folder = cache() / "images"
    made = folder / f"{_digest(files)}.ext4"
    with claimed(cache()):
        folder.mkdir(exist_ok=True)
        if not made.is_file():
            _make(files, made)
        os.utime(made)
        newest = sorted(folder.glob("*.ext4"), key=lambda one: one.stat().st_mtime)
        for old in newest[:-_KEPT]:
            old.unlink()
    return made


def _digest(files: dict[str, Path]) -> str:
    total = hashlib.sha256(repr((_LAYOUT, _TEXTS, _FOLDERS, _SIZE)).encode())
    for name, source in sorted(files.items()):
        facts = source.stat()
        total.update(f"{name}\0{source}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return total.hexdigest()[:24]


def _make(files: dict[str, Path], made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=made.parent) as place:
        root = Path(place, "root")
        for folder in _FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, source in files.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        for name, text in _TEXTS.items():
            (root / name).write_text(text)
        for name, target_name in _LINKS.items():
            (root / target_name).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target_name)
        (root / VENV_PYTHON.lstrip("/")).symlink_to(PYTHON)
        _applets(root, files["usr/bin/busybox"])
        draft = Path(place, "image")
        command = (
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-J",
            "size=4",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=0",
        )
        run(*command, "-d", str(root), str(draft), _SIZE)
        draft.rename(made)


def _applets(root: Path, program: Path) -> None:
    for applet in run(str(program), "--list-full").split():
        link = root / applet
        if link.name not in _TOOLS and not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/usr/bin/busybox")


def _files() -> Iterator[tuple[str, Path]]:
    """Yield each file's place in the image and on this machine."""
    yield "usr/bin/busybox", busybox()
    yield "usr/bin/python3", Path(PYTHON)
    yield _inside(Path(PYTHON)), Path(PYTHON)
    loaded = [Path(PYTHON)]
    for name, program in _tools():
        yield f"usr/bin/{name}", program
        loaded.append(program)
    library = Path(sysconfig.get_paths()["stdlib"])
    for place, source in _library(library):
        yield place, source
        if source.suffix == ".so":
            loaded.append(source)
    for place, source in _site():
        yield place, source
        if source.suffix == ".so":
            loaded.append(source)
    for source in _linked(loaded):
        yield _inside(source), source


def _inside(source: Path) -> str:
    """Return the place of a file of the system, with /lib and its like resolved to /usr/lib."""
    return str(source.parent.resolve() / source.name).lstrip("/")


def _tools() -> Iterator[tuple[str, Path]]:
    for name in _TOOLS:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found:
            yield name, Path(found)
        elif name == "ip":
            raise LabError("ip is not installed", todo="run scripts/setup")


def _library(folder: Path) -> Iterator[tuple[str, Path]]:
    for source in _tree(folder):
        yield _inside(source), source


def _site() -> Iterator[tuple[str, Path]]:
    for name in (*_PACKAGES, *_MODULES):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise LabError(f"the Python package {name} is missing", todo="run scripts/setup")
        origin = Path(spec.origin)
        base = origin.parent.parent if origin.name == "__init__.py" else origin.parent
        sources: Iterable[Path] = _tree(origin.parent) if base != origin.parent else (origin,)
        for source in sources:
            yield f"{_SITE}/{source.relative_to(base)}", source
        for source in base.glob(f"{name}-*.dist-info/METADATA"):
            yield f"{_SITE}/{source.relative_to(base)}", source


def _tree(folder: Path) -> Iterator[Path]:
    for source in folder.rglob("*"):
        if source.is_file() and not _UNUSED.search(str(source.relative_to(folder.parent))):
            yield source


def _linked(files: Iterable[Path]) -> Iterator[Path]:
    """Yield the shared libraries and the loader that these files need."""
    done = subprocess.run(
        ("ldd", *map(str, files)), capture_output=True, text=True, check=False, timeout=60
    )
    names = set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE))
    # libc opens this one by itself when a thread is cancelled.
    names |= {name.replace("libc.so.6", "libgcc_s.so.1") for name in names}
    for name in sorted(names):
        if Path(name).exists():
            yield Path(name)
