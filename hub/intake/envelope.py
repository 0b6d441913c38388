# SPDX-License-Identifier: Apache-2.0
"""The wrapping in which one detector call travels: over HTTP, in the spool, in the journal.

JSON object, UTF-8, version 1 (docs/protocols.md):
`{"v":1,"id":str,"detector":str,"stamp":float,"mono":float|null,"boot":str,"args":[str],
"stdin":base64,"truncated":bool,"drill":str}`; `mono`, `boot`, `truncated` and `drill` may be
missing. `args` hold argv without the program; bytes that are no UTF-8 stand as lone surrogates
(PEP 383).
"""

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from hub.errors import IntakeError
from hub.intake.model import Stamp

VERSION: Final = 1
_ID: Final = re.compile(r"[0-9A-Za-z._:-]{8,64}")
_BOOT: Final = re.compile(r"[0-9A-Fa-f-]{0,64}")
_UNBAN: Final = b"unb"
_HEAD: Final = 65536
_DETECTOR: Final = re.compile(r"[0-9A-Za-z._:-]{1,64}")
_DRILL: Final = re.compile(r"[0-9A-Za-z_-]{0,64}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One detector call as handed over.

    Attributes:
        id: made once per call by the sender; the same id twice is the same call.
        detector: name of the FastNetMon instance that called.
        stamp: Unix time in seconds at which the sender started; orders the calls of one detector.
        args: argv without the program.
        stdin: everything the detector wrote, at most what the sender's limit allows.
        truncated: the sender cut `stdin` at its limit.
        mono: seconds since the sender's boot (CLOCK_MONOTONIC) at that moment, if known.
        boot: the sender's boot id, empty if unknown.
        drill: the token of the drill that it claims to belong to, empty if none.
    """

    id: str
    detector: str
    stamp: float
    args: tuple[str, ...]
    stdin: bytes
    truncated: bool = False
    mono: float | None = None
    boot: str = ""
    drill: str = ""

    @property
    def order(self) -> Stamp:
        """Return what orders this call among those of its detector."""
        return Stamp(self.stamp, self.mono, self.boot)


def encode(envelope: Envelope) -> bytes:
    """Return the JSON form of `envelope`."""
    fields = {
        "v": VERSION,
        "id": envelope.id,
        "detector": envelope.detector,
        "stamp": envelope.stamp,
        "mono": envelope.mono,
        "boot": envelope.boot,
        "args": envelope.args,
        "stdin": base64.b64encode(envelope.stdin).decode("ascii"),
        "truncated": envelope.truncated,
    }
    if envelope.drill:
        fields["drill"] = envelope.drill
    return json.dumps(fields).encode("ascii")


def decode(body: bytes) -> Envelope:
    """Return the envelope in `body`.

    Raises:
        IntakeError: not an envelope of a known version.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise IntakeError(f"the envelope is not JSON: {type(error).__name__}") from error
    if not isinstance(fields, dict) or fields.get("v") != VERSION:
        raise IntakeError(
            "the envelope is not a JSON object of version 1",
            todo="install the fnm-notify of the hub's own release",
        )
    try:
        stdin = binascii.a2b_base64(_text(fields, "stdin"), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise IntakeError("the envelope's stdin is not base64") from error
    args = fields.get("args")
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise IntakeError("the envelope's args are not a list of strings")
    return Envelope(
        id=_matching(fields, "id", _ID),
        detector=_matching(fields, "detector", _DETECTOR),
        stamp=_number(fields, "stamp"),
        args=tuple(args),
        stdin=stdin,
        truncated=fields.get("truncated") is True,
        mono=None if fields.get("mono") is None else _number(fields, "mono"),
        boot=_matching({"boot": fields.get("boot", "")}, "boot", _BOOT),
        drill=_matching({"drill": fields.get("drill", "")}, "drill", _DRILL),
    )


def may_be_unban(envelope: Envelope) -> bool:
    """Tell, without reading it all, whether a call may be the end of an attack."""
    return any("unb" in arg for arg in envelope.args) or _UNBAN in envelope.stdin[:_HEAD]


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise IntakeError(f"the envelope's {key} is not a string")
    return value


def _matching(fields: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = _text(fields, key)
    if not pattern.fullmatch(value):
        raise IntakeError(f"the envelope's {key} does not match {pattern.pattern}")
    return value


def _number(fields: dict[str, Any], key: str) -> float:
    value = fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IntakeError(f"the envelope's {key} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise IntakeError(f"the envelope's {key} is not finite")
    return number
