# SPDX-License-Identifier: Apache-2.0
"""The operator's socket: views, changes, refusals, the live stream, health and metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hub.api.daemon import View
from hub.api.server import Bound
from hub.config import Config
from hub.errors import ConfigError, HubError, Problem, RefusedError, StoreError
from tests.support.api_daemon import (
    NOW,
    MemoryDaemon,
    agent_view,
    attack_view,
    event_view,
    history_view,
    key_view,
    mitigation_view,
    status_view,
)
from tests.support.api_http import (
    NOBODY,
    answer_of,
    config_in,
    folder,
    run_python,
    serving,
    unix_session,
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets that other users may look into."""
    with folder() as path:
        yield path


@pytest.fixture
def config(place: Path) -> Config:
    """A configuration with every listener but TCP intake."""
    return config_in(place)


@pytest.fixture
def daemon() -> MemoryDaemon:
    """A daemon in memory."""
    return MemoryDaemon()


@pytest.fixture
async def bound(config: Config, daemon: MemoryDaemon) -> AsyncIterator[Bound]:
    """Listeners around the daemon."""
    async with serving(config, daemon) as bound:
        yield bound


@pytest.fixture
async def session(bound: Bound) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the operator's socket."""
    async with unix_session(bound.api) as session:
        yield session


async def get(session: aiohttp.ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    """Return status and object of one GET."""
    return await answer_of(await session.get(path))


async def post(
    session: aiohttp.ClientSession, path: str, fields: Any = None
) -> tuple[int, dict[str, Any]]:
    """Return status and object of one POST."""
    return await answer_of(await session.post(path, json=fields))


async def test_status_when_asked_then_the_daemon_s_own(session: aiohttp.ClientSession) -> None:
    """The state of the whole is shown as the daemon gives it."""
    assert (200, status_view()) == await get(session, "/v1/status")


async def test_history_when_asked_then_the_daemon_s_own_and_the_time(
    session: aiohttp.ClientSession,
) -> None:
    """What engines counted lately is shown as the daemon gives it."""
    assert (200, {"now": NOW, **history_view()}) == await get(session, "/v1/history")


async def test_lists_when_asked_then_items_and_the_hub_s_time(
    session: aiohttp.ClientSession,
) -> None:
    """A list has its items and the time in which their deadlines are."""
    expected = {
        "attacks": [attack_view()],
        "mitigations": [mitigation_view()],
        "events": [event_view(17)],
    }
    for name, items in expected.items():
        assert (200, {"now": NOW, "items": items}) == await get(session, f"/v1/{name}")


async def test_lists_when_all_then_with_what_is_over(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """What has ended is shown only when asked for."""
    daemon.attack_rows = [attack_view(state="ended")]
    daemon.mitigation_rows = [mitigation_view(state="released")]
    for name in ("attacks", "mitigations"):
        assert (await get(session, f"/v1/{name}"))[1]["items"] == []
        assert len((await get(session, f"/v1/{name}?all=1"))[1]["items"]) == 1


async def test_events_when_paged_then_below_the_number_and_no_more_than_asked(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """A reader walks back through events by the lowest number it has."""
    daemon.event_rows = [event_view(number) for number in range(20, 0, -1)]
    _, fields = await get(session, "/v1/events?before=10&limit=3")
    assert [item["number"] for item in fields["items"]] == [9, 8, 7]


async def test_one_when_there_then_all_about_it(session: aiohttp.ClientSession) -> None:
    """One attack comes with its decisions, one event with its bytes."""
    _, attack = await get(session, "/v1/attacks/a-0123456789")
    assert {"events", "mitigations", "audit", "now"} <= attack.keys()
    _, event = await get(session, "/v1/events/17")
    assert {"raw", "report", "now"} <= event.keys()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/attacks/a-unknown", 404),
        ("GET", "/v1/attacks/%2e%2e%2f%00", 404),
        ("GET", "/v1/events/99", 404),
        ("GET", "/v1/events/99999999999999999999999", 404),
        ("GET", "/v1/events/-1", 404),
        ("GET", "/v1/events?before=x", 400),
        ("GET", "/v1/events?limit=" + "9" * 5000, 400),
        ("GET", "/v1/events?limit=\u0661", 400),
        ("GET", "/v1", 404),
        ("POST", "/v1/status", 405),
        ("GET", "/v1/freeze", 405),
        ("DELETE", "/v1/attacks/a-0123456789", 405),
        ("POST", "/v1/events/fastnetmon", 404),
    ],
)
async def test_request_when_there_is_no_such_thing_then_an_error_to_act_on(
    session: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    """What does not exist is answered with its status and an error object."""
    answer = await answer_of(await session.request(method, path))
    assert status == answer[0]
    assert {"error", "where", "todo"} == answer[1].keys()


async def test_release_when_asked_then_done_in_the_name_of_the_peer(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """A change is carried out with the user's name, which the kernel vouches for."""
    path = "/v1/mitigations/m-0123456789/release"
    status, fields = await post(session, path, {"reason": "customer called"})
    assert (status, fields["state"]) == (200, "releasing")
    assert daemon.calls == [("release", "root", "customer called")]


@pytest.mark.parametrize("what", ["freeze", "unfreeze", "drain", "reload"])
async def test_change_when_asked_then_done_with_and_without_a_reason(
    session: aiohttp.ClientSession, daemon: MemoryDaemon, what: str
) -> None:
    """A change of the whole needs no body; a reason reaches the record."""
    assert (await answer_of(await session.post(f"/v1/{what}")))[0] == 200
    assert (await post(session, f"/v1/{what}", {"reason": "night"}))[0] == 200
    kept = "" if what == "reload" else "night"
    assert [(what, "root", ""), (what, "root", kept)] == daemon.calls


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"reason": 1}',
        b'{"reason": "x", "force": true}',
        b'{"reason": "%s"}' % (b"x" * 501),
        b"[" * 60_000,
    ],
    ids=["cut", "list", "text", "number", "more", "long", "deep"],
)
async def test_change_when_the_body_is_wrong_then_400_and_nothing_done(
    session: aiohttp.ClientSession, daemon: MemoryDaemon, body: bytes
) -> None:
    """A body that is not understood whole changes nothing."""
    status, fields = await answer_of(await session.post("/v1/drain", data=body))
    assert status == 400
    assert fields["error"]
    assert daemon.calls == []


