# SPDX-License-Identifier: Apache-2.0
"""What the kernel's verifier has to do for the programs, and how they run in real time."""

import re
import time

import pytest

from tests.support import bpf_abi as abi
from tests.support.bpf import BpfObject
from tests.support.bpf_bench import FAMILIES, REAL, V4, Bench, Ends, engine
from tests.support.bpf_engine import TABLES
from tests.support.model_scene import Rate, Slot, Tcp
from tests.support.native_build import built
from tests.support.packets import ACK, SYN, Link, linux

MOST_INSTRUCTIONS = 400_000
MOST_SECONDS = 10.0
LOOPBACK = 1
"""Where a test run lets packets come from."""


def test_programs_stay_within_the_verifiers_budget(capsys: pytest.CaptureFixture[str]) -> None:
    """Instructions walked and time to load have bounds well below the kernel's own."""
    path = built("build/bpf/engine.bpf.o") / "bpf" / "engine.bpf.o"
    begun = time.perf_counter()
    with BpfObject(path, entries=dict.fromkeys(TABLES, 1024)) as loaded:
        seconds = time.perf_counter() - begun
        walked = {name: loaded.verified_instructions(name) for name in loaded.programs}
        told = re.search(r"processed (\d+) insns", loaded.log["fnm_xdp"])
    with capsys.disabled():
        print(f"\n  verifier: {walked} instructions, loaded in {seconds:.2f} s")  # noqa: T201
    assert told is not None
    assert int(told[1]) == walked["fnm_xdp"]
    assert max(walked.values()) <= MOST_INSTRUCTIONS
    assert seconds <= MOST_SECONDS


def test_clock_runs_with_the_kernels() -> None:
    """Milliseconds pass as they do elsewhere, to a jiffy or two."""
    loaded = engine(milliseconds=REAL)
    begun, first = time.perf_counter(), loaded.now()
    time.sleep(0.3)
    passed = loaded.now() - first
    took = (time.perf_counter() - begun) * 1000
    assert abs(passed - took) <= 25


@FAMILIES
def test_deadline_ends_protection_by_itself(ends: Ends) -> None:
    """With nobody there to remove it."""
    loaded = engine(milliseconds=REAL)
    bench = Bench(Slot(settings=Tcp(), deadline=loaded.now() + 200), on=loaded)
    frame = ends.syn(options=linux()).frame()
    assert loaded.run(frame).reason == "cookie_sent"
    time.sleep(0.25)
    assert loaded.run(frame).reason == "unprotected"
    assert bench.slots[1].deadline <= loaded.now()


@FAMILIES
def test_bucket_fills_again_with_time(ends: Ends) -> None:
    """At its rate: after 100 ms a bucket of 50 a second has five more, to one or two."""
    loaded = engine(milliseconds=REAL)
    interval = 1_000_000_000 // 50
    tcp = Tcp()
    tcp.unknown.interval, tcp.unknown.burst = interval, interval * 10
    Bench(Slot(settings=tcp), on=loaded)
    frame = ends.syn(flags=ACK).frame()

    def passed() -> int:
        return sum(loaded.run(frame).reason == "unknown_ack" for _ in range(20))

    begun = loaded.now()
    assert 10 <= passed() <= 11
    time.sleep(0.1)
    more = passed()
    expected = (loaded.now() - begun) * 50 // 1000
    assert expected - 2 <= more <= expected + 1


def test_program_answers_the_same_at_every_real_moment() -> None:
    """The cookie it takes is the one it made, with the clock running."""
    loaded = engine(milliseconds=REAL)
    Bench(Slot(settings=Tcp(source=Rate(1_000_000_000, 0))), on=loaded)
    for port in range(1, 100):
        sent = loaded.run(V4.syn(sport=port, options=linux()).frame()).frame
        number = int.from_bytes(sent[38:42], "big")
        ack = V4.syn(sport=port, flags=ACK, seq=0x11223345, ack=number + 1)
        assert loaded.run(ack.frame()).reason == "cookie_good"


# samples


@FAMILIES
@pytest.mark.parametrize("size", [0, 20, 500])
@pytest.mark.parametrize(("flags", "reason"), [(ACK, "cookie_bad"), (SYN, "cookie_sent")])
def test_sample_shows_the_packet_and_why(ends: Ends, size: int, flags: int, reason: str) -> None:
    """Time, interface, reason, slot, length and first bytes of the frame, as it came."""
    loaded = engine()
    bench = Bench(Slot(settings=Tcp()))
    reader = loaded.samples()
    loaded.control_set(sample_every=1)
    try:
        frame = ends.syn(flags=flags, data=b"d" * size, link=Link(tags=((0x8100, 5),))).frame()
        bench.run(frame)
        (record,) = reader.read()
    finally:
        loaded.control_set(sample_every=0)
        reader.close()
    sample = abi.Sample.from_buffer_copy(record)
    captured = min(len(frame), abi.SAMPLE_BYTES)
    assert loaded.reasons[sample.reason] == reason
    assert (sample.slot, sample.length, sample.captured) == (1, len(frame), captured)
    assert bytes(sample.data)[:captured] == frame[:captured]
    assert sample.time_ms == loaded.now()
    assert sample.ifindex == LOOPBACK
    assert len(record) == -(-sum(field_sizes()) // 8) * 8


def field_sizes() -> list[int]:
    """Return the sizes of the members of a sample."""
    return [getattr(abi.Sample, field[0]).size for field in abi.Sample._fields_]


@FAMILIES
def test_one_of_so_many_judged_packets_is_sampled(ends: Ends) -> None:
    """Packets to others are not judged and not sampled; 0 switches it off."""
    loaded = engine()
    bench = Bench(Slot(settings=Tcp()))
    reader = loaded.samples()
    try:
        with loaded.on_one_cpu():
            for every, expected in ((4, 5), (1, 20), (0, 0)):
                loaded.control_set(sample_every=every)
                for port in range(1, 21):
                    bench.run(ends.syn(sport=port, flags=ACK))
                    bench.run(ends.syn(sport=port, flags=SYN, destination=ends.neighbour))
                assert len(reader.read()) == expected
    finally:
        loaded.control_set(sample_every=0)
        reader.close()
    assert loaded.work()["samples"] == 25
