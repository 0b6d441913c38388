# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full, or have lost their reader."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO


def open_missing() -> None:
    """Put /dev/null where a standard stream is closed.

    Python has None there, and the next file or socket would get the descriptor's number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def accept_any_text() -> None:
    """Escape what a terminal's encoding lacks: one letter must not end the program."""
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")


class OutputError(Exception):
    """Standard output cannot be written; no OSError, which argparse would swallow."""


class Output(io.TextIOBase):
    """Standard output whose failures cannot be taken for those of a file or a socket.

    Args:
        stream: the real one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`.

        Raises:
            BrokenPipeError: the reader has gone.
            OutputError: the system's words for anything else.
        """
        with _named():
            return self._stream.write(text)

    def flush(self) -> None:
        """Hand on what was written; raises as `write`."""
        with _named():
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


@contextmanager
def guarded_output() -> Iterator[None]:
    """Have standard output raise `OutputError` until the context ends; flush it there."""
    output = Output(sys.stdout)
    with redirect_stdout(output):
        try:
            yield
        finally:
            # Also where argparse ends the program, which leaves the help in the buffer.
            output.flush()


def drop_output() -> None:
    """Send the rest of standard output nowhere; Python would complain once more at its end."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def say_output_failed(error: OutputError) -> None:
    """Say on standard error why standard output could not be written."""
    with suppress(OSError):
        print(f"fnm-hub: standard output: {error}", file=sys.stderr)