async def test_change_when_the_body_is_huge_then_413(session: aiohttp.ClientSession) -> None:
    """The operator's socket has a cap too."""
    answer = await answer_of(await session.post("/v1/freeze", data=b"x" * 100_000))
    assert answer[0] == 413


@pytest.mark.parametrize(
    ("error", "status", "fields"),
    [
        (
            RefusedError("not active", where="m-1", todo="look"),
            409,
            {"error": "not active", "where": "m-1", "todo": "look"},
        ),
        (
            ConfigError([Problem("no such key", "r.yaml", 3, 5)]),
            422,
            {
                "error": "the files have mistakes; nothing has changed",
                "where": "",
                "todo": "",
                "problems": ["r.yaml:3:5: no such key"],
            },
        ),
        (
            StoreError("disk gone", where="/var"),
            503,
            {"error": "disk gone", "where": "/var", "todo": ""},
        ),
        (HubError("odd"), 500, {"error": "odd", "where": "", "todo": ""}),
        (
            ValueError("inner detail"),
            500,
            {
                "error": "internal error",
                "where": "",
                "todo": "see the hub's log for api.failed",
            },
        ),
    ],
)
async def test_change_when_the_daemon_refuses_then_its_words_and_the_right_status(
    session: aiohttp.ClientSession,
    daemon: MemoryDaemon,
    error: Exception,
    status: int,
    fields: dict[str, Any],
) -> None:
    """Each kind of error has its status; what, where and todo come through."""
    daemon.failing = error
    assert (status, fields) == await post(session, "/v1/reload")


