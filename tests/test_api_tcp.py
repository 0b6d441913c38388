# SPDX-License-Identifier: Apache-2.0
"""The TCP intake: when it opens, whom it believes, and what strangers cannot do to it."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from hub.api.limits import Limits
from hub.api.server import Bound
from hub.config import HmacKey, TcpIntake, TlsFiles, Webhook
from hub.errors import ConfigError
from hub.intake.envelope import decode
from hub.intake.signing import (
    KEY_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    sign,
)
from tests.support.api_daemon import NOW, FixedClock, MemoryDaemon
from tests.support.api_http import (
    BODY,
    ENVELOPE,
    EVENTS,
    answer_of,
    config_in,
    folder,
    raw_exchange,
    request_bytes,
    serving,
    unix_session,
)
from tests.support.api_tls import Pki, make_pki
from tests.support.written import written

SECRET = bytes(range(32))
TOKEN = "token-0123456789abcdef"
WEBHOOK = "/v1/webhook/fastnetmon/fnm-adv"
ADVANCED = b'{"action": "ban", "ip": "192.0.2.10", "alert_scope": "host"}'


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets, with the secrets as an operator would write them."""
    with folder() as path:
        for name, text in (
            ("k1", SECRET.hex()),
            ("old", SECRET.hex()),
            ("new", SECRET[::-1].hex()),
            ("token", TOKEN),
        ):
            (path / name).write_text(text + "\n", "ascii")
            (path / name).chmod(0o600)
        yield path


@pytest.fixture
def daemon() -> MemoryDaemon:
    """A daemon in memory."""
    return MemoryDaemon()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA and what it has signed."""
    return make_pki(tmp_path_factory.mktemp("pki"))


def key_in(place: Path, name: str = "k1") -> HmacKey:
    """Return one of the shared keys."""
    return HmacKey(id=name, secret_file=place / name)


def webhook_in(place: Path) -> Webhook:
    """Return a web callback with its token."""
    return Webhook(detector="fnm-adv", token_file=place / "token")


def tls_of(pki: Pki, *, mutual: bool = False) -> TlsFiles:
    """Return the listener's TLS files."""
    return TlsFiles(
        certificate=pki.server.certificate,
        key=pki.server.key,
        client_ca=pki.ca if mutual else None,
    )


def signed(
    body: bytes = BODY,
    *,
    name: str = "k1",
    secret: bytes = SECRET,
    stamp: float = NOW,
    nonce: str = "nonce-0123456789",
    path: str = EVENTS,
) -> dict[str, str]:
    """Return the headers of a signed POST."""
    mac = sign(secret, method="POST", path=path, timestamp=int(stamp), nonce=nonce, body=body)
    return {
        KEY_HEADER: name,
        TIMESTAMP_HEADER: str(int(stamp)),
        NONCE_HEADER: nonce,
        SIGNATURE_HEADER: mac,
    }


@asynccontextmanager
async def tcp_session(bound: Bound) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a plain client of the TCP intake."""
    assert bound.tcp is not None
    async with aiohttp.ClientSession(f"http://127.0.0.1:{bound.tcp[1]}") as session:
        yield session


@asynccontextmanager
async def tls_session(
    bound: Bound, context: ssl.SSLContext
) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a TLS client of the TCP intake."""
    assert bound.tcp is not None
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(
        f"https://127.0.0.1:{bound.tcp[1]}", connector=connector
    ) as session:
        yield session
        # aiohttp hands TLS connections to the loop to close; they want one turn of it.
        await connector.close()


async def post(
    session: aiohttp.ClientSession,
    path: str = EVENTS,
    body: bytes = BODY,
    headers: Mapping[str, str] | None = None,
) -> int:
    """Return the status of one POST."""
    status, _ = await answer_of(await session.post(path, data=body, headers=headers))
    return status


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ("", ["without TLS", "knows no sender"]),
        ("tls", ["knows no sender"]),
        ("key", ["without TLS"]),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "detector.example.net"])
