# SPDX-License-Identifier: Apache-2.0
"""Rule test files: reading them, running them, and what is said when they fail."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.config import Caps
from hub.errors import ConfigError
from hub.intake.model import Action, AttackType, Direction, Scope, Stamp
from hub.rules.ruleset import RuleSet
from hub.rules.suite import Expectation, Overrides, find_suites, read_suite
from hub.rules.testrun import START, Effect, _assign, _fits, run_suite
from tests.support.rules import CONFIG, load_text
from tests.support.rulesim import SmallHub

TARGET = "192.0.2.10/32"
RULES = (
    "rules:\n"
    "  - {name: tell, when: always, then: [notify: {to: oncall}], continue: true}\n"
    "  - {name: syn, when: {attack_type: syn_flood}, then: [tcp], ttl: 5m}\n"
    "  - {name: dry, when: {protocol: gre}, then: [sorb], ttl: 5m, dry_run: true}\n"
    "  - {name: rest, when: always, then: [sorb], ttl: 5m}\n"
)
SYN = "{action: ban, target: 192.0.2.10, attack_type: syn_flood, protocol: tcp}"


def failures(folder: Path, text: str) -> list[str]:
    """Run the tests in `text` against `RULES` and return what is said, without the folder."""
    rules = load_text(folder, RULES)
    path = folder / "a.test.yaml"
    path.write_text(text)
    found = run_suite(read_suite(path), rules, CONFIG, SmallHub)
    return [str(each).removeprefix(f"{folder}/") for each in found]


def mistakes(folder: Path, text: str) -> list[str]:
    """Return the mistakes in a test file."""
    path = folder / "a.test.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_suite(path)
    return [str(each).removeprefix(f"{folder}/") for each in caught.value.problems]


def one_test(*steps: str) -> str:
    """Return a test file of one test with these steps."""
    return "tests:\n  - name: t\n    steps:\n" + "".join(f"      - {step}\n" for step in steps)


def test_run_when_all_is_as_expected_then_nothing_is_said(tmp_path: Path) -> None:
    """Effects of events and of time, in any order, with as little said as one likes."""
    text = one_test(
        f"{{at: 0s, event: {SYN}, expect: [{{on: tcp}}, {{on: notify, to: oncall, rule: tell}}]}}",
        "{at: 1m, event: {action: unban, target: 192.0.2.10}, expect: []}",
        "{at: 89s, expect: []}",
        "{at: 90s, expect: [{off: tcp, target: 192.0.2.10, rule: syn}]}",
        "{at: 90s, event: {action: ban, target: 192.0.2.11, protocol: gre},"
        " expect: [{on: notify}, {would: sorb, rule: dry}]}",
        "{at: 91s, event: {action: ban, target: 198.51.100.1, protocol: udp},"
        " expect: [{refused: own_prefixes, kind: sorb, target: 198.51.100.1}, {on: notify}]}",
    )
    assert failures(tmp_path, text) == []


def test_run_when_something_else_happened_then_both_are_told_at_the_line(tmp_path: Path) -> None:
    """A failed expectation names test, time and what happened instead, at its own line."""
    text = one_test(f"{{at: 0s, event: {SYN}, expect: [{{on: notify}},\n         {{on: sorb}}]}}")
    assert failures(tmp_path, text) == [
        (
            "a.test.yaml:5:10: tests[0].steps[0].expect[1]: test 't', at 0.0s: did not happen; "
            f"instead: {{on: tcp, target: {TARGET}, rule: syn}}"
        )
    ]


def test_run_when_nothing_happened_then_says_so(tmp_path: Path) -> None:
    """An expectation that nothing met, and nothing else happened, says just that."""
    text = one_test("{at: 5m, expect: [{off: tcp}]}")
    assert failures(tmp_path, text) == [
        (
            "a.test.yaml:4:27: tests[0].steps[0].expect[0]: test 't', at 5m: did not happen; "
            "nothing else happened either"
        )
    ]


def test_run_when_more_happened_then_says_what(tmp_path: Path) -> None:
    """What nobody expected is a failure: `expect` lists all that happens."""
    text = one_test(f"{{at: 2s, event: {SYN}, expect: [{{on: tcp}}]}}")
    place = text.splitlines()[3].index("[{on") + 1
    assert failures(tmp_path, text) == [
        (
            f"a.test.yaml:4:{place}: tests[0].steps[0].expect: test 't', at 2.0s: also happened: "
            f"{{on: notify, target: {TARGET}, to: oncall, rule: tell}}"
        )
    ]


def test_run_when_a_step_fails_then_the_rest_of_that_test_is_left_out(tmp_path: Path) -> None:
    """After a wrong step the following ones would only repeat it; other tests still run."""
    text = (
        one_test("{at: 1s, expect: [{on: tcp}]}", "{at: 2s, expect: [{on: tcp}]}")
        + "  - {name: u, steps: [{at: 0s, expect: [{on: acl}]}]}\n"
    )
    assert [line.split(": ")[1] for line in failures(tmp_path, text)] == [
        "tests[0].steps[0].expect[0]",
        "tests[1].steps[0].expect[0]",
    ]


def test_run_when_a_test_overrides_then_its_own_come_before_the_files(tmp_path: Path) -> None:
    """A test's `config` wins over the file's, which wins over the daemon's."""
    seen: list[tuple[int, object, str]] = []

    def simulator(rules: RuleSet, config: object) -> SmallHub:
        hub = SmallHub(rules, config)  # type: ignore[arg-type]
        guard = hub.config.guard
        seen.append((guard.caps.total, hub.config.dry_run, str(guard.own_prefixes[0])))
        return hub

    load_text(tmp_path, RULES)
    path = tmp_path / "a.test.yaml"
    path.write_text(
        "config: {caps: {total: 5}, own_prefixes: [198.51.100.0/24]}\n"
        "tests:\n"
        "  - {name: a, steps: [{at: 0s, expect: []}]}\n"
        "  - {name: b, config: {caps: {total: 7}, dry_run: true}, steps: [{at: 0s, expect: []}]}\n"
    )
    assert run_suite(read_suite(path), RuleSet(), CONFIG, simulator) == []
    assert seen == [(5, False, "198.51.100.0/24"), (7, True, "198.51.100.0/24")]
    assert Overrides(caps=Caps(total=1)).apply(CONFIG).guard.own_prefixes == (
        CONFIG.guard.own_prefixes
    )


