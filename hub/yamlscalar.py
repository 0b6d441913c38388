# SPDX-License-Identifier: Apache-2.0
"""What an unquoted YAML value means, and which spellings are refused because readers disagree.

YAML 1.1 (yaml.org/type) and YAML 1.2 (core schema) give different values to the same characters;
only what both read alike passes.
"""

import re
from typing import Any, Final


class _Unreadable:
    """Stands in for a value that was refused, so that the rest of the file is still checked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<unreadable>"


UNREADABLE: Final = _Unreadable()

_WORDS: Final[dict[str, Any]] = {"": None, "null": None, "true": True, "false": False}
_BOOLEANS: Final = {
    **dict.fromkeys(("yes", "on", "y", "true"), "true"),
    **dict.fromkeys(("no", "off", "n", "false"), "false"),
}
_INT: Final = re.compile(r"0|-?[1-9][0-9]*")
_FLOAT: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_MAX_DIGITS: Final = 18

_DECIMAL: Final = "write a plain decimal number, or quote it if it is text"
_REFUSED: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = (
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"),
     "numbers joined by ':' are one number in base 60 to some YAML readers",
     "quote it, or write a duration as 12m30s"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?"),
     "a date becomes a time stamp for some YAML readers", "quote it"),
    (re.compile(r"[-+]?0[0-9_]+"),
     "a number with a leading zero is octal to some YAML readers", _DECIMAL),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"),
     "hexadecimal, octal and binary numbers are read differently by YAML readers", _DECIMAL),
    (re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+"),
     "a number with an exponent is text to some YAML readers", "write it out or quote it"),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
     "infinity and not-a-number are no values here", "write a number"),
    (re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)"),
     "this spelling of a number is read differently by YAML readers", _DECIMAL),
)  # fmt: skip


def read_plain(text: str) -> tuple[Any, tuple[str, str] | None]:
    """Return the value of an unquoted scalar, or `UNREADABLE` with what is wrong and what to do.

    The message repeats `text` only where it is one of a few fixed words: it may be a secret.
    """
    if text in _WORDS:
        return _WORDS[text], None
    if _INT.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return int(text), None
    if _FLOAT.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return float(text), None
    complaint = _complaint(text)
    return (text, None) if complaint is None else (UNREADABLE, complaint)


def _complaint(text: str) -> tuple[str, str] | None:
    lower = text.lower()
    if lower in _BOOLEANS:
        what = f"'{text}' is a word to some YAML readers and {_BOOLEANS[lower]} to others"
        return what, f'write {_BOOLEANS[lower]}, or "{text}" in quotes for the word'
    if lower == "null" or text == "~":
        return f"'{text}' is another spelling of nothing", f'write null, or "{text}" in quotes'
    if text == "=":
        return "'=' alone has a meaning of its own to some YAML readers", "quote it"
    for pattern, what, todo in _REFUSED:
        if pattern.fullmatch(text):
            return what, todo
    return None
