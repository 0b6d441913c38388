# SPDX-License-Identifier: Apache-2.0
"""The native engine's pure parts: requests, answers, secrets, and which engine is chosen."""

import json
import socket
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from hub.cli.main import main
from hub.config import Config, Engines, NativeEngine, NftablesEngine, Service, TcpProfile
from hub.engines.native.answers import in_force, measured, rates_of
from hub.engines.native.keys import Secrets, ServerClock, ServerKeys, Standing, SynAck
from hub.engines.native.translate import LONGEST_MS, Request, request, watch
from hub.engines.nftables.wanted import wanted
from hub.errors import ConfigError, EnginePermanentError, EngineTemporaryError
from hub.pipeline.events import take_sighting
from hub.rules.actions import Acl, AclRule, Action, Sorb, Tcp
from hub.rules.load import load_rules
from hub.rules.words import known_of
from tests.support.core import HIDING, config, rule_set, sighting, state
from tests.support.engines import mitigation

NOW = 1000.0
NATIVE = NativeEngine(enabled=True)
SECRET = "5a" * 32
WEB = Service(name="web", prefixes=(ip_network("192.0.2.0/24"),), tcp_ports=(80, 443))


KEYS = ServerKeys(
    Secrets(bytes.fromhex(SECRET), None, bytes(range(16)), "flow"),
    SynAck(ttl=63),
    ServerClock(1, 2, 3),
)
NONE = Standing(why="no agent answers for it")


def asked(action: Action, keys: ServerKeys | None = None, **changes: Any) -> Request:
    """Return the request for `action`."""
    standing = Standing(keys) if keys else NONE
    return request(mitigation(action, **changes), NATIVE, standing, NOW)


def lines(*rules: AclRule, target: str = "192.0.2.7/32") -> list[dict[str, Any]]:
    """Return the filter lines that synproxyd is asked for."""
    made = asked(Acl(rules=rules), target=ip_network(target))
    found: list[dict[str, Any]] = made.fields["acl"]["rules"]
    return found


def test_tcp_when_no_keys_are_known_then_splice_on_the_services_ports() -> None:
    """`auto` falls back to what works with any server; revision and deadline are the ledger's."""
    made = asked(Tcp(), service=WEB)
    assert made.fields["tcp"]["mode"] == "splice"
    assert made.fields["tcp"]["ports"] == [80, 443]
    assert made.fields["tcp"]["ceiling_pps"] == 100_000
    assert made.fields["tcp"]["grace"] == {"for_ms": 60_000, "pps": 20_000}
    assert (made.fields["revision"], made.fields["expires_ms"]) == (3, 900_000)
    assert not {"profile", "keys", "clock"} & made.fields["tcp"].keys()


def test_tcp_when_keys_are_known_then_isn_sync_with_them() -> None:
    """All that synproxyd needs to make the server's own cookies."""
    body = asked(Tcp(), KEYS, service=WEB).fields["tcp"]
    assert body["mode"] == "isn-sync"
    assert body["keys"] == {
        "cookie": SECRET,
        "timestamp": bytes(range(16)).hex(),
        "timestamp_scheme": "flow",
    }
    assert body["clock"] == {"monotonic_ms": 1, "cookie_ms": 2, "timestamp_ms": 3}
    assert body["profile"]["ttl"] == 63


def test_tcp_when_reset_is_asked_for_then_no_key_is_looked_up() -> None:
    """The mode that a rule names is the mode."""
    assert asked(Tcp(mode="reset"), KEYS, service=WEB).fields["tcp"]["mode"] == "reset"


def test_tcp_when_isn_sync_is_asked_for_and_no_key_is_known_then_its_fallback() -> None:
    """It is not silently something else: the steps say why; with `pass` it comes later."""
    for fallback in ("splice", "reset"):
        made = asked(Tcp.model_validate({"mode": "isn-sync", "fallback": fallback}))
        assert made.fields["tcp"]["mode"] == fallback
        assert "not by isn-sync: no agent answers for it" in made.steps
    with pytest.raises(EngineTemporaryError, match="isn-sync is not possible now: no agent"):
        asked(Tcp(mode="isn-sync", fallback="pass"))


def test_tcp_when_a_server_takes_no_window_scaling_then_none_is_announced() -> None:
    """What synproxyd is not told it does not offer."""
    keys = replace(KEYS, syn_ack=SynAck(wscale=None))
    assert "wscale" not in asked(Tcp(), keys).fields["tcp"]["profile"]


