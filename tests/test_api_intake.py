# SPDX-License-Identifier: Apache-2.0
"""The local intake socket: who may post, what is taken, and when 202 is said."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from hub.api.limits import Limits
from hub.api.server import Bound
from hub.config import Config
from hub.errors import HubError, OverloadedError, StoreError, StoreFullError
from hub.intake.envelope import encode
from tests.support.api_daemon import MemoryDaemon
from tests.support.api_http import (
    BODY,
    ENVELOPE,
    EVENTS,
    NOBODY,
    answer_of,
    config_in,
    folder,
    raw_exchange,
    request_bytes,
    run_python,
    serving,
    unix_session,
)

LIMITS = Limits(head=0.3, body=0.3)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets that other users may look into."""
    with folder() as path:
        yield path


@pytest.fixture
def daemon() -> MemoryDaemon:
    """A daemon in memory."""
    return MemoryDaemon()


@pytest.fixture
def config(place: Path) -> Config:
    """A configuration with small bodies."""
    made = config_in(place)
    unix = made.intake.unix.model_copy(update={"max_body": 4096})
    return made.model_copy(update={"intake": made.intake.model_copy(update={"unix": unix})})


@pytest.fixture
async def bound(config: Config, daemon: MemoryDaemon) -> AsyncIterator[Bound]:
    """Listeners around the daemon."""
    async with serving(config, daemon, limits=LIMITS) as bound:
        yield bound


@pytest.fixture
async def session(bound: Bound) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the intake socket."""
    async with unix_session(bound.intake) as session:
        yield session


async def test_event_when_new_then_202_with_its_number(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """A new call is answered 202 and reaches the daemon with its very bytes."""
    answer = await answer_of(await session.post(EVENTS, data=BODY))
    assert answer == (202, {"event": 1})
    assert daemon.accepted == [(ENVELOPE, BODY, "unix")]


async def test_event_when_sent_twice_then_200_with_the_first_number(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """The same call again is answered 200 with the number it has, and is kept once."""
    await answer_of(await session.post(EVENTS, data=BODY))
    answer = await answer_of(await session.post(EVENTS, data=BODY))
    assert answer == (200, {"event": 1})
    assert len(daemon.accepted) == 1


async def test_event_when_not_durable_yet_then_no_answer(
    bound: Bound, daemon: MemoryDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is answered before the daemon says that the call is durable."""
    durable = asyncio.Event()
    accept = daemon.accept

    async def slow(*args: object, **kwargs: object) -> object:
        await durable.wait()
        return await accept(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(daemon, "accept", slow)
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    writer.write(request_bytes(EVENTS, BODY))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    durable.set()
    assert await reader.readline() == b"HTTP/1.1 202 Accepted\r\n"
    writer.close()


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (StoreFullError("no space", where="/var", todo="make room"), "30"),
        (StoreError("the disk is gone"), "1"),
        (OverloadedError("20000 events wait"), "1"),
    ],
)
async def test_event_when_it_cannot_be_kept_then_503_and_when_to_retry(
    session: aiohttp.ClientSession, daemon: MemoryDaemon, error: HubError, wait: str
) -> None:
    """What cannot be kept now is refused with 503 and Retry-After: the sender keeps its copy."""
    daemon.failing = error
    response = await session.post(EVENTS, data=BODY)
    assert wait == response.headers["Retry-After"]
    status, fields = await answer_of(response)
    assert (503, error.what) == (status, fields["error"])


