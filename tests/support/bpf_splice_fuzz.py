# SPDX-License-Identifier: Apache-2.0
"""One batch of the differential fuzz of spliced flows: both directions, program against model."""

import random
from collections import Counter
from typing import Any, Final

from tests.support import bpf_abi as abi
from tests.support import bpf_abi_splice as splice
from tests.support.bpf_bench import engine
from tests.support.bpf_engine import Engine
from tests.support.bpf_fuzz import DifferenceError, compare_sightings, flows, rows
from tests.support.bpf_splice import (
    backend_rows,
    held_rows,
    make_older,
    splice_rows,
    ticks_of,
)
from tests.support.bpf_splice_net import OwnNetwork, without_tag
from tests.support.model_random import random_scene
from tests.support.model_rules import key_of
from tests.support.model_scene import Rate, Scene, Slot, Tcp, per_second
from tests.support.model_splice_out import Departure, WholeModel
from tests.support.model_splice_state import HELD_MS, Backend, Spliced, moment
from tests.support.packets_splice import Step
from tests.support.packets_splice_talks import Talks

BATCH: Final = 1000
_SETS: Final = 4096
_HOST_BITS: Final = 128
_TRIES: Final = 3
_PAUSES: Final = (64, 128, 200, 256, 960, 1024, 2048, 3008, 4096, 20_480, 30_016, 61_440, 130_000)


def batch(seed: str, number: int = BATCH) -> Counter[str]:
    """Compare `number` packets; return them by reason.

    Raises:
        DifferenceError: on the first that is judged differently.
    """
    with OwnNetwork() as network:
        for _ in range(_TRIES):
            rng = random.Random(seed)
            loaded = engine(verify=rng.random() < 0.3, sets=_SETS)
            now = loaded.now()
            try:
                outcome = Comparison(seed, rng, loaded, now, network).run(number)
            except DifferenceError:
                if loaded.now() == now:
                    raise
                continue
            if loaded.now() == now:
                return outcome
    raise DifferenceError(f"seed {seed}: the clock moved in each of {_TRIES} tries")


def random_splice_scene(rng: random.Random, *, verify: bool) -> Scene:
    """Return countermeasures of which most splice, and of which servers flows may exist."""
    scene = random_scene(rng, verify=verify)
    for slot in scene.slots.values():
        tcp = slot.settings
        if not isinstance(tcp, Tcp):
            continue
        if rng.random() < 0.8:
            tcp.mode = "splice"
            tcp.ts_offset = 0  # the daemon gives such a mitigation none
            tcp.cookie_offset = 0
            tcp.has_timestamps = tcp.has_timestamps or rng.random() < 0.6
        if rng.random() < 0.8:
            tcp.ceiling, tcp.icmp = Rate(), Rate()
            slot.ports = ()
    if rng.random() < 0.8:
        for target, indices in scene.targets.items():
            kept = [at for at in indices if scene.slots[at].kind in {"tcp", "watch"}]
            first = [1] if 1 not in kept and rng.random() < 0.8 else []
            scene.targets[target] = tuple((first + kept)[:4]) or (1,)
    splicing = {at for at, one in scene.slots.items() if _splices(one)}
    hosts = [one for one in scene.targets if key_of(one)[1] == _HOST_BITS]
    scene.translated = tuple(
        one for one in hosts if splicing & set(scene.targets[one]) or rng.random() < 0.9
    )
    scene.probe = rng.choice((Rate(), per_second(50), per_second(1, burst=0), per_second(20)))
    scene.flow_closing = rng.choice((60, 5))
    return scene


def _splices(slot: Slot) -> bool:
    return isinstance(slot.settings, Tcp) and slot.settings.mode == "splice"


