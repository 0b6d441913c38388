# SPDX-License-Identifier: Apache-2.0
"""What becomes of packets when a helper of the kernel fails: a designed verdict, a counter."""

from tests.support.bpf_bench import FAMILIES, Bench, Ends, faulty
from tests.support.bpf_fuzz import flows
from tests.support.model_scene import Rate, Rule, Slot, Tcp
from tests.support.packets import ACK, NOP, SACK, SYN, linux, mss, timestamps, wscale

RESIZE, SAMPLE, LOOP, STATE = 1, 2, 4, 8
ODD = SACK + NOP + wscale(3) + NOP + NOP + timestamps(5) + mss(1400) + NOP + NOP


def told(bench: Bench, frame: bytes) -> tuple[str, str, bool]:
    """Return verdict, reason, and whether the frame is as it came."""
    outcome = bench.engine.run(frame)
    return outcome.verdict, outcome.reason, outcome.frame == frame


@FAMILIES
def test_without_faults_this_build_is_the_program(ends: Ends) -> None:
    """The build for these tests judges as the model does, until something is made to fail."""
    bench = Bench(Slot(settings=Tcp()), on=faulty(0))
    assert bench.reason(ends.syn(options=ODD)) == "cookie_sent"
    assert bench.reason(ends.syn(options=NOP + NOP + timestamps(5))) == "cookie_sent"
    assert bench.engine.work()["loop_failed"] == 0


@FAMILIES
def test_frame_that_cannot_be_resized_is_dropped_as_it_came(ends: Ends) -> None:
    """No room for the options, or for what data left behind: dropped, told, counted."""
    bench = Bench(Slot(settings=Tcp()), on=faulty(RESIZE))
    for options, data in ((NOP + NOP + timestamps(5), b""), (linux(), b"x" * 100)):
        frame = ends.syn(options=options, data=data).frame()
        assert told(bench, frame) == ("DROP", "no_room", True)
    assert bench.engine.work()["resize_failed"] == 2


@FAMILIES
def test_answer_that_fits_needs_no_resizing(ends: Ends) -> None:
    """The layouts of nearly all clients are written in place."""
    bench = Bench(Slot(settings=Tcp()), on=faulty(RESIZE))
    assert bench.reason(ends.syn(options=linux())) == "cookie_sent"
    assert bench.reason(ends.syn(options=mss(1460))) == "cookie_sent"


@FAMILIES
def test_reset_that_cannot_be_resized_is_dropped(ends: Ends) -> None:
    """But the client has proven itself all the same."""
    bench = Bench(Slot(settings=Tcp(mode="reset")), on=faulty(RESIZE))
    frame = bench.ack(ends.syn(), data=b"x" * 100).frame()
    assert told(bench, frame) == ("DROP", "no_room", True)
    assert told(bench, ends.syn(sport=5).frame()) == ("PASS", "proven_syn", True)


@FAMILIES
def test_sample_that_finds_no_room_is_counted_as_lost(ends: Ends) -> None:
    """The verdict does not depend on it."""
    bench = Bench(Slot(settings=Tcp()), on=faulty(SAMPLE))
    bench.engine.control_set(sample_every=1)
    try:
        for flags in (SYN, ACK):
            bench.run(ends.syn(flags=flags, options=linux()))
    finally:
        bench.engine.control_set(sample_every=0)
    work = bench.engine.work()
    assert (work["samples"], work["samples_lost"]) == (0, 2)


@FAMILIES
def test_options_that_cannot_be_read_cost_only_the_options(ends: Ends) -> None:
    """The answer offers an MSS alone, with the cookie of the smallest: the server takes it."""
    bench = Bench(Slot(settings=Tcp()), on=faulty(LOOP))
    outcome = bench.engine.run(ends.syn(options=ODD).frame())
    assert (outcome.verdict, outcome.reason) == ("TX", "cookie_sent")
    start = 34 if ends.family == 4 else 54
    number = int.from_bytes(outcome.frame[start + 4 : start + 8], "big")
    assert number == bench.cookie(ends.syn(), index=0)
    own = mss(1460 if ends.family == 4 else 1440)
    assert outcome.frame[start + 20 :] == own + bytes(len(ODD) - 4)
    assert bench.engine.work()["loop_failed"] == 1


@FAMILIES
def test_common_layouts_need_no_loop(ends: Ends) -> None:
    """They are read by comparison."""
    bench = Bench(Slot(settings=Tcp()), on=faulty(LOOP))
    assert bench.reason(ends.syn(options=linux())) == "cookie_sent"
    assert bench.engine.work()["loop_failed"] == 0


@FAMILIES
def test_filter_that_cannot_be_walked_is_skipped(ends: Ends) -> None:
    """What stands behind it still judges."""
    bench = Bench(Slot(settings=[Rule(action="drop")]), Slot(settings=Tcp()), on=faulty(LOOP))
    assert told(bench, ends.syn(flags=ACK).frame()) == ("DROP", "cookie_bad", True)
    assert bench.engine.work()["loop_failed"] == 1


@FAMILIES
def test_engine_without_its_tallies_judges_on_and_keeps_no_flow(ends: Ends) -> None:
    """SYNs are answered and valid cookies pass; what would have to be counted is not entered."""
    bench = Bench(Slot(settings=Tcp(source=Rate(1_000_000_000, 0))), on=faulty(STATE))
    assert told(bench, ends.syn(flags=ACK).frame()) == ("DROP", "cookie_bad", True)
    assert bench.engine.run(ends.syn().frame()).reason == "cookie_sent"
    ack = bench.ack(ends.syn()).frame()
    for _ in range(2):
        assert told(bench, ack) == ("PASS", "cookie_good", True)
    assert flows(bench.engine) == {}
    assert not any(bench.engine.work().values())
