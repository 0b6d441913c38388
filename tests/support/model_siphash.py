# SPDX-License-Identifier: Apache-2.0
"""SipHash-2-4 as its authors specify it (Aumasson and Bernstein, 2012), in plain Python."""

import struct
from collections.abc import Sequence
from typing import Final

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_WORD: Final = 8


def siphash(key: Sequence[int], message: bytes) -> int:
    """Return the 64 bit hash of `message` under the two 64 bit words of `key`."""
    size = len(message)
    whole = size // _WORD
    last = size % 256 << 56 | int.from_bytes(message[whole * _WORD :], "little")
    mask = _MASK
    k0, k1 = key
    v0 = k0 ^ 0x736F6D6570736575
    v1 = k1 ^ 0x646F72616E646F6D
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573
    words = (*struct.unpack_from(f"<{whole}Q", message), last)
    # One loop over every round: a call a round would take most of the time of a long comparison.
    rounds = len(words) * 2 + 4
    for number in range(rounds):
        if number < rounds - 4:
            if not number & 1:
                v3 ^= words[number >> 1]
        elif number == rounds - 4:
            v2 ^= 0xFF
        v0 = v0 + v1 & mask
        v1 = (v1 << 13 & mask | v1 >> 51) ^ v0
        v2 = v2 + v3 & mask
        v3 = (v3 << 16 & mask | v3 >> 48) ^ v2
        v0 = (v0 << 32 & mask | v0 >> 32) + v3 & mask
        v3 = (v3 << 21 & mask | v3 >> 43) ^ v0
        v2 = v2 + v1 & mask
        v1 = (v1 << 17 & mask | v1 >> 47) ^ v2
        v2 = v2 << 32 & mask | v2 >> 32
        if number & 1 and number < rounds - 4:
            v0 ^= words[number >> 1]
    return v0 ^ v1 ^ v2 ^ v3
