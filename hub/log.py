# SPDX-License-Identifier: Apache-2.0
"""Log lines: to systemd's journal with their fields, else on standard error."""

import logging
import sys
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from hub import journald
from hub.repeats import Repeats

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""Without variables: among them are keys of servers, tokens and whole requests."""


def configure(
    level: str,
    form: Literal["auto", "json", "console"],
    *,
    journal: Path | None = journald.SOCKET,
) -> None:
    """Set up structlog for the daemon: one line an event, repeats left out.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `auto` means words in the journal, console on a terminal, else JSON.
        journal: its socket, used when systemd has connected standard error to it; None: never.
    """
    renderer, factory, tracebacks = _output(form, journal)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _output(form: str, journal: Path | None) -> tuple[Any, Any, Any]:
    """Return how a line is rendered, what writes it, and how a traceback stands in it."""
    in_words = structlog.processors.format_exc_info
    if form != "console" and journal is not None and journald.wanted():
        as_json = form == "json"
        fields = journald.Fields("fnm-hub", as_json=as_json)
        sender = journald.Journal(journal)
        return fields, lambda *_: sender, _TRACEBACKS if as_json else in_words
    factory = structlog.WriteLoggerFactory(file=sys.stderr)
    if form == "console" or (form == "auto" and sys.stderr.isatty()):
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        return console, factory, in_words
    return structlog.processors.JSONRenderer(), factory, _TRACEBACKS
