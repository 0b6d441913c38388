# SPDX-License-Identifier: Apache-2.0
"""Spliced connections, in both directions, through the program and through its model.

FNM_SPLICE_FUZZ_PACKETS asks for more packets, FNM_SPLICE_FUZZ_SEED for a seed of one's own.
"""

import multiprocessing
import os
import random
from collections import Counter

import pytest

from tests.support.bpf_engine import reasons
from tests.support.bpf_splice_fuzz import BATCH, batch
from tests.support.native_build import NATIVE, built
from tests.test_native_fuzz import kernel_complaints

PACKETS = int(os.environ.get("FNM_SPLICE_FUZZ_PACKETS", "16000"))
SEED = os.environ.get("FNM_SPLICE_FUZZ_SEED")
SEVERAL = 100_000
"""From so many on, all processors share the work."""
FULL = "splice_full"
"""Needs a table that is full."""


def compare(seeds: list[str]) -> Counter[str]:
    """Compare a batch under each seed."""
    if PACKETS < SEVERAL:
        return sum((batch(seed) for seed in seeds), Counter())
    with multiprocessing.get_context("spawn").Pool() as pool:
        return sum(pool.imap_unordered(batch, seeds), Counter())


@pytest.mark.timeout(max(120, PACKETS // 500))
def test_program_and_model_agree_on_spliced_flows(capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict, reason, slot and every byte, then every row; each reason of splicing comes up."""
    before = kernel_complaints()
    built("build/bpf/engine.bpf.o")
    seed = SEED or str(random.SystemRandom().randrange(2**32))
    with capsys.disabled():
        print(f"\n  fuzz of spliced flows: seeds 1 and {seed}, {PACKETS:,} packets")  # noqa: T201
    half = PACKETS // 2 // BATCH
    total = compare([f"{used}/{number}" for used in ("1", seed) for number in range(half)])
    assert total.total() == 2 * half * BATCH
    if PACKETS >= SEVERAL:
        with capsys.disabled():
            for name, number in sorted(total.items()):
                print(f"{number:>10,}  {name}")  # noqa: T201
    seen = {name.split(maxsplit=1)[1] for name in total}
    wanted = {name for name in reasons(NATIVE / "bpf" / "reasons.h") if "splice_" in name}
    assert wanted - seen <= {FULL}
    assert not kernel_complaints() - before
