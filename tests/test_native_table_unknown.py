# SPDX-License-Identifier: Apache-2.0
"""Segments of no known flow: sightings, grace, buckets, the server's own connections, ICMP."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.bpf_bench import FAMILIES, MODES, V4, V6, Bench, Ends, bench_of
from tests.support.model_known import ceiling_place
from tests.support.model_scene import FOREVER, Rate, Slot, Tcp, per_second
from tests.support.packets import (
    ACK,
    FIN,
    ICMP,
    ICMP6,
    PSH,
    RST,
    SYN,
    URG,
    Segment,
    icmp,
    linux,
)


@FAMILIES
@MODES
def test_unknown_segments_are_dropped_without_a_reply(ends: Ends, mode: str) -> None:
    """ACK, data and FIN with no valid cookie; RST by itself."""
    bench = bench_of(mode=mode)
    for flags in (ACK, ACK | PSH, ACK | FIN, ACK | URG, PSH, FIN, URG, FIN | PSH):
        assert bench.reason(ends.syn(flags=flags, ack=5, data=b"x")) == "cookie_bad", flags
    for flags in (RST, RST | ACK, RST | PSH):
        assert bench.reason(ends.syn(flags=flags, ack=5)) == "rst_unknown", flags
    assert bench.reason(ends.syn(flags=RST, seq=0)) == "rst_unknown"


@FAMILIES
def test_segment_without_ack_is_judged_by_no_bucket(ends: Ends) -> None:
    """A valid number does not help it, nor do proof, grace and the bucket for unknown ones."""
    unlimited = Rate(1, FOREVER // 2)
    for until in (0, FOREVER):
        bench = bench_of(grace_until=until, grace=unlimited, unknown=unlimited)
        bench.run(bench.ack(ends.syn()))
        for flags in (FIN, PSH, URG | PSH):
            assert bench.reason(bench.ack(ends.syn(sport=9), flags=flags)) == "cookie_bad"


@FAMILIES
def test_grace_lets_unknown_segments_pass_within_its_bucket(ends: Ends) -> None:
    """Until its end; then the other bucket is asked."""
    bench = bench_of(
        grace_until=FOREVER, grace=per_second(1, burst=2), unknown=per_second(1, burst=1)
    )
    reasons = [bench.reason(ends.syn(sport=port, flags=ACK)) for port in (1, 2, 3)]
    assert reasons == ["grace", "grace", "cookie_bad"]
    bench = bench_of(grace_until=0, grace=per_second(1, burst=2), unknown=per_second(1, burst=1))
    reasons = [bench.reason(ends.syn(sport=port, flags=ACK)) for port in (1, 2)]
    assert reasons == ["unknown_ack", "cookie_bad"]


@FAMILIES
def test_grace_ends_at_its_time(ends: Ends) -> None:
    """The moment itself is after it."""
    now = bench_of().engine.now()
    for until, reason in ((now + 1000, "grace"), (now, "unknown_ack")):
        bench = bench_of(grace_until=until, grace=Rate(), unknown=per_second(1, burst=1))
        assert bench.reason(ends.syn(flags=ACK)) == reason


@FAMILIES
def test_no_rate_for_unknown_segments_lets_none_pass(ends: Ends) -> None:
    """Nothing configured is nothing allowed, unlike for the other buckets."""
    assert bench_of(unknown=Rate()).reason(ends.syn(flags=ACK)) == "cookie_bad"


AHEAD, BEHIND = 1 << 25, 1 << 20


def changed(segment: Segment, name: str, number: int) -> Segment:
    """Return a segment with another `ack` or `seq`."""
    fields: dict[str, Any] = {name: number}
    return replace(segment, **fields)


def learning() -> Bench:
    """Return a bench in grace time that lets two unknown segments pass."""
    return bench_of(grace_until=FOREVER, grace=per_second(1, burst=2))


@FAMILIES
@pytest.mark.parametrize("name", ["ack", "seq"])
def test_flow_whose_numbers_move_forward_survives_grace(ends: Ends, name: str) -> None:
    """Seen twice within the grace bucket, either number ahead: known afterwards as learned."""
    bench = learning()
    segment = ends.syn(flags=ACK, ack=1000, seq=1000)
    assert bench.reason(segment) == "grace"
    moved = changed(segment, name, 2000)
    assert bench.reason(moved) == "grace"
    assert bench.reason(replace(moved, ack=2500, seq=2500, data=b"more")) == "learned_flow"
    assert bench.reason(replace(moved, sport=1)) == "cookie_bad"


@FAMILIES
@pytest.mark.parametrize("name", ["ack", "seq"])
@pytest.mark.parametrize("second", [1000, 999, 1000 + (1 << 30), 1000 - (1 << 30)])
def test_flow_without_progress_is_not_learned(ends: Ends, name: str, second: int) -> None:
    """The same number, an older one, or one that no window holds."""
    bench = learning()
    segment = ends.syn(flags=ACK, ack=1000, seq=1000)
    again = changed(segment, name, second)
    reasons = [bench.reason(segment), bench.reason(again), bench.reason(again)]
    assert reasons == ["grace", "grace", "cookie_bad"]


@FAMILIES
def test_numbers_that_just_fit_are_progress(ends: Ends) -> None:
    """Almost a quarter of the numbers ahead is ahead."""
    bench = learning()
    segment = ends.syn(flags=ACK, ack=1000)
    moved = replace(segment, ack=1000 + (1 << 30) - 1)
    reasons = [bench.reason(one) for one in (segment, moved, moved)]
    assert reasons == ["grace", "grace", "learned_flow"]


@FAMILIES
@pytest.mark.parametrize("name", ["ack", "seq"])
@pytest.mark.parametrize(
    ("ahead", "reason"),
    [(0, "learned_flow"), (AHEAD, "learned_flow"), (AHEAD + 1, "cookie_bad"),
     (-BEHIND, "learned_flow"), (-BEHIND - 1, "cookie_bad"), (1 << 31, "cookie_bad")],
)  # fmt: skip
def test_learned_flow_must_fit_its_window(ends: Ends, name: str, ahead: int, reason: str) -> None:
    """32 MiB ahead, 1 MiB behind, in both numbers, over their wrap too."""
    for start in (1000, 0xFFFFFF00):
        bench = learning()
        segment = ends.syn(flags=ACK, ack=start, seq=start)
        bench.run(segment)
        moved = replace(segment, ack=start + 50, seq=start + 50)
        bench.run(moved)
        assert bench.reason(changed(moved, name, start + 50 + ahead)) == reason


@FAMILIES
@pytest.mark.parametrize("name", ["ack", "seq"])
def test_window_of_a_learned_flow_moves_only_forward(ends: Ends, name: str) -> None:
    """An old segment does not pull it back."""
    bench = learning()
    segment = ends.syn(flags=ACK, ack=0, seq=0)
    for number in (0, 50, AHEAD, AHEAD - BEHIND, 2 * AHEAD):
        bench.run(changed(segment, name, number))
    assert bench.reason(changed(segment, name, 3 * AHEAD)) == "learned_flow"
    assert bench.reason(changed(segment, name, 2 * AHEAD - 1)) == "cookie_bad"


@FAMILIES
def test_learned_flow_may_be_reset(ends: Ends) -> None:
    """With numbers in its window, with and without an acknowledgement."""
    bench = learning()
    segment = ends.syn(flags=ACK, ack=1000, seq=1000)
    bench.run(segment)
    bench.run(replace(segment, ack=2000))
    assert bench.reason(replace(segment, flags=RST, ack=1 << 31)) == "learned_flow"
    assert bench.reason(replace(segment, flags=RST | ACK, ack=2000)) == "learned_flow"
    for wrong in (
        replace(segment, flags=RST, seq=1001 + AHEAD),
        replace(segment, flags=RST | ACK, ack=1 << 31),
    ):
        assert bench.reason(wrong) == "rst_unknown"


# connections of the server itself, and ICMP


@FAMILIES
def test_syn_ack_to_the_servers_own_connection_passes(ends: Ends) -> None:
    """Within its bucket, as does what follows on that flow; its own progress proves nothing."""
    bench = bench_of(syn_ack_in=per_second(1, burst=3), grace_until=FOREVER, grace=Rate())
    reply = ends.syn(flags=SYN | ACK, ack=777, options=linux())
    assert bench.reason(reply) == "syn_ack_in"
    assert bench.reason(replace(reply, flags=ACK, ack=777, options=b"")) == "syn_ack_in"
    assert bench.reason(replace(reply, flags=ACK | PSH, ack=900, data=b"x")) == "syn_ack_in"
    assert bench.reason(replace(reply, flags=ACK, ack=901)) == "grace"
    assert bench.reason(replace(reply, flags=ACK, ack=902)) == "grace"
    assert bench.reason(replace(reply, sport=1)) == "syn_ack_limited"


@FAMILIES
def test_learned_flow_keeps_to_its_bucket(ends: Ends) -> None:
    """Whoever has let a flow be learned gains no more than its rate; RST counts as well."""
    bench = bench_of(
        grace_until=FOREVER, grace=per_second(1, burst=2), learned=per_second(1, burst=2)
    )
    segment = ends.syn(flags=ACK, ack=5, seq=1000)
    for seq in (1000, 2000):
        assert bench.reason(replace(segment, seq=seq)) == "grace"
    assert bench.reason(replace(segment, seq=3000)) == "learned_flow"
    assert bench.reason(replace(segment, flags=RST | ACK, seq=3000)) == "learned_flow"
    assert bench.reason(replace(segment, seq=4000)) == "cookie_bad"
    assert bench.reason(replace(segment, flags=RST | ACK, seq=4000)) == "rst_unknown"


@FAMILIES
def test_refusal_of_the_servers_own_connection_passes(ends: Ends) -> None:
    """RST with ACK and sequence number 0 answers a SYN; it shares the bucket of SYN-ACKs."""
    bench = bench_of(syn_ack_in=per_second(1, burst=1))
    refusal = ends.syn(flags=RST | ACK, seq=0, ack=777)
    assert bench.reason(replace(refusal, seq=1)) == "rst_unknown"
    assert bench.reason(refusal) == "syn_ack_in"
    assert bench.reason(refusal) == "syn_ack_limited"


ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}


@FAMILIES
def test_icmp_errors_pass_within_their_bucket(ends: Ends) -> None:
    """Path MTU discovery works; other messages are not the proxy's matter."""
    protocol = ICMP if ends.family == 4 else ICMP6
    for kind in range(256):
        bench = bench_of(icmp=per_second(1, burst=1))
        message = ends.ip(protocol, icmp(ends.client, ends.server, kind))
        wanted = ["icmp_error", "icmp_limited"]
        if kind not in ERRORS[ends.family]:
            wanted = ["not_concerned"] * 2
        assert [bench.reason(message), bench.reason(message)] == wanted, kind