def test_event_when_turned_into_a_sighting_then_it_says_the_same(tmp_path: Path) -> None:
    """An event of a test reaches the tracker as a real one would."""
    load_text(tmp_path, RULES)
    path = tmp_path / "a.test.yaml"
    path.write_text(
        one_test(
            "{at: 5s, expect: [], event: {action: ban, target: '2001:db8::1', direction: outgoing,"
            " attack_type: udp_flood, protocol: udp, pps: 5k, bps: 1M, detector: fnm9, uuid: u-1,"
            " stamp: 2s, reported: {direction: incoming}}}",
            "{at: 6s, expect: [], event: {action: unban, hostgroup: g, networks: 192.0.2.0/24}}",
        )
    )
    steps = read_suite(path).spec.tests[0].steps
    assert steps[0].event is not None
    assert steps[1].event is not None
    sighting = steps[0].event.sighting(3, START, 5.0)
    report = sighting.report
    assert (sighting.number, sighting.detector) == (3, "fnm9")
    assert sighting.stamp == Stamp(START + 2.0)
    assert (report.action, report.scope, report.target) == (
        Action.BAN,
        Scope.HOST,
        ip_address("2001:db8::1"),
    )
    assert (report.derived.direction, report.derived.attack_type, report.derived.protocol) == (
        Direction.OUTGOING,
        AttackType.UDP_FLOOD,
        "udp",
    )
    assert (report.reported.direction, report.reported.protocol) == ("incoming", "udp")
    assert report.counters["outgoing"]["total"].pps == 5000
    assert report.attack_uuid == "u-1"
    group = steps[1].event.sighting(4, START, 6.0)
    assert group.stamp == Stamp(START + 6.0)
    assert (group.report.scope, group.report.hostgroup) == (Scope.HOSTGROUP, "g")
    assert group.report.networks == (ip_network("192.0.2.0/24"),)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{at: 0s}", "'expect' is missing; add expect: ..."),
        ("{at: 5, expect: []}", "5 is not a duration; write a number and a unit"),
        ("{at: 0s, expect: [{}]}", "names 0 effects; give exactly one of on, off, would, refused"),
        ("{at: 0s, expect: [{on: tcp, off: tcp}]}", "names 2 effects; give exactly one"),
        ("{at: 0s, expect: [{on: tpc}]}", ("'tpc' is not one of tcp, acl, sorb, notify, command; "
         "did you mean 'tcp'?")),
        ("{at: 0s, expect: [{on: tcp, kind: tcp}]}", "kind goes with refused only; remove it"),
        ("{at: 0s, expect: [], event: {action: ban}}", "names both or neither; give target"),
        ("{at: 0s, expect: [], event: {action: ban, target: 192.0.2.0/24}}",
         "'192.0.2.0/24' is not an address; write it as 192.0.2.10 or 2001:db8::10"),
        ("{at: 0s, expect: [], event: {action: bann, target: 192.0.2.1}}",
         ("'bann' is not one of ban, unban, attack_details, attack_status, partial_block, "
         "partial_unblock; did you mean 'ban'?")),
        ("{at: 0s, expect: [], event: {action: ban, target: 192.0.2.1, protocl: tcp}}",
         "unknown field; did you mean 'protocol'?"),
    ],
)  # fmt: skip
def test_read_when_wrong_then_says_what(tmp_path: Path, step: str, expected: str) -> None:
    """Test files are checked as strictly as rules."""
    (tmp_path / "a.yaml").write_text(RULES)
    said = mistakes(tmp_path, one_test(step))
    assert len(said) == 1
    assert expected in said[0]
    assert said[0].startswith("a.test.yaml:4:")


