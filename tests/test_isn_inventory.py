# SPDX-License-Identifier: Apache-2.0
"""The list of agents: its syntax, its mistakes, and what several lists say together."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import ConfigError
from hub.isn_sync.inventory import Agent, merge, parse_servers
from hub.net import IPAddress


def agent(host: str, *services: str, port: int = 7100, user: str = "fnm-agent") -> Agent:
    """Return an agent; its host is the first service."""
    return Agent(ip_address(host), port, user, tuple(ip_address(one) for one in (host, *services)))


def parse(text: str) -> tuple[Agent, ...]:
    """Return the agents in a list."""
    return parse_servers(text, port=7100, user="fnm-agent", file="hub.yaml", first_line=10)


def mistakes(text: str) -> list[str]:
    """Return the lines of the message for a list that must be refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert all(problem.todo for problem in caught.value.problems)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n \t\n# nothing\n", []),
        ("192.0.2.1", [agent("192.0.2.1")]),
        ("192.0.2.1 # the web server, (a) and (b)", [agent("192.0.2.1")]),
        (
            "192.0.2.1(192.0.2.3,192.0.2.4)",
            [agent("192.0.2.1", "192.0.2.3", "192.0.2.4")],
        ),
        (
            " 192. 0.2.1\t( 192.0.2.3 ,\u00a0192.0.2.4 )\r",
            [agent("192.0.2.1", "192.0.2.3", "192.0.2.4")],
        ),
        ("192.0.2.1()", [agent("192.0.2.1")]),
        ("192.0.2.1(192.0.2.1,192.0.2.3,192.0.2.3)", [agent("192.0.2.1", "192.0.2.3")]),
        (
            "192.0.2.1(2001:db8::1)\n2001:db8::2(192.0.2.2)",
            [agent("192.0.2.1", "2001:db8::1"), agent("2001:db8::2", "192.0.2.2")],
        ),
        ("192.0.2.1:7101", [agent("192.0.2.1", port=7101)]),
        ("[2001:db8::1]:7101(192.0.2.3)", [agent("2001:db8::1", "192.0.2.3", port=7101)]),
        ("[2001:db8::1]", [agent("2001:db8::1")]),
        ("2001:DB8:0::1", [agent("2001:db8::1")]),
        ("root@192.0.2.1", [agent("192.0.2.1", user="root")]),
        ("a_b@[2001:db8::1]:22()", [agent("2001:db8::1", port=22, user="a_b")]),
        ("127.0.0.1\n::1", [agent("127.0.0.1"), agent("::1")]),
        (
            "192.0.2.1(192.0.2.3)\n192.0.2.9\n192.0.2.1(192.0.2.4, 192.0.2.3)",
            [agent("192.0.2.1", "192.0.2.3", "192.0.2.4"), agent("192.0.2.9")],
        ),
    ],
)
def test_parse_when_well_formed_then_as_meant(text: str, expected: list[Agent]) -> None:
    """White space and comments mean nothing, repetition neither; the host is always served."""
    assert list(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("server.example", "10:1", "names are not looked up"),
        ("192.0.2.256", "10:1", "no address"),
        ("192.0.02.1", "10:1", "no address"),
        ("192.0.2.0/24", "10:1", "write single addresses"),
        ("192.0.2.1, 192.0.2.2", "10:1", "one server a line"),
        ("192.0.2.1 (192.0.2.3", "10:20", "add ) at the end"),
        ("192.0.2.1(", "10:10", "add ) at the end"),
        ("192.0.2.1 (192.0.2.3) x", "10:23", "'x' follows the services"),
        ("192.0.2.1(192.0.2.3,)", "10:21", "an address is missing"),
        ("192.0.2.1(,192.0.2.3)", "10:11", "an address is missing"),
        ("192.0.2.1((192.0.2.3)", "10:11", "a parenthesis too many"),
        ("192.0.2.1)", "10:1", "a parenthesis too many"),
        ("(192.0.2.3)", "10:1", "an address is missing"),
        ("192.0.2.1( 192.0.2.3, 192.0.2.300 )", "10:23", "no address"),
        ("192.0.2.1([2001:db8::1])", "10:11", "only an agent with a port"),
        ("192.0.2.1:0", "10:11", "no port"),
        ("192.0.2.1: 65536", "10:12", "no port"),
        ("192.0.2.1:", "10:10", "no port"),
        ("192.0.2.1:²", "10:11", "no port"),
        ("[2001:db8::1]7101", "10:14", "follows the bracket"),
        ("[2001:db8::1]:x", "10:15", "no port"),
        ("[2001:db8::1", "10:1", "the bracket is not closed"),
        ("[192.0.2.1]:7101", "10:1", "write 192.0.2.1:7100"),
        ("a b:c@192.0.2.1", "10:1", "no user name"),
        ("@192.0.2.1", "10:1", "no user name"),
        ("::ffff:1.2.3.4", "10:1", "write 1.2.3.4"),
        ("192.0.2.1(::ffff:1.2.3.4)", "10:11", "write 1.2.3.4"),
        ("0.0.0.0", "10:1", "no machine's address"),
        ("::", "10:1", "no machine's address"),
        ("255.255.255.255", "10:1", "no machine's address"),
        ("224.0.0.1", "10:1", "multicast"),
        ("ff02::1", "10:1", "multicast"),
        ("fe80::1", "10:1", "one link"),
        ("fe80::1%eth0", "10:1", "one link"),
        ("2001:db8::1%eth0", "10:1", "one link"),
        ("\x1b[2J\0", "10:1", r"'\x1b[2J\x00'"),
        ("ж" * 500, "10:1", "no address"),
    ],
)
def test_parse_when_wrong_then_line_column_and_advice(text: str, where: str, words: str) -> None:
    """The place is that of the character in the file, white space counted."""
    (said,) = mistakes(text)
    assert said.startswith(f"hub.yaml:{where}: ")
    assert words in said
    assert said.isprintable()
    assert said.isascii()
    assert len(said) < 400


