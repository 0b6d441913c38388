# SPDX-License-Identifier: Apache-2.0
"""Engine `webhook`: tells one URL, by HTTP POST, that something was switched on or off.

The body is the JSON object of `hub.engines.message`. Headers: `Content-Type: application/json`,
`Idempotency-Key: <mitigation>:<revision>:<on|off>`, the same in each repetition, and
`Authorization: Bearer <token>` where a token file is configured. Any 2xx means told. No
connection, no answer in time, 408, 425, 429 and 5xx are tried again; anything else is final.
"""

import asyncio
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from hub import __version__, config
from hub.clock import Clock
from hub.credentials import CredentialError, forbidden_bits, located
from hub.engines.http import Answer, Poster
from hub.engines.message import State, encode, key
from hub.errors import EngineError, EnginePermanentError, EngineTemporaryError
from hub.mitigations.engine import Capabilities, Health, Installed, Plan
from hub.mitigations.model import Mitigation
from hub.rates import Rates
from hub.rules.actions import Notify

TOTAL: Final = 30.0
"""Seconds after which no further try is begun."""
LONGEST_WAIT: Final = 10.0
"""Seconds between two tries at most, whatever Retry-After asks for."""
FIRST_WAIT: Final = 0.2
_TRY_AGAIN: Final = frozenset({408, 425, 429})
_MAX_TOKEN: Final = 4096
_TOKEN: Final = re.compile(rb"[\x21-\x7e]{1,%d}" % _MAX_TOKEN)


class _AskedToWaitError(EngineTemporaryError):
    """Temporary, and the other side said for how long."""

    def __init__(self, what: str, *, where: str, seconds: float | None) -> None:
        super().__init__(what, where=where)
        self.seconds = seconds


