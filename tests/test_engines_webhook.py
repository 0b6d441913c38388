# SPDX-License-Identifier: Apache-2.0
"""The engine `webhook` tells a real HTTP server, again where that helps, and keeps its secrets."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hub import config
from hub.engines.http import MAX_ANSWER, _seconds
from hub.engines.webhook import LONGEST_WAIT, TOTAL, WebhookEngine
from hub.errors import EnginePermanentError, EngineTemporaryError
from hub.rules.actions import Command
from tests.support.api_tls import make_pki
from tests.support.engines import FakeClock, as_engine, mitigation, receiver

TOKEN = "token-5ecret"
SECRET_PATH = "/hook?key=url-5ecret"


def status(code: int, **headers: str) -> web.Response:
    """Return an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=code, headers=named, body=b"body-5ecret")


@asynccontextmanager
async def engine(
    url: str, clock: FakeClock | None = None, **settings: Any
) -> AsyncIterator[WebhookEngine]:
    """Yield a started engine that tells `url`."""
    checked = config.WebhookEngine.model_validate({"url": url, **settings})
    teller = WebhookEngine("oncall", checked, clock or FakeClock())
    await teller.start()
    try:
        yield teller
    finally:
        await teller.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """Return the path of a good token file."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def certificates(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context, and the authority that vouches for it."""
    pki = make_pki(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.server.certificate, pki.server.key)
    return context, pki.ca


async def test_apply_when_told_then_body_and_headers_are_as_documented(token: Path) -> None:
    """The other side gets one JSON object, a key that names it, and the token."""
    async with receiver() as got, engine(got.url, token_file=str(token)) as teller:
        row = mitigation()
        await teller.apply(row)
        await teller.release(mitigation(service=None, revision=4, reason="attack ended"))
        assert await teller.telemetry() == {"sent": 2, "failed": 0, "retried": 0}
        assert (await teller.health()).ok
    on, off = (json.loads(body) for body in got.bodies)
    assert on == {
        "v": 1,
        "kind": "notify",
        "state": "on",
        "mitigation": "m-0123456789",
        "revision": 3,
        "rule": "syn-flood",
        "target": "192.0.2.7/32",
        "service": "web",
        "engine": "oncall",
        "attacks": ["a-0123456789", "a-9876543210"],
        "created_at": 1000.0,
        "deadline": 1900.0,
        "reason": "",
        "drill": False,
    }
    assert (off["state"], off["service"], off["reason"]) == ("off", None, "attack ended")
    keys = [headers["Idempotency-Key"] for headers in got.headers]
    assert keys == ["m-0123456789:3:on", "m-0123456789:4:off"]
    assert {headers["Authorization"] for headers in got.headers} == {f"Bearer {TOKEN}"}
    assert {headers["Content-Type"] for headers in got.headers} == {"application/json"}


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 599])
async def test_apply_when_other_side_is_busy_then_told_again_with_the_same_key(code: int) -> None:
    """A passing failure is got over, and the receiver can tell a repetition from news."""
    clock = FakeClock()
    answers = (status(code), status(code), status(204))
    async with receiver(*answers) as got, engine(got.url, clock) as teller:
        await teller.apply(mitigation())
        assert await teller.telemetry() == {"sent": 1, "failed": 0, "retried": 2}
    assert [headers["Idempotency-Key"] for headers in got.headers] == ["m-0123456789:3:on"] * 3
    assert len(set(got.bodies)) == 1
    assert len(clock.slept) == 2
    assert 0 < clock.slept[0] <= clock.slept[1] + 0.2 <= 1.0


async def test_apply_when_busy_for_long_then_given_up_as_temporary() -> None:
    """After the configured number of tries somebody else decides."""
    async with receiver(status(503)) as got, engine(got.url, attempts=3) as teller:
        with pytest.raises(EngineTemporaryError, match="status 503"):
            await teller.apply(mitigation())
        assert len(got.bodies) == 3
        health = await teller.health()
        assert not health.ok
        assert "503" in health.detail


@pytest.mark.parametrize(
    ("code", "says"),
    [(400, "expects"), (401, "token"), (403, "token"), (404, "expects"), (302, "final URL")],
)
async def test_apply_when_refused_then_final_at_once(code: int, says: str) -> None:
    """What the other side will never take is not sent again, and no redirect is followed."""
    answer = status(code, Location="/elsewhere")
    async with receiver(answer) as got, engine(got.url) as teller:
        with pytest.raises(EnginePermanentError, match=f"refuses with status {code}") as caught:
            await teller.apply(mitigation())
        assert says in caught.value.todo
        assert got.paths == ["/hook"]


@pytest.mark.parametrize(("asked", "waited"), [("3", 3.0), ("0", 0.0), ("86400", LONGEST_WAIT)])
async def test_apply_when_asked_to_wait_then_waited_up_to_a_limit(
    asked: str, waited: float
) -> None:
    """Retry-After is honoured, and cannot put a message off for a day."""
    clock = FakeClock()
    answers = (status(429, Retry_After=asked), status(200))
    async with receiver(*answers) as got, engine(got.url, clock) as teller:
        await teller.apply(mitigation())
    assert clock.slept == [waited]


