# SPDX-License-Identifier: Apache-2.0
"""The data plane in the kernel without a daemon: its maps filled by hand, packets run one by one.

Time stands still unless a test asks for the real rate: the milliseconds of a jiffy are a constant
of the program, and the smallest gives a clock that moves once in minutes.
"""

import ctypes
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_uint32, sizeof
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.support import bpf_abi as abi
from tests.support.bpf import CPUS, LIB, VERDICTS, BpfObject, RingBuffer, Runner, check
from tests.support.bpf_rows import tcp_flags, write_rate, write_rule, write_sorb, write_tcp
from tests.support.bpf_splice import TC_VERDICTS, forget_splices, write_splicing
from tests.support.model_rules import key_of
from tests.support.model_scene import Network, Ports, Rule, Scene, Slot, Sorb, Tcp
from tests.support.model_splice_state import prefilter_bit

FROZEN: Final = 1
REAL: Final = 0
TABLES: Final = ("flows4", "flows6", "sources", "sightings", "talkers", "splices")
_MASKS: Final = {
    "flows4": "fnm_flow4_mask",
    "flows6": "fnm_flow6_mask",
    "sources": "fnm_source_mask",
    "sightings": "fnm_sighting_mask",
    "talkers": "fnm_talker_mask",
    "splices": "fnm_splice_mask",
}
_HOST_BITS: Final = 128
_ROW: Final = sizeof(abi.Counters)
_CLOCK: Final = bytes(14)
_FILTER_WORDS: Final = 1024
"""The fewest of a filter that synproxyd sets."""


