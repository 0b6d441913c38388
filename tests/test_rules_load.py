# SPDX-License-Identifier: Apache-2.0
"""Loading rules: every mistake at once, at its place, and what is accepted."""

import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.config import CommandEngine, Config, Engines, Guard, NftablesEngine, Service
from hub.errors import ConfigError
from hub.intake.model import AttackType, Direction
from hub.rules.actions import Acl, AclRule, Command, Notify, Sorb, Tcp
from hub.rules.conditions import OneOf
from hub.rules.load import load_rules, read_rules
from hub.rules.protocols import PROTOCOLS, canonical_protocol
from hub.rules.words import Known, known_of
from tests.support.rules import KNOWN, load_text

REPOSITORY = Path(__file__).parents[1]
GOOD = "rules: [{name: good, when: always, then: [tcp], ttl: 15m}]"


def mistakes(folder: Path, text: str, known: Known = KNOWN) -> list[str]:
    """Return the mistakes in the rules of `text`, as printed, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, known)
    return [str(each).removeprefix(f"{folder}/a.yaml:") for each in caught.value.problems]


def rule(when: str = "always", then: str = "[tcp]", more: str = "ttl: 15m") -> str:
    """Return a file of one rule."""
    return f"rules:\n  - name: a\n    when: {when}\n    then: {then}\n    {more}\n"


def test_load_when_right_then_rules_in_order_with_their_actions(tmp_path: Path) -> None:
    """Rules come in file order, actions in the order written, short forms spelled out."""
    (tmp_path / "a.yaml").write_text(
        "rules:\n"
        "  - name: one\n"
        "    when: {direction: incoming}\n"
        "    then:\n"
        "      - tcp\n"
        "      - sorb:\n"
        "      - acl: {rules: [{action: drop, sources: 192.0.2.0/24, source_ports: 53,\n"
        "                       destination_ports: [80, 1000-2000]},\n"
        "                      {action: limit, protocol: icmp, pps: 1k}]}\n"
        "      - notify: {to: oncall}\n"
        "      - command: {run: script}\n"
        "    ttl: 1h\n"
        "    continue: true\n"
        "    engine: nftables\n"
    )
    (tmp_path / "b.yaml").write_text(GOOD)
    rules = load_rules([tmp_path / "a.yaml", tmp_path / "b.yaml"], KNOWN).rules
    assert [each.name for each in rules] == ["one", "good"]
    assert rules[0].actions == (
        Tcp(),
        Sorb(),
        Acl(
            rules=(
                AclRule.model_construct(
                    action="drop",
                    sources=(ip_network("192.0.2.0/24"),),
                    source_ports=("53",),
                    destination_ports=("80", "1000-2000"),
                ),
                AclRule(action="limit", protocol="icmp", pps=1000),
            )
        ),
        Notify(to="oncall"),
        Command(run="script"),
    )
    assert [type(action) for action in rules[0].actions] == [Tcp, Sorb, Acl, Notify, Command]
    assert (rules[0].ttl, rules[0].linger, rules[0].engine) == (3600.0, 30.0, "nftables")
    assert (rules[0].passes_on, rules[1].passes_on) == (True, False)
    assert (rules[0].file, rules[0].line) == (str(tmp_path / "a.yaml"), 2)


def test_load_when_action_survives_the_journal_then_it_prints_alike(tmp_path: Path) -> None:
    """An action that went through JSON and back is written the same: the ledger compares that."""
    then = "[acl: {rules: [{action: drop, length: 0-99, fragments: true, sources: 192.0.2.1}]}]"
    action = load_text(tmp_path, rule(then=then)).rules[0].actions[0]
    assert repr(Acl.model_validate_json(action.model_dump_json())) == repr(action)


def test_load_when_many_mistakes_then_all_at_once(tmp_path: Path) -> None:
    """Mistakes of every kind, in several files, come in one report in file and line order."""
    (tmp_path / "a.yaml").write_text(
        "rules:\n"
        "  - name: one\n"
        "    when: {protocol: tcq, service: wbe}\n"
        "    then: [tcp]\n"
        "  - name: one\n"
        "    when: always\n"
        "    then: [{notify: {to: oncal}}, {command: {run: scirpt}}, sorb, sorb]\n"
        "    ttl: 2d\n"
        "    weather: []\n"
        "    engine: natvie\n"
        "  - when: {pps: 50k}\n"
        "    then: [tpc]\n"
        "extra: 1\n"
    )
    (tmp_path / "b.yaml").write_text("rules:\n  - name: one\n    when: off\n    then: []\n")
    with pytest.raises(ConfigError) as caught:
        load_rules([tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"], KNOWN)
    said = [str(each).replace(f"{tmp_path}/", "") for each in caught.value.problems]
    assert said == [
        (
            "a.yaml:2:5: rules[0]: 'ttl' is missing; tcp must not outlive a known time; "
            "add e.g. ttl: 15m"
        ),
        (
            "a.yaml:3:22: rules[0].when.protocol: 'tcq' is not one of tcp, udp, icmp, ipv6_icmp, "
            "gre, esp, ... (146 in all); did you mean 'tcp'?"
        ),
        (
            "a.yaml:3:36: rules[0].when.service: 'wbe' is not in the configuration's services "
            "(dns, web); did you mean 'web'?"
        ),
        f"a.yaml:5:11: rules[1].name: 'one' is already the name of the rule at {tmp_path}/"
        "a.yaml:2; give each rule its own name".replace(f"{tmp_path}/", ""),
        "a.yaml:7:11: rules[1].then: sorb stands twice; keep one",
        (
            "a.yaml:7:26: rules[1].then[0].notify.to: 'oncal' is not in the configuration's "
            "engines.webhook or engines.command (oncall, script); did you mean 'oncall'?"
        ),
        (
            "a.yaml:7:51: rules[1].then[1].command.run: 'scirpt' is not in the configuration's "
            "engines.command (script); did you mean 'script'?"
        ),
        (
            "a.yaml:8:10: rules[1].ttl: 2d is longer than guard.max_ttl, 1d; shorten it, "
            "or raise guard.max_ttl"
        ),
        (
            "a.yaml:9:5: rules[1].weather: unknown field; known here: continue, dry_run, engine, "
            "escalate, linger, name, then, ttl, when"
        ),
        (
            "a.yaml:10:13: rules[1].engine: 'natvie' is not in the configuration's engines "
            "(nftables); correct it, or add it under engines"
        ),
        "a.yaml:11:5: rules[2]: 'name' is missing; add name: ...",
        (
            "a.yaml:11:17: rules[2].when.pps: '50k' is not a comparison; "
            'write it as ">= 50k", "< 1M" or ">= 50k, < 1M"'
        ),
        (
            "a.yaml:12:12: rules[2].then[0]: 'tpc' is not one of tcp, acl, sorb, notify, command; "
            "did you mean 'tcp'?"
        ),
        "a.yaml:13:1: extra: unknown field; only rules: may stand here",
        (
            "b.yaml:2:11: rules[0].name: 'one' is already the name of the rule at a.yaml:2; "
            "give each rule its own name"
        ),
        (
            "b.yaml:3:11: 'off' is a word to some YAML readers and false to others; write false, "
            'or "off" in quotes for the word'
        ),
        "c.yaml: does not exist; create it or correct the path",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rules: {a: b}", "1:8: rules: expected a list of rules; begin each rule with - name: ..."),
        ("[a]", "1:1: expected a mapping; write rules: and the rules below it"),
        ("{a: 1}", "1:1: 'rules' is missing; write rules: []"),
        ("rules:", "1:7: rules: expected a list of rules; begin each rule with - name: ..."),
        ("rules: [5]", ("1:9: rules[0]: expected a mapping, found a number; "
         "write key: value lines")),
        (rule("alwys"), ("3:11: rules[0].when: 'alwys' is no condition; "
         "write always, or clauses as key: value")),
        (rule("{}"), ("3:11: rules[0].when: says nothing; write at least one clause; "
         "`when: always` matches all")),
        (rule("{reported: {}}"), ("3:22: rules[0].when.reported: says nothing; "
         "write at least one clause; `when: always` matches all")),
        (rule("{any: []}"), "3:17: rules[0].when.any: has 0 entries; give at least 1"),
        (rule("{direction: []}"), ("3:23: rules[0].when.direction: has 0 entries; "
         "give at least 1")),
        (rule("{direction: in}"), ("3:23: rules[0].when.direction: 'in' is not one of incoming, "
         "outgoing, unknown")),
        (rule("{direction: [incoming, outgiong]}"), ("3:34: rules[0].when.direction[1]: "
         "'outgiong' is not one of incoming, outgoing, unknown; did you mean 'outgoing'?")),
        (rule("{attack_type: }"), ("3:25: rules[0].when.attack_type: has no value; "
         "give it one, or remove the line")),
        (rule(more="ttl:"), "5:9: rules[0].ttl: has no value; give it one, or remove the line"),
        (rule("{family: '4'}"), ("3:20: rules[0].when.family: '4' is not one of 4, 6; "
         "write it without quotes")),
        (rule("{family: 5}"), "3:20: rules[0].when.family: 5 is not one of 4, 6"),
        (rule("{pps: 50000}"), ("3:17: rules[0].when.pps: 50000 is not a comparison; "
         'write ">= 50000"')),
        (rule("{pps: '>= 5, < 3'}"), ("3:17: rules[0].when.pps: '>= 5, < 3' never holds; "
         'write it as ">= 50k", "< 1M" or ">= 50k, < 1M"')),
        (rule("{pps: '< 0'}"), ("3:17: rules[0].when.pps: '< 0' never holds; "
         'write it as ">= 50k", "< 1M" or ">= 50k, < 1M"')),
        (rule("{pps: '>= 5x'}"), ("3:17: rules[0].when.pps: '5x' is not an amount; "
         "write a number, as 100, 50k, 1.5M")),
        (rule("{direction: incoming, all: [{direction: outgoing}]}"), ("3:11: rules[0].when: 'a' "
         "can never match: its clauses contradict each other; correct them")),
        (rule(then="[{tcp: , sorb: }]"), ("4:12: rules[0].then[0]: names 2 countermeasures, "
         "not one; write each countermeasure on a line of its own that begins with -")),
        (rule(then="[acl]"), "4:12: rules[0].then[0]: acl needs parameters; write acl: {...}"),
        (rule(then="[sorb: {pps: 0}]"), ("4:24: rules[0].then[0].sorb.pps: 0 is below the least "
         "allowed, 1")),
        (rule(then="[sorb: {block: 2d}]"), ("4:26: rules[0].then[0].sorb.block: '2d' is above the "
         "most allowed, 1d")),
        (rule(then="[acl: {rules: [{action: limit}]}]"), ("4:26: rules[0].then[0].acl.rules[0]: "
         "limit and pps go together; give pps with action: limit, and only there")),
        (rule(then="[acl: {rules: [{action: drop, protocol: icmp, source_ports: 5}]}]"),
         ("4:71: rules[0].then[0].acl.rules[0].source_ports: icmp has no ports; "
         "remove them, or name tcp, udp or sctp")),
        (rule(then="[acl: {rules: [{action: drop, source_ports: 9-5}]}]"),
         ("4:55: rules[0].then[0].acl.rules[0].source_ports: '9-5' is not a number or range; "
         "write 53 or 1024-65535, lower end first, at most 65535")),
        (rule(more="ttl: 0s"), ("5:10: rules[0].ttl: must be longer than nothing; "
         "write e.g. ttl: 15m")),
        (rule(more="tll: 15m"), ("2:5: rules[0]: 'ttl' is missing; tcp must not outlive a known "
         "time; is 'tll' meant?")),
        (rule(then="[command: {run: script}]", more="linger: 5s"), ("2:5: rules[0]: 'ttl' is "
         "missing; command must not outlive a known time; add e.g. ttl: 15m")),
    ],
)  # fmt: skip
def test_load_when_wrong_then_says_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    """Each mistake is reported at its place in words that say what to write."""
    assert mistakes(tmp_path, text)[0] == expected


def test_load_when_no_engine_carries_it_out_then_a_mistake(tmp_path: Path) -> None:
    """A countermeasure that nothing could carry out is a mistake before the night, not in it."""
    known = Known(engines=frozenset())
    assert mistakes(tmp_path, GOOD, known) == [
        (
            "1:42: rules[0].then: no enabled engine carries out tcp; "
            "set engines.native.enabled or engines.nftables.enabled: true"
        )
    ]


def test_load_when_nothing_lasts_then_no_lifetime_is_needed(tmp_path: Path) -> None:
    """A rule that only notifies, or decides to do nothing, needs no lifetime."""
    text = (
        "rules:\n  - {name: a, when: {direction: incoming}, then: [notify: {to: oncall}]}\n"
        "  - {name: b, when: always, then: []}\n"
    )
    assert [each.ttl for each in load_text(tmp_path, text).rules] == [None, None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("always", "{direction: incoming}"),
        ("{direction: incoming}", "{direction: incoming}"),
        ("{direction: [incoming, outgoing, unknown]}", "always"),
        ("{direction: [incoming, unknown]}", "{direction: incoming, protocol: tcp}"),
        ("{pps: '>= 5'}", "{pps: '> 9, < 20'}"),
        ("{target: [192.0.2.0/24, '2001:db8::/32']}", "{target: 192.0.2.128/25}"),
        ("{detector: [a, b]}", "{detector: b}"),
        ("{any: [{protocol: tcp}, {protocol: udp}]}", "{protocol: udp, service: web}"),
        ("{protocol: [tcp, udp]}", "{any: [{protocol: tcp}, {protocol: udp, pps: '> 5'}]}"),
        ("{not: {direction: outgoing}}", "{direction: incoming}"),
        ("{not: {any: [{service: web}, {service: dns}]}}", "{not: {service: [web, dns]}}"),
        ("{not: {pps: '< 5', bps: '< 5'}}", "{all: [{pps: '>= 9'}]}"),
        ("{reported: {direction: [a, b]}}", "{reported: {direction: A, protocol: c}}"),
    ],
)
def test_load_when_rule_is_never_reached_then_a_mistake(
    tmp_path: Path, first: str, second: str
) -> None:
    """A rule behind one that matches all that it matches is a mistake that names both."""
    text = (
        f"rules:\n  - {{name: a, when: {first}, then: []}}\n"
        f"  - {{name: b, when: {second}, then: []}}\n"
    )
    said = mistakes(tmp_path, text)
    assert len(said) == 1
    assert said[0].startswith("3:21: rules[1].when: 'b' is never reached: 'a' (")
    reachable = text.replace("then: []}", "then: [], continue: true}", 1)
    assert len(load_text(tmp_path, reachable).rules) == 2


def test_read_rules_when_it_works_but_surprises_then_warns(tmp_path: Path) -> None:
    """What loads and may not be meant comes as warnings, which do not stop anything."""
    (tmp_path / "a.yaml").write_text(
        "rules:\n"
        "  - {name: a, when: {protocol: tcp}, then: [tcp], ttl: 1m, linger: 2m}\n"
        "  - {name: b, when: {protocol: udp}, then: [notify: {to: oncall}], ttl: 1m}\n"
        "  - {name: c, when: {not: {direction: outgoing}}, then: [sorb], ttl: 1m}\n"
    )
    (tmp_path / "b.yaml").write_text("rules: []")
    loaded = read_rules([tmp_path / "a.yaml", tmp_path / "b.yaml"], KNOWN)
    assert [str(each).replace(f"{tmp_path}/", "") for each in loaded.warnings] == [
        (
            "a.yaml:2:21: rules[0].when: 'a' also acts on outgoing attacks, which may cut off a "
            "customer; add direction: [incoming, unknown]"
        ),
        (
            "a.yaml:2:68: rules[0].linger: its linger is longer than its ttl, 1m, which wins; "
            "shorten linger or raise ttl"
        ),
        (
            "a.yaml:3:73: rules[1].ttl: 'b' starts nothing that lasts; its ttl has no effect; "
            "remove it"
        ),
        "b.yaml:1:1: has no rules; no attack is ever answered; add one",
    ]


def test_version_when_only_spelling_differs_then_the_same_in_every_run(tmp_path: Path) -> None:
    """The version depends on what the rules say, not on comments, files or hash seeds."""
    text = "rules:\n - {name: a, when: {service: [web, dns, u, v, w]}, then: [tcp], ttl: %s}\n"
    program = (
        "import sys\nfrom pathlib import Path\nfrom hub.rules.words import Known\n"
        "k = Known(services=frozenset('web dns u v w'.split()))\n"
        "from hub.rules.load import load_rules\nprint(load_rules([Path(sys.argv[1])], k).version)"
    )

    def version(name: str, content: str, seed: str) -> str:
        (tmp_path / name).write_text(content)
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / name)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    first = version("a.yaml", text % "15m", "1")
    assert version("b.yaml", "# a comment\n" + text % "900s", "2") == first
    assert version("c.yaml", text % "16m", "1") != first


def test_known_of_when_configured_then_names_by_use() -> None:
    """Rules may use the services, webhooks, commands and engines of the configuration."""
    config = Config(
        services=(Service(name="web", prefixes=("192.0.2.0/24",)),),
        engines=Engines(
            nftables=NftablesEngine(enabled=False),
            command={"script": CommandEngine(argv=("/bin/true",))},
        ),
        guard=Guard(max_ttl="2h"),
    )
    assert known_of(config) == Known(
        services=frozenset({"web"}),
        notify=frozenset({"script"}),
        commands=frozenset({"script"}),
        engines=frozenset(),
        max_ttl=7200.0,
    )


@pytest.mark.parametrize("name", ["IPv6-ICMP", "ipv6_icmp", "AX.25", "Sun-ND", "TCP", "3PC"])
def test_protocol_when_spelled_as_iana_does_then_known(name: str) -> None:
    """IANA's own spelling of a protocol is understood."""
    assert canonical_protocol(name) in PROTOCOLS


