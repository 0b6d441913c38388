# SPDX-License-Identifier: Apache-2.0
"""What a probe proves, against SYN-ACKs that a model of the server makes from made-up secrets."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.engines.native.keys import SynAck
from hub.isn_sync.evidence import Finding, examine
from hub.isn_sync.exchange import Exchange
from hub.isn_sync.report import Report
from hub.isn_sync.segments import Reset, Syn, SynAckSegment
from tests.support import model_cookie
from tests.support.model_siphash import siphash

U32 = 2**32 - 1
V4 = ip_address("198.51.100.7"), ip_address("192.0.2.10")
V6 = ip_address("2001:db8:1::7"), ip_address("2001:db8:2::10")
BOTH = pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])
Scheme = Literal["flow", "host", "none"]


def made_up(name: str, size: int) -> bytes:
    """Return a secret."""
    return sha256(name.encode()).digest()[:size]


def words(key: bytes) -> tuple[int, int]:
    """Return a key as the model takes it."""
    first, second = struct.unpack("<QQ", key)
    return first, second


@dataclass(frozen=True)
class Server:
    """A server's kernel, as the model has it.

    `minutes_ms` and `clock_ms` are its clocks when it answers; `delay` seconds pass in all between
    our SYN and its answer here.
    """

    cookie: bytes = made_up("cookie", 32)
    cookie6: bytes = made_up("cookie6", 32)
    net: bytes = made_up("net", 16)
    ts: bytes = made_up("ts", 16)
    scheme: Scheme = "flow"
    minutes_ms: int = 71_583 * 60_000 + 20_000
    clock_ms: int = 5_123_456
    utc_ns: int = 1_764_140_000_123_000_000
    sack: bool = True
    timestamps: bool = True
    scaling: bool = True
    ecn: bool = True
    engaged: bool = True
    clamp: int = 65535
    delay: float = 0.02

    def answer(self, syn: Syn) -> SynAckSegment:
        """Return the SYN-ACK of net/ipv4/tcp_input.c to a SYN."""
        kept = self.timestamps or not self.engaged
        sack, ecn = self.sack and kept, self.ecn and syn.ecn and kept
        wscale = 9 if self.scaling and kept else None
        source, target = syn.source.packed, syn.target.packed
        ports = struct.pack("!HH", syn.sport, syn.dport)
        tsval = None
        if self.timestamps:
            tsval = self.clock_ms
            if self.engaged:
                tsval = model_cookie.cookie_timestamp(
                    self.clock_ms, scale=None if wscale is None else syn.wscale, sack=sack, ecn=ecn
                )
            tsval = tsval + self.offset(source, target, ports) & U32
        table = model_cookie.MSS4 if len(source) == 4 else model_cookie.MSS6
        secret = self.cookie if len(source) == 4 else self.cookie6
        if self.engaged:
            seq = model_cookie.cookie(
                (words(secret[:16]), words(secret[16:])),
                source,
                target,
                ports,
                client_seq=syn.seq,
                count=self.minutes_ms // 60_000,
                index=model_cookie.mss_index(table, min(self.clamp, syn.mss)),
            )
        else:
            swapped = ports[2:] + ports[:2]
            if len(source) == 4:
                # dport << 16 | sport of raw words: little-endian, the low one comes first.
                swapped = ports
            seq = siphash(words(self.net), target + source + swapped) + (self.utc_ns >> 6) & U32
        return SynAckSegment(
            seq=seq,
            ack=syn.seq + 1,
            window=65160,
            mss=1460 if len(source) == 4 else 1440,
            wscale=wscale,
            sack=sack,
            tsval=tsval,
            tsecr=None if tsval is None else syn.tsval,
            ecn=ecn,
            ttl=63,
        )

    def offset(self, source: bytes, target: bytes, ports: bytes) -> int:
        """Return the offset of its timestamps."""
        match self.scheme:
            case "flow":
                return model_cookie.timestamp_offset(words(self.net), source, target, ports)
            case "host":
                return model_cookie.timestamp_offset_host(words(self.ts), source, target)
            case "none":
                return 0

    def report(self, **changes: Any) -> Report:
        """Return what its agent tells, except for `changes`."""
        told = Report(
            kind="fnm-agent",
            cookie=self.cookie,
            cookie6=self.cookie6,
            net=self.net,
            ts=None if self.scheme == "flow" else self.ts,
            jiffies=self.minutes_ms // 4,
            hz=250,
            cookie_ms=self.minutes_ms,
            timestamp_ms=self.clock_ms,
            utc_ms=self.utc_ns // 1_000_000,
            ecn=2,
            sack=int(self.sack),
            timestamps=int(self.timestamps),
            window_scaling=int(self.scaling),
            syncookies=2 if self.engaged else 1,
        )
        return replace(told, **changes)


SERVER = Server()


def syn(ends: Any = V4) -> Syn:
    """Return a SYN as the prober makes it."""
    mss = 1460 if ends[0].version == 4 else 1440
    source, target = ends
    return Syn(source, target, 40000, 443, 0xFFFF1234, 77, mss)


def look(
    server: Server = SERVER,
    ends: Any = V4,
    *,
    report: Report | None = None,
    change: Callable[[SynAckSegment], SynAckSegment] = lambda answer: answer,
    behind_ms: int = 15,
    **known: int | None,
) -> Finding:
    """Return the finding about a server whose clocks we take to be `behind_ms` behind."""
    asked = syn(ends)
    exchange = Exchange(asked, 100.0, 100.0 + server.delay, change(server.answer(asked)))
    clocks: dict[str, int | None] = {
        "cookie_ms": server.minutes_ms - behind_ms,
        "timestamp_ms": server.clock_ms - behind_ms,
    }
    return examine(report or server.report(), exchange, **(clocks | known))


@BOTH
@pytest.mark.parametrize("scheme", ["flow", "host", "none"])
@pytest.mark.parametrize("ecn", [True, False])
@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("sack", [True, False])
def test_examine_when_all_is_right_then_match(
    ends: Any, scheme: Scheme, *, ecn: bool, scaling: bool, sack: bool
) -> None:
    """Both families, every scheme and every set of options: a match, and what it teaches."""
    server = replace(SERVER, scheme=scheme, ecn=ecn, scaling=scaling, sack=sack)
    finding = look(server, ends)
    assert (finding.verdict, finding.why, finding.scheme) == ("match", "", scheme)
    assert finding.count == 71_583
    assert finding.syn_ack == SynAck(
        mss4=1460,
        mss6=1440,
        window=65160,
        wscale=9 if scaling else None,
        ttl=62,
        sack=sack,
        ecn=ecn,
    )
    assert finding.cookie_floor_ms == 71_583 * 60_000
    assert finding.cookie_ceil_ms == 71_583 * 60_000 + 59_999 + 21
    floor, ceil = finding.timestamp_floor_ms, finding.timestamp_ceil_ms
    assert floor is not None
    assert ceil is not None
    assert floor <= server.clock_ms < floor + 64
    assert ceil == floor + 63 + 21


@BOTH
def test_examine_when_server_has_no_timestamps_then_match_without_options(ends: Any) -> None:
    """A cookie without timestamps keeps no options: their absence contradicts nothing."""
    finding = look(replace(SERVER, timestamps=False), ends)
    assert (finding.verdict, finding.scheme, finding.timestamp_floor_ms) == ("match", "none", None)
    assert finding.syn_ack is not None
    shown = finding.syn_ack
    assert (shown.timestamps, shown.sack, shown.wscale, shown.ecn) == (False, False, None, False)


@BOTH
@pytest.mark.parametrize("minutes", [*range(-10, 11), -11, 11, 256, -256])
def test_examine_when_clock_is_off_by_minutes_then_found_within_ten(
    ends: Any, minutes: int
) -> None:
    """The cookie tells the server's minute, and the finding what the clock must be."""
    server = replace(SERVER, minutes_ms=SERVER.minutes_ms + minutes * 60_000)
    report = server.report(cookie_ms=SERVER.minutes_ms)
    finding = look(server, ends, report=report, cookie_ms=SERVER.minutes_ms)
    if abs(minutes) > 10:
        assert (finding.verdict, finding.count) == ("mismatch", None)
        return
    assert (finding.verdict, finding.count) == ("match", 71_583 + minutes)
    assert finding.cookie_floor_ms == (71_583 + minutes) * 60_000
    off = f"{minutes:+d} min from where it was thought"
    assert (off in finding.why) == (abs(minutes) > 1)