class Comparison:
    """Program and model with the same scene, and connections through both."""

    def __init__(
        self, seed: str, rng: random.Random, loaded: Engine, now: int, network: OwnNetwork
    ) -> None:
        self.seed, self.rng, self.loaded, self.network = seed, rng, loaded, network
        self.scene = random_splice_scene(rng, verify=loaded.verify)
        loaded.apply(self.scene)
        self.model = WholeModel(self.scene, now)
        self.talks = Talks(rng, self.scene, now)
        self.passed = 0

    def run(self, number: int) -> Counter[str]:
        """Compare so many packets, and what is remembered after them."""
        outcome: Counter[str] = Counter()
        ends = self.rng.choice((None, number * 2 // 3))
        for at in range(number):
            if self.rng.random() < 0.02:
                self.pause(self.rng.choice(_PAUSES))
            if at == ends:
                self.expire()
            step = self.talks.step()
            outcome[self.one(at, step)] += 1
        self.compare_tables()
        return outcome

    def expire(self) -> None:
        """End mitigations; their flows go on."""
        for index, slot in self.scene.slots.items():
            if self.rng.random() < 0.5:
                slot.deadline = 1
                self.loaded.object.maps["slots"].view(abi.Slot, index).deadline = 1
        if self.rng.random() < 0.5:
            self.loaded.drop_targets()
            self.model.drop_targets()

    def pause(self, milliseconds: int) -> None:
        """Let time pass."""
        before, self.passed = self.passed, self.passed + milliseconds
        ticks = ticks_of(before, self.passed)
        make_older(self.loaded.object, milliseconds, ticks)
        self.model.grow_older(milliseconds, ticks)

    def one(self, at: int, step: Step) -> str:
        """Compare one packet and return how it was judged."""
        if step.inward:
            expected = self.model.judge(step.frame)
            wanted = Departure(expected.verdict, expected.reason, expected.slot, expected.frame)
            found = self.loaded.run(step.frame)
        else:
            wanted = self.model.leave(step.frame)
            found = self.loaded.run_out(step.frame)
        heard = self.network.heard(len(wanted.before))
        told = (found.verdict, found.reason, found.slot, found.frame, heard)
        before = [without_tag(frame) for frame in wanted.before]
        if told != (wanted.verdict, wanted.reason, wanted.slot, wanted.frame, before):
            way = "in" if step.inward else "out"
            raise DifferenceError(
                f"seed {self.seed}, packet {at} {way} ({step.what}): {step.frame.hex()}\n"
                f"  program: {found.verdict} {found.reason} slot {found.slot} {found.frame.hex()}"
                f" {[frame.hex() for frame in heard]}\n"
                f"  model:   {wanted.verdict} {wanted.reason} slot {wanted.slot}"
                f" {wanted.frame.hex()} {[frame.hex() for frame in before]}\n"
                f"  clock {self.model.now}, scene {self.scene}"
            )
        self.talks.learn(step, found.reason, found.frame)
        return f"{found.verdict:<8} {found.reason or 'goes on'}"

    # tables

    def compare_tables(self) -> None:
        """Compare what is remembered of flows, servers and segments."""
        self.differs("flows", flows(self.loaded), self.model.flows)
        compare_sightings(self.seed, self.loaded, self.model)
        sources = {bytes(row)[:16]: row.tat for row in rows(self.loaded, "sources", abi.Source)}
        known = {address: one.bucket.tat for address, one in self.model.sources.items()}
        self.differs("sources", sources, known)
        spliced = {key: _spliced(row) for key, row in splice_rows(self.loaded.object).items()}
        self.differs(
            "spliced flows",
            spliced,
            {key: _of_flow(one) for key, one in self.model.splices.items()},
        )
        self.differs(
            "servers",
            {key: _backend(row) for key, row in backend_rows(self.loaded.object).items()},
            {key: _of_backend(one) for key, one in self.model.backends.items()},
        )
        oldest = moment(self.model.now) - HELD_MS
        held = sorted(
            (row.at, bytes(row.data)[: row.length], row.flags)
            for row in held_rows(self.loaded.object).values()
            if oldest < row.at <= moment(self.model.now)
        )
        pieces = [one for one in self.model.held.places.values() if one.at > oldest]
        self.differs("segments", held, sorted((one.at, one.data, one.flags) for one in pieces))

    def differs(self, what: str, found: Any, wanted: Any) -> None:
        """Complain where the two are not the same.

        Raises:
            DifferenceError: they are not.
        """
        if found == wanted:
            return
        if isinstance(found, dict):
            keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
            found, wanted = found.get(keys[0]), wanted.get(keys[0])
            what += f" {keys[0].hex()}"
        raise DifferenceError(f"seed {self.seed}: {what}\n  program: {found}\n  model:   {wanted}")


_FLAGS: Final = {"sack": 1, "wscale": 2, "timestamps": 4, "ecn": 8}


def _names(flags: int) -> frozenset[str]:
    return frozenset(name for name, bit in _FLAGS.items() if flags & bit)


def _spliced(row: Any) -> tuple[Any, ...]:
    ended = {"client": 1, "server": 2, "reset": 4}
    return (
        *(row.state == splice.OPEN, row.client_isn, row.cookie_isn, row.delta, row.ts_delta),
        *(row.window, row.mss, row.wscale, row.own_wscale, _names(row.flags)),
        *(row.to_client, row.to_server, row.ts_cookie, row.client_ts),
        {name for name, bit in ended.items() if row.ended & bit},
        *(row.seen, row.asked_ms, row.slot, row.generation),
    )


def _of_flow(flow: Spliced) -> tuple[Any, ...]:
    return (
        *(flow.open, flow.client_isn, flow.cookie_isn, flow.delta, flow.ts_delta),
        *(flow.window, flow.mss, 15 if flow.wscale is None else flow.wscale, flow.own_wscale),
        flow.offered(),
        *(flow.to_client, flow.to_server, flow.ts_cookie, flow.client_ts),
        flow.ended,
        *(flow.seen, flow.asked_ms & 0xFFFFFFFF, flow.slot, flow.generation),
    )


def _backend(row: Any) -> tuple[Any, ...]:
    states = {number: name for name, number in splice.BACKEND_STATES.items()}
    return (
        *(row.asked, row.probed, row.answered, row.profiled, states[row.state]),
        *(row.mss, row.window, row.wscale, row.ttl),
        *(_names(row.offered), _names(row.known), _names(row.flags)),
    )


def _of_backend(one: Backend) -> tuple[Any, ...]:
    moments = (one.asked, one.probed, one.answered, one.profiled)
    return (
        *((0 if moment is None else moment & 0xFFFFFFFF) for moment in moments),
        one.state,
        *(one.mss, one.window, one.wscale, one.ttl),
        *(one.offered, one.known, one.taken),
    )
