# SPDX-License-Identifier: Apache-2.0
"""A network of one's own for test runs: what the program gives the host there is heard here."""

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final, Self

_CLONE_NEWNET: Final = 0x40000000
_ETH_P_ALL: Final = 3
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_TAGS: Final = (b"\x81\0", b"\x88\xa8")
_PATIENCE: Final = 2.0
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def without_tag(frame: bytes) -> bytes:
    """Return a frame as a socket shows it: its outer VLAN tag is told beside it."""
    return frame[:12] + frame[16:] if frame[12:14] in _TAGS else frame


class OwnNetwork:
    """While it is entered, this thread is in a network where there is only a loopback device.

    Test runs for packets that leave take that device for theirs.
    """

    def __enter__(self) -> Self:
        """Go there."""
        self._back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_LIBC.unshare(_CLONE_NEWNET))
        try:
            self._up()
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
            )
        except BaseException:
            self._return()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Come back; the network is gone then."""
        self._socket.close()
        self._return()

    def _return(self) -> None:
        _check(_LIBC.setns(self._back, _CLONE_NEWNET))
        os.close(self._back)

    @staticmethod
    def _up() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            asked = struct.pack("16sh14x", b"lo", 0)
            flags = struct.unpack_from("16sh", fcntl.ioctl(one, _SIOCGIFFLAGS, asked))[1]
            fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))

    def heard(self, expected: int = 0) -> list[bytes]:
        """Return the frames that the host was given, waiting for as many as are expected."""
        found: list[bytes] = []
        while True:
            self._socket.settimeout(_PATIENCE if len(found) < expected else 0)
            try:
                found.append(self._socket.recv(1 << 16))
            except (BlockingIOError, TimeoutError):
                return found