def test_read_when_out_of_order_or_twice_then_a_mistake(tmp_path: Path) -> None:
    """Time never goes back, and a name says which test failed."""
    back = one_test("{at: 5s, expect: []}", "{at: 4s, expect: []}")
    assert mistakes(tmp_path, back) == [
        (
            "a.test.yaml:5:14: tests[0].steps[1].at: is earlier than the step before it; "
            "put the steps in order"
        )
    ]
    twice = one_test("{at: 5s, expect: []}") + "  - {name: t, steps: [{at: 0s, expect: []}]}\n"
    assert mistakes(tmp_path, twice) == [
        "a.test.yaml:5:12: tests[1].name: two tests are named 't'; rename one"
    ]


def test_read_when_it_names_no_rules_then_those_of_its_own_name(tmp_path: Path) -> None:
    """`x.test.yaml` tests `x.yaml`, unless it names its rules."""
    text = one_test("{at: 5s, expect: []}")
    assert mistakes(tmp_path, text) == [
        "a.test.yaml: tests a.yaml, which is not beside it; name the rule files under rules:"
    ]
    (tmp_path / "a.yaml").write_text(RULES)
    assert read_suite(tmp_path / "a.test.yaml").rules == (tmp_path / "a.yaml",)
    (tmp_path / "a.test.yaml").write_text("rules: [b.yaml, c/d.yaml]\n" + text)
    assert read_suite(tmp_path / "a.test.yaml").rules == (
        tmp_path / "b.yaml",
        tmp_path / "c" / "d.yaml",
    )


def test_find_when_several_folders_then_every_test_file_once(tmp_path: Path) -> None:
    """Test files of all folders in question are found, each once, in a fixed order."""
    (tmp_path / "x").mkdir()
    for name in ("b.test.yaml", "a.test.yaml", "a.yaml", "x/c.test.yaml", "x/c.yaml"):
        (tmp_path / name).write_text("")
    rules = [tmp_path / "x" / "c.yaml", tmp_path / "a.yaml", tmp_path / "z.yaml"]
    assert find_suites([*rules, tmp_path / "gone" / "a.yaml"]) == (
        tmp_path / "x" / "c.test.yaml",
        tmp_path / "a.test.yaml",
        tmp_path / "b.test.yaml",
    )


_EFFECTS = st.lists(
    st.builds(
        Effect,
        what=st.sampled_from(["on", "off", "would"]),
        kind=st.sampled_from(["tcp", "acl"]),
        target=st.sampled_from([ip_network(TARGET), ip_network("192.0.2.11/32")]),
        rule=st.sampled_from(["r", "s"]),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(effects=_EFFECTS, vague=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6))
def test_assign_when_expectations_are_vague_then_each_effect_still_meets_one(
    effects: list[Effect], vague: list[tuple[bool, bool]]
) -> None:
    """However little each expectation says, those made from the effects are all met at once."""
    details = [*vague, *[(True, True)] * len(effects)][: len(effects)]
    expected = [
        Expectation.model_validate(
            {effect.what: effect.kind}
            | ({"target": str(effect.target)} if with_target else {})
            | ({"rule": effect.rule} if with_rule else {})
        )
        for effect, (with_target, with_rule) in zip(effects, details, strict=True)
    ]
    met = _assign(expected, effects[::-1])
    assert sorted(met) == list(range(len(effects)))
    assert sorted(met.values()) == list(range(len(effects)))
    assert all(_fits(expected[wanted], effects[::-1][number]) for wanted, number in met.items())
