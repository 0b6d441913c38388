# SPDX-License-Identifier: Apache-2.0
"""Buckets in real time and under several CPUs at once."""

import os
import threading
import time
from collections import Counter

import pytest

from tests.support.bpf import XDP_PASS, Runner
from tests.support.bpf_bench import FAMILIES, REAL, Bench, Ends, engine
from tests.support.bpf_engine import Engine
from tests.support.model_scene import Rule, Slot, Sorb, Tcp, per_second
from tests.support.packets import ACK, SYN

SECONDS = 0.6
RATE = 5000
STILL = 0.05
"""While nobody sends a bucket is filled in vain: a run with so long a pause proves nothing."""
TRIES = 8


def hammer(loaded: Engine, frames: list[bytes]) -> tuple[Counter[int], float, float]:
    """Send frames from a thread on each CPU until the time is over.

    Returns:
        The verdicts, the seconds that it took, and the longest time in which none was sent.
    """
    totals: list[Counter[int]] = []
    cpus = sorted(os.sched_getaffinity(0))
    begun = last = still = 0.0

    def begin() -> None:
        nonlocal begun, last
        begun = last = time.perf_counter()

    ready = threading.Barrier(len(cpus), begin)

    def work(cpu: int) -> None:
        nonlocal last, still
        os.sched_setaffinity(0, {cpu})
        runner = Runner(loaded.object.programs["fnm_xdp"])
        found: Counter[int] = Counter()
        ready.wait()
        while (now := time.perf_counter()) - begun < SECONDS:
            still, last = max(still, now - last), now
            for frame in frames:
                found[runner.run(frame)[0]] += 1
        still = max(still, now - last)
        totals.append(found)

    threads = [threading.Thread(target=work, args=(cpu,), name=f"hammer-{cpu}") for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(totals, Counter()), time.perf_counter() - begun, still


SHARED = {
    "unknown segments": (Slot(settings=Tcp(unknown=per_second(RATE, burst=500))), ACK),
    "SYN-ACKs": (Slot(settings=Tcp(syn_ack_in=per_second(RATE, burst=500))), SYN | ACK),
    "a rule's limit": (
        Slot(settings=[Rule(action="limit", limit=per_second(RATE, burst=500))]),
        ACK,
    ),
}


@FAMILIES
@pytest.mark.parametrize("name", SHARED)
def test_rate_holds_over_all_cpus(ends: Ends, name: str) -> None:
    """What passes on all of them together is the rate and one burst, within a tenth."""
    slot, flags = SHARED[name]
    loaded = engine(milliseconds=REAL)
    for _ in range(TRIES):
        Bench(slot, on=loaded)
        verdicts, took, still = hammer(loaded, [ends.syn(flags=flags, ack=5).frame()])
        if still < STILL:
            break
    else:
        pytest.fail(f"this machine stood still for {STILL} s or more, {TRIES} times")
    allowed = RATE * took + 500
    assert sum(verdicts.values()) > 2 * allowed, "the rate was never reached"
    assert 0.9 * (RATE * SECONDS + 500) <= verdicts[XDP_PASS] <= 1.1 * allowed


@FAMILIES
def test_source_that_keeps_to_its_rate_is_never_blocked(ends: Ends) -> None:
    """And one that does not is, within its first burst."""
    loaded = engine(milliseconds=REAL)
    Bench(Slot(settings=Sorb(pps=per_second(100, burst=10))), on=loaded)
    frame = ends.syn(flags=ACK).frame()
    for _ in range(15):
        assert loaded.run(frame).reason == "not_concerned"
        time.sleep(0.012)
    other = ends.syn(source=ends.stranger, flags=ACK).frame()
    reasons = [loaded.run(other).reason for _ in range(100)]
    assert 10 <= reasons.index("sorb_over") <= 20
    assert set(reasons[reasons.index("sorb_over") + 1 :]) == {"sorb_blocked"}


@FAMILIES
def test_block_ends_by_itself(ends: Ends) -> None:
    """When its time is over the source is let through again."""
    loaded = engine(milliseconds=REAL)
    Bench(Slot(settings=Sorb(pps=per_second(100, burst=1), block_ms=150)), on=loaded)
    frame = ends.syn(flags=ACK).frame()
    reasons = [loaded.run(frame).reason for _ in range(5)]
    assert reasons[-1] == "sorb_blocked"
    time.sleep(0.2)
    assert loaded.run(frame).reason == "not_concerned"