@pytest.mark.parametrize(("into", "count"), [(0, 71_584), (-1, 71_583), (59_999, 71_584)])
def test_examine_when_minute_changes_then_the_right_one(into: int, count: int) -> None:
    """At both edges of a minute the count is that of the server, whatever we thought."""
    server = replace(SERVER, minutes_ms=71_584 * 60_000 + into)
    for behind in (0, 15, 2000):
        finding = look(server, behind_ms=min(behind, 900), cookie_ms=server.minutes_ms - behind)
        assert (finding.verdict, finding.count, finding.why) == ("match", count, "")


@given(
    start=st.integers(0, 2**40),
    clock=st.integers(0, 2**34),
    behind=st.integers(0, 900),
    delay=st.floats(0, 0.9),
    scheme=st.sampled_from(("flow", "host", "none")),
    six=st.booleans(),
)
def test_examine_when_any_clock_then_match_and_bounds_hold(
    *, start: int, clock: int, behind: int, delay: float, scheme: Scheme, six: bool
) -> None:
    """At any moment, also across 32 bits: a match, and the clocks lie within the bounds told."""
    server = replace(
        SERVER, minutes_ms=start + 1000, clock_ms=clock + 1000, scheme=scheme, delay=delay
    )
    finding = look(server, V6 if six else V4, behind_ms=behind)
    assert finding.verdict == "match"
    assert finding.cookie_floor_ms is not None
    assert finding.cookie_ceil_ms is not None
    assert finding.timestamp_floor_ms is not None
    assert finding.timestamp_ceil_ms is not None
    # The server answered at some time in between: its clocks may have gone on for all of it.
    for passed in (0, int(delay * 1000)):
        assert finding.cookie_floor_ms <= server.minutes_ms + passed <= finding.cookie_ceil_ms
        assert finding.timestamp_floor_ms <= server.clock_ms + passed <= finding.timestamp_ceil_ms