def test_clock_when_compared_then_only_what_drifts_apart_counts() -> None:
    """The same clock at a later moment has not drifted."""
    clock = ServerClock(1000, 5000, 7000)
    assert not clock.drifted(ServerClock(3000, 7100, 9010), 200, 16)
    assert clock.drifted(ServerClock(3000, 7201, 9000), 200, 16)
    assert clock.drifted(ServerClock(3000, 7000, 8983), 200, 16)


def test_tcp_when_the_kernels_proxy_is_asked_for_then_never() -> None:
    """Mode `kernel` is nftables' alone."""
    with pytest.raises(EnginePermanentError, match=r"cannot do tcp\.kernel"):
        asked(Tcp(mode="kernel"))


def test_secrets_when_shown_then_hidden() -> None:
    """No repr, no text and no plan shows a key."""
    made = asked(Tcp(), KEYS, service=WEB)
    for shown in (repr(KEYS), str(KEYS), f"{KEYS}", repr(made), str(made), " ".join(made.steps)):
        assert SECRET not in shown
        assert bytes.fromhex(SECRET).decode("latin-1")[:6] not in shown
        assert repr(bytes(range(16)))[2:-1] not in shown


def test_lifetime_when_longer_than_synproxyd_allows_then_cut() -> None:
    """The reconciler puts it in force again when the lease is over."""
    assert asked(Sorb(), deadline=NOW + 9e6).fields["expires_ms"] == LONGEST_MS


def test_sorb_when_bits_are_limited_then_both_or_either() -> None:
    """At least one threshold."""
    assert asked(Sorb()).fields["sorb"] == {"pps": 100, "block_ms": 600_000}
    assert asked(Sorb(bps=8_000_000)).fields["sorb"] == {"bps": 8_000_000, "block_ms": 600_000}
    both = asked(Sorb(pps=5, bps=10_000)).fields["sorb"]
    assert both == {"pps": 5, "bps": 10_000, "block_ms": 600_000}


def test_acl_when_every_field_is_given_then_each_is_asked_for() -> None:
    """Field by field; an absent one is left out."""
    (line,) = lines(
        AclRule(
            action="limit",
            protocol="tcp",
            sources=(ip_network("198.51.100.0/24"),),
            source_ports=("53", "1024-65535"),
            destination_ports=("80",),
            fragments=False,
            length="40-60",
            flags="syn,!ack",
            pps=100,
        )
    )
    assert line == {
        "action": "limit",
        "protocol": 6,
        "sources": ["198.51.100.0/24"],
        "source_ports": [[53, 53], [1024, 65535]],
        "destination_ports": [[80, 80]],
        "fragments": False,
        "length": [40, 60],
        "flags": {"mask": 18, "value": 2},
        "pps": 100,
    }
    assert lines(AclRule(action="pass")) == [{"action": "pass"}]


def test_acl_when_icmp_then_by_family_and_a_line_for_each_range() -> None:
    """ICMP is another protocol in IPv6."""
    rule = AclRule(action="drop", protocol="icmp", icmp_types=("8", "13-18"))
    assert lines(rule) == [
        {"action": "drop", "protocol": 1, "icmp_type": [8, 8]},
        {"action": "drop", "protocol": 1, "icmp_type": [13, 18]},
    ]
    assert lines(rule, target="2001:db8::7/128")[0]["protocol"] == 58


@pytest.mark.parametrize(
    ("target", "protocol", "kind", "code"),
    [("192.0.2.7/32", 1, [3, 3], [4, 4]), ("2001:db8::7/128", 58, [2, 2], [0, 0])],
)
def test_acl_when_it_drops_all_icmp_then_path_mtu_discovery_survives(
    target: str, protocol: int, kind: list[int], code: list[int]
) -> None:
    """A packet too big is told of up to a rate, once, before the line that drops the rest."""
    drop = AclRule(action="drop", protocol="icmp")
    first, second, third = lines(drop, drop, target=target)
    assert first == {
        "action": "limit",
        "protocol": protocol,
        "icmp_type": kind,
        "icmp_code": code,
        "pps": 1000,
    }
    assert second == third == {"action": "drop", "protocol": protocol}


def test_acl_when_sources_are_of_the_other_family_then_left_out_or_refused() -> None:
    """A line that cannot match must not match everything."""
    other = AclRule(action="drop", sources=(ip_network("2001:db8::/32"),))
    assert lines(other, AclRule(action="drop", protocol="udp")) == [
        {"action": "drop", "protocol": 17}
    ]
    with pytest.raises(EnginePermanentError, match="can match IPv4"):
        lines(other)


