# SPDX-License-Identifier: Apache-2.0
"""One batch of the differential fuzz: program against model, packets first, then the tables."""

import random
from collections import Counter
from collections.abc import Iterator
from ctypes import Structure, sizeof
from typing import Any, Final

from tests.support import bpf_abi as abi
from tests.support.bpf_bench import engine
from tests.support.bpf_engine import Engine
from tests.support.model import Model
from tests.support.model_random import random_scene
from tests.support.packets_random import Traffic

BATCH: Final = 1000
_SETS: Final = 4096
_TRIES: Final = 3


class DifferenceError(Exception):
    """Program and model do not agree; says on what, and how to see it again."""


def batch(seed: str, number: int = BATCH) -> Counter[str]:
    """Compare `number` packets; return them by reason.

    Raises:
        DifferenceError: on the first that is judged differently.
    """
    for _ in range(_TRIES):
        rng = random.Random(seed)
        loaded = engine(verify=rng.random() < 0.3, sets=_SETS)
        now = loaded.now()
        try:
            outcome = _compare(seed, rng, loaded, now, number)
        except DifferenceError:
            if loaded.now() == now:
                raise
            continue
        if loaded.now() == now:
            return outcome
    raise DifferenceError(f"seed {seed}: the clock moved in each of {_TRIES} tries")


def _compare(seed: str, rng: random.Random, loaded: Engine, now: int, number: int) -> Counter[str]:
    scene = random_scene(rng, verify=loaded.verify)
    loaded.apply(scene)
    model = Model(scene, now)
    traffic = Traffic(rng, scene, now)
    outcome: Counter[str] = Counter()
    for at in range(number):
        kind, frame = traffic.frame()
        expected = model.judge(frame)
        found = loaded.run(frame)
        told = (found.verdict, found.reason, found.slot, found.frame)
        if told != (expected.verdict, expected.reason, expected.slot, expected.frame):
            raise DifferenceError(
                f"seed {seed}, packet {at} ({kind}): {frame.hex()}\n"
                f"  program: {found.verdict} {found.reason} slot {found.slot} {found.frame.hex()}\n"
                f"  model:   {expected.verdict} {expected.reason} slot {expected.slot}"
                f" {expected.frame.hex()}\n  clock {now}, scene {scene}"
            )
        traffic.learn(expected)
        outcome[f"{expected.verdict:<4} {expected.reason}"] += 1
    _compare_tables(seed, loaded, model)
    return outcome


def rows(loaded: Engine, name: str, layout: type[Structure]) -> Iterator[Any]:
    """Yield a copy of each way of a table that is not empty."""
    data = bytes(loaded.object.maps[name].memory)
    size = sizeof(layout)
    for start in range(0, len(data), size * abi.WAYS):
        if any(data[start : start + size * abi.WAYS]):
            for at in range(start, start + size * abi.WAYS, size):
                if any(data[at : at + size]):
                    yield layout.from_buffer_copy(data, at)


def flows(loaded: Engine) -> dict[bytes, int]:
    """Return the flows that the tables hold, by 4-tuple, and when each was seen."""
    mapped = bytes(10) + b"\xff\xff"
    found = {}
    for name, layout, prefix in (("flows4", abi.Flow4, mapped), ("flows6", abi.Flow6, b"")):
        for row in rows(loaded, name, layout):
            data = bytes(row)
            half = (sizeof(layout) - 8) // 2
            ends = prefix + data[:half] + prefix + data[half : 2 * half]
            found[ends + data[2 * half : 2 * half + 4]] = int.from_bytes(data[-4:], "little")
    return found


def _compare_tables(seed: str, loaded: Engine, model: Model) -> None:
    if flows(loaded) != model.flows:
        raise DifferenceError(f"seed {seed}: the flow tables differ")
    found = {}
    for row in rows(loaded, "sources", abi.Source):
        data = bytes(row)
        found[data[:16]] = int.from_bytes(data[16:24], "little")
    known = {address: source.bucket.tat for address, source in model.sources.items()}
    if found != known:
        raise DifferenceError(f"seed {seed}: the tables of proven sources differ")
    compare_sightings(seed, loaded, model)
    _compare_talkers(seed, loaded, model)


def compare_sightings(seed: str, loaded: Engine, model: Model) -> None:
    """Compare the flows that were seen before they had to be known.

    Raises:
        DifferenceError: they are not the same.
    """
    # The table keeps a fingerprint of the flow only, so what was seen is compared as a whole.
    found = sorted(
        (row.ack, row.seq, bool(row.seen & abi.LEARNED))
        for row in rows(loaded, "sightings", abi.Sighting)
    )
    known = sorted((one.ack, one.seq, one.learned) for one in model.sightings.values())
    if found != known:
        raise DifferenceError(f"seed {seed}: the sightings differ")


def _compare_talkers(seed: str, loaded: Engine, model: Model) -> None:
    found = {
        (bytes(row.address), bool(row.wide), row.generation): (
            row.pps_tat,
            row.bps_tat,
            row.blocked_until,
        )
        for row in rows(loaded, "talkers", abi.Talker)
    }
    known = {
        key: (one.pps.tat, one.bps.tat, one.blocked_until) for key, one in model.talkers.items()
    }
    # One that has used nothing of its rate is as good as unknown and may be replaced.
    if {key: one for key, one in known.items() if any(one)} != {
        key: one for key, one in found.items() if any(one)
    }:
        raise DifferenceError(f"seed {seed}: the talkers differ")
