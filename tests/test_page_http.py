# SPDX-License-Identifier: Apache-2.0
"""The status page over HTTP: who sees it, under which names, and that it changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from hub.api.page.browsers import HEADERS
from hub.api.secure import check_listeners, check_page
from hub.api.server import Bound
from hub.config import Api, Config, Page, PageUser, TlsFiles
from hub.errors import ConfigError
from tests.support.api_daemon import NOW, MemoryDaemon, attack_view
from tests.support.api_http import answer_of, config_in, folder, serving, unix_session
from tests.support.api_tls import Pki, make_pki
from tests.support.written import written

TOKEN = "a-long-token-of-the-night-shift"
FOREIGN = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
PATHS = ("/", "/page/style.css", "/page/script.js", "/page/icon.svg")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets, with a token as an operator would write it."""
    with folder() as path:
        token = path / "token"
        token.write_text(f"{TOKEN}\n")
        token.chmod(0o600)
        yield path


@pytest.fixture
def daemon() -> MemoryDaemon:
    """A daemon in memory."""
    return MemoryDaemon()


def config(place: Path, **page: Any) -> Config:
    """Return a configuration with the listener for browsers."""
    users = (PageUser(name="noc", token_file=place / "token"),)
    made = Page(**({"port": 0, "users": users, "names": ("hub.example.net",)} | page))
    api = Api(path=place / "api.sock", metrics_port=None, page=made)
    return config_in(place).model_copy(update={"api": api})


@pytest.fixture
async def bound(place: Path, daemon: MemoryDaemon) -> AsyncIterator[Bound]:
    """Listeners around the daemon."""
    async with serving(config(place), daemon) as bound:
        yield bound


@asynccontextmanager
async def browsing(bound: Bound, password: str = TOKEN) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a client of the listener for browsers; no password where it is empty."""
    assert bound.page is not None
    login = aiohttp.encode_basic_auth("noc", password) if password else None
    headers = {"Authorization": login} if login else {}
    url = f"http://127.0.0.1:{bound.page[1]}"
    async with aiohttp.ClientSession(url, headers=headers) as session:
        yield session


async def test_page_when_the_password_is_right_then_there_with_strict_headers(
    bound: Bound,
) -> None:
    """Page, style and script come with every header that keeps a browser strict."""
    async with browsing(bound) as session:
        for path in PATHS:
            async with session.get(path) as answer:
                assert answer.status == 200
                assert {name: answer.headers[name] for name in HEADERS} == HEADERS
                kinds = {"/": "text/html", "/page/style.css": "text/css"}
                assert answer.content_type == kinds.get(path, answer.content_type)
                text = await answer.text()
                assert path != "/" or "192.0.2.10" in text
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("password", ["", "wrong", TOKEN[:-1], "noc"])
async def test_page_when_the_password_is_wrong_then_401_and_nothing_shown(
    bound: Bound, password: str
) -> None:
    """Every path asks for it, also one that does not exist, and says nothing else."""
    async with browsing(bound, password) as session:
        for path in (*PATHS, "/page/stream", "/nothing"):
            async with session.get(path) as answer:
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"].startswith("Basic ")
                assert {name: answer.headers[name] for name in HEADERS} == HEADERS
                assert "192.0.2" not in await answer.text()


@pytest.mark.parametrize(
    "header", ["Basic", "Basic ?", "Basic bm9j", "Bearer " + TOKEN, "Basic bm9jOu-_", "\u00e9"]
)
async def test_page_when_the_login_is_garbage_then_401_said_once_and_without_it(
    bound: Bound, header: str
) -> None:
    """What is no name and password is refused; the log names the source, never what was shown."""
    with capture_logs() as logs:
        async with browsing(bound, "") as session:
            for _ in range(3):
                answer = await answer_of(await session.get("/", headers={"Authorization": header}))
                assert answer[0] == 401
    (line,) = written(logs, "intake.refused")
    assert (line["via"], line["reason"], line["source"]) == ("page", "login", "127.0.0.1")
    assert TOKEN not in json.dumps(logs)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8794", 200),
        ("[::1]:8794", 200),
        ("192.0.2.1", 200),
        ("localhost:8080", 200),
        ("hub.localhost", 200),
        ("hub.example.net", 200),
        ("HUB.EXAMPLE.NET.:443", 200),
        ("evil.example", 421),
        ("hub.example.net.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8794", 421),
        ("hub", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_host_when_not_ours_then_421(bound: Bound, host: str, status: int) -> None:
    """A name that somebody lets point here shows nothing, whoever is logged in."""
    async with browsing(bound) as session, session.get("/", headers={"Host": host}) as answer:
        assert answer.status == status
        assert ("192.0.2.10" in await answer.text()) == (status == 200)


async def test_request_when_another_site_causes_it_then_403_but_a_link_is_followed(
    bound: Bound,
) -> None:
    """Nothing can be drawn into another site; a person may come by a link."""
    async with browsing(bound) as session:
        for path in (*PATHS, "/page/stream"):
            assert (await answer_of(await session.get(path, headers=FOREIGN)))[0] == 403
        for site in ("same-origin", "none"):
            async with session.get("/", headers={**FOREIGN, "Sec-Fetch-Site": site}) as answer:
                assert answer.status == 200
        async with session.get("/", headers=LINK) as answer:
            assert answer.status == 200


async def test_listener_when_asked_to_change_something_then_there_is_no_such_thing(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """No path of the operator API is there, and no method but reading."""
    paths = ("/v1/drain", "/v1/freeze", "/v1/mitigations/m-0123456789/release", "/v1/status")
    async with browsing(bound) as session:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            for path in paths:
                assert (await answer_of(await session.request(method, path)))[0] == 404
            for path in ("/", "/page/style.css", "/page/stream"):
                assert (await answer_of(await session.request(method, path)))[0] == 405
        for path in (*paths, "/metrics", "/page/../token", "/page/%2e%2e/serve.py", "/page/x"):
            assert (await answer_of(await session.get(path)))[0] == 404
    assert daemon.calls == []


async def event(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the next event of a stream."""
    line = await answer.content.readline()
    assert line.startswith(b"data: ")
    assert await answer.content.readline() == b"\n"
    found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return found