def test_watch_when_asked_for_then_it_enforces_nothing() -> None:
    """A watch learns on the service's ports."""
    made = watch("web", 0, ip_network("192.0.2.0/24"), (80,), 120_000).fields
    assert (made["id"], made["kind"], made["watch"]) == ("watch-web-0", "watch", {"ports": [80]})


LISTED = {
    "mitigations": [
        {
            "id": "m-1", "revision": 3, "target": "192.0.2.10/32", "kind": "tcp", "mode": "reset",
            "expires_ms": 899_000, "age_ms": 1000, "packets": {"cookie_sent": 1200},
            "rates": {"window_ms": 1000, "syn_pps": 1200, "cookie_sent_pps": 1200,
                      "cookie_good_pps": 3, "cookie_bad_pps": 7, "dropped_pps": 7,
                      "answered_pps": 1200, "passed_pps": 80, "pps": 1287, "bps": 823_000},
        },
        {"id": "watch-web-0", "revision": 1, "target": "192.0.2.0/24", "kind": "watch",
         "expires_ms": 5, "rates": {}},
        {"id": "by-hand", "revision": 1, "target": "192.0.2.9/32", "kind": "acl",
         "expires_ms": 5, "rates": {}},
    ]
}  # fmt: skip


def test_list_when_read_then_ours_by_tag_watches_left_out_and_the_rest_foreign() -> None:
    """The hub's own watches are no mitigations; what carries no tag of ours is foreign."""
    ours, foreign = in_force(LISTED)
    assert (ours.mitigation_id, ours.what, ours.expires_in) == (
        "m-1",
        "tcp reset on 192.0.2.10/32",
        899.0,
    )
    assert (foreign.mitigation_id, "by-hand" in foreign.what) == ("", True)


def test_rates_when_clients_prove_themselves_then_they_are_not_hostile() -> None:
    """1,200 SYNs were answered, 3 of them proven; 7 packets were dropped."""
    rates = measured(LISTED)
    assert list(rates) == ["m-1"]
    assert rates["m-1"].hostile_pps == 1200 - 3 + 7
    assert rates["m-1"].packets == {"cookie_sent": 1200}
    resets = {"cookie_sent_pps": 50, "answered_pps": 100, "dropped_pps": 0}
    assert rates_of(resets, {}).hostile_pps == 0


def test_nftables_when_asked_for_what_only_the_native_engine_does_then_never() -> None:
    """Refused at `plan`, in words that say what to do."""
    modes = (Tcp(mode="reset"), Tcp(mode="isn-sync"), Tcp(mode="splice"))
    for action in (*modes, Sorb(bps=5), Sorb(pps=5, bps=5)):
        with pytest.raises(EnginePermanentError, match=r"enable engines\.native"):
            wanted(mitigation(action), NftablesEngine())


@pytest.mark.parametrize(
    ("step", "engine"),
    [
        ("tcp", "native"),
        ("tcp: {mode: reset}", "native"),
        ("tcp: {mode: splice}", "native"),
        ("tcp: {mode: kernel}", "nftables"),
        ("sorb: {bps: 8M}", "native"),
        ("sorb", "native"),
    ],
)
def test_engine_when_several_are_enabled_then_the_first_that_can(
    tmp_path: Path, step: str, engine: str
) -> None:
    """Native before nftables; what it cannot do goes to the one that can."""
    using = both()
    text = f"rules: [{{name: a, when: always, then: [{step}], ttl: 1m}}]"
    core = state(rule_set(tmp_path, text, using), using, engines=HIDING)
    take_sighting(core, sighting(), 1000.0)
    (row,) = core.ledger
    assert row.engine == engine


def both(*, native: bool = True, nftables: bool = True) -> Config:
    """Return a configuration with these engines."""
    engines = Engines(
        native=NativeEngine(enabled=native), nftables=NftablesEngine(enabled=nftables)
    )
    return config().model_copy(update={"engines": engines})


