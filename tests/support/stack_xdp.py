# SPDX-License-Identifier: Apache-2.0
"""XDP programs on the interfaces of the thread's own network namespace, and pinned maps."""

import ctypes
import mmap
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Final

from tests.support.bpf import LIB, check

_XDP: Final = 6
_HAS_FRAGS: Final = 1 << 5
_DRIVER_MODE: Final = 4
_PASS_AND_EXIT: Final = struct.pack("=BBHiBBHi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)


class _LoadOptions(ctypes.Structure):
    _fields_ = [
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
    ]


LIB.bpf_xdp_attach.restype = c_int
LIB.bpf_xdp_attach.argtypes = [c_int, c_int, c_uint32, c_void_p]
LIB.bpf_obj_get.restype = c_int
LIB.bpf_obj_get.argtypes = [c_char_p]
LIB.bpf_prog_load.restype = c_int
LIB.bpf_prog_load.argtypes = [c_int, c_char_p, c_char_p, c_char_p, c_size_t, POINTER(_LoadOptions)]


def passing_program() -> int:
    """Return a new program that passes every frame, of any length."""
    options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions), prog_flags=_HAS_FRAGS)
    size = len(_PASS_AND_EXIT) // 8
    done = LIB.bpf_prog_load(_XDP, b"passing", b"GPL", _PASS_AND_EXIT, size, byref(options))
    return check(done, "a program that passes")


def attach(interface: str, program: int) -> None:
    """Put a program on an interface, in native mode; -1 takes it off."""
    index = socket.if_nametoindex(interface)
    check(LIB.bpf_xdp_attach(index, program, _DRIVER_MODE, None), f"XDP on {interface}")


@contextmanager
def mapped(pin: Path) -> Iterator[mmap.mmap]:
    """Yield a pinned array as it lies in the kernel; it must be one that allows that."""
    descriptor = check(LIB.bpf_obj_get(str(pin).encode()), str(pin))
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        found = dict(re.findall(r"(value_size|max_entries):\s*(\d+)", facts))
        size = -(-int(found["value_size"]) // 8) * 8 * int(found["max_entries"])
        with mmap.mmap(descriptor, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE) as memory:
            yield memory
    finally:
        os.close(descriptor)


def forget(pin: Path) -> None:
    """Empty a pinned map of hashed keys."""
    descriptor = check(LIB.bpf_obj_get(str(pin).encode()), str(pin))
    try:
        facts = dict(
            re.findall(r"(\w+):\s*(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text())
        )
        key = ctypes.create_string_buffer(int(facts["key_size"]))
        while not LIB.bpf_map_get_next_key(descriptor, None, key):
            LIB.bpf_map_delete_elem(descriptor, key)
    finally:
        os.close(descriptor)