async def test_stream_when_something_changes_then_that_part_alone_comes(
    bound: Bound, daemon: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First everything, then what has changed; also nothing, so that silence is a fault."""
    monkeypatch.setattr("hub.api.page.serve.INTERVAL", 0.02)
    monkeypatch.setattr("hub.api.page.serve._FRESH", 0.0)
    async with browsing(bound) as session, session.get("/page/stream") as answer:
        assert answer.content_type == "text/event-stream"
        first = await event(answer)
        assert first["version"] == "0.1.0"
        assert "192.0.2.10" in first["parts"]["attacks"]
        assert (await event(answer))["parts"] == {}
        daemon.attack_rows = [attack_view(targets=["2001:db8::7/128"])]
        while not (parts := (await event(answer))["parts"]):
            pass
        assert parts.keys() == {"attacks"}
        assert "2001:db8::7" in parts["attacks"]


async def test_stream_when_too_many_look_then_503_and_room_again_afterwards(
    bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Viewers are bounded; one who leaves makes room within one interval."""
    monkeypatch.setattr("hub.api.page.serve.INTERVAL", 0.02)
    monkeypatch.setattr("hub.api.page.serve._VIEWERS", 1)
    async with browsing(bound) as session:
        async with session.get("/page/stream") as answer:
            await event(answer)
            assert (await answer_of(await session.get("/page/stream")))[0] == 503
        async with asyncio.timeout(10):
            while True:
                async with session.get("/page/stream") as answer:
                    if answer.status == 200:
                        break


async def test_stream_when_the_hub_stops_then_it_ends_at_once(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A browser that looks does not hold the hub up."""
    async with asyncio.timeout(4):
        async with serving(config(place), daemon) as bound, browsing(bound) as session:
            answer = await session.get("/page/stream")
            await event(answer)
        answer.close()


async def test_socket_when_ssh_leads_a_browser_there_then_the_page_and_no_change(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """The page is on the operator's socket too; there a browser may look at everything."""
    async with unix_session(bound.api) as session:
        for path in (*PATHS, "/v1/status", "/v1/history"):
            async with session.get(path, headers={"Host": "localhost:8080"}) as answer:
                assert answer.status == 200
                assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        with capture_logs() as logs:
            for mark in ({"Origin": "http://localhost:8080"}, {"Sec-Fetch-Site": "same-origin"}):
                refused = await answer_of(await session.post("/v1/drain", headers=mark))
                assert refused[0] == 403
            rebound = {"Host": "evil.example:8080"}
            refused = await answer_of(await session.post("/v1/drain", headers=rebound))
            assert refused[0] == 421
            refused = await answer_of(await session.get("/v1/attacks", headers=FOREIGN))
            assert refused[0] == 403
        assert [one["reason"] for one in written(logs, "api.not_ours")] == [
            "cross_site",
            "host",
        ]
    assert daemon.calls == []


def test_check_when_the_listener_is_open_to_strangers_then_it_may_not_open(
    tmp_path: Path,
) -> None:
    """Beyond loopback only with TLS, and nowhere without somebody who is known."""
    users = (PageUser(name="noc", token_file=tmp_path / "token"),)
    tls = TlsFiles(certificate=tmp_path / "c", key=tmp_path / "k")
    mutual = tls.model_copy(update={"client_ca": tmp_path / "ca"})
    assert check_page(None, "x") == []
    for good in (
        Page(users=users),
        Page(host="0.0.0.0", users=users, tls=tls),
        Page(host="0.0.0.0", tls=mutual),
    ):
        assert check_page(good, "x") == []
    for bad, why in (
        (Page(), "knows nobody"),
        (Page(tls=tls), "knows nobody"),
        (Page(host="0.0.0.0", users=users), "without TLS"),
        (Page(host="hub.example.net", users=users), "without TLS"),
    ):
        (problem,) = check_page(bad, "x")
        assert why in problem.what
        assert problem.todo
        found = check_listeners(Config(api=Api(page=bad)), "x")
        assert found == [problem]


async def test_start_when_the_listener_is_open_to_strangers_then_refused(
    place: Path, daemon: MemoryDaemon
) -> None:
    """What the check refuses does not open, nor with a token that others may read."""
    with pytest.raises(ConfigError, match="without TLS"):
        async with serving(config(place, host="0.0.0.0"), daemon):
            pass
    (place / "token").chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        async with serving(config(place), daemon):
            pass


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA and what it has signed."""
    return make_pki(tmp_path_factory.mktemp("pki"))


async def test_page_when_over_tls_then_certificate_and_password_are_both_asked_for(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """With users and a client CA a browser needs both; without a certificate no handshake."""
    tls = TlsFiles(certificate=pki.server.certificate, key=pki.server.key, client_ca=pki.ca)
    async with serving(config(place, tls=tls), daemon) as bound:
        assert bound.page is not None
        url = f"https://127.0.0.1:{bound.page[1]}/"
        login = {"Authorization": aiohttp.encode_basic_auth("noc", TOKEN)}
        async with aiohttp.ClientSession() as session:
            known, unknown = pki.client_context(pki.client), pki.client_context()
            async with session.get(url, ssl=known, headers=login) as answer:
                assert answer.status == 200
            async with session.get(url, ssl=known) as answer:
                assert answer.status == 401
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(url, ssl=unknown, headers=login)


async def test_page_when_many_look_then_the_daemon_is_asked_once_a_second(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """Viewers share one moment: a crowd costs the hub no more than one."""
    asked = 0
    status = daemon.status

    def counted() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return status()

    daemon.status = counted  # type: ignore[method-assign]
    async with browsing(bound) as session, asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(answer_of_page(session))
    assert asked == 1
    assert daemon.state["now"] == NOW


async def answer_of_page(session: aiohttp.ClientSession) -> None:
    """Load the page once."""
    async with session.get("/") as answer:
        assert answer.status == 200