async def test_any_when_the_peer_is_another_user_then_403_names_him(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """Who is not in the list is told so, changes nothing and sees nothing."""
    await asyncio.to_thread(bound.api.chmod, 0o666)
    code = """
import socket, sys
for request in ("GET /v1/status", "POST /v1/drain", "GET /metrics", "GET /v1/stream", "GET /x"):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall((request + " HTTP/1.0\\r\\n\\r\\n").encode())
    answer = s.makefile("rb").read().decode()
    print(answer.splitlines()[0], "user nobody may not use this socket" in answer)
"""
    _, out, err = await run_python(code, str(bound.api), uid=NOBODY)
    assert err == ""
    assert out.splitlines() == ["HTTP/1.0 403 Forbidden True"] * 5
    assert daemon.calls == []


async def test_users_when_one_is_named_then_he_may_and_is_the_actor(
    config: Config, daemon: MemoryDaemon
) -> None:
    """A user named in api.allow_users may change things under his own name."""
    users = ("no-such-user-here", "nobody")
    api = config.api.model_copy(update={"allow_users": users})
    async with serving(config.model_copy(update={"api": api}), daemon) as bound:
        await asyncio.to_thread(bound.api.chmod, 0o666)
        code = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"POST /v1/freeze HTTP/1.0\\r\\n\\r\\n")
print(s.makefile("rb").readline().decode())
"""
        _, out, _ = await run_python(code, str(bound.api), uid=NOBODY)
    assert out.startswith("HTTP/1.0 200 ")
    assert daemon.calls == [("freeze", "nobody", "")]


async def test_agents_when_asked_then_items_and_the_hub_s_time(
    session: aiohttp.ClientSession,
) -> None:
    """Agents and the hub's key are shown as the daemon gives them."""
    assert await get(session, "/v1/agents") == (200, {"now": NOW, "items": [agent_view()]})
    assert await get(session, "/v1/key") == (200, {"now": NOW, **key_view()})


async def test_trust_when_the_key_was_shown_then_pinned_in_the_name_of_the_peer(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """An agent's key is pinned by its fingerprint, whatever characters are in the agent's name."""
    name, shown = "[2001:db8::1]:7101", "SHA256:" + "+/a" * 14 + "a"
    daemon.agent_rows = [agent_view(name=name, state="untrusted", host_key="", offered_key=shown)]
    path = "/v1/agents/%5B2001:db8::1%5D:7101"
    status, fields = await post(
        session, f"{path}/trust", {"fingerprint": shown, "reason": "seen on the console"}
    )
    assert (status, fields["host_key"], fields["offered_key"]) == (200, shown, "")
    assert (await post(session, f"{path}/forget"))[0] == 200
    assert daemon.calls == [
        (f"trust {name} {shown}", "root", "seen on the console"),
        (f"forget {name}", "root", ""),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        {"reason": "x"},
        {"fingerprint": None},
        {"fingerprint": "SHA256:short"},
        {"fingerprint": "MD5:" + "A" * 43},
        {"fingerprint": "SHA256:" + "A" * 43 + "\n"},
        {"fingerprint": "SHA256:" + "A" * 43, "force": True},
        {"fingerprint": "SHA256:" + "A" * 43, "reason": 7},
        ["fingerprint"],
    ],
)
async def test_trust_when_the_body_is_wrong_then_400_and_nothing_pinned(
    session: aiohttp.ClientSession, daemon: MemoryDaemon, fields: Any
) -> None:
    """Without a whole fingerprint nothing is trusted."""
    assert (await post(session, "/v1/agents/192.0.2.1/trust", fields))[0] == 400
    assert daemon.calls == []


@pytest.mark.parametrize("path", ["192.0.2.9/trust", "192.0.2.1/trust", "192.0.2.9/forget"])
async def test_agent_when_unknown_or_with_another_key_then_409(
    session: aiohttp.ClientSession, daemon: MemoryDaemon, path: str
) -> None:
    """What the daemon refuses is refused in its words."""
    body = {"fingerprint": "SHA256:" + "A" * 43} if path.endswith("trust") else None
    status, fields = await post(session, f"/v1/agents/{path}", body)
    assert (status, fields["todo"]) == (409, "fnm-hub agents")
    assert daemon.calls == []


