# SPDX-License-Identifier: Apache-2.0
"""Who may come in: a known local user, a signed request, a certificate, a token."""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Protocol

from aiohttp import web

from hub.api.peers import peer_of
from hub.clock import Clock
from hub.intake.signing import SIGNATURE_HEADER, NoncesFullError, UnauthorizedError, Verifier


class NotAllowedError(Exception):
    """The sender may not do this.

    Args:
        status: 401 for who is unknown, 403 for who is known and not allowed.
        reason: short, for the counter; from a fixed set.
        detail: for the log only; the sender of a 401 learns nothing.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail


class Gate(Protocol):
    """One way of knowing the sender of a request."""

    def before_body(self, request: web.Request) -> None:
        """Refuse what can be refused unread; raises NotAllowedError."""
        ...

    def with_body(self, request: web.Request, body: bytes) -> None:
        """Refuse by what `body` proves; raises NotAllowedError."""
        ...


class PeerGate:
    """Lets local users through by the kernel's word (SO_PEERCRED).

    Args:
        allowed: user ids.
        key: the configuration key that lists them.
    """

    def __init__(self, allowed: frozenset[int], *, key: str) -> None:
        self._allowed, self._key = allowed, key

    def before_body(self, request: web.Request) -> None:
        """Refuse a peer that is not in the list."""
        peer = peer_of(request)
        if peer is None or peer.uid not in self._allowed:
            who = "unknown" if peer is None else f"uid {peer.uid}"
            raise NotAllowedError(403, "peer", f"{who} is not in {self._key}")

    def with_body(self, request: web.Request, body: bytes) -> None:
        """Nothing more to prove."""


class ClientCertificateGate:
    """Lets through who showed a client certificate of our CA."""

    def before_body(self, request: web.Request) -> None:
        """Refuse a connection without a certificate; a wrong one failed its handshake."""
        transport = request.transport
        if transport is None or not transport.get_extra_info("peercert"):
            raise NotAllowedError(401, "certificate", "no client certificate")

    def with_body(self, request: web.Request, body: bytes) -> None:
        """Nothing more to prove."""


class SignatureGate:
    """Lets signed requests through; each once.

    Args:
        verifier: knows the live keys and the nonces seen.
        wall: the clock that senders share with us.
    """

    def __init__(self, verifier: Verifier, wall: Clock) -> None:
        self._verifier, self._wall = verifier, wall

    def before_body(self, request: web.Request) -> None:
        """Refuse what is not signed at all; the signature itself covers the body."""
        if SIGNATURE_HEADER not in request.headers:
            raise NotAllowedError(401, "signature", f"{SIGNATURE_HEADER} is missing")

    def with_body(self, request: web.Request, body: bytes) -> None:
        """Refuse a wrong, old or replayed signature.

        Raises:
            NotAllowedError: not proved.
            NoncesFullError: proved, and more than can be remembered.
        """
        try:
            self._verifier.verify(
                method=request.method,
                path=request.raw_path,
                headers=request.headers,
                body=body,
                now=self._wall.time(),
            )
        except NoncesFullError:
            raise
        except UnauthorizedError as error:
            raise NotAllowedError(401, "signature", error.reason) from None


class Tokens:
    """The tokens that web callbacks and people who look at the page show.

    Args:
        tokens: name and token; a name may have several, so that they can be changed without a
            gap.
    """

    def __init__(self, tokens: Iterable[tuple[str, bytes]]) -> None:
        self._digests: dict[str, list[bytes]] = {}
        for name, token in tokens:
            self._digests.setdefault(name, []).append(_digest(token))

    def __repr__(self) -> str:
        """Return the names; never a token."""
        return f"Tokens({sorted(self._digests)})"

    def check(self, request: web.Request) -> str:
        """Return the detector that `request` is from.

        Raises:
            NotAllowedError: no token, a wrong one, or an unknown detector; the same for each.
        """
        detector = request.match_info["detector"]
        shown = request.match_info.get("token") or _bearer(request)
        if not self.knows(detector, shown):
            raise NotAllowedError(401, "token", "no token, or a wrong one")
        return detector

    def knows(self, name: str, token: str) -> bool:
        """Tell whether `token` is one of `name`; takes as long for an unknown name."""
        digest = _digest(token.encode("utf-8", "surrogateescape"))
        right = [hmac.compare_digest(digest, one) for one in self._digests.get(name, _NOBODY)]
        return any(right)


class PasswordGate:
    """Lets through who gives a name and its token as HTTP Basic credentials (RFC 7617).

    Args:
        tokens: by name.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def before_body(self, request: web.Request) -> None:
        """Refuse who is unknown."""
        header = request.headers.get("Authorization")
        if header is None:
            raise NotAllowedError(401, "login", "no password")
        scheme, _, credentials = header.partition(" ")
        try:
            shown = base64.b64decode(credentials.strip(), validate=True).decode()
        except ValueError:
            shown = ""
        name, _, token = shown.partition(":")
        if scheme.lower() != "basic" or not self._tokens.knows(name, token):
            raise NotAllowedError(401, "login", "a wrong name or password")

    def with_body(self, request: web.Request, body: bytes) -> None:
        """Nothing more to prove."""


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: bytes) -> bytes:
    # Digests have one length: comparing them tells nothing about the token's.
    return hashlib.sha256(token).digest()


_NOBODY: Final = [bytes(hashlib.sha256().digest_size)]  # the digest of nothing known