async def test_event_when_the_daemon_breaks_then_500_says_nothing(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """An error that nobody foresaw is answered 500 without any detail."""
    daemon.failing = RuntimeError("secret detail")
    status, fields = await answer_of(await session.post(EVENTS, data=BODY))
    assert (status, fields["error"]) == (500, "internal error")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"v":2}',
        b"[" * 4000,
        b"NaN",
        encode(ENVELOPE).replace(b"fnm1", b"f\\nm"),
        encode(ENVELOPE).replace(b"1700000000.0", b"NaN"),
    ],
)
async def test_event_when_no_envelope_then_400_and_why(
    session: aiohttp.ClientSession, daemon: MemoryDaemon, body: bytes
) -> None:
    """Bytes that are no envelope are answered 400 with the reason, and reach nobody."""
    status, fields = await answer_of(await session.post(EVENTS, data=body))
    assert status == 400
    assert "envelope" in fields["error"]
    assert daemon.accepted == []


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "x/y; charset=\x01", ""])
async def test_event_when_content_type_is_wrong_then_taken_all_the_same(
    bound: Bound, kind: str
) -> None:
    """Only the bytes count: a sender cannot lose a call by a wrong content type."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    head = f"Content-Type: {kind.replace(chr(1), '?')}\r\n"
    answer = await raw_exchange(reader, writer, request_bytes(EVENTS, BODY, headers=head))
    assert answer.startswith(b"HTTP/1.1 202 ")


async def test_event_when_compressed_then_415(bound: Bound, daemon: MemoryDaemon) -> None:
    """A compressed body is refused: a small one could unfold to gigabytes."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    sent = request_bytes(EVENTS, BODY, headers="Content-Encoding: gzip\r\n")
    assert (await raw_exchange(reader, writer, sent)).startswith(b"HTTP/1.1 415 ")
    assert daemon.accepted == []


async def test_event_when_announced_too_long_then_413_before_it_comes(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A Content-Length above the cap is refused before one byte of the body was sent."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    sent = request_bytes(EVENTS, b"", length=10**12)
    assert (await raw_exchange(reader, writer, sent)).startswith(b"HTTP/1.1 413 ")
    assert daemon.accepted == []


async def test_event_when_chunked_and_too_long_then_413(bound: Bound, daemon: MemoryDaemon) -> None:
    """A body without a length is cut off at the cap."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = head.encode() + chunk * 3 + b"0\r\n\r\n"
    writer.write(sent)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    assert daemon.accepted == []


async def test_event_when_the_body_stalls_then_408(bound: Bound, daemon: MemoryDaemon) -> None:
    """A body that does not come to its end in time ends the request."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    sent = request_bytes(EVENTS, BODY[:10], length=len(BODY), close=False)
    assert (await raw_exchange(reader, writer, sent)).startswith(b"HTTP/1.1 408 ")
    assert daemon.accepted == []


@pytest.mark.parametrize("sent", [b"", b"POST /v1/ev", b"POST / HTTP/1.1\r\nHost: h\r\nX-A: "])
async def test_connection_when_the_head_stalls_then_closed(bound: Bound, sent: bytes) -> None:
    """Who does not finish a request head in time is disconnected."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    assert await raw_exchange(reader, writer, sent) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"POST " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 500 + b"\r\n",
        b"POST /v1/events/fastnetmon HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
        (
            b"POST /v1/events/fastnetmon HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
    ],
    ids=["tls", "long-line", "many-headers", "negative-length", "two-lengths"],
)
async def test_connection_when_not_http_then_refused_and_others_served(
    bound: Bound, session: aiohttp.ClientSession, daemon: MemoryDaemon, sent: bytes
) -> None:
    """Rubbish is answered with 400 at most, reaches nobody, and disturbs nobody else."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    answer = await raw_exchange(reader, writer, sent)
    assert answer == b"" or b" 400 " in answer.splitlines()[0]
    assert daemon.accepted == []
    assert (await answer_of(await session.post(EVENTS, data=BODY)))[0] == 202


@pytest.mark.parametrize("name", ["api", "intake"])
async def test_connection_when_rubbish_then_a_short_answer_that_repeats_none_of_it(
    bound: Bound, name: str
) -> None:
    """Much rubbish is answered by a few fixed words: nothing of it comes back."""
    reader, writer = await asyncio.open_unix_connection(getattr(bound, name))
    answer = await raw_exchange(reader, writer, b"\0" * 4096)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head[9:12] == b"400"
    assert json.loads(body) == {"error": "this is not a valid request", "where": "", "todo": ""}
    assert len(answer) < 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", EVENTS, 405),
        ("POST", "/v1/status", 404),
        ("POST", "/v1/webhook/fastnetmon/fnm1", 404),
        ("POST", EVENTS + "/..", 404),
    ],
)
async def test_intake_when_another_path_or_method_then_refused(
    session: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    """The intake socket takes calls and nothing else."""
    answer = await answer_of(await session.request(method, path, data=b"{}"))
    assert status == answer[0]
    assert {"error", "where", "todo"} == answer[1].keys()


async def test_question_when_the_sender_is_known_then_ok_and_nothing_is_taken(
    session: aiohttp.ClientSession, daemon: MemoryDaemon
) -> None:
    """A sender may ask whether its calls would be taken, without making one."""
    assert await answer_of(await session.get(EVENTS)) == (200, {"ok": True})
    assert daemon.accepted == []


async def test_question_when_the_peer_is_another_user_then_403(bound: Bound) -> None:
    """Who may make no call is told so."""
    await asyncio.to_thread(bound.intake.chmod, 0o666)
    code = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET " + sys.argv[2].encode() + b" HTTP/1.1\\r\\nHost: hub\\r\\n\\r\\n")
print(s.makefile("rb").readline().decode())
"""
    _, out, err = await run_python(code, str(bound.intake), EVENTS, uid=NOBODY)
    assert (err, out[:13]) == ("", "HTTP/1.1 403 ")


async def test_event_when_the_peer_is_another_user_then_403(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A local user who is not in the list is refused, even where the file mode lets him in."""
    await asyncio.to_thread(bound.intake.chmod, 0o666)
    code = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode())
