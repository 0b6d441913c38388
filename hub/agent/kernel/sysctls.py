# SPDX-License-Identifier: Apache-2.0
"""Settings of TCP that decide what a SYN-ACK offers (ip-sysctl of the kernel's documentation)."""

from pathlib import Path
from typing import Final

NAMES: Final = ("tcp_ecn", "tcp_sack", "tcp_timestamps", "tcp_window_scaling")
SYNCOOKIES: Final = "tcp_syncookies"


def read_sysctl(proc: Path, name: str) -> int | None:
    """Return `net.ipv4.NAME`; None where the kernel has none or it cannot be read."""
    try:
        with (proc / "sys/net/ipv4" / name).open("rb") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