async def test_key_when_rotated_then_both_are_shown(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """A new key comes with the one before it and who still uses that."""
    status, fields = await post(session, "/v1/key/rotate", {"reason": "a laptop was lost"})
    assert (status, fields["fingerprint"]) == (200, "SHA256:" + "B" * 43)
    assert fields["previous"]["used_by"] == ["192.0.2.1"]
    assert daemon.calls == [("rotate", "root", "a laptop was lost")]


async def next_items(response: aiohttp.ClientResponse, count: int) -> list[View]:
    """Return the next items of a stream, heartbeats left out."""
    items: list[View] = []
    while len(items) < count:
        item = json.loads(await response.content.readline())
        if item["type"] != "heartbeat":
            items.append(item)
    return items


async def test_stream_when_things_happen_then_a_line_each(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """What happens after the first line arrives in order, a JSON object a line."""
    async with session.get("/v1/stream") as response:
        first = json.loads(await response.content.readline())
        assert first == {"type": "heartbeat", "time": NOW}
        sent = [{"type": "event", "time": NOW + n, "event": event_view(n)} for n in range(5)]
        for item in sent:
            daemon.publish(item)
        assert sent == await next_items(response, 5)


async def test_stream_when_the_reader_leaves_then_the_daemon_is_free_of_him(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A reader that goes away is forgotten with the next line; others go on reading."""
    async with unix_session(bound.api) as stays, stays.get("/v1/stream") as response:
        async with unix_session(bound.api) as leaves, leaves.get("/v1/stream") as gone:
            await gone.content.readline()
            assert len(daemon.queues) == 2
        while len(daemon.queues) > 1:
            daemon.publish({"type": "notice", "time": NOW, "level": "info", "text": "tick"})
            await next_items(response, 1)
        daemon.publish({"type": "notice", "time": NOW, "level": "info", "text": "after"})
        assert (await next_items(response, 1))[0]["text"] == "after"


async def test_stream_when_the_hub_stops_then_it_ends_at_once(
    config: Config, daemon: MemoryDaemon
) -> None:
    """Open streams do not hold up the end of the hub; readers see the end of the answer."""
    async with AsyncExitStack() as clients:
        async with serving(config, daemon) as bound:
            session = await clients.enter_async_context(unix_session(bound.api))
            response = await clients.enter_async_context(session.get("/v1/stream"))
            await response.content.readline()
        # A connection that had to be cut off would raise here.
        assert await response.content.read() == b""
    assert daemon.queues == []


async def test_health_when_ready_then_ok_on_both_listeners(
    bound: Bound, session: aiohttp.ClientSession
) -> None:
    """Probes work on the socket and on the metrics listener."""
    assert bound.metrics is not None
    async with aiohttp.ClientSession(f"http://127.0.0.1:{bound.metrics[1]}") as probe:
        for one in (session, probe):
            assert await get(one, "/healthz") == (200, {"ok": True})
            assert await get(one, "/readyz") == (200, {"ready": True, "reasons": []})


async def test_health_when_not_ready_then_503_with_the_reasons(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """A hub that cannot work says why, and that it lives."""
    daemon.not_ready = ["engine nftables: no nft"]
    assert (503, {"ready": False, "reasons": daemon.not_ready}) == await get(session, "/readyz")
    assert (await get(session, "/healthz"))[0] == 200


async def test_metrics_when_scraped_then_the_daemon_s_and_the_sockets(
    bound: Bound, session: aiohttp.ClientSession
) -> None:
    """One page holds all samples, each name once, in the text format."""
    await get(session, "/v1/status")
    assert bound.metrics is not None
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{bound.metrics[1]}") as scraper,
        scraper.get("/metrics") as response,
    ):
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = (await response.text()).splitlines()
    assert {"fnm_hub_up 1.0", 'fnm_hub_operator_requests_total{code="200"} 1.0'} <= set(lines)
    types = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert sorted(set(types)) == sorted(types)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/status"), ("POST", "/v1/drain"), ("POST", "/v1/events/fastnetmon")],
)
async def test_metrics_listener_when_asked_for_more_then_404(
    bound: Bound, daemon: MemoryDaemon, method: str, path: str
) -> None:
    """The metrics listener shows nothing else and changes nothing."""
    assert bound.metrics is not None
    async with aiohttp.ClientSession(f"http://127.0.0.1:{bound.metrics[1]}") as session:
        assert (await answer_of(await session.request(method, path)))[0] == 404
    assert (daemon.calls, daemon.accepted) == ([], [])


async def test_metrics_listener_when_off_then_not_there(
    config: Config, daemon: MemoryDaemon
) -> None:
    """Without a port there is no listener."""
    api = config.api.model_copy(update={"metrics_port": None})
    async with serving(config.model_copy(update={"api": api}), daemon) as bound:
        assert bound.metrics is None