async def test_start_when_open_to_strangers_then_refused_with_what_to_do(
    place: Path, pki: Pki, present: str, missing: list[str], host: str
) -> None:
    """Off loopback the hub does not start without TLS and a way to know the sender."""
    fields: dict[str, Any] = {"host": host, "port": 0}
    if present == "tls":
        fields["tls"] = tls_of(pki)
    if present == "key":
        fields["hmac_keys"] = (key_in(place),)
    with pytest.raises(ConfigError) as caught:
        async with serving(config_in(place, tcp=TcpIntake(**fields)), MemoryDaemon()):
            pass
    problems = caught.value.problems
    assert len(missing) == len(problems)
    for text, problem in zip(missing, problems, strict=True):
        assert text in problem.what
        assert "127.0.0.1" in problem.todo


async def test_start_when_refused_then_nothing_is_left_open(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A start that is refused leaves no socket behind."""
    with pytest.raises(ConfigError):
        async with serving(config_in(place, tcp=TcpIntake(host="0.0.0.0", port=0)), daemon):
            pass
    left = await asyncio.to_thread(lambda: sorted(path.name for path in place.iterdir()))
    assert left == ["k1", "new", "old", "token"]


async def test_start_when_webhooks_have_no_listener_then_refused(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A web callback without a listener is a mistake, not a silence."""
    with pytest.raises(ConfigError) as caught:
        async with serving(config_in(place, webhooks=(webhook_in(place),)), daemon):
            pass
    assert "intake.tcp is not set" in str(caught.value)


async def test_event_when_on_loopback_without_keys_then_taken(
    place: Path, daemon: MemoryDaemon
) -> None:
    """On loopback alone, a call needs no key."""
    config = config_in(place, tcp=TcpIntake(port=0))
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        assert await post(session) == 202
    assert daemon.accepted == [(ENVELOPE, BODY, "tcp")]


async def test_event_when_signed_then_taken_once(place: Path, daemon: MemoryDaemon) -> None:
    """A signed call is taken; the same request again is a replay, and is refused."""
    config = config_in(place, tcp=TcpIntake(port=0, hmac_keys=(key_in(place),)))
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        assert await post(session, headers=signed()) == 202
        assert await post(session, headers=signed()) == 401
    assert len(daemon.accepted) == 1


async def test_event_when_signed_by_either_key_then_taken(
    place: Path, daemon: MemoryDaemon
) -> None:
    """While keys are changed, the old and the new one are both good."""
    keys = (key_in(place, "old"), key_in(place, "new"))
    config = config_in(place, tcp=TcpIntake(port=0, hmac_keys=keys))
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        for name, secret, nonce in (("old", SECRET, "a" * 16), ("new", SECRET[::-1], "b" * 16)):
            body = BODY.replace(b"0123456789abcdef", nonce.encode())
            headers = signed(body, name=name, secret=secret, nonce=nonce)
            assert await post(session, body=body, headers=headers) == 202


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        (signed(secret=bytes(32)), BODY),
        (signed(name="k2"), BODY),
        (signed(), BODY.replace(b"192.0.2.10", b"192.0.2.11")),
        (signed(stamp=NOW - 301), BODY),
        (signed(stamp=NOW + 301), BODY),
        (signed(path="/v1/other"), BODY),
        ({**signed(), SIGNATURE_HEADER: "v1="}, BODY),
        ({**signed(), SIGNATURE_HEADER: "\u00e9" * 64}, BODY),
        ({**signed(), TIMESTAMP_HEADER: "NaN"}, BODY),
        ({**signed(), NONCE_HEADER: ""}, BODY),
    ],
    ids=[
        "unsigned",
        "wrong-secret",
        "unknown-key",
        "other-body",
        "old",
        "ahead",
        "other-path",
        "empty",
        "not-ascii",
        "no-time",
        "no-nonce",
    ],
)
async def test_event_when_the_signature_is_not_good_then_401_says_nothing(
    place: Path, daemon: MemoryDaemon, headers: dict[str, str], body: bytes
) -> None:
    """Whatever is wrong with a signature, the sender hears the same and nothing more."""
    config = config_in(place, tcp=TcpIntake(port=0, hmac_keys=(key_in(place),)))
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        answer = await answer_of(await session.post(EVENTS, data=body, headers=headers))
    assert answer == (401, {"error": "not allowed", "where": "", "todo": ""})
    assert daemon.accepted == []


