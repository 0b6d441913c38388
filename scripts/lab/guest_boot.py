# SPDX-License-Identifier: Apache-2.0
"""The guest's initramfs: modules for its disk and network, and what differs from guest to guest."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from scripts.lab.guest_image import CODE
from scripts.lab.guest_kernel import Kernel, busybox

CHECKOUT: Final = Path(__file__).resolve().parents[2]

_MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console")
_PROGRAMS: Final = ("scripts/lab/guest_inside.py", "scripts/lab/guest_server.py")
_INIT: Final = f"""#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mount -t ext4 -o noatime /dev/vda /mnt || exec sh
cp -a /new/. /mnt/{CODE}/
for folder in proc sys dev; do mount --move /$folder /mnt/$folder; done
exec switch_root /mnt /sbin/init
"""
_APPLETS: Final = ("mount", "insmod", "cp", "switch_root", "sh")


def initramfs(kernel: Kernel, files: Mapping[str, bytes]) -> bytes:
    """Return a cpio archive for `kernel` that brings the checkout's hub and `files` along.

    Args:
        kernel: whose modules it carries.
        files: content by place below the guest's folder for code.
    """
    archive = _Archive()
    archive.folders(("bin", "dev", "proc", "sys", "mnt", "modules"))
    archive.device("dev/console", 5, 1)
    archive.file("init", _INIT.encode(), 0o755)
    archive.file("bin/busybox", busybox().read_bytes(), 0o755)
    for applet in _APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for number, (name, content) in enumerate(kernel.modules(_MODULES)):
        archive.file(f"modules/{number:02d}-{name}.ko", content)
    new = {**_code(), **files}
    archive.folders(_parents(f"new/{name}" for name in new))
    for name, content in new.items():
        archive.file(f"new/{name}", content)
    return archive.finished()


def _code() -> dict[str, bytes]:
    sources = [*(CHECKOUT / "hub").rglob("*.py"), *(CHECKOUT / name for name in _PROGRAMS)]
    return {str(source.relative_to(CHECKOUT)): source.read_bytes() for source in sources}


def _parents(names: Iterable[str]) -> list[str]:
    found = {str(parent) for name in names for parent in Path(name).parents}
    return sorted(found - {"."})


class _Archive:
    """An archive in the format `newc` (the kernel's Documentation/early-userspace)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def folders(self, names: Iterable[str]) -> None:
        for name in names:
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finished(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _entry(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        place = name.encode() + b"\0"
        number = len(self._parts) + 1
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(place), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + place
        for part in (head, content):
            self._parts.append(part + bytes(-len(part) % 4))
