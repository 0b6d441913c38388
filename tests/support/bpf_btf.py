# SPDX-License-Identifier: Apache-2.0
"""What an object's own type information (BTF) says: sizes, offsets, where variables lie."""

import ctypes
import struct
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_uint32, c_void_p
from dataclasses import dataclass
from typing import Any, Final

_HEADER: Final = struct.Struct("<HBBIIIII")
_TYPE: Final = struct.Struct("<III")
_INT, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 8, 9, 10, 11
_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
_TRAILING: Final = {
    _INT: (4, False),
    _ARRAY: (12, False),
    _STRUCT: (12, True),
    _UNION: (12, True),
    _ENUM: (8, True),
    _PROTO: (8, True),
    _VAR: (4, False),
    _DATASEC: (12, True),
    _DECL_TAG: (4, False),
    _ENUM64: (12, True),
}
"""Bytes behind the common part of a type, and whether so many for each of `vlen`."""


def _functions() -> ctypes.CDLL:
    lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    raw: Any = lib.btf__raw_data
    raw.restype = c_void_p
    raw.argtypes = [c_void_p, POINTER(c_uint32)]
    parse: Any = lib.btf__parse
    parse.restype = c_void_p
    parse.argtypes = [c_char_p, c_void_p]
    return lib


_LIB: Final = _functions()


@dataclass(frozen=True)
class Type:
    """One entry of the type section."""

    name: str
    kind: int
    vlen: int
    size: int
    """Size, or the number of the type that this one refers to."""
    bitfields: bool
    tail: bytes


class Btf:
    """The types of an object, as libbpf holds them."""

    def __init__(self, pointer: int) -> None:
        size = c_uint32()
        start = _LIB.btf__raw_data(pointer, byref(size))
        self._data = ctypes.string_at(start, size.value)
        head = _HEADER.unpack_from(self._data)
        at = head[3]
        self._types_at, self._types_size = at + head[4], head[5]
        self._names_at = at + head[6]
        self.types = [Type("void", 0, 0, 0, bitfields=False, tail=b""), *self._walk()]
        self.structs = {
            one.name: one for one in self.types if one.kind in {_STRUCT, _UNION} and one.name
        }

    def _name(self, offset: int) -> str:
        start = self._names_at + offset
        return self._data[start : self._data.index(b"\0", start)].decode()

    def _walk(self) -> Iterator[Type]:
        at, end = self._types_at, self._types_at + self._types_size
        while at < end:
            name, info, size = _TYPE.unpack_from(self._data, at)
            kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
            each, many = _TRAILING.get(kind, (0, False))
            at += _TYPE.size
            length = each * vlen if many else each
            tail = self._data[at : at + length]
            yield Type(self._name(name), kind, vlen, size, bool(info >> 31), tail)
            at += length

    def size_of(self, number: int) -> int:
        """Return the bytes of a type."""
        one = self.types[number]
        if one.kind in {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _VAR}:
            return self.size_of(one.size)
        if one.kind == _ARRAY:
            element, _, entries = struct.unpack("<III", one.tail)
            return self.size_of(element) * int(entries)
        return 8 if one.kind == _POINTER else one.size

    def members(self, one: Type) -> Iterator[tuple[str, int, int]]:
        """Yield name, offset and size of each member; those of a nameless one as if own."""
        for at in range(0, len(one.tail), 12):
            name, number, bits = struct.unpack_from("<III", one.tail, at)
            offset = (bits & 0xFFFFFF if one.bitfields else bits) // 8
            if self._name(name):
                yield self._name(name), offset, self.size_of(number)
            else:
                for inner, inner_offset, size in self.members(self.types[number]):
                    yield inner, offset + inner_offset, size

    def variable(self, name: str) -> tuple[str, int, int]:
        """Return section, offset and size of a variable."""
        for section in self.types:
            if section.kind != _DATASEC:
                continue
            for at in range(0, len(section.tail), 12):
                number, offset, size = struct.unpack_from("<III", section.tail, at)
                if self.types[number].name == name:
                    return section.name, offset, size
        msg = f"no variable {name}"
        raise LookupError(msg)
