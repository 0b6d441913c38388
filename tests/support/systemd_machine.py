# SPDX-License-Identifier: Apache-2.0
"""A systemd of its own as process 1 of new namespaces, on a throw-away layer over this machine.

It has a network of its own, and sees this machine's files as they are; what it writes is gone with
it. The checkout is at /opt/checkout and its packages are at /opt/packages, whoever may look into
the places where they really lie.
"""

import os
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

from tests.support.hub_process import until

REPOSITORY: Final = Path(__file__).parents[2]
_STAGE: Final = """
set -e
mount --make-rprivate /
mkdir "$STAGE/groups"
mount -t cgroup2 none "$STAGE/groups"
mkdir "$STAGE/groups/$NAME"
echo $$ >"$STAGE/groups/$NAME/cgroup.procs"
umount "$STAGE/groups"
exec unshare --cgroup sh -c "$BOOT"
"""
_BOOT: Final = """
set -e
mount -t tmpfs layer "$STAGE"
mkdir "$STAGE/upper" "$STAGE/work" "$STAGE/root"
mount -t overlay -o "lowerdir=/,upperdir=$STAGE/upper,workdir=$STAGE/work" root "$STAGE/root"
cd "$STAGE/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs tmp tmp
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do
  touch "dev/$name"
  mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
rm -rf opt etc/systemd/system
mkdir -p opt/checkout opt/packages etc/systemd/system below
# What these would set is this machine's own.
for name in sysctl modules-load udevd update-utmp; do
  ln -s /dev/null "etc/systemd/system/systemd-$name.service"
done
mount --bind "$CHECKOUT" opt/checkout
mount --bind "$PACKAGES" opt/packages
: >etc/machine-id
pivot_root . below
umount -l /below
# As on a machine of its own: what systemd mounts for a service, it mounts elsewhere and moves.
mount --make-rshared /
export container=other
exec /lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=0
"""
_CLEAN: Final = """
mount --make-rprivate /
mount -t cgroup2 none "$STAGE"
[ ! -d "$STAGE/$NAME" ] || find "$STAGE/$NAME" -depth -type d -exec rmdir '{}' +
"""
_PROGRAM: Final = """#!/bin/sh
exec {python} -B -m hub "$@"
"""


class Machine:
    """One of them; use as a context manager.

    Attributes:
        root: its files, as this machine sees them while it runs.
    """

    root: Path

    def __init__(self) -> None:
        self._name = f"fnm-test-{uuid.uuid4().hex[:12]}"
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._folder: TemporaryDirectory[str] | None = None
        self._stage = Path()

    def __enter__(self) -> Self:
        """Boot it."""
        self._folder = TemporaryDirectory(prefix="fnm-systemd-")
        self._stage = Path(self._folder.name)
        namespaces = ("--pid", "--mount", "--net", "--uts", "--ipc")
        try:
            self._unshare = subprocess.Popen(
                ["unshare", *namespaces, "--fork", "--kill-child", "sh", "-c", _STAGE],
                env=self._settings(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            self._init = until("systemd is process 1", self._child)
            self.root = Path(f"/proc/{self._init}/root")
            until("systemd has booted", self._booted, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """End it with all that runs in it."""
        if self._unshare is not None:
            self._unshare.kill()  # and by --kill-child process 1, which takes all others along
            _ = self._unshare.wait(20)
            until("all its processes are gone", self._cleaned)
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, *argv: str, check: bool = True, timeout: float = 60) -> str:
        """Run a program in it as root; return what it printed."""
        done = self.call(*argv, timeout=timeout)
        if check and done.returncode:
            message = f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}"
            raise RuntimeError(message)
        return done.stdout

    def call(self, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program in it as root; return how it ended, and all that it printed."""
        return subprocess.run(
            ["nsenter", "-t", str(self._init), "-a", "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )

    def environment(self, path: str) -> str:
        """Make a Python environment with the checkout and its packages; return its interpreter."""
        python = os.path.realpath(sys.executable)
        self.run(python, "-m", "venv", "--without-pip", path)
        (site,) = self.place(path).glob("lib/python*/site-packages")
        (site / "checkout.pth").write_text("/opt/checkout\n/opt/packages\n")
        return f"{path}/bin/python"

    def install_hub(self) -> None:
        """Put the checkout's hub where its unit looks for it."""
        python = self.environment("/opt/fnm-hub")
        program = self.place("/opt/fnm-hub/bin/fnm-hub")
        program.write_text(_PROGRAM.format(python=python))
        program.chmod(0o755)

    def place(self, path: str) -> Path:
        """Return one of its paths as this machine sees it."""
        return self.root / path.lstrip("/")

    def start(self, unit: str) -> None:
        """Start a unit, which is ready then."""
        self.run("systemctl", "daemon-reload")
        try:
            self.run("systemctl", "start", unit)
        except RuntimeError as error:
            raise AssertionError(self.journal(unit)) from error

    def status(self, unit: str, name: str) -> str:
        """Return the first word of a field of /proc/PID/status of its process."""
        text = self.run("cat", f"/proc/{self.shown(unit, 'MainPID')}/status")
        return next(line.split()[1] for line in text.splitlines() if line.startswith(name))

    def number(self, unit: str, name: str) -> int:
        """Return a field of it that the kernel shows in hex."""
        return int(self.status(unit, name), 16)

    def hang(self, unit: str) -> None:
        """Hold a unit's process still, and wait until its watchdog has another one serve."""
        pid = self.shown(unit, "MainPID")
        self.run("kill", "-STOP", pid)

        def replaced() -> bool:
            other = self.shown(unit, "MainPID") not in (pid, "0")
            return other and self.shown(unit, "ActiveState") == "active"

        self.until("another process serves", replaced, unit)
        assert "Watchdog timeout" in self.journal(unit)

    def shown(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, unit: str) -> str:
        """Return what a unit has logged."""
        return self.run("journalctl", "--no-pager", "--output", "cat", "--unit", unit)

    def until(self, what: str, look: Callable[[], object], unit: str, seconds: float = 30) -> None:
        """Wait for `look`; when it does not come true, show what `unit` has logged."""
        try:
            until(what, look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal(unit)[-3000:]}") from error

    def _settings(self) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "STAGE": str(self._stage),
            "NAME": self._name,
            "BOOT": _BOOT,
            "CHECKOUT": str(REPOSITORY),
            "PACKAGES": sysconfig.get_path("purelib"),
        }

    def _child(self) -> int:
        assert self._unshare is not None
        assert self._unshare.poll() is None, "unshare has ended"
        pid = self._unshare.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return 0
        (child,) = children
        name = Path(f"/proc/{child}/comm").read_text().strip()
        return int(child) if name == "systemd" else 0

    def _booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state in ("running", "degraded")

    def _cleaned(self) -> bool:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-e", "-c", _CLEAN],
            env=self._settings(),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0
