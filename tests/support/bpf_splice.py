# SPDX-License-Identifier: Apache-2.0
"""The maps of the translating mode: set, emptied, read, and made older as if time had passed."""

import ctypes
from ctypes import byref, c_uint32, sizeof
from typing import Any, Final

from tests.support import bpf_abi as abi
from tests.support import bpf_abi_splice as splice
from tests.support.bpf import LIB, BpfObject, check
from tests.support.model_rules import key_of
from tests.support.model_scene import Scene
from tests.support.model_splice_state import prefilter_bit

TC_VERDICTS: Final = {0xFFFFFFFF: "PASS", 2: "SHOT", 7: "REDIRECT"}
_U32: Final = (1 << 32) - 1
_TIME: Final = 0x3FFFFFFF
_TICK: Final = 2048
"""Milliseconds in which `seen` moves by two: it is always odd."""
_MOMENTS: Final = ("asked", "probed", "answered", "profiled")


def write_splicing(loaded: BpfObject, scene: Scene) -> None:
    """Tell of which servers spliced flows may exist, and how often one may be probed."""
    row = loaded.maps["splicing"].view(splice.Splicing)
    for network in scene.translated:
        bit = prefilter_bit(key_of(network)[0])
        row.translated[bit >> 6] |= 1 << (bit & 63)
    row.probe_interval, row.probe_burst = scene.probe.interval, scene.probe.burst
    row.probe_tat = scene.probe.tat


def held_rows(loaded: BpfObject) -> dict[int, Any]:
    """Return the segments that are kept, by their place."""
    size = sizeof(splice.Held)
    keys = (c_uint32 * splice.HELD)()
    values = ctypes.create_string_buffer(size * splice.HELD)
    count, out = c_uint32(splice.HELD), c_uint32()
    where = loaded.maps["held"].fd
    done = LIB.bpf_map_lookup_batch(where, None, byref(out), keys, values, byref(count), None)
    check(done, "batch lookup in held")
    data = values.raw
    return {
        at: splice.Held.from_buffer_copy(data, at * size)
        for at in range(splice.HELD)
        if data[at * size : at * size + 4] != bytes(4)
    }


def backend_rows(loaded: BpfObject) -> dict[bytes, Any]:
    """Return what is known of servers, by address and port."""
    backends = loaded.maps["backends"]
    return {
        bytes(key)[:18]: backends.get(key, splice.Backend)
        for key in backends.keys(splice.BackendKey)
    }


def splice_rows(loaded: BpfObject) -> dict[bytes, Any]:
    """Return the spliced flows by client, server and ports."""
    data = _filled(loaded, "splices")
    size, found = sizeof(splice.SpliceSet), {}
    for start in range(0, len(data), size):
        if not any(data[start : start + size]):
            continue
        one = splice.SpliceSet.from_buffer_copy(data, start)
        for row in one.way:
            if row.ports:
                key = bytes(row.client) + bytes(row.server) + row.ports.to_bytes(4, "little")
                found[key] = splice.Splice.from_buffer_copy(row)
    return found


def _filled(loaded: BpfObject, name: str) -> bytes:
    """Return a table without what fills up its last page."""
    table = loaded.maps[name]
    return bytes(table.memory)[: table.entries * table.value_size]


def forget_splices(loaded: BpfObject) -> None:
    """Empty what is kept of servers, and of segments; the tables are emptied with the others."""
    backends = loaded.maps["backends"]
    for key in backends.keys(splice.BackendKey):
        backends.remove(key)
    empty = splice.Held()
    for at in held_rows(loaded):
        loaded.maps["held"].put(_element(at), empty)


def _element(number: int) -> Any:
    """Return the key of an array's element."""
    return c_uint32(number)


def seen_before(seen: int, ticks: int) -> int:
    """Return a moment as tables keep it, so many times two units earlier."""
    return seen & ~_TIME & _U32 | (seen - 2 * ticks) & _TIME


def make_older(loaded: BpfObject, milliseconds: int, ticks: int) -> None:
    """Let everything that the engine has seen have been so much earlier.

    `milliseconds` is even, and `ticks` is for what is kept in seconds: 2048 ms each.
    """
    for name, layout in (
        ("flows4", abi.Flow4),
        ("flows6", abi.Flow6),
        ("sightings", abi.Sighting),
    ):
        _age_table(loaded, name, layout, ticks)
    _age_splices(loaded, milliseconds, ticks)
    for key in (backends := loaded.maps["backends"]).keys(splice.BackendKey):
        row = backends.get(key, splice.Backend)
        for name in _MOMENTS:
            if getattr(row, name):
                setattr(row, name, getattr(row, name) - milliseconds & _U32)
        backends.put(key, row)
    for at, held in held_rows(loaded).items():
        held.at = held.at - milliseconds & _U32
        loaded.maps["held"].put(_element(at), held)
    splicing = loaded.maps["splicing"].view(splice.Splicing)
    splicing.probe_tat = max(0, splicing.probe_tat - milliseconds * 1_000_000)


def _age_table(loaded: BpfObject, name: str, layout: Any, ticks: int) -> None:
    memory = loaded.maps[name].memory
    size = sizeof(layout)
    data = _filled(loaded, name)
    for start in range(0, len(data), size * abi.WAYS):
        if data.count(0, start, start + size * abi.WAYS) == size * abi.WAYS:
            continue
        for at in range(start, start + size * abi.WAYS, size):
            row = layout.from_buffer(memory, at)
            if row.seen:
                row.seen = seen_before(row.seen, ticks)


def _age_splices(loaded: BpfObject, milliseconds: int, ticks: int) -> None:
    memory = loaded.maps["splices"].memory
    data = _filled(loaded, "splices")
    size = sizeof(splice.SpliceSet)
    for start in range(0, len(data), size):
        if data.count(0, start, start + size) == size:
            continue
        for row in splice.SpliceSet.from_buffer(memory, start).way:
            if row.ports:
                row.seen = seen_before(row.seen, ticks)
                row.asked_ms = row.asked_ms - milliseconds & _U32
                row.opened_ms = row.opened_ms - milliseconds & _U32


def ticks_of(before: int, after: int) -> int:
    """Return by how many ticks `seen` moves between two moments in milliseconds."""
    return after // _TICK - before // _TICK
