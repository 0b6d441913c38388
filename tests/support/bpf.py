# SPDX-License-Identifier: Apache-2.0
"""libbpf by ctypes: load an object, run its programs on packets, read and write its maps."""

import ctypes
import mmap
import os
from collections.abc import Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final, Self

from tests.support.bpf_btf import Btf

XDP_ABORTED: Final = 0
XDP_DROP: Final = 1
XDP_PASS: Final = 2
XDP_TX: Final = 3
VERDICTS: Final = {XDP_ABORTED: "ABORTED", XDP_DROP: "DROP", XDP_PASS: "PASS", XDP_TX: "TX"}

LOG_BYTES: Final = 1 << 24
LOG_STATS: Final = 4
_PAGE: Final = mmap.PAGESIZE
_INFO_BYTES: Final = 256
_VERIFIED_INSNS_AT: Final = 216
_LOAD_TIME_AT: Final = 40
_RING_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)


class BpfError(RuntimeError):
    """libbpf or the kernel refused something."""


class _RunOptions(ctypes.Structure):
    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class _Context(ctypes.Structure):
    """struct xdp_md."""

    _fields_ = [
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("data_meta", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("rx_queue_index", c_uint32),
        ("egress_ifindex", c_uint32),
    ]


def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "bpf_object__open": (c_void_p, [c_char_p]),
        "bpf_object__load": (c_int, [c_void_p]),
        "bpf_object__close": (None, [c_void_p]),
        "bpf_object__btf": (c_void_p, [c_void_p]),
        "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
        "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
        "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
        "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
        "bpf_program__name": (c_char_p, [c_void_p]),
        "bpf_program__fd": (c_int, [c_void_p]),
        "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
        "bpf_program__set_log_level": (c_int, [c_void_p, c_uint32]),
        "bpf_program__set_log_buf": (c_int, [c_void_p, c_void_p, c_size_t]),
        "bpf_map__name": (c_char_p, [c_void_p]),
        "bpf_map__fd": (c_int, [c_void_p]),
        "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
        "bpf_map__max_entries": (c_uint32, [c_void_p]),
        "bpf_map__value_size": (c_uint32, [c_void_p]),
        "bpf_map__key_size": (c_uint32, [c_void_p]),
        "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
        "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
        "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
        "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
        "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
        "bpf_map_lookup_batch": (
            c_int,
            [c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p],
        ),
        "bpf_prog_test_run_opts": (c_int, [c_int, POINTER(_RunOptions)]),
        "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
        "libbpf_num_possible_cpus": (c_int, []),
        "libbpf_set_print": (c_void_p, [c_void_p]),
        "ring_buffer__new": (c_void_p, [c_int, _RING_CALLBACK, c_void_p, c_void_p]),
        "ring_buffer__consume": (c_int, [c_void_p]),
        "ring_buffer__free": (None, [c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    lib.libbpf_set_print(None)
    return lib


LIB: Final = _library()
CPUS: Final = int(LIB.libbpf_num_possible_cpus())


def check(result: int, what: str) -> int:
    """Return `result`, or raise what errno says."""
    if result < 0:
        number = ctypes.get_errno() or -result
        raise BpfError(f"{what}: {os.strerror(number)}")
    return result


class Map:
    """One map of a loaded object; mapped into memory where its flags allow."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.name = LIB.bpf_map__name(pointer).decode()
        self.fd = int(LIB.bpf_map__fd(pointer))
        self.entries = int(LIB.bpf_map__max_entries(pointer))
        self.value_size = int(LIB.bpf_map__value_size(pointer))
        self.key_size = int(LIB.bpf_map__key_size(pointer))
        self._memory: mmap.mmap | None = None

    @property
    def memory(self) -> mmap.mmap:
        """Return the array as it lies in the kernel."""
        if self._memory is None:
            size = self.entries * (-(-self.value_size // 8) * 8)
            self._memory = mmap.mmap(self.fd, -(-size // _PAGE) * _PAGE)
        return self._memory

    def view(self, layout: Any, index: int = 0) -> Any:
        """Return element `index` as `layout`: what is written there, the program sees."""
        return layout.from_buffer(self.memory, index * (-(-self.value_size // 8) * 8))

    def put(self, key: ctypes.Structure, value: ctypes.Structure) -> None:
        """Enter or replace an element."""
        done = LIB.bpf_map_update_elem(self.fd, byref(key), byref(value), 0)
        check(done, f"update of {self.name}")

    def remove(self, key: ctypes.Structure) -> None:
        """Remove an element."""
        check(LIB.bpf_map_delete_elem(self.fd, byref(key)), f"delete of {self.name}")

    def get(self, key: ctypes.Structure, layout: Any) -> Any:
        """Return a copy of an element as `layout`; None where there is none."""
        value = layout()
        found = LIB.bpf_map_lookup_elem(self.fd, byref(key), byref(value))
        return None if found < 0 else value

    def keys(self, layout: Any) -> list[Any]:
        """Return the keys that are there."""
        found: list[Any] = []
        following = layout()
        last: Any = None
        while not LIB.bpf_map_get_next_key(self.fd, last, byref(following)):
            found.append(layout.from_buffer_copy(following))
            last = byref(found[-1])
        return found

    def per_cpu(self, layout: Any, index: int) -> Any:
        """Return an array of the values of every CPU."""
        values = (layout * CPUS)()
        key = c_uint32(index)
        done = LIB.bpf_map_lookup_elem(self.fd, byref(key), values)
        check(done, f"lookup in {self.name}")
        return values

    def put_per_cpu(self, values: Any, index: int) -> None:
        """Write the values of every CPU."""
        key = c_uint32(index)
        check(LIB.bpf_map_update_elem(self.fd, byref(key), values, 0), f"update of {self.name}")

    def close(self) -> None:
        """Let go of the memory; views of it must be gone or it stays until they are."""
        self._memory = None


class BpfObject:
    """An object file in the kernel: set before loading, closed at the end."""

    def __init__(
        self,
        path: Path,
        *,
        constants: Mapping[str, int] | None = None,
        entries: Mapping[str, int] | None = None,
        programs: frozenset[str] | None = None,
    ) -> None:
        self.path = path
        self._pointer = LIB.bpf_object__open(str(path).encode())
        if not self._pointer:
            raise BpfError(f"{path}: {os.strerror(ctypes.get_errno())}")
        self.log: dict[str, str] = {}
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, int] = {}
        try:
            self.btf = Btf(int(LIB.bpf_object__btf(self._pointer)))
            self._set_constants(constants or {})
            for name, number in (entries or {}).items():
                wanted = self._map(name)
                check(LIB.bpf_map__set_max_entries(wanted, number), f"size of {name}")
            self._load(programs)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return it loaded."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unload it."""
        self.close()

    def close(self) -> None:
        """Unload it."""
        for one in self.maps.values():
            one.close()
        if self._pointer:
            LIB.bpf_object__close(self._pointer)
            self._pointer = None

    def _map(self, name: str) -> int:
        found = LIB.bpf_object__find_map_by_name(self._pointer, name.encode())
        if not found:
            raise BpfError(f"{self.path}: no map {name}")
        return int(found)

    def _set_constants(self, constants: Mapping[str, int]) -> None:
        areas: dict[str, tuple[int, int]] = {}
        for name, value in constants.items():
            section, offset, size = self.btf.variable(name)
            if section not in areas:
                length = c_size_t()
                start = LIB.bpf_map__initial_value(self._map(section), byref(length))
                areas[section] = (int(start), length.value)
            start, length_of_area = areas[section]
            if offset + size > length_of_area:
                raise BpfError(f"{name} lies outside {section}")
            ctypes.memmove(start + offset, value.to_bytes(size, "little"), size)

    def _load(self, wanted: frozenset[str] | None) -> None:
        logs: dict[str, Any] = {}
        pointers: dict[str, int] = {}
        program = LIB.bpf_object__next_program(self._pointer, None)
        while program:
            name = LIB.bpf_program__name(program).decode()
            if wanted is not None and name not in wanted:
                LIB.bpf_program__set_autoload(program, False)  # noqa: FBT003 - C has no names
            else:
                logs[name] = ctypes.create_string_buffer(LOG_BYTES)
                LIB.bpf_program__set_log_buf(program, logs[name], LOG_BYTES)
                LIB.bpf_program__set_log_level(program, LOG_STATS)
                pointers[name] = program
            program = LIB.bpf_object__next_program(self._pointer, program)
        done = LIB.bpf_object__load(self._pointer)
        self.log = {name: log.value.decode(errors="replace") for name, log in logs.items()}
        if done < 0:
            tail = "\n".join(f"{name}: {text[-2000:]}" for name, text in self.log.items() if text)
            raise BpfError(f"{self.path}: the kernel refuses it\n{tail}")
        self.programs = {
            name: int(LIB.bpf_program__fd(pointer)) for name, pointer in pointers.items()
        }
        found = LIB.bpf_object__next_map(self._pointer, None)
        while found:
            made = Map(found)
            self.maps[made.name] = made
            found = LIB.bpf_object__next_map(self._pointer, found)

    def verified_instructions(self, program: str) -> int:
        """Return how many instructions the verifier walked through."""
        info = ctypes.create_string_buffer(_INFO_BYTES)
        size = c_uint32(_INFO_BYTES)
        done = LIB.bpf_obj_get_info_by_fd(self.programs[program], info, byref(size))
        check(done, f"information on {program}")
        at = _VERIFIED_INSNS_AT
        return int.from_bytes(info.raw[at : at + 4], "little")


class Runner:
    """Runs one program on packets; its buffers are made once."""

    def __init__(self, fd: int, *, room: int = 4096, ifindex: int = 0) -> None:
        self._fd = fd
        self._out = ctypes.create_string_buffer(room)
        self._room = room
        self._options = _RunOptions()
        self._options.sz = ctypes.sizeof(_RunOptions)
        self._options.data_out = ctypes.addressof(self._out)
        self._options.repeat = 1
        self._reference = byref(self._options)
        self._context = _Context()
        self._ifindex = ifindex

    def run(self, packet: bytes) -> tuple[int, bytes]:
        """Return the verdict and the packet as the program left it."""
        options = self._options
        options.data_in = ctypes.cast(ctypes.c_char_p(packet), c_void_p)
        options.data_size_in = len(packet)
        options.data_size_out = self._room
        if self._ifindex:
            self._context.data_end = len(packet)
            self._context.ingress_ifindex = self._ifindex
            options.ctx_in = ctypes.addressof(self._context)
            options.ctx_size_in = ctypes.sizeof(_Context)
        check(LIB.bpf_prog_test_run_opts(self._fd, self._reference), "test run")
        return options.retval, self._out.raw[: options.data_size_out]


class RingBuffer:
    """Reads the records of a ring buffer map."""

    def __init__(self, source: Map) -> None:
        self._records: list[bytes] = []
        self._callback = _RING_CALLBACK(self._take)
        self._pointer = LIB.ring_buffer__new(source.fd, self._callback, None, None)
        if not self._pointer:
            raise BpfError(f"ring buffer {source.name}: {os.strerror(ctypes.get_errno())}")

    def _take(self, _context: int | None, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return 0

    def read(self) -> list[bytes]:
        """Return the records that have come since the last call."""
        check(LIB.ring_buffer__consume(self._pointer), "ring buffer")
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        """Unmap it."""
        LIB.ring_buffer__free(self._pointer)
