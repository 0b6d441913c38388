# SPDX-License-Identifier: Apache-2.0
"""What is said about conditions without seeing an attack is true of every attack."""

from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.rules.conditions import AllOf, Facts, condition_of, facts_of
from hub.rules.cover import Covering, implies, never_holds
from hub.rules.language import WhenSpec
from tests.support.rules import attack

UNIVERSE: list[Facts] = [
    facts_of(attack(direction=direction, pps=pps, targets=targets, detectors=detectors), service)
    for direction, service, pps, targets, detectors in product(
        ("incoming", "outgoing", "unknown"),
        ("web", "dns", None),
        (0, 5, 9),
        ((), ("192.0.2.1/32",), ("198.51.100.1/32",), ("192.0.2.1/32", "198.51.100.1/32")),
        ((), ("a",), ("b",), ("a", "b")),
    )
]
"""Every attack there can be, as far as the conditions below can tell attacks apart."""


def _some(*values: str) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


CLAUSES = st.one_of(
    st.builds(lambda value: {"direction": value}, _some("incoming", "outgoing", "unknown")),
    st.builds(lambda value: {"service": value}, _some("web", "dns")),
    st.builds(
        lambda sign, number: {"pps": f"{sign} {number}"},
        st.sampled_from([">=", ">", "<=", "<", "=="]),
        st.sampled_from([1, 5, 9]),
    ),
    st.builds(
        lambda value: {"target": value}, _some("192.0.2.0/24", "192.0.2.1/32", "198.51.100.0/24")
    ),
    st.builds(lambda value: {"detector": value}, _some("a", "b")),
)


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        pairs.map(_merged),
        pairs.map(lambda parts: {"any": parts}),
        pairs.map(lambda parts: {"all": parts}),
        inner.map(lambda part: {"not": part}),
    )


WHENS: st.SearchStrategy[dict[str, Any]] = st.recursive(CLAUSES, _deeper, max_leaves=4)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[AllOf, AllOf]:
    """Return two conditions, often related as a person's rules are."""
    one = draw(WHENS)
    other = draw(
        st.one_of(
            WHENS,
            WHENS.map(lambda more: {"any": [one, more]}),
            WHENS.map(lambda more: {"all": [one, more]}),
            st.just({"not": one}),
            st.just({"not": {"not": one}}),
        )
    )
    pair = (compiled(one), compiled(other))
    return pair if draw(st.booleans()) else pair[::-1]


def compiled(when: dict[str, Any]) -> AllOf:
    """Return the condition that `when` describes."""
    return condition_of(WhenSpec.model_validate(when))


def where(condition: AllOf) -> set[int]:
    """Return the attacks, by number, for which `condition` holds."""
    test = condition.compile()
    return {number for number, facts in enumerate(UNIVERSE) if test(facts)}


@settings(max_examples=500, deadline=None)
@given(pairs())
def test_implies_when_it_says_yes_then_every_attack_agrees(pair: tuple[AllOf, AllOf]) -> None:
    """Where one condition is said to imply another, no attack at all contradicts."""
    one, other = pair
    if implies(one, other):
        assert where(one) <= where(other)


@settings(max_examples=500, deadline=None)
@given(WHENS)
def test_never_holds_when_it_says_yes_then_no_attack_matches(when: dict[str, Any]) -> None:
    """A condition that is said to contradict itself matches no attack at all."""
    condition = compiled(when)
    if never_holds(condition):
        assert where(condition) == set()


@settings(max_examples=500, deadline=None)
@given(st.lists(pairs(), min_size=1, max_size=3))
def test_covering_when_it_finds_one_then_it_covers(found: list[tuple[AllOf, AllOf]]) -> None:
    """A rule is only called unreachable behind one that matches all that it matches."""
    covering: Covering[AllOf] = Covering()
    for one, other in found:
        covering.add(one, one)
        earlier = covering.find(other)
        if earlier is not None:
            assert where(other) <= where(earlier)


@settings(deadline=None)
@given(pairs())
def test_covering_when_asked_for_one_pair_then_it_knows_what_implies_knows(
    pair: tuple[AllOf, AllOf],
) -> None:
    """The sieve in front of the comparison never throws away what the comparison would find."""
    one, other = pair
    covering: Covering[str] = Covering()
    covering.add(other, "other")
    assert (covering.find(one) == "other") == (implies(one, other) or one == other)


@settings(deadline=None)
@given(WHENS)
def test_implies_when_asked_about_itself_then_yes(when: dict[str, Any]) -> None:
    """Every condition without alternatives over several clauses implies itself."""
    covering: Covering[str] = Covering()
    covering.add(compiled(when), "same")
    assert covering.find(compiled(when)) == "same"


def test_covering_when_conditions_are_deep_and_many_then_it_gives_up_in_time() -> None:
    """A rule file made to be hard costs a bounded number of comparisons, and is not refused."""
    groups = [{"any": [{"pps": f">= {n}"}, {"bps": f"< {n}"}]} for n in range(1, 40)]
    hard: dict[str, Any] = {"all": groups}
    for _ in range(4):
        hard = {"any": [hard, {"not": hard}]}
    covering: Covering[int] = Covering()
    for number in range(20):
        condition = compiled({"all": [hard, {"episodes": f"== {number}"}]})
        assert covering.find(condition) is None
        covering.add(condition, number)
    assert covering._comparison._left > -1_000_000
