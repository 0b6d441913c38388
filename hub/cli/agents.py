# SPDX-License-Identifier: Apache-2.0
"""Agents on protected servers, and the key that the hub shows them."""

import sys
from typing import Any, Final
from urllib.parse import quote

from hub.cli.client import Client
from hub.cli.control import confirmed
from hub.cli.text import Cell, Column, Screen, age, clean, moment, remaining
from hub.errors import HubError

STYLES: Final = {
    "ok": "green",
    "proven": "green",
    "match": "green",
    "new": "dim",
    "unknown": "dim",
    "closed": "dim",
    "returning": "yellow",
    "untrusted": "yellow",
    "unreachable": "alarm",
    "changed": "alarm",
    "denied": "alarm",
    "unusable": "alarm",
    "left": "alarm",
    "mismatch": "alarm",
    "no_cookie": "yellow",
    "silent": "yellow",
    "no_keys": "yellow",
}


class UnconfirmedError(HubError):
    """Nobody has said yes."""


def show_agents(screen: Screen, answer: dict[str, Any]) -> None:
    """Print the answer of `/v1/agents`."""
    now = float(answer["now"])
    rows = [
        (
            Cell(clean(one["name"])),
            Cell(clean(one["state"]), STYLES.get(one["state"], "")),
            Cell(_standings(one)),
            Cell(clean(one["source"]) or "-"),
            Cell(str(len(one["uses"])) if one["uses"] else "-"),
            Cell("never" if one["polled_at"] is None else age(one["polled_at"], now)),
            Cell(clean(one["why"])),
        )
        for one in answer["items"]
    ]
    if not rows:
        screen.text("no agents; name them in isn_sync, and enable engines.native")
        return
    columns = (
        Column("AGENT", least=15),
        Column("STATE"),
        Column("ADDRESSES"),
        Column("SOURCE"),
        Column("USED", right=True),
        Column("ASKED"),
        Column("WHY", least=10, cut=True),
    )
    screen.table(columns, rows)


def show_agent(screen: Screen, agent: dict[str, Any], now: float) -> None:
    """Print one agent with what the last probe of each port has shown."""
    state = clean(agent["state"])
    screen.text(f"agent {clean(agent['name'])}  {state}", STYLES.get(state, ""))
    if agent["why"]:
        screen.field("why", clean(agent["why"]))
    if agent["agent"]:
        screen.field("program", f"{clean(agent['agent'])}, secrets from {clean(agent['source'])}")
        screen.field("kernel", clean(agent["release"]) or "not told")
    screen.field("host key", clean(agent["host_key"]) or "not seen yet")
    if agent["offered_key"]:
        screen.field("offered", clean(agent["offered_key"]), "alarm")
    if agent["key"] == "previous":
        screen.field("our key", "the previous one; give it the new line: fnm-hub key show")
    if agent["polled_at"] is not None:
        screen.field("asked", f"{moment(agent['polled_at'], now)}, {agent['rtt_ms']:.1f} ms")
    if agent["skew_ms"] is not None:
        screen.field("clock", f"{agent['skew_ms'] / 1000:+.1f} s from this machine's")
    screen.field("syncookies", _syncookies(agent, now))
    screen.field("timestamps", clean(agent["timestamp_scheme"]) or "no probe has shown it yet")
    screen.field("used by", ", ".join(map(clean, agent["uses"])) or "nothing now")
    for one in agent["addresses"]:
        _address(screen, one, now)


def trust(client: Client, name: str, given: str, *, yes: bool, reason: str) -> dict[str, Any]:
    """Pin the host key that an agent has shown, after a person has compared it.

    Raises:
        UnconfirmedError: nobody has said yes.
        HubError: it has shown none, or another one.
    """
    agent = find(client.get("/v1/agents"), name)
    offered = str(agent["offered_key"])
    if not offered:
        raise HubError(
            "it has shown no key that is not trusted already",
            where=name,
            todo="see fnm-hub agents; it must be reachable first",
        )
    if agent["state"] == "changed" and not given:
        raise HubError(
            "another host key is trusted, and it shows a new one",
            where=name,
            todo="find out why; then name the new key: --fingerprint SHA256:...",
        )
    if not given and not yes:
        question = f"The agent {name} shows the host key {clean(offered)}. Is it the right one?"
        if not confirmed(question):
            raise UnconfirmedError(
                f"the host key {offered} was not confirmed",
                where=name,
                todo="compare it with `fnm-agent host-key` there, then: --fingerprint SHA256:...",
            )
    fields = {"fingerprint": given or offered, "reason": reason}
    return client.post(f"/v1/agents/{quote(name, safe='')}/trust", fields)


def forget(client: Client, name: str, reason: str) -> dict[str, Any]:
    """Forget the host key of an agent."""
    return client.post(f"/v1/agents/{quote(name, safe='')}/forget", {"reason": reason})


def find(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one agent of a list.

    Raises:
        HubError: there is none of this name.
    """
    for one in answer["items"]:
        if one["name"] == name:
            found: dict[str, Any] = one
            return found
    known = ", ".join(str(one["name"]) for one in answer["items"][:5])
    raise HubError(f"there is no agent {name!r}", todo=f"known: {known}" if known else "")


def show_key(screen: Screen, key: dict[str, Any]) -> None:
    """Print the line for agents alone on standard output, and what to do with it beside."""
    screen.raw(clean(key["line"]))
    previous = key["previous"]
    hint = "one line of /etc/fnm-agent/keys on each protected server"
    if previous is not None:
        names = ", ".join(map(clean, previous["used_by"])) or "no agent that is connected"
        hint += f"; the key before it is still in use by {names}"
    sys.stderr.write(f"  {hint}\n")


def _standings(agent: dict[str, Any]) -> str:
    words = [one["standing"] for one in agent["addresses"]]
    parts = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    return clean(", ".join(parts))


def _syncookies(agent: dict[str, Any], now: float) -> str:
    if agent["engaged_until"] is not None:
        return f"2 for us, for {remaining(agent['engaged_until'], now)} more at most"
    return "not told" if agent["syncookies"] is None else f"{agent['syncookies']}, as it was"


def _address(screen: Screen, one: dict[str, Any], now: float) -> None:
    standing = clean(one["standing"])
    screen.line()
    screen.text(f"{clean(one['address'])}  {standing}", STYLES.get(standing, ""))
    if one["why"]:
        screen.field("why", clean(one["why"]))
    rows = [
        (
            Cell(str(port["port"])),
            Cell(clean(port["verdict"]) or "-", STYLES.get(port["verdict"], "")),
            Cell(age(port["at"], now) if port["at"] else "never"),
            Cell("never" if port["good_at"] is None else age(port["good_at"], now)),
            Cell(clean(port["why"])),
        )
        for port in one["ports"]
    ]
    if rows:
        columns = (
            Column("PORT", right=True),
            Column("PROBE"),
            Column("AT"),
            Column("LAST GOOD"),
            Column("WHY", least=10),
        )
        screen.table(columns, rows)
