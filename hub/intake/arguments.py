# SPDX-License-Identifier: Apache-2.0
"""The command line of a notify script, in both orders that FastNetMon uses.

Community (and Advanced with `notify_script_format text`): `IP DIRECTION PPS ACTION`.
Advanced with JSON on stdin: `ACTION IP`, declared obsolete, so any of it may be missing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hub.intake.address import parse_address
from hub.intake.model import Action
from hub.intake.values import MOST, word
from hub.net import IPAddress

_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_COMMUNITY_ACTION: Final = 3
"""Place of the action in the Community order."""


@dataclass(frozen=True, slots=True)
class Call:
    """What the command line says; None for what it does not say or says wrongly.

    Attributes:
        action: what happened.
        address: the target, canonical; may be the unspecified address.
        spelling: the address as it stood there.
        direction: the detector's word for the direction.
        pps: packets per second when the threshold was crossed.
        community: the order was that of Community.
    """

    action: Action | None = None
    address: IPAddress | None = None
    spelling: str = ""
    direction: str | None = None
    pps: int | None = None
    community: bool = False


def read_arguments(args: Sequence[str]) -> Call:
    """Return what `args` (argv without the program) say, whichever order they are in."""
    if args and (action := _action(args[0])) is not None:
        spelling = args[1] if len(args) > 1 else ""
        return Call(action=action, address=parse_address(spelling), spelling=spelling)
    if len(args) > _COMMUNITY_ACTION and (action := _action(args[_COMMUNITY_ACTION])) is not None:
        return Call(
            action=action,
            address=parse_address(args[0]),
            spelling=args[0],
            direction=word(args[1]),
            pps=_pps(args[2]),
            community=True,
        )
    return Call()


def _action(text: str) -> Action | None:
    try:
        return Action(text)
    except ValueError:
        return None


def _pps(text: str) -> int | None:
    if not _NUMBER.fullmatch(text) or (value := int(text)) > MOST:
        return None
    return value