print(s.makefile("rb").readline().decode(), os.geteuid())
"""
    sent = request_bytes(EVENTS, BODY).decode("ascii")
    code_, out, err = await run_python(code, str(bound.intake), sent, uid=NOBODY)
    assert (code_, err) == (0, "")
    assert out.startswith("HTTP/1.1 403 ")
    assert out.strip().endswith(str(NOBODY))
    assert daemon.accepted == []


async def test_event_when_the_file_mode_forbids_then_no_connection(bound: Bound) -> None:
    """The socket's mode keeps others out before the hub has to."""
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    _, _, err = await run_python(code, str(bound.intake), uid=NOBODY)
    assert "PermissionError" in err


async def test_burst_when_many_connections_then_none_is_lost(
    bound: Bound, daemon: MemoryDaemon
) -> None:
    """A burst of detector calls, a connection each, is taken whole."""

    async def one(number: int) -> int:
        body = BODY.replace(b"0123456789abcdef", f"burst-{number:06}".encode())
        reader, writer = await asyncio.open_unix_connection(bound.intake)
        return int((await raw_exchange(reader, writer, request_bytes(EVENTS, body)))[9:12])

    answers = await asyncio.gather(*(one(number) for number in range(200)))
    assert {202} == set(answers)
    assert len(daemon.accepted) == 200


async def test_refusals_when_they_happen_then_counted_by_reason(
    bound: Bound, session: aiohttp.ClientSession
) -> None:
    """Each refused call shows in the metrics under its reason."""
    await answer_of(await session.post(EVENTS, data=b"x"))
    await answer_of(await session.post(EVENTS, data=b"x" * 5000))
    async with unix_session(bound.api) as api, api.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    assert 'fnm_hub_intake_refused_total{reason="intake",via="unix"} 1.0' in lines
    assert 'fnm_hub_intake_refused_total{reason="too_long",via="unix"} 1.0' in lines


async def test_event_when_http_1_0_with_keep_alive_absent_then_answered_and_closed(
    bound: Bound,
) -> None:
    """A sender that speaks HTTP/1.0 gets its answer and the end of the connection."""
    reader, writer = await asyncio.open_unix_connection(bound.intake)
    head = f"POST {EVENTS} HTTP/1.0\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    answer = await raw_exchange(reader, writer, head + BODY)
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"event": 1}