def test_parse_when_many_are_wrong_then_all_are_told() -> None:
    """One pass tells every mistake, in the order of the lines."""
    text = """192.0.2.1(192.0.2.3)
b@d@oops:99999(0.0.0.0, ff02::1) tail

192.0.2.2 (192.0.2.5, 192.0.2.3)
root@192.0.2.1"""
    assert [line.partition(": ")[0] for line in mistakes(text)] == [
        "hub.yaml:11:1",
        "hub.yaml:11:5",
        "hub.yaml:11:10",
        "hub.yaml:11:16",
        "hub.yaml:11:25",
        "hub.yaml:11:34",
        "hub.yaml:13:23",
        "hub.yaml:14:6",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "192.0.2.1(192.0.2.3)\n192.0.2.2(192.0.2.3)",
            "11:11: service 192.0.2.3 stands under agent 192.0.2.2, and under agent 192.0.2.1 in",
        ),
        ("192.0.2.1(192.0.2.2)\n192.0.2.2", "hub.yaml:11:1: service 192.0.2.2"),
        ("192.0.2.1\n192.0.2.1:7101", "192.0.2.1 stands under agent 192.0.2.1:7101"),
        ("192.0.2.1\nroot@192.0.2.1", "has the user root, and fnm-agent in line 10"),
    ],
)
def test_parse_when_lines_contradict_then_both_are_named(text: str, words: str) -> None:
    """One address belongs to one agent, and one agent to one user."""
    (said,) = mistakes(text)
    assert words in said


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (agent("192.0.2.1"), "192.0.2.1"),
        (agent("192.0.2.1", port=7101), "192.0.2.1:7101"),
        (agent("2001:db8::1"), "2001:db8::1"),
        (agent("2001:db8::1", port=7101), "[2001:db8::1]:7101"),
    ],
)
def test_name_when_port_differs_then_shown(made: Agent, name: str) -> None:
    """The name is what an operator would write, and the list takes it."""
    assert made.name == name
    assert parse(name) == (made,)


