# SPDX-License-Identifier: Apache-2.0
"""The engine's pure parts: profiles, transactions, listings, counters, the recorded setting."""

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.config import NftablesEngine as Config
from hub.config import Service, TcpProfile
from hub.engines.nftables.inventory import read_gates, read_structure
from hub.engines.nftables.layout import GATES, base, gate_names
from hub.engines.nftables.mirror import Mirror, Piece, Wanted, whole_seconds
from hub.engines.nftables.profile import Profile, profile_of
from hub.engines.nftables.sysctl import LOOSE, STATE_KEY, Proc, TcpTracking
from hub.engines.nftables.telemetry import counted, synproxy
from hub.engines.nftables.upgrade import upgrade
from hub.engines.nftables.wanted import wanted
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.net import IPNetwork, overlap
from hub.rules.actions import Acl, AclRule, Action
from tests.support.nftables import DROP_ICMP, MemoryStore, acl, mitigation, sorb, tcp

GATE_NAMES = frozenset(gate_names())
V4, V6 = "192.0.2.10", "2001:db8:2::10"
WEB = Service(
    name="web",
    prefixes=(ip_network("192.0.2.0/24"),),
    tcp_ports=(443, 80),
    tcp=TcpProfile(mss=1400, wscale=9, sack=False),
)


def profile(action: Action, target: str = V4, service: Service | None = None) -> Profile:
    """Return what a mitigation leads to."""
    return wanted(mitigation(action, target, service=service), Config()).profile


def rules(made: Profile, suffix: str = "") -> list[list[dict[str, Any]]]:
    """Return the expressions of the rules in one chain of a profile."""
    bodies = [command["add"]["rule"] for command in made.create if "rule" in command["add"]]
    return [body["expr"] for body in bodies if body["chain"] == made.name + suffix]


def announced(made: Profile) -> list[Any]:
    """Return what the proxy of a profile announces, once for each of its statements."""
    return [one["synproxy"] for rule in rules(made, "_syn") for one in rule if "synproxy" in one]


def test_proxy_when_the_service_says_how_announces_that() -> None:
    """MSS, window scale and options are the service's, in the SYN-ACK and when it is proved."""
    expected = {"mss": 1400, "wscale": 9, "flags": ["timestamp"]}
    assert announced(profile(tcp(), V4, WEB)) == [expected] * 2


def test_proxy_when_the_target_is_ipv6_announces_an_mss_20_smaller() -> None:
    """The longer header must fit into the same frame."""
    assert [one["mss"] for one in announced(profile(tcp(), V6, WEB))] == [1380] * 2
    least = Service(name="least", prefixes=WEB.prefixes, tcp=TcpProfile(mss=536))
    assert [one["mss"] for one in announced(profile(tcp(), V6, least))] == [536] * 2


def test_proxy_when_there_is_no_service_covers_all_ports() -> None:
    """Without a service no rule looks at a port, with one the first does."""
    assert "dport" not in json.dumps(rules(profile(tcp()), "_syn"))
    first = rules(profile(tcp(), V4, WEB), "_syn")[0]
    assert first[0]["match"]["right"] == {"set": [80, 443]}
    assert first[1] == {"return": None}


def test_profiles_when_they_do_the_same_are_one() -> None:
    """Targets share a profile, unless it counts for each of them."""
    assert profile(DROP_ICMP, V4).name == profile(DROP_ICMP, "192.0.2.11").name
    limit = acl(AclRule(action="limit", pps="10"))
    assert profile(limit, V4).name != profile(limit, "192.0.2.11").name
    assert profile(sorb(), V4).name == profile(sorb(), "192.0.2.11").name
    assert profile(sorb(), V4).name != profile(sorb(), "192.0.2.0/24").name
    assert profile(sorb(pps=1), V4).name != profile(sorb(pps=2), V4).name
    assert profile(tcp(), V4, WEB).name != profile(tcp(), V4).name


