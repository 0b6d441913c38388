# SPDX-License-Identifier: Apache-2.0
"""Signed requests: HMAC-SHA256 by a shared key, a time window, and each nonce only once.

docs/protocols.md, "Hand-over: HTTPS and its signature", is the wire format. Pure but for
`load_key`: the caller says what time it is.
"""

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from hub.credentials import CredentialError, forbidden_bits, how_to_make, located
from hub.errors import ConfigError, IntakeError, Problem

KEY_HEADER: Final = "X-FNM-Key"
TIMESTAMP_HEADER: Final = "X-FNM-Timestamp"
NONCE_HEADER: Final = "X-FNM-Nonce"
SIGNATURE_HEADER: Final = "X-FNM-Signature"
MIN_KEY_BYTES: Final = 32
MAX_NONCES: Final = 100_000

_SCHEME: Final = "v1="
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_NONCE: Final = re.compile(r"[0-9A-Za-z_-]{16,64}")
_MAX_KEY_FILE: Final = 4096


class UnauthorizedError(IntakeError):
    """A request is not proved to come from a holder of a key.

    Its text is the same for every cause and may go to the client; `reason` is for the log alone.

    Args:
        reason: what is wrong, without any secret.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__("unauthorized")


class NoncesFullError(UnauthorizedError):
    """So many signed requests came within the window that the next could not be remembered."""

    retryable: ClassVar[bool] = True


def sign(
    secret: bytes, *, method: str, path: str, timestamp: int | str, nonce: str, body: bytes
) -> str:
    """Return the value of the signature header: `v1=` and HMAC-SHA256 in hex.

    Args:
        secret: the shared key.
        method: in capitals.
        path: request target as it stands in the request line, query included.
        timestamp: Unix time, whole seconds.
        nonce: 16 to 64 characters of `0-9A-Za-z_-`, never used before.
        body: as sent.

    Raises:
        ValueError: a line break in what is signed as one line, or characters that no bytes give.
    """
    lines = (method, path, str(timestamp), nonce)
    if any("\n" in line for line in lines):
        msg = "method, path, timestamp and nonce are single lines"
        raise ValueError(msg)
    head = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    return _SCHEME + hmac.digest(secret, head + body, "sha256").hex()


class Verifier:
    """Checks signed requests; remembers each nonce as long as its timestamp is acceptable.

    Memory of nonces ends with the process, and a clock that steps back far brings forgotten ones
    into the window again: a replay then passes here and is recognised by its envelope's id.

    Args:
        keys: secret by key id; two live ones let senders be moved to a new key one by one.
        max_skew: seconds by which a timestamp may differ from our clock, either way.
        max_nonces: when so many are remembered, the next request is refused: forgetting one
            early would let it be replayed. Only holders of a key can fill the memory.

    Raises:
        ValueError: no key, or one shorter than 32 bytes.
    """

    def __init__(
        self, keys: Mapping[str, bytes], max_skew: float, *, max_nonces: int = MAX_NONCES
    ) -> None:
        short = sorted(name for name, secret in keys.items() if len(secret) < MIN_KEY_BYTES)
        if short or not keys:
            msg = f"keys {short} are shorter than {MIN_KEY_BYTES} bytes" if short else "no keys"
            raise ValueError(msg)
        self._keys = dict(keys)
        self._max_skew, self._max_nonces = max_skew, max_nonces
        # By timestamp: a replay repeats its timestamp, and expiry drops whole seconds.
        self._seen: dict[int, set[tuple[str, str]]] = {}
        self._count = 0
        self._swept = -1

    def __repr__(self) -> str:
        """Return the key ids; never a key."""
        return f"Verifier(keys={sorted(self._keys)}, nonces={self._count})"

    @property
    def nonces(self) -> int:
        """Number of nonces remembered now."""
        return self._count

    def verify(
        self, *, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> str:
        """Return the id of the key that signed this request, and remember its nonce.

        Args:
            method: in capitals.
            path: request target as it stands in the request line, query included.
            headers: of the request; names in any case.
            body: as received, whole.
            now: Unix time in seconds.

        Raises:
            UnauthorizedError: unsigned, wrongly signed, too old, too new, or seen before.
            NoncesFullError: rightly signed and too many at once.
        """
        key_id = _one(headers, KEY_HEADER)
        timestamp, nonce = _one(headers, TIMESTAMP_HEADER), _one(headers, NONCE_HEADER)
        shown = _one(headers, SIGNATURE_HEADER)
        secret = self._keys.get(key_id)
        if secret is None:
            raise UnauthorizedError(f"key id {key_id[:64]!r} is not one of {sorted(self._keys)}")
        if not _TIMESTAMP.fullmatch(timestamp) or not _NONCE.fullmatch(nonce):
            raise UnauthorizedError("the timestamp or the nonce is malformed")
        stamp = int(timestamp)
        if abs(now - stamp) > self._max_skew:
            raise UnauthorizedError(
                f"signed at {stamp}, {now - stamp:+.0f} s from our clock, more than"
                f" {self._max_skew:.0f} s are not accepted; compare the clocks"
            )
        try:
            right = sign(
                secret, method=method, path=path, timestamp=timestamp, nonce=nonce, body=body
            )
        except ValueError as error:
            raise UnauthorizedError("the method or the path cannot be signed") from error
        if not hmac.compare_digest(_digest(shown), _digest(right)):
            raise UnauthorizedError(f"the signature does not fit key {key_id!r}")
        self._remember(key_id, stamp, nonce, now)
        return key_id

    def _remember(self, key_id: str, stamp: int, nonce: str, now: float) -> None:
        self._sweep(now)
        if (key_id, nonce) in self._seen.get(stamp, ()):
            raise UnauthorizedError("the nonce was used before: a replay")
        if self._count >= self._max_nonces:
            raise NoncesFullError(
                f"{self._count} nonces are remembered already; senders keep their events and retry"
            )
        self._seen.setdefault(stamp, set()).add((key_id, nonce))
        self._count += 1

    def _sweep(self, now: float) -> None:
        if int(now) == self._swept:
            return
        self._swept = int(now)
        for stamp in [stamp for stamp in self._seen if now - stamp > self._max_skew]:
            self._count -= len(self._seen.pop(stamp))


def load_key(path: Path) -> bytes:
    """Return the shared key in `path`: one line, at least 64 hex digits.

    Raises:
        ConfigError: missing, unreadable, open to group or others, or not such a line.
    """
    try:
        place = located(path)
        with place.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MAX_KEY_FILE)
    except CredentialError as error:
        raise _bad_key(path, error.what, error.todo) from error
    except OSError as error:
        raise _bad_key(
            path, f"the key cannot be read: {error.strerror}", how_to_make(path)
        ) from error
    if mode & forbidden_bits(place, stat.S_IRWXG | stat.S_IRWXO):
        raise _bad_key(
            path,
            f"a key with mode {mode:04o} is open to others",
            f"chmod 0600 {path}; if others could read it, make a new one",
        )
    try:
        secret = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:  # without `from`: its text would quote the key
        raise _bad_key(path, "the key is not one line of hex digits", how_to_make(path)) from None
    if len(secret) < MIN_KEY_BYTES:
        what = f"the key has {len(secret)} bytes, at least {MIN_KEY_BYTES} are needed"
        raise _bad_key(path, what, how_to_make(path))
    return secret


def _one(headers: Mapping[str, str], name: str) -> str:
    values = [value for key, value in headers.items() if key.lower() == name.lower()]
    if len(values) != 1:
        raise UnauthorizedError(f"{name} is {'missing' if not values else 'there twice'}")
    return values[0]


def _digest(text: str) -> bytes:
    # compare_digest takes only ASCII text, and what is shown may be anything of any length.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _bad_key(path: Path, what: str, todo: str) -> ConfigError:
    return ConfigError([Problem(what, str(path), todo=todo)])