async def test_apply_when_asked_to_wait_until_a_date_then_waited_until_then() -> None:
    """Retry-After may be a date."""
    clock = FakeClock()
    date = format_datetime(datetime.fromtimestamp(clock.now + 4, UTC), usegmt=True)
    answers = (status(503, Retry_After=date), status(200))
    async with receiver(*answers) as got, engine(got.url, clock) as teller:
        await teller.apply(mitigation())
    assert clock.slept == [4.0]


async def test_apply_when_waits_add_up_then_no_try_begins_after_the_total() -> None:
    """All tries together have an end, whatever the number of attempts."""
    clock = FakeClock()
    async with (
        receiver(status(503, Retry_After="10")) as got,
        engine(got.url, clock, attempts=10) as teller,
    ):
        with pytest.raises(EngineTemporaryError):
            await teller.apply(mitigation())
    assert sum(clock.slept) == TOTAL
    assert len(got.bodies) == 4


async def test_apply_when_nobody_listens_then_temporary_with_the_reason() -> None:
    """A receiver that is down may come back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}{SECRET_PATH}"
    async with engine(url, attempts=2) as teller:
        with pytest.raises(EngineTemporaryError) as caught:
            await teller.apply(mitigation())
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert "5ecret" not in str(caught.value)
        assert await teller.telemetry() == {"sent": 0, "failed": 1, "retried": 1}


async def test_apply_when_the_name_does_not_exist_then_temporary() -> None:
    """A name server may be down for a while."""
    async with engine("http://no-such-host.invalid/hook", attempts=1) as teller:
        with pytest.raises(EngineTemporaryError, match=r"no-such-host\.invalid"):
            await teller.apply(mitigation())


async def test_apply_when_no_answer_comes_then_given_up_after_the_time_limit() -> None:
    """A receiver that accepts and says nothing, or drips, does not hold the engine."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)  # noqa: TID251 - a slow server
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with engine(f"http://127.0.0.1:{port}/", timeout="300ms", attempts=1) as teller:
            with pytest.raises(EngineTemporaryError, match=r"no answer within 0\.3 s"):
                await teller.apply(mitigation())
    finally:
        server.close()
        await server.wait_closed()


async def test_apply_when_the_answer_is_huge_then_it_is_not_read_to_the_end() -> None:
    """A receiver cannot fill our memory; its status counts."""
    huge = web.Response(body=bytes(50 * MAX_ANSWER))
    async with receiver(huge) as got, engine(got.url) as teller:
        await teller.apply(mitigation())
        await teller.apply(mitigation())
        assert await teller.telemetry() == {"sent": 2, "failed": 0, "retried": 0}


async def test_apply_when_it_is_no_http_then_temporary() -> None:
    """Something else behind the port is no reason to fall over."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"\xff\x00 220 mail.example.net ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with engine(f"http://127.0.0.1:{port}/", attempts=1) as teller:
            with pytest.raises(EngineTemporaryError, match="no exchange possible"):
                await teller.apply(mitigation())
    finally:
        server.close()
        await server.wait_closed()


async def test_apply_when_certificate_is_trusted_then_told_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS works with the system's store, or the one that the operator names."""
    tls, authority = await asyncio.to_thread(certificates, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with receiver(tls=tls) as got, engine(got.url) as teller:
        assert got.url.startswith("https://")
        await teller.apply(mitigation())
        assert len(got.bodies) == 1


async def test_apply_when_certificate_is_not_trusted_then_nothing_is_sent(
    tmp_path: Path,
) -> None:
    """There is no way to send to somebody who cannot prove who they are."""
    tls, _ = await asyncio.to_thread(certificates, tmp_path)
    async with receiver(tls=tls) as got, engine(got.url, attempts=1) as teller:
        with pytest.raises(EngineTemporaryError, match="certificate is not accepted"):
            await teller.apply(mitigation())
        assert got.bodies == []


async def test_apply_when_a_proxy_is_in_the_environment_then_it_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing outside the configuration decides where messages go."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with receiver() as got, engine(got.url) as teller:
        await teller.apply(mitigation())
        assert len(got.bodies) == 1


async def test_apply_when_logged_at_every_level_then_no_secret_is_in_it(
    token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """URL, token and answer stay out of logs, errors and reprs, also when all goes wrong."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with capture_logs() as logs:
        async with receiver(status(500), status(403)) as got:
            url = got.url.replace("/hook", SECRET_PATH)
            async with engine(url, token_file=str(token)) as teller:
                with pytest.raises(EnginePermanentError) as caught:
                    await teller.apply(mitigation())
                said += [repr(teller), repr(teller._poster), repr(await teller.health())]
                said += [str((await teller.plan(mitigation())).steps)]
                error: BaseException | None = caught.value
                while error is not None:
                    said.append(repr(error))
                    error = error.__cause__ or error.__context__
        assert got.paths == [SECRET_PATH] * 2
    assert [text for text in (*said, caplog.text, repr(logs)) if "5ecret" in text] == []


def missing(path: Path) -> None:
    """Leave nothing there."""
    path.unlink()


def open_to_group(path: Path) -> None:
    """Let the group read it."""
    path.chmod(0o640)


def open_to_all(path: Path) -> None:
    """Let anybody write it."""
    path.chmod(0o602)


def emptied(path: Path) -> None:
    """Put nothing in it."""
    path.write_text("\n")


def two_lines(path: Path) -> None:
    """Put what would become a second header in it."""
    path.write_text("token-5ecret\r\nX-Evil: 1\n")


def a_directory(path: Path) -> None:
    """Put a directory there."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing, "cannot be read: No such file"),
        (open_to_group, "mode 0640 is open to others; chmod 0600"),
        (open_to_all, "mode 0602 is open to others; chmod 0600"),
        (emptied, "holds no token"),
        (two_lines, "holds no token"),
        (a_directory, "cannot be read: Is a directory"),
    ],
)
async def test_plan_when_token_cannot_be_used_then_refused_and_nothing_is_sent(
    token: Path, spoil: Callable[[Path], None], says: str
) -> None:
    """A token that is missing, open to others or none is found before it is needed."""
    async with receiver() as got, engine(got.url, token_file=str(token)) as teller:
        await teller.plan(mitigation())
        await asyncio.to_thread(spoil, token)
        for ask in (teller.plan, teller.apply, teller.release):
            with pytest.raises(EnginePermanentError, match=says) as caught:
                await ask(mitigation())
            assert "5ecret" not in str(caught.value)
            assert str(token) in str(caught.value)
        assert not (await teller.health()).ok
        assert got.bodies == []