def test_profile_when_it_has_several_parts_names_them_all_after_itself() -> None:
    """Chains and sets are recognised by their names alone."""
    for action in (tcp(), DROP_ICMP, sorb()):
        for target in (V4, V6):
            made = profile(action, target)
            assert {profile_of(name) for name in (*made.rules, *made.sets)} == {made.name}
    assert [profile_of(name) for name in ("manual", "tcp4_", "flt4_h0")] == [None] * 3


def test_filter_when_sources_overlap_names_each_address_once() -> None:
    """Nft refuses a set in which prefixes overlap."""
    sources = tuple(map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "2001:db8::/32")))
    (rule,) = rules(profile(acl(AclRule(action="drop", sources=sources))))
    expected = {"set": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, "192.0.2.1"]}
    assert rule[0]["match"]["right"] == expected


def test_filter_when_port_ranges_overlap_merges_them() -> None:
    """Neighbouring and overlapping ranges become one."""
    ports = ("80", "10-20", "15-30", "31", "80")
    (rule,) = rules(profile(acl(AclRule(action="drop", protocol="udp", destination_ports=ports))))
    assert rule[1]["match"]["right"] == {"set": [{"range": [10, 31]}, 80]}


def test_filter_when_no_source_is_of_the_target_s_family_is_refused() -> None:
    """A filter that can match nothing is a mistake."""
    action = acl(AclRule(action="drop", sources=(ip_network("10.0.0.0/8"),)))
    with pytest.raises(EnginePermanentError, match="can match IPv6"):
        profile(action, V6)
    both = Acl(rules=(*action.rules, AclRule(action="drop", protocol="udp")))
    made = profile(both, V6)
    assert len(rules(made)) == 1
    assert "left out" in made.steps[0]


def test_icmp_when_the_target_is_ipv6_means_icmpv6() -> None:
    """The same rule names the family's own protocol."""
    found = [rules(profile(DROP_ICMP, target))[0][0]["match"]["right"] for target in (V4, V6)]
    assert found == ["icmp", "ipv6-icmp"]


@pytest.mark.parametrize(("remaining", "seconds"), [(0.001, 1), (1.0, 1), (1.2, 2), (899.5, 900)])
def test_timeout_when_rounded_is_never_early(remaining: float, seconds: int) -> None:
    """The kernel ends it at the deadline or less than a second later."""
    assert whole_seconds(remaining) == seconds


WIDE = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32")
PREFIXES = st.sampled_from([ip_network(text) for text in (*WIDE, "10.1.2.3", "10.1.2.4", V6)])
ACTIONS = st.sampled_from((tcp(), DROP_ICMP, sorb()))
STEPS = st.lists(
    st.tuples(st.integers(1, 9), PREFIXES, ACTIONS, st.booleans()),
    max_size=40,
)


class Kernel:
    """Carries gate commands out as the kernel does, which refuses what overlaps or is missing."""

    def __init__(self) -> None:
        self.gates: dict[str, dict[str, str]] = {}
        self.targets: dict[str, IPNetwork] = {}

    def commit(self, commands: Sequence[dict[str, Any]]) -> None:
        """Carry commands out, in order."""
        for command in commands:
            (verb,) = command
            body = command[verb].get("element")
            if body is None or body["name"] not in GATE_NAMES:
                continue
            gate = self.gates.setdefault(body["name"], {})
            if verb == "delete":
                del gate[json.dumps(body["elem"][0])]
            else:
                value, _ = body["elem"][0]
                key = json.dumps(value["elem"]["val"])
                target = _network(value["elem"]["val"])
                assert not any(overlap(target, self.targets[other]) for other in gate)
                gate[key], self.targets[key] = value["elem"]["comment"], target


def _network(value: Any) -> IPNetwork:
    if isinstance(value, str):
        return ip_network(value)
    return ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}")