def test_icmp_of_the_other_family_is_just_another_protocol() -> None:
    """ICMP in IPv6 and ICMPv6 in IPv4 mean nothing."""
    bench = bench_of(icmp=Rate(1, 0))
    assert bench.reason(V4.ip(ICMP6, bytes([3, 4, 0, 0]) * 2)) == "not_concerned"
    assert bench.reason(V6.ip(ICMP, bytes([3, 4, 0, 0]) * 2)) == "not_concerned"


# ceiling


@FAMILIES
def test_answers_to_one_prefix_have_a_ceiling(ends: Ends) -> None:
    """A /24 or /48 that is reflected at gets no more than that; others do; proven ones pass."""
    bench = bench_of(ceiling=per_second(1, burst=2))
    near = ends.client[:-1] + b"\x77"
    reasons = [
        bench.reason(ends.syn(source=source))
        for source in (ends.client, near, ends.client, ends.stranger)
    ]
    assert reasons == ["cookie_sent", "cookie_sent", "cookie_limited", "cookie_sent"]
    bench.run(bench.ack(ends.syn()))
    assert bench.reason(ends.syn(sport=3)) == "proven_syn"


@FAMILIES
def test_ceiling_is_that_of_the_prefix(ends: Ends) -> None:
    """To the bit: the edges of the /24 or /48 share it, what lies beside them does not."""
    width, bits = (4, 24) if ends.family == 4 else (16, 48)
    inside = ends.client[: bits // 8]
    last = int.from_bytes(inside, "big")
    sources = [inside.ljust(width, b"\1"), inside.ljust(width, b"\xfe")]
    beside = [(last ^ 1 << bit).to_bytes(bits // 8, "big") for bit in (0, 1, 7, 8)]
    bench = bench_of(ceiling=per_second(1, burst=1))
    reasons = [bench.reason(ends.syn(source=source)) for source in sources]
    assert reasons == ["cookie_sent", "cookie_limited"]
    for prefix in beside:
        source = prefix.ljust(width, b"\1")
        assert bench.reason(ends.syn(source=source)) == "cookie_sent"


@FAMILIES
def test_ceiling_is_kept_where_the_model_has_it(ends: Ends) -> None:
    """The hash is part of the model, since prefixes that share a place share a ceiling."""
    bench = bench_of(ceiling=per_second(1, burst=1))
    bench.run(ends.syn())
    memory = memoryview(bench.engine.object.maps["ceilings"].memory).cast("Q")
    used = [at for at, tat in enumerate(memory) if tat]
    memory.release()
    assert used == [ceiling_place(ends.client)]


# the slot's time


@FAMILIES
def test_expired_slot_is_as_good_as_absent(ends: Ends) -> None:
    """At its deadline and after it; the other slots of the target go on."""
    now = bench_of().engine.now()
    for deadline, reason in ((now + 5000, "cookie_sent"), (now, "unprotected"), (0, "unprotected")):
        bench = Bench(Slot(settings=Tcp(), deadline=deadline))
        outcome = bench.run(ends.syn())
        assert (outcome.reason, outcome.slot) == (reason, int(reason == "cookie_sent"))
    bench = Bench(Slot(settings=Tcp(), deadline=now), Slot(settings=Tcp()))
    assert bench.run(ends.syn()).slot == 2