def reasons(header: Path) -> list[str]:
    """Return the reasons in the order of their numbers."""
    return re.findall(r"FNM_REASON\((\w+), (?:PASS|TX|DROP),", header.read_text())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the program did with a packet."""

    verdict: str
    reason: str
    slot: int
    frame: bytes


class Engine:
    """The programs and maps of one object file, and what a test does with them."""

    def __init__(
        self,
        path: Path,
        *,
        verify: bool = False,
        milliseconds: int = FROZEN,
        sets: int = 16384,
        faults: int | None = None,
        partial: bool = False,
        ifindex: int = 0,
        room: int = 4096,
    ) -> None:
        header = Path(__file__).resolve().parents[2] / "native" / "bpf" / "reasons.h"
        self.reasons = reasons(header)
        self.verify = verify
        constants = {"fnm_verify": int(verify)} | dict.fromkeys(_MASKS.values(), sets - 1)
        if milliseconds != REAL:
            constants["fnm_ms_mult"] = milliseconds
        if partial:
            constants["fnm_partial"] = 1
        if faults is not None:
            constants["fnm_fault"] = faults
        self.object = BpfObject(path, constants=constants, entries=dict.fromkeys(TABLES, sets))
        self._runner = Runner(self.object.programs["fnm_xdp"], ifindex=ifindex, room=room)
        self._runner_out = Runner(self.object.programs["fnm_egress"], room=room)
        self._clock = Runner(self.object.programs["fnm_clock"])
        maps = self.object.maps
        self._control = maps["control"]
        self._count_slots(1)
        self._portsets: dict[Ports, int] = {}
        self._hosts: list[Any] = []
        self._prefixes: list[Any] = []
        self.control_set(abi=1, seed=0x5EED, inserts_per_second=1_000_000)
        for masks in self.control().filter_mask:
            masks[:] = [_FILTER_WORDS - 1] * 2

    def __enter__(self) -> Self:
        """Return it loaded."""
        return self

    def __exit__(self, *_: object) -> None:
        """Unload it."""
        self.close()

    def close(self) -> None:
        """Unload it."""
        self.object.close()

    # time

    def now(self) -> int:
        """Return the engine clock in milliseconds."""
        self._clock.run(_CLOCK)
        return int(self.control().clock_ms)

    # settings

    def control(self) -> Any:
        """Return the control block as it lies in the kernel."""
        return self._control.view(abi.Control)

    def control_set(self, **fields: int) -> None:
        """Write fields of the control block."""
        block = self.control()
        for name, value in fields.items():
            setattr(block, name, value)

    def apply(self, scene: Scene) -> None:
        """Put a scene in force; whatever was known before is forgotten."""
        self.forget()
        self._remove_targets()
        self.control_set(
            flow_idle=scene.flow_idle,
            flow_closing=scene.flow_closing,
            source_idle=scene.source_idle,
            inserts_per_second=scene.inserts_per_second,
            wide=0,
        )
        self._portsets = {(): 0}
        for index, slot in scene.slots.items():
            self._write_slot(index, slot)
        for network in scene.targets:
            self._write_target(scene, network)
        write_splicing(self.object, scene)
        self.control_set(splicing=int(bool(scene.translated)))
        self.control_set(epoch=self.control().epoch + 1 & 0xFFFFFFFF)
        self._count_slots(max(scene.slots, default=0) + 1)

    def drop_targets(self) -> None:
        """Protect nobody any more; what is known stays."""
        self._remove_targets()
        self.control_set(wide=0, epoch=self.control().epoch + 1 & 0xFFFFFFFF)

    def forget(self) -> None:
        """Empty every table and counter of what the engine did."""
        self.forget_flows()
        forget_splices(self.object)
        for name in ("ceilings", "slots", "acls", "portsets", "splicing"):
            memory = self.object.maps[name].memory
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, len(memory))
        self.object.maps["work"].put_per_cpu((abi.Work * CPUS)(), 0)

    def forget_flows(self) -> None:
        """Empty the tables of what was seen, and the filters in front of them."""
        for name in (*TABLES, "filters"):
            memory = self.object.maps[name].memory
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, len(memory))

    @contextmanager
    def on_one_cpu(self) -> Iterator[None]:
        """Keep to one CPU: what is kept for each is then kept once."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def _remove_targets(self) -> None:
        block = self.control()
        ctypes.memset(byref(block, abi.Control.prefilter.offset), 0, abi.PREFILTER * 8)
        for name, keys in (("hosts", self._hosts), ("prefixes", self._prefixes)):
            for key in keys:
                self.object.maps[name].remove(key)
            keys.clear()

    def _write_slot(self, index: int, slot: Slot) -> None:
        row = self.object.maps["slots"].view(abi.Slot, index)
        row.generation = slot.generation
        row.kind = abi.KINDS[slot.kind]
        row.portset = self._portset(slot.ports)
        match slot.settings:
            case Tcp():
                row.mode = abi.MODES[slot.settings.mode]
                row.flags = tcp_flags(slot.settings)
                write_tcp(row.tcp, slot.settings)
            case Sorb():
                write_sorb(row.sorb, slot.settings)
            case None:
                pass
            case rules:
                row.acl = index
                self._write_acl(index, rules)
        row.deadline = slot.deadline

    def _portset(self, ports: Ports) -> int:
        if ports not in self._portsets:
            number = len(self._portsets)
            row = self.object.maps["portsets"].view(abi.Portset, number)
            for low, high in ports:
                for port in range(low, high + 1):
                    row.bit[port >> 6] |= 1 << (port & 63)
            self._portsets[ports] = number
        return self._portsets[ports]

    def _write_acl(self, index: int, rules: Sequence[Rule]) -> None:
        acl = self.object.maps["acls"].view(abi.Acl, index)
        for at, rule in enumerate(rules):
            write_rule(acl.rule[at], rule)
            if rule.limit is not None:
                acl.rule[at].limit = at % abi.ACL_LIMITS
                write_rate(acl.limit[at % abi.ACL_LIMITS], rule.limit)
        acl.rules = len(rules)

    def _write_target(self, scene: Scene, network: Network) -> None:
        policy = abi.Policy()
        for kind in ("acl", "sorb", "tcp", "watch"):
            for at, index in enumerate(scene.of_kind(network, kind)):
                getattr(policy, kind)[at] = index
        address, bits = key_of(network)
        self._mark(address, bits)
        if bits == _HOST_BITS:
            key = abi.Address.from_buffer_copy(address)
            self.object.maps["hosts"].put(key, policy)
            self._hosts.append(key)
            return
        prefix = abi.Prefix(bits=bits, address=abi.Address.from_buffer_copy(address))
        self.object.maps["prefixes"].put(prefix, policy)
        self._prefixes.append(prefix)
        self.control_set(wide=1)

    def _mark(self, address: bytes, bits: int) -> None:
        block = self.control()
        if bits < _HOST_BITS:
            for at in range(abi.PREFILTER):
                block.prefilter[at] = (1 << 64) - 1
            return
        bit = prefilter_bit(address)
        block.prefilter[bit >> 6] |= 1 << (bit & 63)

    # packets

    def run(self, packet: bytes) -> Outcome:
        """Return what the program does with a packet, and why."""
        verdict, frame = self._runner.run(packet)
        slot, reason = self._counted()
        return Outcome(VERDICTS.get(verdict, str(verdict)), reason, slot, frame)

    def run_out(self, packet: bytes) -> Outcome:
        """Return what becomes of a packet that leaves; of what goes on uncounted, no reason."""
        verdict, frame = self._runner_out.run(packet)
        counted = self._all_counted()
        if len(counted) > 1:
            raise AssertionError(f"one packet is counted once, but this one is {counted}")
        slot, reason = counted[0] if counted else (0, "")
        return Outcome(TC_VERDICTS.get(verdict, str(verdict)), reason, slot, frame)

    def verdict(self, packet: bytes) -> tuple[int, bytes]:
        """Return only the verdict and the packet; for what no counter shows."""
        done = self._runner.run(packet)
        self._read_counters()
        return done

    def _count_slots(self, number: int) -> None:
        self._counted_slots = number
        self._keys = (c_uint32 * number)()
        self._counters = ctypes.create_string_buffer(_ROW * CPUS * number)
        self._before = b""
        self._read_counters()

    def _read_counters(self) -> bytes:
        count = c_uint32(self._counted_slots)
        out = c_uint32()
        done = LIB.bpf_map_lookup_batch(
            self.object.maps["counters"].fd,
            None,
            byref(out),
            self._keys,
            self._counters,
            byref(count),
            None,
        )
        check(done, "batch lookup in counters")
        self._before, before = self._counters.raw, self._before
        return before

    def _counted(self) -> tuple[int, str]:
        found = self._all_counted()
        if len(found) != 1:
            raise AssertionError(f"one packet is counted once, but this one is {found}")
        return found[0]

    def _all_counted(self) -> list[tuple[int, str]]:
        before = self._read_counters()
        after = self._before
        found: list[tuple[int, str]] = []
        for at in range(0, len(after), _ROW):
            if after[at : at + _ROW] != before[at : at + _ROW]:
                found += [(at // _ROW // CPUS, name) for name in self._grown(before, after, at)]
        return found

    def _grown(self, before: bytes, after: bytes, at: int) -> Iterable[str]:
        old = abi.Counters.from_buffer_copy(before, at).packets
        new = abi.Counters.from_buffer_copy(after, at).packets
        for number in range(abi.REASON_SLOTS):
            if new[number] != old[number]:
                times = new[number] - old[number]
                yield self.reasons[number] if times == 1 else f"{times} x {self.reasons[number]}"

    def bytes_counted(self, slot: int) -> tuple[int, int]:
        """Return the bytes passed and dropped on a slot."""
        values = self.object.maps["counters"].per_cpu(abi.Counters, slot)
        return (
            sum(one.bytes_passed for one in values),
            sum(one.bytes_dropped for one in values),
        )

    def work(self) -> dict[str, int]:
        """Return what the engine did besides judging, summed over the CPUs."""
        values = self.object.maps["work"].per_cpu(abi.Work, 0)
        names = [str(field[0]) for field in abi.Work._fields_]
        return {name: sum(getattr(one, name) for one in values) for name in names}

    def samples(self) -> RingBuffer:
        """Return a reader of the sampled packets."""
        return RingBuffer(self.object.maps["samples"])
