# SPDX-License-Identifier: Apache-2.0
"""synproxyd on the lab's gateway: built from this checkout, with pins of its own."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from scripts.lab.commands import LabError, Process, run, wait_until
from scripts.lab.network import OUTSIDE, Network

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = CHECKOUT / "native/build/synproxyd"
PINS: Final = "bpf"
"""Folder of a lab where its BPF file system is mounted."""
WATCH: Final = "watch-"
READY: Final = 20.0
_TIMEOUT: Final = 5.0
_PROGRAM: Final = '__attribute__((section("xdp"))) int pass(void *frame) { return 2; }\n'


def prepare(network: Network, place: Path) -> None:
    """Let the gateway's peer take what XDP sends back, and leave no checksum to hardware.

    A veth looks at frames out of XDP only where it has a program as well: one that passes all.
    """
    program = place / "pass.o"
    run("clang", "-O2", "-target", "bpf", "-c", "-x", "c", "-", "-o", str(program), stdin=_PROGRAM)
    attach = ("xdpdrv", "object", str(program), "section", "xdp")
    run("ip", "-n", network.namespace("internet"), "link", "set", "dev", "gateway", *attach)
    for node in ("attacker", "client", "server"):
        network.run(node, "ethtool", "-K", "eth0", "tx", "off")


@contextmanager
def pins(place: Path) -> Iterator[Path]:
    """Mount a BPF file system at `place`, and unmount it with all that is pinned there.

    Not below /sys, which `ip netns exec` mounts anew for each command.
    """
    place.mkdir(exist_ok=True)
    run("mount", "-t", "bpf", "fnm-lab", str(place))
    try:
        yield place
    finally:
        unmount(place)


def unmount(place: Path) -> None:
    """Unmount what is mounted at `place`; nothing there is fine."""
    if place.is_mount():
        run("umount", "--lazy", str(place))


def arguments(pin_dir: Path, control: Path) -> tuple[str, ...]:
    """Return the command of synproxyd, with tables of a lab's size."""
    sizes = ("flows", "flows6", "sources", "talkers", "sightings")
    small = tuple(word for name in sizes for word in (f"--{name}", "16384"))
    where = ("--interface", OUTSIDE, "--pin-dir", f"{pin_dir}/synproxyd", "--socket", str(control))
    return (str(PROGRAM), "run", *where, *small)


def wait_for(process: Process, control: Path) -> None:
    """Return when synproxyd answers.

    Raises:
        LabError: it has ended, or does not answer in time.
    """

    def answers() -> bool:
        process.require()
        with suppress(LabError):
            return bool(ask(control, "stats"))
        return False

    wait_until("synproxyd answers", answers, seconds=READY, todo=f"see {process.log}")


def ask(control: Path, op: str, **fields: Any) -> dict[str, Any]:
    """Return synproxyd's answer to one question.

    Raises:
        LabError: there is none, or it is a refusal.
    """
    lines = [{"op": "hello", "version": 1}, {"op": op, **fields}]
    try:
        with closing(socket.socket(socket.AF_UNIX)) as made:
            made.settimeout(_TIMEOUT)
            made.connect(str(control))
            made.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            reader = made.makefile("rb")
            answers = [json.loads(reader.readline()) for _ in lines]
    except (OSError, ValueError) as error:
        raise LabError(f"synproxyd did not answer {op}: {error!r}", where=str(control)) from error
    for answer in answers:
        if not answer["ok"]:
            raise LabError(f"synproxyd refuses {op}: {answer['message']}", where=str(control))
    found: dict[str, Any] = answers[-1]
    return found


def in_force(control: Path) -> dict[str, dict[str, Any]]:
    """Return what synproxyd enforces, by id; watches only learn."""
    listed = ask(control, "list")["mitigations"]
    return {one["id"]: one for one in listed if not one["id"].startswith(WATCH)}
