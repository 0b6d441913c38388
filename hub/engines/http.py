# SPDX-License-Identifier: Apache-2.0
"""POST to one URL that may be a secret; the only module that knows httpx.

No redirect is followed, no proxy is taken from the environment, certificates are always checked
against the system's store (or `SSL_CERT_FILE`, `SSL_CERT_DIR`). Of an answer no more than 64 KiB
is read, and nothing of it is shown: errors name the host, never the path, query or token.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from pydantic import SecretStr

from hub import credentials
from hub.errors import EnginePermanentError, EngineTemporaryError

MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read so that the connection can be used again."""

# Both write whole URLs, and httpcore headers too, at the lower levels.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said.

    Attributes:
        status: HTTP status code.
        retry_after: seconds that it asks to wait, None where it does not.
    """

    status: int
    retry_after: float | None


class Poster:
    """Keeps connections to one URL.

    Args:
        url: http or https, with everything that is secret in it; or `credential:NAME`, which
            holds it.
        timeout: seconds for one whole exchange.
    """

    def __init__(self, url: SecretStr, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self._client: httpx.AsyncClient | None = None

    @property
    def host(self) -> str:
        """Host and port of the URL, all of it that may be shown."""
        url = self._parsed()
        return f"{url.host}:{url.port}" if url.port else url.host

    async def open(self) -> None:
        """Load the certificates that are trusted, and the URL where it is a credential.

        Raises:
            EnginePermanentError: there is no such credential.
        """
        if credentials.is_credential(self._url.get_secret_value()):
            self._url = await asyncio.to_thread(_handed_over, self._url)
        if self._client is None:
            context = await asyncio.to_thread(ssl.create_default_context)
            self._client = httpx.AsyncClient(
                verify=context,
                trust_env=False,
                follow_redirects=False,
                timeout=self._timeout,
                limits=httpx.Limits(max_connections=8, max_keepalive_connections=2),
            )

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def check(self) -> None:
        """Look at the URL.

        Raises:
            EnginePermanentError: it is none that can be posted to.
        """
        self._parsed()

    async def post(self, body: bytes, headers: Mapping[str, str], *, now: float) -> Answer:
        """Post `body` once.

        Args:
            body: what to send.
            headers: with everything that is secret in them.
            now: Unix seconds, for a Retry-After that is a date.

        Raises:
            EngineTemporaryError: no answer in time, or no connection.
            EnginePermanentError: the URL cannot be posted to.
        """
        await self.open()
        url = self._parsed()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(url, body, headers, now)
        # Without `from`: the exceptions below hold the request, URL and headers included.
        except TimeoutError:
            text = f"no answer within {self._timeout:g} s"
            raise EngineTemporaryError(text, where=self.host) from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise EngineTemporaryError(_why(error), where=self.host) from None
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise self._bad("it cannot be posted to") from None

    async def _exchange(
        self, url: httpx.URL, body: bytes, headers: Mapping[str, str], now: float
    ) -> Answer:
        if self._client is None:
            raise EngineTemporaryError("closed", where=self.host)
        async with self._client.stream(
            "POST", url, content=body, headers=dict(headers)
        ) as response:
            seen = 0
            async for piece in response.aiter_raw():
                seen += len(piece)
                if seen > MAX_ANSWER:
                    break
            retry_after = _seconds(response.headers.get("retry-after", ""), now)
            return Answer(response.status_code, retry_after)

    def _parsed(self) -> httpx.URL:
        try:
            url = httpx.URL(self._url.get_secret_value())
        except (httpx.InvalidURL, TypeError):
            raise self._bad("it cannot be read") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise self._bad("it is none of http:// or https://")
        return url

    def _bad(self, why: str) -> EnginePermanentError:
        return EnginePermanentError(
            f"the URL cannot be used: {why}", todo="write it as https://host/path"
        )


def _handed_over(url: SecretStr) -> SecretStr:
    try:
        return SecretStr(credentials.read(url.get_secret_value()))
    except credentials.CredentialError as error:
        raise EnginePermanentError(error.what, where=error.where, todo=error.todo) from None


def _seconds(text: str, now: float) -> float | None:
    """Return what a Retry-After header asks for (RFC 9110, 10.2.3), None for nonsense."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _why(error: BaseException) -> str:
    """Return the cause in words that cannot hold the URL."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason}"
        if isinstance(cause, OSError) and cause.strerror:
            return f"no connection: {cause.strerror}"
    return f"no exchange possible ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
