# SPDX-License-Identifier: Apache-2.0
"""The layouts of native/bpf/splice_abi.h for Python; a test holds them to the object's BTF."""

from ctypes import Structure, c_int8, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Final

SPLICE_WAYS: Final = 4
BACKENDS: Final = 16384
HELD: Final = 2048
HELD_BYTES: Final = 1460
HELD_ROOM: Final = 1536
TRANSLATED: Final = 1024

ASKED: Final = 1
OPEN: Final = 2

ENDED_CLIENT: Final = 1
ENDED_SERVER: Final = 2
ENDED_RESET: Final = 4

BACKEND_STATES: Final = {"unknown": 0, "open": 1, "closed": 2, "asymmetric": 3}


class Ends(Structure):
    """Client and server of struct fnm_splice."""

    _fields_ = [("word", c_uint32 * 4)]


class Splice(Structure):
    """struct fnm_splice."""

    _fields_ = [
        ("client", Ends),
        ("server", Ends),
        ("ports", c_uint32),
        ("seen", c_uint32),
        ("state", c_uint32),
        ("claim", c_uint32),
        ("client_isn", c_uint32),
        ("cookie_isn", c_uint32),
        ("delta", c_uint32),
        ("ts_delta", c_uint32),
        ("ts_cookie", c_uint32),
        ("client_ts", c_uint32),
        ("opened_ms", c_uint32),
        ("asked_ms", c_uint32),
        ("generation", c_uint32),
        ("slot", c_uint16),
        ("window", c_uint16),
        ("mss", c_uint16),
        ("flags", c_uint16),
        ("wscale", c_uint8),
        ("own_wscale", c_uint8),
        ("to_client", c_int8),
        ("to_server", c_int8),
        ("ended", c_uint32),
    ]


class SpliceSet(Structure):
    """struct fnm_splice_set."""

    _fields_ = [
        ("tag", c_uint32 * SPLICE_WAYS),
        ("pad", c_uint32 * 4),
        ("way", Splice * SPLICE_WAYS),
    ]


class Splicing(Structure):
    """struct fnm_splicing."""

    _fields_ = [
        ("translated", c_uint64 * TRANSLATED),
        ("probe_interval", c_uint64),
        ("probe_burst", c_uint64),
        ("probe_tat", c_uint64),
    ]


class BackendKey(Structure):
    """struct fnm_backend_key."""

    _fields_ = [("address", c_uint32 * 4), ("port", c_uint16), ("pad", c_uint16)]


class Backend(Structure):
    """struct fnm_backend."""

    _fields_ = [
        ("asked", c_uint32),
        ("probed", c_uint32),
        ("answered", c_uint32),
        ("profiled", c_uint32),
        ("tag", c_uint32),
        ("mss", c_uint16),
        ("window", c_uint16),
        ("offered", c_uint16),
        ("known", c_uint16),
        ("flags", c_uint16),
        ("state", c_uint8),
        ("wscale", c_uint8),
        ("ttl", c_uint8),
        ("pad", c_uint8 * 3),
    ]


class Held(Structure):
    """struct fnm_held."""

    _fields_ = [
        ("tag", c_uint32),
        ("at", c_uint32),
        ("sum", c_uint32),
        ("length", c_uint16),
        ("flags", c_uint8),
        ("pad", c_uint8),
        ("data", c_uint8 * HELD_ROOM),
    ]


SPLICE_VALUES: Final[dict[str, type[Structure]]] = {
    "fnm_splice": Splice,
    "fnm_splice_set": SpliceSet,
    "fnm_splicing": Splicing,
    "fnm_backend_key": BackendKey,
    "fnm_backend": Backend,
    "fnm_held": Held,
}
"""Every structure by its name in C."""
