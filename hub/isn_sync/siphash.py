# SPDX-License-Identifier: Apache-2.0
"""SipHash-2-4 (Aumasson and Bernstein, 2012), as the kernel's TCP stack uses it."""

import struct
from typing import Final

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_BLOCK: Final = 8


def siphash(key: bytes, message: bytes) -> int:
    """Return the 64 bits of SipHash-2-4.

    Args:
        key: 16 bytes, two little-endian words as in the kernel's `siphash_key_t`.
        message: of any length.

    Raises:
        struct.error: `key` is not 16 bytes long.
    """
    first, second = struct.unpack("<QQ", key)
    state = (
        first ^ 0x736F6D6570736575,
        second ^ 0x646F72616E646F6D,
        first ^ 0x6C7967656E657261,
        second ^ 0x7465646279746573,
    )
    rest = len(message) % _BLOCK
    # The last block is what is left over, zeros, and the length in its highest byte.
    end = message[len(message) - rest :].ljust(_BLOCK - 1, b"\0") + bytes((len(message) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", message[: len(message) - rest] + end):
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _rounds(2, v0, v1, v2, v3 ^ word)
        state = v0 ^ word, v1, v2, v3
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = _rounds(4, v0, v1, v2 ^ 0xFF, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(number: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    for _ in range(number):
        v0 = v0 + v1 & _MASK
        v1 = (v1 << 13 & _MASK | v1 >> 51) ^ v0
        v0 = v0 << 32 & _MASK | v0 >> 32
        v2 = v2 + v3 & _MASK
        v3 = (v3 << 16 & _MASK | v3 >> 48) ^ v2
        v0 = v0 + v3 & _MASK
        v3 = (v3 << 21 & _MASK | v3 >> 43) ^ v0
        v2 = v2 + v1 & _MASK
        v1 = (v1 << 17 & _MASK | v1 >> 47) ^ v2
        v2 = v2 << 32 & _MASK | v2 >> 32
    return v0, v1, v2, v3