def test_merge_when_lists_agree_then_one_inventory() -> None:
    """The same agent in two lists is one; every service leads to it."""
    inventory = merge(
        [
            agent("192.0.2.1", "192.0.2.3"),
            agent("2001:db8::1"),
            agent("192.0.2.1", "192.0.2.4"),
        ]
    )
    whole = agent("192.0.2.1", "192.0.2.3", "192.0.2.4")
    assert inventory.agents == (whole, agent("2001:db8::1"))
    for service in whole.services:
        assert inventory.find(service) == whole
    assert inventory.find(IPv4Address("192.0.2.9")) is None
    assert merge([]).agents == ()


def test_merge_when_lists_contradict_then_both_agents_are_named() -> None:
    """A service under two agents, or an agent with two users, is refused; all at once."""
    with pytest.raises(ConfigError) as caught:
        merge(
            [
                agent("192.0.2.1", "192.0.2.3"),
                agent("192.0.2.2", "192.0.2.3"),
                agent("192.0.2.1", user="root"),
            ]
        )
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        "isn_sync: service 192.0.2.3 stands under agent 192.0.2.2, and under agent 192.0.2.1 in"
    )
    assert "the user root, and fnm-agent" in second


@given(st.text())
def test_parse_when_any_text_then_no_other_error(text: str) -> None:
    """No text raises anything but the one error, and that can be printed."""
    said = ""
    try:
        parse(text)
    except ConfigError as error:
        said = str(error)
    assert said.replace("\n", "").isprintable()


PIECES = st.sampled_from(
    ["192.0.2.1", "2001:db8::1", "[", "]", "(", ")", ",", ":", "@", "#", "/", " ", "\n", "7", "x"]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_parse_when_pieces_are_shuffled_then_places_are_in_the_text(text: str) -> None:
    """Every place that a message names is a character of the text."""
    try:
        parse(text)
    except ConfigError as error:
        lines = text.split("\n")
        problems = error.problems
    else:
        return
    for problem in problems:
        assert 1 <= problem.column <= len(lines[problem.line - 10])


HOSTS = st.one_of(st.ip_addresses(network="192.0.2.0/24"), st.ip_addresses(network="2001:db8::/32"))
SPACES = st.text(" \t\u2003", max_size=2)


@st.composite
def inventories(draw: st.DrawFn) -> tuple[str, list[Agent]]:
    """Return a list as somebody may write it, and what it means."""
    addresses = draw(st.lists(HOSTS, unique=True, max_size=12))
    lines: list[str] = []
    agents: list[Agent] = []
    while addresses:
        host, *services = [addresses.pop() for _ in range(draw(st.integers(1, len(addresses))))]
        port = draw(st.sampled_from((7100, 22, 65535)))
        user = draw(st.sampled_from(("", "root", "x.y-z_1")))
        made = Agent(host, port, user or "fnm-agent", (host, *services))
        agents.append(made)
        text = made.name if port != 7100 else draw(st.sampled_from(_spellings(host)))
        text = f"{user}@{text}" if user else text
        if draw(st.booleans()) or services:
            text = f"{text}({','.join(map(str, services))})"
        lines.append("".join(f"{char}{draw(SPACES)}" for char in text))
        if draw(st.booleans()):
            lines[-1] += "# comment (with, things)"
            lines.append("")
    return "\n".join(lines), agents


def _spellings(host: IPAddress) -> list[str]:
    if host.version == 4:
        return [str(host), f"{host}:7100"]
    return [str(host), host.exploded, f"[{host}]", f"[{host}]:7100"]


@given(inventories())
def test_parse_when_written_in_any_way_then_means_the_same(
    drawn: tuple[str, list[Agent]],
) -> None:
    """However it is spaced, spelled and commented, the list means the same agents."""
    text, agents = drawn
    assert list(parse(text)) == agents
    inventory = merge(agents)
    assert all(inventory.find(one) == made for made in agents for one in made.services)
    doubled = parse(f"{text}\n{text}")
    assert list(doubled) == agents
    assert merge([*agents, *(replace(one, services=(one.host,)) for one in agents)]).agents == (
        *agents,
    )