@given(STEPS)
def test_transactions_when_in_any_order_never_collide(steps: list[Any]) -> None:
    """No gate holds two elements that overlap, and each mitigation is there once or not at all."""
    mirror, kernel = Mirror("fnm_hub"), Kernel()
    live: dict[str, int] = {}
    for number, target, action, on in steps:
        row = mitigation(action, str(target), number)
        if on:
            one = wanted(row, Config())
            try:
                commands = mirror.apply(one, 0.0, 60)
            except EngineTemporaryError:
                continue
            live[row.id] = len(one.profile.gates)
        else:
            commands = mirror.release(row.id)
            live.pop(row.id, None)
        kernel.commit(commands)
        counts: dict[str, int] = {}
        for gate in kernel.gates.values():
            for name in gate.values():
                counts[name] = counts.get(name, 0) + 1
        assert counts == live
    kernel.commit(mirror.sweep())
    assert set(mirror.chains) == {
        chain
        for chain in mirror.chains
        if profile_of(chain)
        in {profile_of(piece.chain) for gate in mirror.gates.values() for piece in gate.values()}
    }


def test_element_when_near_its_end_is_in_doubt_before_it_is_forgotten() -> None:
    """Around the end the kernel is asked; long after it the mirror forgets by itself."""
    mirror = Mirror("fnm_hub")
    one: Wanted = wanted(mitigation(DROP_ICMP, V4), Config())
    mirror.apply(one, 100.0, 60)
    doubts = [mirror.doubtful(one.mitigation_id, None, now) for now in (100, 158, 162, 170)]
    assert doubts == [False, True, True, False]
    mirror.expire(162.0)
    assert mirror.protects("flt")
    mirror.expire(170.0)
    assert not mirror.protects("flt")
    assert mirror.places == {}


def listing(table: str = "fnm_hub") -> list[dict[str, Any]]:
    """Return what nft lists of a fresh table."""
    objects: list[dict[str, Any]] = [{"table": {"family": "inet", "name": table}}]
    for number, command in enumerate(base(table)):
        for kind, body in command["add"].items():
            if kind != "table":
                objects.append({kind: {**body, "handle": number}})
    return objects


def test_structure_when_fresh_is_whole_and_has_nothing_foreign() -> None:
    """What we install is recognised as ours; what is missing is noticed."""
    standing = read_structure(listing(), "fnm_hub")
    assert standing is not None
    assert (standing.whole, standing.foreign, standing.beside) == (True, (), ())
    for kind in ("rule", "map", "counter", "set"):
        objects = listing()
        objects.remove(next(one for one in objects if kind in one))
        damaged = read_structure(objects, "fnm_hub")
        assert damaged is not None
        assert not damaged.whole
    assert read_structure(listing("other"), "fnm_hub") is None


def test_upgrade_when_nothing_differs_makes_the_rules_anew_only() -> None:
    """Gates, sets and counters are kept, so everything live in them is."""
    commands = upgrade(listing(), base("fnm_hub"), "fnm_hub")
    assert {verb for command in commands for verb in command} == {"flush", "add"}
    assert {kind for command in commands for kind in command.get("add", {})} == {"table", "rule"}


@pytest.mark.parametrize(
    "element",
    [
        {"concat": ["a", "b"]},
        ["10.0.0.1", {"drop": None}],
        [{"elem": {"val": {"range": ["10.0.0.1", "10.0.0.9"]}, "timeout": 5}}, {"jump": {}}],
        [],
        7,
    ],
)
def test_gate_when_it_holds_something_strange_reports_it(element: object) -> None:
    """What cannot be ours is foreign, never a crash."""
    standing = read_structure(listing(), "fnm_hub")
    assert standing is not None
    objects = [{"map": {"name": gate_names()[0], "elem": [element]}}]
    mirror, foreign = read_gates(objects, "fnm_hub", standing, 0.0)
    assert (len(foreign), mirror.gates) == (1, {})


def test_gate_when_an_element_has_no_timeout_is_not_ours() -> None:
    """Everything that we install ends by itself; but its place is taken."""
    standing = read_structure(listing(), "fnm_hub")
    assert standing is not None
    element = [{"elem": {"val": V4, "comment": "m-0000000001"}}, {"jump": {"target": "x"}}]
    objects = [{"map": {"name": "flt4_h0", "elem": [element]}}]
    mirror, foreign = read_gates(objects, "fnm_hub", standing, 0.0)
    assert len(foreign) == 1
    target = ip_network(V4)
    assert mirror.gates == {"flt4_h0": {target: Piece("", target, "x", float("inf"))}}


