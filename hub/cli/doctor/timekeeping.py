# SPDX-License-Identifier: Apache-2.0
"""The clock: synchronised or not, and how far the hub's own steady time is from it."""

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import Final

from hub.cli.doctor.finding import Report
from hub.cli.doctor.situation import Situation

_SIZE: Final = 208
"""Bytes of struct timex on 64-bit machines, adjtimex(2)."""
_FIELDS: Final = struct.Struct("@i4xqqqqi")
"""modes, offset, freq, maxerror, esterror, status: what the structure begins with."""
_TIME_ERROR: Final = 5
_UNSYNCHRONISED: Final = 0x40
_STEP: Final = 2.0


@dataclass(frozen=True, slots=True)
class KernelClock:
    """What adjtimex(2) says.

    Attributes:
        state: its return value, TIME_OK to TIME_ERROR.
        status: bits STA_*.
        max_error: microseconds that the clock may be wrong by.
    """

    state: int
    status: int
    max_error: int

    @property
    def synchronised(self) -> bool:
        """Tell whether something keeps the clock right."""
        return self.state != _TIME_ERROR and not self.status & _UNSYNCHRONISED


def read_kernel_clock() -> KernelClock:
    """Ask the kernel, and change nothing: `modes` is 0.

    Raises:
        OSError: it does not say.
    """
    buffer = ctypes.create_string_buffer(_SIZE)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _, _, _, max_error, _, status = _FIELDS.unpack_from(buffer)
    return KernelClock(state, status, max_error)


def look(situation: Situation, report: Report) -> None:
    """Look at the clock."""
    try:
        judge(read_kernel_clock(), report)
    except OSError as error:
        report.skip("synchronised", f"adjtimex: {error.strerror}")
    if situation.hub.status is None:
        report.skip("steady", "only a running hub can tell its steady time")
        return
    ahead = situation.hub.skew
    if abs(ahead) > _STEP:
        report.warn(
            "steady",
            f"the wall clock was set by {ahead:+.0f} s since the hub tied its time to the boot: "
            "deadlines are right, and times shown differ from other machines'",
            "restart the hub while nothing is in force: it takes the wall clock over",
        )
    else:
        report.ok("steady", "the hub's steady time and the wall clock agree")


def judge(kernel: KernelClock, report: Report) -> None:
    """Report whether the clock is kept right."""
    if kernel.synchronised:
        report.ok("synchronised", f"synchronised, to within {kernel.max_error / 1000:.0f} ms")
    else:
        report.warn(
            "synchronised",
            "nothing synchronises this machine's clock: signed calls are refused once it is off "
            "by intake.tcp.max_clock_skew, and times cannot be compared with other machines'",
            "apt-get install chrony, or timedatectl set-ntp true",
        )