@pytest.mark.parametrize(
    ("using", "rule", "expected"),
    [
        (
            both(native=False),
            "then: [tcp: {mode: reset}]",
            (
                "1:52: rules[0].then[0].tcp.mode: tcp reset: no enabled engine can do it; "
                "use engine native, or take it out"
            ),
        ),
        (
            both(nftables=False),
            "then: [tcp: {mode: kernel}]",
            (
                "1:52: rules[0].then[0].tcp.mode: tcp kernel: no enabled engine can do it; "
                "use engine nftables, or take it out"
            ),
        ),
        (
            both(),
            "engine: nftables, then: [tcp, sorb: {bps: 5}]",
            (
                "1:75: rules[0].then[1].sorb.bps: sorb bps: engine nftables cannot do it; "
                "use engine native, or take it out"
            ),
        ),
        (
            both(native=False),
            "then: [], escalate: [{if: {engine: {syn_pps: '> 5'}}, then: [sorb: {bps: 1}]}]",
            (
                "1:68: rules[0].escalate[0].if.engine: no enabled engine measures; "
                "set engines.native.enabled: true, or remove it"
            ),
        ),
    ],
)
def test_load_when_no_engine_can_do_it_then_a_mistake_at_its_place(
    tmp_path: Path, using: Config, rule: str, expected: str
) -> None:
    """Before the night, not in it."""
    path = tmp_path / "a.yaml"
    path.write_text(f"rules: [{{name: a, when: always, {rule}, ttl: 1m}}]")
    with pytest.raises(ConfigError) as caught:
        load_rules([path], known_of(using))
    assert str(caught.value.problems[0]).removeprefix(f"{path}:") == expected


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{action: drop, flags: 'syn'}", "goes with protocol: tcp only"),
        ("{action: drop, protocol: tcp, flags: 'sny'}", "'sny' is not one of fin, syn"),
        ("{action: drop, protocol: tcp, flags: 'syn,!syn'}", "names syn twice"),
        ("{action: drop, protocol: udp, icmp_types: 8}", "goes with protocol: icmp only"),
        ("{action: drop, protocol: icmp, icmp_types: 256}", "at most 255"),
        ("{action: limit, pps: 1, protocol: icmp, icmp_types: [8, 0]}", "takes one range"),
    ],
)
def test_load_when_a_filter_line_makes_no_sense_then_a_mistake(
    tmp_path: Path, line: str, what: str
) -> None:
    """The new fields are checked when they are read."""
    path = tmp_path / "a.yaml"
    path.write_text(
        f"rules: [{{name: a, when: always, then: [acl: {{rules: [{line}]}}], ttl: 1m}}]"
    )
    with pytest.raises(ConfigError, match=what):
        load_rules([path], known_of(both()))


def test_mitigation_when_stored_by_an_earlier_release_then_it_is_read() -> None:
    """Rows in the journal have none of the new fields."""
    old = '{"kind": "acl", "rules": [{"action": "drop", "protocol": "icmp"}]}'
    assert Acl.model_validate_json(old).rules[0].icmp_types == ()
    assert Sorb.model_validate(json.loads('{"kind": "sorb", "pps": 7}')).pps == 7


def test_profile_when_of_the_service_then_it_is_nftables_alone() -> None:
    """What a service announces under the kernel's proxy is not what ISN sync has learned."""
    service = WEB.model_copy(update={"tcp": TcpProfile(mss=1300)})
    made = asked(Tcp(), KEYS, service=service)
    assert made.fields["tcp"]["profile"]["mss4"] == 1460


@pytest.mark.parametrize("kind", ["webhook", "command"])
def test_config_when_something_else_is_named_native_then_refused(kind: str) -> None:
    """Rules could not tell them apart."""
    fields = {"webhook": {"url": "https://example.net/"}, "command": {"argv": ["/bin/true"]}}
    with pytest.raises(ValueError, match="'native' is the name of an engine"):
        Config.model_validate({"engines": {kind: {"native": fields[kind]}}})


@pytest.mark.parametrize("there", [True, False])
def test_config_check_when_nothing_listens_then_it_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, there: bool
) -> None:
    """The hub would start, and could not protect."""
    path = tmp_path / "s.sock"
    (tmp_path / "rules.yaml").write_text("rules: []\n")
    (tmp_path / "config.yaml").write_text(
        f"rules: [rules.yaml]\nengines: {{native: {{enabled: true, socket: {path}}}}}\n"
        "guard: {own_prefixes: [192.0.2.0/24]}\n"
    )
    with socket.socket(socket.AF_UNIX) as listening:
        if there:
            listening.bind(str(path))
        status = main(["--config", str(tmp_path / "config.yaml"), "config", "check"])
    assert status == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (f"nothing listens at {path}" in said) != there
