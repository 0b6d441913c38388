# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub events parse -- ARG... < stdin`: show what the hub makes of one detector call.

Works without a daemon. One JSON object on stdout and exit status 0; not understood: the reason
on stderr and exit status 3.
"""

import json
from collections.abc import Sequence
from typing import BinaryIO, Final, TextIO

from hub.errors import NotUnderstoodError
from hub.intake.parse import parse
from hub.intake.view import report_view

NOT_UNDERSTOOD: Final = 3
_MOST: Final = 64 * 2**20
"""Bytes read at most: an endless stdin must come to an end, the largest real report is 200 kB."""
_CHUNK: Final = 2**20


def run(args: Sequence[str], stdin: BinaryIO | None, stdout: TextIO, stderr: TextIO) -> int:
    """Parse one call and print it; return the exit status.

    Args:
        args: the detector's argv without the program.
        stdin: its standard input; None when the descriptor is closed. A terminal is not read.
        stdout: gets the JSON object (docs/protocols.md), one line.
        stderr: gets the reason when the call is not understood.
    """
    try:
        report = parse(args, _drain(stdin))
    except NotUnderstoodError as error:
        print(f"not understood: {error}", file=stderr)
        return NOT_UNDERSTOOD
    print(json.dumps(report_view(report)), file=stdout)
    return 0


def _drain(stdin: BinaryIO | None) -> bytes:
    """Return what can be read; nothing from a terminal, a closed or an unreadable descriptor."""
    chunks: list[bytes] = []
    left = _MOST
    try:
        if stdin is None or stdin.isatty():
            return b""
        while left > 0 and (chunk := stdin.read(min(left, _CHUNK))):
            chunks.append(chunk)
            left -= len(chunk)
    except (OSError, ValueError):
        pass  # a descriptor that is closed or no input: what came before it still counts
    return b"".join(chunks)