async def test_event_when_the_clock_moves_on_then_an_old_request_stays_refused(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A recorded request is as useless after the window as within it."""
    wall = FixedClock()
    config = config_in(place, tcp=TcpIntake(port=0, hmac_keys=(key_in(place),)))
    async with serving(config, daemon, wall=wall) as bound, tcp_session(bound) as session:
        assert await post(session, headers=signed()) == 202
        for later in (299, 301, 100_000):
            wall.now = NOW + later
            assert await post(session, headers=signed()) == 401


async def test_refusals_when_many_then_few_lines_and_no_secret_in_them(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A hundred refused requests make one log line, with source and reason, without a secret."""
    tcp = TcpIntake(port=0, hmac_keys=(key_in(place),))
    config = config_in(place, tcp=tcp, webhooks=(webhook_in(place),))
    headers = signed(secret=bytes(32))
    with capture_logs() as lines:
        async with serving(config, daemon) as bound, tcp_session(bound) as session:
            for _ in range(50):
                assert await post(session, headers=headers) == 401
                assert await post(session, WEBHOOK + "/wrong-token-here", ADVANCED) == 401
    refused = written(lines, "intake.refused")
    assert [line["reason"] for line in refused] == ["signature", "token"]
    assert {"127.0.0.1"} == {line["source"] for line in refused}
    everything = json.dumps(lines)
    for hidden in ("wrong-token-here", TOKEN, SECRET.hex(), headers[SIGNATURE_HEADER]):
        assert hidden not in everything


@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        (b"\0" * 70_000, 400, "this is not a valid request"),
        (b"GET /" + b"secret" * 10_000, 400, "this is not a valid request"),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: secret\r\nConnection: close\r\n\r\n",
            417,
            "expectation failed",
        ),
    ],
    ids=["nulls", "long-line", "expect"],
)
async def test_connection_when_rubbish_then_a_short_answer_that_repeats_none_of_it(
    place: Path, daemon: MemoryDaemon, sent: bytes, status: int, error: str
) -> None:
    """A stranger gets fixed words for whatever is no request, not the request once more."""
    tcp = TcpIntake(port=0, hmac_keys=(key_in(place),))
    async with serving(config_in(place, tcp=tcp), daemon) as bound:
        assert bound.tcp is not None
        reader, writer = await asyncio.open_connection(*bound.tcp)
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readline()
        writer.close()
    assert int(head[9:12]) == status
    assert json.loads(body) == {"error": error, "where": "", "todo": ""}
    assert (len(head) < 400, b"secret" in head) == (True, False)