def test_gates_when_counted_stay_few() -> None:
    """An inventory asks for each gate by itself, so there must not be many."""
    assert len(gate_names()) == 2 * sum(len(layers) for layers in GATES.values()) <= 40


def test_statistics_when_of_several_processors_are_added_up() -> None:
    """Columns are found by their names; numbers are hexadecimal."""
    text = (
        "entries\t\tsyn_received\tcookie_invalid\tcookie_valid\tcookie_retrans\tconn_reopened\n"
        "00000000\t00000010\t000000ff\t00000002\t00000000\t00000001\n"
        "00000000\t00000010\t00000001\t00000003\t00000004\t00000000\n"
    )
    assert synproxy(text) == {
        "tcp.cookie_invalid": 256,
        "tcp.cookie_valid": 5,
        "tcp.cookie_retransmits": 4,
        "tcp.reopened": 1,
    }
    assert synproxy("") == {}


def test_counters_when_named_are_told_by_stable_names() -> None:
    """Packets for all, bytes for what was dropped; what is missing is left out."""
    assert counted({"acl_dropped": (3, 120), "tcp_syn": (7, 420)}) == {
        "acl.dropped": 3,
        "acl.dropped_bytes": 120,
        "tcp.syn_packets": 7,
    }


class Files:
    """A kernel setting, and what was durable when it was changed."""

    def __init__(self, store: MemoryStore, value: str = "1") -> None:
        self._store, self.value = store, value
        self.recorded: str | None = None
        self.error: OSError | None = None

    async def read(self, path: str) -> str:
        """Return the setting."""
        assert path == LOOSE
        if self.error:
            raise self.error
        return f"{self.value}\n"

    async def write(self, path: str, text: str) -> None:
        """Change the setting."""
        assert path == LOOSE
        self.value, self.recorded = text, self._store.kept.get(STATE_KEY)


async def test_setting_when_changed_is_recorded_before() -> None:
    """A crash between the two leaves a record of an unchanged setting, never the reverse."""
    store = MemoryStore()
    files = Files(store)
    await TcpTracking(files, store, manage=True).hold()
    assert files.value == "0"
    assert files.recorded is not None
    assert '"was": "1"' in files.recorded


@pytest.mark.parametrize(
    ("kept", "value", "expected"),
    [
        ('{"net.netfilter.nf_conntrack_tcp_loose": {"was": "1", "set": "0"}}', "0", "1"),
        ('{"net.netfilter.nf_conntrack_tcp_loose": {"was": "1", "set": "0"}}', "2", "2"),
        ("{}", "0", "0"),
        ("not json", "0", "0"),
        ("[]", "0", "0"),
    ],
)
async def test_setting_when_restored_is_the_recorded_one(
    kept: str, value: str, expected: str
) -> None:
    """Only what we have changed and nobody else since; damage in the record changes nothing."""
    store = MemoryStore()
    store.kept[STATE_KEY] = kept
    files = Files(store, value)
    await TcpTracking(files, store, manage=True).restore()
    assert files.value == expected
    assert "was" not in store.kept[STATE_KEY]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file"), "load the kernel module"),
        (PermissionError(13, "Permission denied"), "CAP_NET_ADMIN"),
        (OSError(30, "Read-only file system"), "ProtectKernelTunables"),
    ],
)
async def test_setting_when_it_cannot_be_changed_says_what_to_do(
    error: OSError, words: str
) -> None:
    """Missing module, missing right and a read-only /proc are told apart."""
    store = MemoryStore()
    files = Files(store)
    files.error = error
    with pytest.raises(EnginePermanentError, match=words):
        await TcpTracking(files, store, manage=True).hold()
    assert store.kept == {}


async def test_proc_when_read_is_the_process_s_own() -> None:
    """The default files are those below /proc."""
    assert (await Proc().read("self/comm")).strip() != ""