def test_words_when_the_event_model_grows_then_rules_know_it(tmp_path: Path) -> None:
    """Every direction and attack type that an event can have may be named in a rule."""
    for name, values in (("direction", Direction), ("attack_type", AttackType)):
        for value in values:
            condition = load_text(tmp_path, rule(f"{{{name}: {value.value}}}")).rules[0].condition
            assert condition.parts == (OneOf(name, name, frozenset({value.value}), (value.value,)),)


_SCALARS = st.one_of(
    st.sampled_from(["always", "incoming", "tcp", ">= 5", "15m", "192.0.2.0/24", "a", "", "off"]),
    st.none(), st.booleans(), st.integers(-5, 10**20), st.floats(), st.text(max_size=5),
)  # fmt: skip
_KEYS = st.sampled_from(
    ["rules", "name", "when", "then", "ttl", "linger", "engine", "dry_run", "continue", "direction",
     "any", "all", "not", "pps", "reported", "target", "family", "tcp", "acl", "sorb", "notify",
     "command", "to", "run", "action", "sources", "always", "service", "zzz"]
)  # fmt: skip
_TREES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(tree=st.one_of(_TREES, _TREES.map(lambda tree: {"rules": [tree]})))
def test_load_when_any_tree_then_rules_or_config_error(
    tree: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in a rule file, loading gives rules or mistakes with places."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    try:
        load_rules([path], KNOWN)
    except ConfigError as error:
        problems = error.problems
    else:
        return
    places = [(problem.line, problem.column) for problem in problems]
    assert {problem.file for problem in problems} == {str(path)}
    assert places == sorted(places)