async def test_event_when_over_tls_and_signed_then_taken(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """Off loopback, with TLS and a key, a signed call is taken and an unsigned one is not."""
    tcp = TcpIntake(host="0.0.0.0", port=0, tls=tls_of(pki), hmac_keys=(key_in(place),))
    context = await asyncio.to_thread(pki.client_context)
    async with (
        serving(config_in(place, tcp=tcp), daemon) as bound,
        tls_session(bound, context) as session,
    ):
        assert await post(session, headers=signed()) == 202
        assert await post(session) == 401
    assert daemon.accepted == [(ENVELOPE, BODY, "tcp")]


async def test_event_when_the_certificate_is_of_our_ca_then_taken(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """With mutual TLS, who shows a certificate of our CA needs no signature."""
    tcp = TcpIntake(host="0.0.0.0", port=0, tls=tls_of(pki, mutual=True))
    context = await asyncio.to_thread(pki.client_context, pki.client)
    async with (
        serving(config_in(place, tcp=tcp), daemon) as bound,
        tls_session(bound, context) as session,
    ):
        assert await post(session) == 202


@pytest.mark.parametrize("shown", ["none", "stranger"])
async def test_event_when_the_certificate_is_missing_or_foreign_then_no_connection(
    place: Path, daemon: MemoryDaemon, pki: Pki, shown: str
) -> None:
    """With mutual TLS, no certificate or one of another CA does not get through the handshake."""
    tcp = TcpIntake(host="0.0.0.0", port=0, tls=tls_of(pki, mutual=True))
    pair = pki.stranger if shown == "stranger" else None
    context = await asyncio.to_thread(pki.client_context, pair)
    async with (
        serving(config_in(place, tcp=tcp), daemon) as bound,
        tls_session(bound, context) as session,
    ):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await post(session)
    assert daemon.accepted == []


async def test_event_when_mutual_tls_and_keys_then_both_are_needed(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """Where both are configured, a certificate does not replace the signature."""
    tcp = TcpIntake(port=0, tls=tls_of(pki, mutual=True), hmac_keys=(key_in(place),))
    context = await asyncio.to_thread(pki.client_context, pki.client)
    async with (
        serving(config_in(place, tcp=tcp), daemon) as bound,
        tls_session(bound, context) as session,
    ):
        assert await post(session) == 401
        assert await post(session, headers=signed()) == 202


async def test_tls_when_old_then_no_connection(place: Path, daemon: MemoryDaemon, pki: Pki) -> None:
    """TLS before 1.2 is not spoken."""
    tcp = TcpIntake(port=0, tls=tls_of(pki))
    context = await asyncio.to_thread(pki.client_context)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with (
        serving(config_in(place, tcp=tcp), daemon) as bound,
        tls_session(bound, context) as session,
    ):
        with pytest.raises(aiohttp.ClientError):
            await post(session)


@pytest.mark.parametrize("way", ["header", "path"])
async def test_webhook_when_the_token_is_right_then_an_envelope_is_kept(
    place: Path, daemon: MemoryDaemon, way: str
) -> None:
    """FastNetMon Advanced's document becomes an envelope of its detector, stamped on arrival."""
    config = config_in(place, tcp=TcpIntake(port=0), webhooks=(webhook_in(place),))
    path = WEBHOOK if way == "header" else f"{WEBHOOK}/{TOKEN}"
    headers = {"Authorization": f"Bearer {TOKEN}"} if way == "header" else {}
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        assert await post(session, path, ADVANCED, headers) == 202
        assert await post(session, path, ADVANCED, headers) == 202
    (envelope, raw, via), (second, _, _) = daemon.accepted
    assert (
        envelope.detector,
        envelope.stamp,
        envelope.args,
        envelope.stdin,
    ) == ("fnm-adv", NOW, (), ADVANCED)
    assert envelope == decode(raw)
    assert via == "webhook"
    assert envelope.id != second.id


@pytest.mark.parametrize(
    ("path", "header"),
    [
        (WEBHOOK, None),
        (WEBHOOK, "Bearer wrong-0123456789abcdef"),
        (WEBHOOK, f"Basic {TOKEN}"),
        (WEBHOOK, f"Bearer {TOKEN}x"),
        (WEBHOOK, "Bearer "),
        (WEBHOOK + "/wrong-0123456789abcdef", None),
        ("/v1/webhook/fastnetmon/unknown", f"Bearer {TOKEN}"),
        (f"/v1/webhook/fastnetmon/unknown/{TOKEN}", None),
    ],
)
async def test_webhook_when_the_token_is_not_good_then_401_says_nothing(
    place: Path, daemon: MemoryDaemon, path: str, header: str | None
) -> None:
    """No token, a wrong one, or an unknown detector: the same answer, and nothing is kept."""
    config = config_in(place, tcp=TcpIntake(port=0), webhooks=(webhook_in(place),))
    headers = {} if header is None else {"Authorization": header}
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        answer = await answer_of(await session.post(path, data=ADVANCED, headers=headers))
    assert answer == (401, {"error": "not allowed", "where": "", "todo": ""})
    assert daemon.accepted == []


async def test_webhook_when_the_body_is_rubbish_then_kept_raw(
    place: Path, daemon: MemoryDaemon
) -> None:
    """What a known sender posts is kept as it is; understanding it comes later."""
    config = config_in(place, tcp=TcpIntake(port=0), webhooks=(webhook_in(place),))
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}
    async with serving(config, daemon) as bound, tcp_session(bound) as session:
        assert await post(session, WEBHOOK, b"\x00\xff{", headers) == 202
        assert await post(session, WEBHOOK, b"", headers) == 400
    assert [envelope.stdin for envelope, _, _ in daemon.accepted] == [b"\x00\xff{"]


async def test_webhook_when_mutual_tls_then_the_token_is_enough(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """A web callback has no certificate: its token lets it in, and only it."""
    tcp = TcpIntake(host="0.0.0.0", port=0, tls=tls_of(pki, mutual=True))
    config = config_in(place, tcp=tcp, webhooks=(webhook_in(place),))
    context = await asyncio.to_thread(pki.client_context)
    async with serving(config, daemon) as bound, tls_session(bound, context) as session:
        assert await post(session, f"{WEBHOOK}/{TOKEN}", ADVANCED) == 202
        assert await post(session, EVENTS) == 401
    async with serving(config, daemon) as bound:
        known = await asyncio.to_thread(pki.client_context, pki.client)
        async with tls_session(bound, known) as session:
            assert await post(session, EVENTS) == 202


async def test_body_when_too_long_then_413_before_the_signature_is_looked_at(
    place: Path, daemon: MemoryDaemon
) -> None:
    """The cap holds for strangers: nobody can make the hub hold or hash a huge body."""
    tcp = TcpIntake(port=0, hmac_keys=(key_in(place),), max_body="4KiB")
    headers = "".join(f"{name}: {value}\r\n" for name, value in signed().items())
    async with serving(config_in(place, tcp=tcp), daemon) as bound:
        assert bound.tcp is not None
        reader, writer = await asyncio.open_connection(*bound.tcp)
        sent = request_bytes(EVENTS, b"", length=5000, headers=headers)
        assert (await raw_exchange(reader, writer, sent)).startswith(b"HTTP/1.1 413 ")


async def test_connections_when_one_source_holds_too_many_then_the_next_is_closed(
    place: Path, daemon: MemoryDaemon
) -> None:
    """Idle connections of one source end at its limit, and do not take all there are."""
    limits = Limits(connections=4, per_source=2)
    config = config_in(place, tcp=TcpIntake(port=0))
    async with serving(config, daemon, limits=limits) as bound:
        assert bound.tcp is not None
        held = [await asyncio.open_connection(*bound.tcp) for _ in range(2)]
        async with unix_session(bound.intake) as local:
            assert await post(local) == 202
        reader, writer = await asyncio.open_connection(*bound.tcp)
        assert await raw_exchange(reader, writer, b"") == b""
        elsewhere = await asyncio.open_connection(*bound.tcp, local_addr=("127.0.0.2", 0))
        sent = request_bytes(EVENTS, BODY)
        assert (await raw_exchange(*elsewhere, sent)).startswith(b"HTTP/1.1 200 ")
        for _, one in held:
            one.close()
        async with unix_session(bound.api) as api, api.get("/metrics") as response:
            text = await response.text()
    counted = 'fnm_hub_intake_refused_total{reason="connections_of_source",via="tcp"} 1.0'
    assert counted in text.splitlines()


async def test_connections_when_they_end_then_their_place_is_free_again(
    place: Path, daemon: MemoryDaemon
) -> None:
    """A limit counts what is open now, not what ever was."""
    limits = Limits(connections=2, per_source=2)
    config = config_in(place, tcp=TcpIntake(port=0))
    async with serving(config, daemon, limits=limits) as bound:
        assert bound.tcp is not None
        for _ in range(10):
            reader, writer = await asyncio.open_connection(*bound.tcp)
            answer = await raw_exchange(reader, writer, request_bytes(EVENTS, BODY))
            assert answer.startswith(b"HTTP/1.1 20")


async def test_handshake_when_it_stalls_then_closed(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """Who connects to the TLS listener and says nothing is disconnected."""
    tcp = TcpIntake(port=0, tls=tls_of(pki))
    limits = Limits(handshake=0.2)
    async with serving(config_in(place, tcp=tcp), daemon, limits=limits) as bound:
        assert bound.tcp is not None
        reader, writer = await asyncio.open_connection(*bound.tcp)
        assert await raw_exchange(reader, writer, b"") == b""


async def test_handshake_when_plain_http_then_closed_and_others_served(
    place: Path, daemon: MemoryDaemon, pki: Pki
) -> None:
    """Plain HTTP on the TLS port fails, and the next TLS client is served."""
    tcp = TcpIntake(port=0, tls=tls_of(pki))
    context = await asyncio.to_thread(pki.client_context)
    async with serving(config_in(place, tcp=tcp), daemon) as bound:
        assert bound.tcp is not None
        reader, writer = await asyncio.open_connection(*bound.tcp)
        assert b"202" not in await raw_exchange(reader, writer, request_bytes(EVENTS, BODY))
        async with tls_session(bound, context) as session:
            assert await post(session) == 202


async def test_start_when_the_port_is_taken_then_says_so(place: Path, daemon: MemoryDaemon) -> None:
    """A port in use is an error with its address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = config_in(place, tcp=TcpIntake(port=port))
        with pytest.raises(Exception, match=f"127.0.0.1:{port}.*another program"):
            async with serving(config, daemon):
                pass