async def test_apply_when_token_is_changed_then_the_new_one_is_sent(token: Path) -> None:
    """A token can be rotated without a restart."""
    async with receiver() as got, engine(got.url, token_file=str(token)) as teller:
        await teller.apply(mitigation())
        await asyncio.to_thread(token.write_text, "another")
        await teller.apply(mitigation())
    sent = [headers["Authorization"] for headers in got.headers]
    assert sent == [f"Bearer {TOKEN}", "Bearer another"]


@pytest.mark.parametrize(
    "url", ["ftp://example.net/5ecret", "5ecret", "http://", "http://a:x/5ecret", "https:///5ecret"]
)
async def test_plan_when_url_cannot_be_posted_to_then_refused_without_showing_it(
    url: str,
) -> None:
    """A mistyped URL is named as such, and still kept secret."""
    async with engine(url) as teller:
        for ask in (teller.plan, teller.apply):
            with pytest.raises(EnginePermanentError, match="URL cannot be used") as caught:
                await ask(mitigation())
            assert "5ecret" not in repr(caught.value)
        assert not (await teller.health()).ok


async def test_plan_when_good_then_nothing_is_sent() -> None:
    """A plan has no effect, and names the host only."""
    async with receiver() as got, engine(got.url.replace("/hook", SECRET_PATH)) as teller:
        plan = await teller.plan(mitigation())
        host = got.url.split("/")[2]
        assert plan.steps == (f"POST to {host} (oncall), on and off",)
        assert got.bodies == []


async def test_apply_when_many_at_once_then_each_is_told() -> None:
    """Messages do not stand in each other's way."""
    async with receiver() as got, engine(got.url) as teller:
        await asyncio.gather(*(teller.apply(mitigation(revision=turn)) for turn in range(50)))
        keys = {headers["Idempotency-Key"] for headers in got.headers}
        assert keys == {f"m-0123456789:{turn}:on" for turn in range(50)}


async def test_engine_when_asked_then_it_says_what_it_can_do() -> None:
    """It tells, installs nothing, and refuses other countermeasures."""
    async with receiver() as got, engine(got.url) as started:
        teller = as_engine(started)
        able = teller.capabilities()
        assert able.kinds == {"notify"}
        assert (able.leases, able.hides_traffic, able.lasting, able.readable) == (
            (False, False, False, False)
        )
        assert list(await teller.inventory()) == []
        for ask in (teller.plan, teller.apply, teller.release):
            with pytest.raises(EnginePermanentError, match="cannot do 'command'"):
                await ask(mitigation(Command(run="x")))
        assert got.bodies == []


@given(text=st.one_of(st.text(), st.from_regex(r"[0-9]{1,30}", fullmatch=True)))
def test_retry_after_when_anything_then_seconds_or_nothing(text: str) -> None:
    """Whatever the other side sends there, it is a wait of at least nothing, or no wait."""
    seconds = _seconds(text, 1_000_000.0)
    assert seconds is None or seconds >= 0