class WebhookEngine:
    """Tells one URL.

    Args:
        name: its name in the configuration.
        settings: its part of the configuration.
        clock: for waiting between tries.
    """

    def __init__(self, name: str, settings: config.WebhookEngine, clock: Clock) -> None:
        self._name, self._settings, self._clock = name, settings, clock
        self._poster = Poster(settings.url, settings.timeout)
        self._backoff = wait_exponential(FIRST_WAIT, LONGEST_WAIT) + wait_random(0, FIRST_WAIT)
        self._counters: Counter[str] = Counter(sent=0, failed=0, retried=0)
        self._trouble = ""

    @property
    def name(self) -> str:
        """Name in the configuration and the ledger."""
        return self._name

    def capabilities(self) -> Capabilities:
        """Say that it only tells: nothing is installed."""
        return Capabilities(
            kinds=frozenset({"notify"}),
            leases=False,
            hides_traffic=False,
            lasting=False,
            readable=False,
        )

    async def start(self) -> None:
        """Load the certificates that are trusted."""
        await self._poster.open()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._poster.close()

    async def plan(self, mitigation: Mitigation) -> Plan:
        """Check URL and token; send nothing.

        Raises:
            EnginePermanentError: it could not be sent as configured.
        """
        self._check_kind(mitigation)
        self._poster.check()
        await self._headers("")
        return Plan((f"POST to {self._poster.host} ({self._name}), on and off",))

    async def apply(self, mitigation: Mitigation) -> None:
        """Tell that it is on.

        Raises:
            EngineTemporaryError: the other side is gone, slow or busy.
            EnginePermanentError: the other side refuses, or the configuration is wrong.
        """
        await self._tell(mitigation, "on")

    async def release(self, mitigation: Mitigation) -> None:
        """Tell that it is off.

        Raises:
            EngineTemporaryError: the other side is gone, slow or busy.
            EnginePermanentError: the other side refuses, or the configuration is wrong.
        """
        await self._tell(mitigation, "off")

    async def inventory(self) -> Sequence[Installed]:
        """Return nothing: a message leaves nothing behind."""
        return ()

    async def withdraw(self, installed: Installed) -> None:
        """Do nothing: there is nothing to take back."""

    async def health(self) -> Health:
        """Say whether token and URL can be used, and how the newest message went."""
        try:
            self._poster.check()
            await self._headers("")
        except EngineError as error:
            return Health(ok=False, detail=str(error))
        return Health(ok=not self._trouble, detail=self._trouble)

    async def rates(self) -> Mapping[str, Rates]:
        """Return nothing: it does not measure."""
        return {}

    async def telemetry(self) -> Mapping[str, int]:
        """Return the counters `sent`, `failed` and `retried`."""
        return dict(self._counters)

    async def _tell(self, mitigation: Mitigation, state: State) -> None:
        self._check_kind(mitigation)
        try:
            headers = await self._headers(key(mitigation, state))
            await self._until_told(encode(mitigation, state), headers)
        except EngineError as error:
            self._counters["failed"] += 1
            self._trouble = str(error)
            raise
        self._counters["sent"] += 1
        self._trouble = ""

    async def _until_told(self, body: bytes, headers: Mapping[str, str]) -> None:
        begun = self._clock.monotonic()
        enough = stop_after_attempt(self._settings.attempts)

        def stop(state: RetryCallState) -> bool:
            late = self._clock.monotonic() - begun + state.upcoming_sleep > TOTAL
            return late or enough(state)

        tries = AsyncRetrying(
            retry=retry_if_exception_type(EngineTemporaryError),
            wait=self._wait,
            stop=stop,
            sleep=self._clock.sleep,
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                self._counters["retried"] += attempt.retry_state.attempt_number > 1
                now = self._clock.time()
                self._judge(await self._poster.post(body, headers, now=now))

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.seconds if isinstance(error, _AskedToWaitError) else None
        return self._backoff(state) if asked is None else min(asked, LONGEST_WAIT)

    def _judge(self, answer: Answer) -> None:
        status, where = answer.status, f"{self._name} ({self._poster.host})"
        if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110: successful
            return
        if status >= 500 or status in _TRY_AGAIN:  # noqa: PLR2004 - RFC 9110: server errors
            what = f"answers with status {status}"
            raise _AskedToWaitError(what, where=where, seconds=answer.retry_after)
        if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110: redirection
            todo = "put the final URL into the configuration; redirects are not followed"
        elif status in (401, 403):
            todo = "check the token file and the secret part of the URL"
        else:
            todo = "look at what the other side expects"
        raise EnginePermanentError(f"refuses with status {status}", where=where, todo=todo)

    def _check_kind(self, mitigation: Mitigation) -> None:
        if not isinstance(mitigation.action, Notify):
            raise EnginePermanentError(
                f"a webhook cannot do {mitigation.action.kind!r}",
                where=self._name,
                todo="name it in a `notify` action",
            )

    async def _headers(self, name: str) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": name,
            "User-Agent": f"fnm-hub/{__version__}",
        }
        if self._settings.token_file is not None:
            token = await asyncio.to_thread(_read_token, self._settings.token_file)
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _read_token(path: Path) -> str:
    """Return the token in `path`; read each time, so that a new one counts at once.

    Raises:
        EnginePermanentError: missing, open to others, or no token.
    """
    where = str(path)
    try:
        place = located(path)
        # Without O_NONBLOCK a FIFO in its place would hold the thread for ever.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            text = file.read(_MAX_TOKEN + 1) if stat.S_ISREG(mode) else b""
    except CredentialError as error:
        raise EnginePermanentError(error.what, where=where, todo=error.todo) from None
    except OSError as error:
        what = f"the token cannot be read: {error.strerror}"
        todo = f"make it readable for user id {os.geteuid()} alone"
        raise EnginePermanentError(what, where=where, todo=todo) from None
    if stat.S_IMODE(mode) & forbidden_bits(place, stat.S_IRWXG | stat.S_IRWXO):
        raise EnginePermanentError(
            f"a token with mode {stat.S_IMODE(mode):04o} is open to others",
            where=where,
            todo=f"chmod 0600 {path}; if others could read it, have a new one made",
        )
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise EnginePermanentError(
            "holds no token", where=where, todo="put one line of printable ASCII there"
        )
    return token.decode("ascii")
