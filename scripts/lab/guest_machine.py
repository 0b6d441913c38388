# SPDX-License-Identifier: Apache-2.0
"""The virtual machine: one qemu in a network namespace, which never outlives this process."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.lab.commands import LabError, wait_until

CONTROL: Final = "control.sock"
CONSOLE: Final = "console.log"
_QMP: Final = "qmp.sock"
_LOG: Final = "qemu.log"
_PROGRAM: Final = "qemu-system-x86_64"
_COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"
_STARTING_S: Final = 10.0
_ANSWER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is in the machine.

    Attributes:
        namespace: the network namespace that qemu runs in.
        tap: the interface there that the guest is plugged into.
        mac: the hardware address of the guest's interface.
        kernel: the file to boot.
        initramfs: the file with the first files.
        disk: the image of the disk; it is never written to.
        memory_mib: how much memory.
    """

    namespace: str
    tap: str
    mac: str
    kernel: Path
    initramfs: Path
    disk: Path
    memory_mib: int


class Machine:
    """One qemu; its files are in a folder of its own."""

    def __init__(self, hardware: Hardware, folder: Path) -> None:
        self._hardware = hardware
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The process id of qemu."""
        if self._process is None:
            raise LabError("the guest is switched off")
        return self._process.pid

    def start(self) -> None:
        """Start it; returns when its sockets are there.

        Raises:
            LabError: qemu is missing or did not start.
        """
        if shutil.which(_PROGRAM) is None:
            raise LabError(f"{_PROGRAM} is not installed", todo="run scripts/setup")
        started = threading.Event()
        # The kernel kills qemu when the thread that started it ends: this one does nothing else.
        self._keeper = threading.Thread(
            target=self._keep, args=(started,), name="guest-qemu", daemon=True
        )
        self._keeper.start()
        started.wait(_STARTING_S)
        wait_until("qemu has made its sockets", self._has_sockets, seconds=_STARTING_S)

    def stop(self) -> None:
        """End it at once, as a power cut does; stopping twice does no harm."""
        process, keeper, self._process, self._keeper = self._process, self._keeper, None, None
        if process is not None and keeper is not None:
            process.kill()
            keeper.join()
        for name in (CONTROL, _QMP):
            (self._folder / name).unlink(missing_ok=True)

    def reset(self) -> None:
        """Press the button: the guest starts again from its kernel, with its disk as it was."""
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(_ANSWER_S)
            made.connect(str(self._folder / _QMP))
            with made.makefile("rwb") as lines:
                lines.readline()
                for command in ("qmp_capabilities", "system_reset"):
                    lines.write(json.dumps({"execute": command}).encode() + b"\n")
                    lines.flush()
                    while "return" not in (answer := json.loads(lines.readline())):
                        if "error" in answer:
                            raise LabError(answer["error"]["desc"], where=command)

    def _keep(self, started: threading.Event) -> None:
        with (self._folder / _LOG).open("ab") as log:
            self._process = process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.set()
        process.wait()

    def _has_sockets(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            said = (self._folder / _LOG).read_text(errors="replace").strip()
            raise LabError(f"qemu has ended: {said}", where=str(self._folder / _LOG))
        return all((self._folder / name).exists() for name in (CONTROL, _QMP))

    def _command(self) -> Sequence[str]:
        has = self._hardware
        return (
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("ip", "netns", "exec", has.namespace),
            *(_PROGRAM, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", "tcg,tb-size=64", "-cpu", "max", "-m", str(has.memory_mib)),
            *("-kernel", str(has.kernel), "-initrd", str(has.initramfs)),
            *("-append", _COMMAND_LINE),
            *("-chardev", f"file,id=console,path={self._folder / CONSOLE},append=on"),
            *("-serial", "chardev:console"),
            # The image is shared; what the guest writes goes to a file without a name.
            *("-drive", f"file={has.disk},format=raw,if=none,id=disk,snapshot=on"),
            *("-device", "virtio-blk-pci,drive=disk"),
            # Without the vnet header neither side leaves a checksum or a segmentation to the
            # other: what the gateway sees, also before its own stack, is what a wire would carry.
            *("-netdev", f"tap,id=net,ifname={has.tap},script=no,downscript=no,vnet_hdr=off"),
            *("-device", f"virtio-net-pci,netdev=net,mac={has.mac},romfile="),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=control,path={self._folder / CONTROL},server=on,wait=off"),
            *("-device", "virtserialport,chardev=control,name=fnm"),
            *("-qmp", f"unix:{self._folder / _QMP},server=on,wait=off"),
        )
