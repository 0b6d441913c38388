# SPDX-License-Identifier: Apache-2.0
"""Packages of the hub as scripts/package makes them, and a gateway to install them on."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.support.systemd_machine import Machine

ROOT: Final = Path(__file__).parents[2]
OWN: Final = "192.0.2.0/24"
_GATEWAY: Final = """
ip link set lo up
ip link add wan0 type veth peer name far0
ip link set wan0 up
ip link set far0 up
ip address add 192.0.2.1/24 dev wan0
ip route add default via 192.0.2.254
useradd --system --user-group --no-create-home --shell /usr/sbin/nologin fastnetmon
systemctl start fastnetmon
"""
_LISTING: Final = r"""
{
  find /etc /opt /usr/bin /usr/sbin /usr/lib/systemd /usr/local /var -xdev \
    \( -path /etc/netns -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/systemd \
    -o -path /var/lib/PackageKit -o -path /var/cache \
    -o -path /var/log -o -path /var/tmp \) -prune -o -printf '%y %m %u:%g %p %l\n'
  find /etc -xdev -path /etc/netns -prune -o -type f -exec sha256sum '{}' +
} | grep -vE '/etc/(passwd|group|shadow|gshadow|subuid|subgid)-|/etc/[.]pwd|/etc/ld[.]so' |
  LC_ALL=C sort
"""


def make_package(folder: Path) -> Path:
    """Build the checkout's package by scripts/package into `folder`, once, and return it."""
    done = subprocess.run(
        ["flock", folder, ROOT / "scripts/package", "--output", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def later(package: Path, folder: Path, version: str, **changes: tuple[str, str]) -> Path:
    """Make a package of a later version out of another one, which takes a fraction of building it.

    Args:
        package: the one to begin with.
        folder: where it goes.
        version: its version number.
        changes: what is changed in modules of the hub, by name: (old, new).

    Returns:
        The package.
    """
    tree = folder / "tree"
    _ = subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    (old,) = (path.name for path in (tree / "opt").iterdir())
    name = f"fnm-hub-{version}-{old[-8:]}"
    (tree / "opt" / old).rename(tree / "opt" / name)
    scripts = [path for path in (tree / "opt" / name / "bin").iterdir() if not path.is_symlink()]
    for path in [*(tree / "DEBIAN").iterdir(), *scripts]:
        path.write_text(path.read_text().replace(old, name))
    _change(tree / "DEBIAN/control", r"(?m)^(Version: ).*", rf"\g<1>{version}")
    (hub,) = (tree / "opt" / name / "lib").glob("python3*/site-packages/hub")
    _change(hub / "__init__.py", r'(__version__ = ").*(")', rf"\g<1>{version}\2")
    for module, (before, after) in changes.items():
        _change(hub / f"{module}.py", re.escape(before), after)
    made = folder / f"{name}_later.deb"
    _ = subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zzstd", "--build", tree, made],
        check=True,
        capture_output=True,
    )
    return made


def _change(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1)
    assert count == 1, (path, pattern)
    path.write_text(text)


class Gateway(Machine):
    """A gateway with one interface, a default route and a real FastNetMon that runs."""

    def __enter__(self) -> Self:
        """Boot it and start FastNetMon."""
        super().__enter__()
        try:
            self.run("sh", "-ec", _GATEWAY)
        except BaseException:
            self.__exit__()
            raise
        return self

    def take(self, package: Path) -> str:
        """Copy a package to the gateway and return its path there."""
        shutil.copy(package, self.place(f"/root/{package.name}"))
        return f"/root/{package.name}"

    def install(
        self, *words: str, by: str = "/opt/checkout", before: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the installer of the folder `by`, in a mount namespace prepared by `before`."""
        command = [f"{by}/scripts/install", *words]
        if before:
            command = ["unshare", "--mount", "sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
        return self.call(*command, timeout=300)

    def listing(self) -> list[str]:
        """Return what lies where an installation may leave something, with modes and sums."""
        return self.run("sh", "-c", _LISTING, timeout=120).splitlines()

    def read(self, path: str) -> str:
        """Return the text of one of its files."""
        return self.run("cat", path)

    def notify(self, target: str, action: str = "ban") -> str:
        """Call fnm-notify as FastNetMon of 1.2.7 and later does; return what it complains of."""
        user = ("setpriv", "--reuid=fastnetmon", "--regid=fastnetmon", "--init-groups")
        return self.run(*user, "/usr/local/bin/fnm-notify", target, "incoming", "5000", action)