def test_examine_when_hz_is_not_known_then_found_by_the_cookie() -> None:
    """An agent may tell jiffies without HZ; the first probe tells the minute all the same."""
    for hz in (100, 250, 300, 1000):
        # jiffies begin 300 s before their 32 bits are over, whatever HZ is.
        jiffies = 2**32 - 300 * hz + 5_000 * hz
        server = replace(SERVER, minutes_ms=jiffies * 1000 // hz)
        report = server.report(jiffies=jiffies, hz=None, cookie_ms=None)
        finding = look(server, report=report, cookie_ms=None)
        assert (finding.verdict, finding.count) == ("match", jiffies // (60 * hz))


@BOTH
@pytest.mark.parametrize("scheme", ["flow", "host", "none"])
@pytest.mark.parametrize("error_s", [-9, -1, 0, 1, 9, 150, -240])
def test_examine_when_the_module_counts_by_utc_then_match(
    ends: Any, scheme: Scheme, error_s: int
) -> None:
    """isn_sync: minutes of UTC, timestamps 5 s ahead of it; our clocks may be off by minutes."""
    utc_ms = 1_764_140_000_123
    server = replace(
        SERVER, scheme=scheme, minutes_ms=utc_ms, clock_ms=utc_ms + 5000 - 37, utc_ns=utc_ms * 10**6
    )
    report = server.report(
        kind="isn_sync",
        cookie_clock="utc",
        jiffies=None,
        hz=None,
        cookie_ms=None,
        timestamp_ms=None,
        syncookies=None,
        utc_ms=utc_ms + error_s * 1000,
        utc_step_ms=1000,
    )
    finding = look(
        server, ends, report=report, cookie_ms=utc_ms + error_s * 1000, timestamp_ms=None
    )
    assert (finding.verdict, finding.scheme, finding.count) == ("match", scheme, utc_ms // 60_000)
    assert finding.timestamp_floor_ms is not None
    assert 0 <= server.clock_ms - finding.timestamp_floor_ms < 64


# ---- mismatch ---------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("bit", range(32))
def test_examine_when_one_bit_of_the_cookie_differs_then_no_match(ends: Any, bit: int) -> None:
    """All 32 bits count: no change of a single one is still the server's own cookie."""
    finding = look(ends=ends, change=lambda answer: replace(answer, seq=answer.seq ^ 1 << bit))
    assert finding.verdict == "mismatch"
    assert finding.syn_ack is not None


@BOTH
@pytest.mark.parametrize("name", ["cookie", "cookie6"])
def test_examine_when_secrets_are_of_another_machine_then_mismatch(ends: Any, name: str) -> None:
    """Each family's own secret counts, and only that."""
    finding = look(ends=ends, report=SERVER.report(**{name: made_up("other", 32)}))
    wrong = (name == "cookie") == (ends == V4)
    assert finding.verdict == ("mismatch" if wrong else "match")
    if wrong:
        assert "no cookie of these secrets" in finding.why
        assert finding.count is None


@pytest.mark.parametrize("half", [0, 16])
def test_examine_when_half_a_secret_differs_then_mismatch(half: int) -> None:
    """Both keys of the secret are needed."""
    other = bytearray(SERVER.cookie)
    other[half] ^= 1
    assert look(report=SERVER.report(cookie=bytes(other))).verdict == "mismatch"


@BOTH
def test_examine_when_mss_is_changed_on_the_way_then_mismatch(ends: Any) -> None:
    """The cookie tells what the server was asked for."""
    finding = look(replace(SERVER, clamp=1430), ends)
    assert finding.verdict == "mismatch"
    sizes = ("1300", "1460") if ends == V4 else ("1420", "1440")
    assert f"segments of {sizes[0]}, of {sizes[1]} was asked" in finding.why
    assert finding.count == 71_583


@pytest.mark.parametrize("bit", range(6))
def test_examine_when_the_timestamp_hides_other_options_then_mismatch(bit: int) -> None:
    """The low six bits must be the options that the SYN-ACK shows."""
    finding = look(
        change=lambda answer: replace(
            answer, tsval=((answer.tsval or 0) - offset() ^ 1 << bit) + offset() & U32
        )
    )
    assert finding.verdict == "mismatch"
    assert "carries the options" in finding.why
    assert (finding.scheme, finding.count) == ("flow", 71_583)


def offset() -> int:
    """Return the offset towards `syn()`."""
    asked = syn()
    return SERVER.offset(asked.source.packed, asked.target.packed, struct.pack("!HH", 40000, 443))


@pytest.mark.parametrize(
    ("wrong_ms", "verdict"),
    [(-1100, "mismatch"), (-900, "match"), (0, "match"), (1900, "match"), (2100, "mismatch")],
)
def test_examine_when_timestamp_clock_differs_then_only_a_little(
    wrong_ms: int, verdict: str
) -> None:
    """The timestamp must follow from the clock that the agent tells, within -1 s and +2 s."""
    server = replace(SERVER, clock_ms=5_123_456 | 0x3F)
    finding = look(server, timestamp_ms=server.clock_ms - wrong_ms)
    assert finding.verdict == verdict
    if verdict == "mismatch":
        assert "the cookie is right, its timestamp is not" in finding.why


def test_examine_when_the_answer_was_slow_then_its_delay_is_allowed_for() -> None:
    """What was stamped a second ago is a second old, and no mismatch."""
    server = replace(SERVER, delay=0.95)
    finding = look(server, timestamp_ms=server.clock_ms + 950, cookie_ms=server.minutes_ms + 950)
    assert finding.verdict == "match"


@pytest.mark.parametrize(
    ("scheme", "changes", "verdict"),
    [
        ("flow", {"net": made_up("other", 16)}, "mismatch"),
        ("host", {"ts": made_up("other", 16)}, "mismatch"),
        ("host", {"ts": None}, "mismatch"),
        ("host", {"net": None}, "match"),
        ("none", {"net": None, "ts": None}, "match"),
        ("flow", {"net": None}, "no_keys"),
    ],
)
def test_examine_when_timestamp_secret_is_wrong_or_missing_then_told_apart(
    scheme: Scheme, changes: dict[str, bytes | None], verdict: str
) -> None:
    """A wrong secret is a mismatch; a missing one that may explain it is not."""
    server = replace(SERVER, scheme=scheme)
    finding = look(server, report=server.report(**changes))
    assert finding.verdict == verdict
    assert (finding.why == "") == (verdict == "match")


@pytest.mark.parametrize(
    ("settings", "answered", "words"),
    [
        ({"sack": 1}, {"sack": False}, "has no SACK although tcp_sack is 1"),
        ({"sack": 0}, {}, "offers SACK although tcp_sack is 0"),
        ({"window_scaling": 1}, {"wscale": None}, "has no window scaling although"),
        ({"window_scaling": 0}, {}, "offers window scaling although"),
        ({"timestamps": 0}, {}, "offers timestamps although tcp_timestamps is 0"),
        (
            {"timestamps": 1},
            {"tsval": None, "sack": False, "wscale": None, "ecn": False},
            "has no timestamps although tcp_timestamps is 1",
        ),
    ],
)
def test_examine_when_settings_contradict_options_then_mismatch(
    settings: dict[str, int], answered: dict[str, Any], words: str
) -> None:
    """What the SYN-ACK shows must be what the server says of itself."""
    finding = look(
        report=SERVER.report(**settings), change=lambda answer: replace(answer, **answered)
    )
    assert finding.verdict == "mismatch"
    assert words in finding.why
    assert " and its SYN-ACK" not in finding.why


def test_examine_when_settings_are_not_told_then_no_contradiction() -> None:
    """Agents that tell no settings are believed by evidence alone."""
    quiet = {"sack": None, "timestamps": None, "window_scaling": None, "ecn": None}
    assert look(report=SERVER.report(**quiet, syncookies=None)).verdict == "match"


# ---- no cookie, no keys, no answer ------------------------------------------------------

PLAIN = replace(SERVER, engaged=False)


@BOTH
@pytest.mark.parametrize("scheme", ["flow", "host", "none"])
def test_examine_when_server_is_not_engaged_then_no_cookie_and_options(
    ends: Any, scheme: Scheme
) -> None:
    """A plain sequence number teaches the options and the clock."""
    server = replace(PLAIN, scheme=scheme)
    finding = look(server, ends)
    assert finding.verdict == "no_cookie"
    assert finding.why == "the server answers without a cookie: tcp_syncookies is not 2 there"
    assert finding.syn_ack is not None
    assert finding.syn_ack.wscale == 9
    assert (finding.scheme, finding.count) == (scheme, None)
    assert finding.timestamp_floor_ms == server.clock_ms
    assert finding.timestamp_ceil_ms == server.clock_ms + 21


@BOTH
def test_examine_when_listener_is_in_a_container_then_no_cookie_and_a_hint(ends: Any) -> None:
    """The host says 2, the listener sends a sequence number that follows from the host's secret."""
    finding = look(PLAIN, ends, report=PLAIN.report(syncookies=2))
    assert finding.verdict == "no_cookie"
    assert "container" in finding.why


@BOTH
def test_examine_when_number_is_neither_cookie_nor_plain_then_mismatch(ends: Any) -> None:
    """Engaged by its own word, and the number follows from no secret: somebody else answers."""
    finding = look(PLAIN, ends, report=PLAIN.report(syncookies=2, utc_ms=1_764_140_077_000))
    assert finding.verdict == "mismatch"
    assert "another machine answers" in finding.why


@BOTH
@pytest.mark.parametrize("engaged", [True, False])
def test_examine_when_mode_is_not_told_then_judged_by_the_timestamp(
    ends: Any, *, engaged: bool
) -> None:
    """Other agents do not tell tcp_syncookies: a timestamp without options means no cookie."""
    server = replace(SERVER, engaged=engaged, clock_ms=5_123_456 & ~0x3F)
    report = server.report(syncookies=None, utc_ms=None, cookie=made_up("x", 32))
    report = replace(report, cookie6=report.cookie)
    assert look(server, ends, report=report).verdict == ("mismatch" if engaged else "no_cookie")


def test_examine_when_not_engaged_and_settings_contradict_then_said() -> None:
    """What would be a mismatch later is told before."""
    finding = look(PLAIN, report=PLAIN.report(sack=0))
    assert finding.verdict == "no_cookie"
    assert "offers SACK although tcp_sack is 0" in finding.why


@pytest.mark.parametrize(
    ("ends", "changes", "known", "words"),
    [
        (V4, {"cookie": None}, {}, "no syncookie_secret"),
        (V6, {"cookie6": None}, {}, "no syncookie6_secret"),
        (V4, {"cookie_ms": None, "jiffies": None}, {"cookie_ms": None}, "the minute"),
        (
            V4,
            {"cookie_clock": "utc", "utc_ms": None},
            {"cookie_ms": None},
            "the minute",
        ),
        (V4, {"timestamp_ms": None}, {"timestamp_ms": None}, "timestamp clock is not known"),
    ],
)
def test_examine_when_something_is_missing_then_no_keys_and_what_to_do(
    ends: Any, changes: dict[str, Any], known: dict[str, Any], words: str
) -> None:
    """What lacks is named; the options are learned all the same."""
    finding = look(ends=ends, report=SERVER.report(**changes), **known)
    assert finding.verdict == "no_keys"
    assert words in finding.why
    assert ";" in finding.why
    assert finding.syn_ack is not None


def test_examine_when_our_timestamp_clock_is_stale_then_the_agents_word_is_taken() -> None:
    """After minutes without news the last report still tells enough to begin again."""
    server = replace(SERVER, clock_ms=SERVER.clock_ms + 400_000)
    report = server.report(timestamp_ms=SERVER.clock_ms)
    finding = look(server, report=report, timestamp_ms=None)
    assert (finding.verdict, finding.scheme) == ("match", "flow")
    assert finding.timestamp_floor_ms is not None
    assert 0 <= server.clock_ms - finding.timestamp_floor_ms < 64


@pytest.mark.parametrize(("reply", "verdict"), [(None, "silent"), (Reset(1, 2, 64), "closed")])
def test_examine_when_there_is_no_syn_ack_then_said(reply: Reset | None, verdict: str) -> None:
    """Silence and RST need no keys, and teach nothing."""
    exchange = Exchange(syn(), 1.0, 2.0, reply)
    bare = Report(kind="isn_sync")
    finding = examine(bare, exchange, cookie_ms=None, timestamp_ms=None)
    assert finding == Finding(verdict, finding.why)  # type: ignore[arg-type]
    assert finding.why


@pytest.mark.parametrize(("ttl", "shown"), [(64, 63), (1, 1), (0, 1), (255, 254)])
def test_examine_when_ttl_differs_then_one_hop_less_and_never_zero(ttl: int, shown: int) -> None:
    """A client must see the number of hops that the server's own answer would have had left."""
    finding = look(change=lambda answer: replace(answer, ttl=ttl))
    assert finding.syn_ack is not None
    assert finding.syn_ack.ttl == shown


@BOTH
def test_examine_when_mss_is_shown_then_learned_for_its_family(ends: Any) -> None:
    """The other family keeps its default, and so does one without the option."""
    finding = look(ends=ends, change=lambda answer: replace(answer, mss=1400))
    assert finding.syn_ack is not None
    shown = finding.syn_ack.mss4, finding.syn_ack.mss6
    assert shown == ((1400, 1440) if ends == V4 else (1460, 1400))
    finding = look(ends=ends, change=lambda answer: replace(answer, mss=None))
    assert finding.syn_ack is not None
    assert (finding.syn_ack.mss4, finding.syn_ack.mss6) == (1460, 1440)


def test_finding_when_shown_then_no_secret() -> None:
    """A finding may go to the log."""
    shown = repr(look()) + repr(look(report=SERVER.report(cookie=made_up("other", 32))))
    for secret in (SERVER.cookie, SERVER.net, made_up("other", 32)):
        assert secret.hex() not in shown
        assert repr(secret)[2:10] not in shown


@given(
    st.builds(
        SynAckSegment,
        seq=st.integers(0, U32),
        ack=st.integers(0, U32),
        window=st.integers(0, 65535),
        mss=st.none() | st.integers(1, 65535),
        wscale=st.none() | st.integers(0, 14),
        sack=st.booleans(),
        tsval=st.none() | st.integers(0, U32),
        tsecr=st.none(),
        ecn=st.booleans(),
        ttl=st.integers(0, 255),
    ),
    st.sampled_from((0, 1, 2, None)),
    st.sampled_from(("jiffies", "utc")),
)
def test_examine_when_answer_is_made_up_then_never_a_match(
    answer: SynAckSegment, mode: int | None, clock: Literal["jiffies", "utc"]
) -> None:
    """No forged answer passes, and none raises an error."""
    finding = look(
        report=SERVER.report(syncookies=mode, cookie_clock=clock), change=lambda _: answer
    )
    assert finding.verdict in {"mismatch", "no_cookie"}
