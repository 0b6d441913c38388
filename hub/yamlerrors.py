# SPDX-License-Identifier: Apache-2.0
"""Pydantic's mistakes in the words of the person who wrote the file, each at its place."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from hub.errors import Problem
from hub.units import format_duration
from hub.yamlnode import Document, Loc

M = TypeVar("M", bound=BaseModel)

_MAX_SHOWN: Final = 60
_MAX_TEXT: Final = 300
_MAX_LISTED: Final = 12
_MAX_HINTED: Final = 6
_CHOICE: Final = re.compile(r"'((?:[^'\\]|\\.)*)'|(-?\d+)")
_NAME_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,47}$"


def mistake(
    text: str, *, todo: str = "", value: str = "", choices: Iterable[str] = (), at: Loc = ()
) -> PydanticCustomError:
    """Return the error for a validator to raise; `validate` prints it as it is.

    Args:
        text: what is wrong.
        todo: what to do about it.
        value: what was written, to look for the nearest of `choices`.
        choices: what could have been meant.
        at: where it is, seen from the value that the validator checks.
    """
    context = {"text": text, "todo": todo or nearest(value, choices), "at": at}
    return PydanticCustomError("mistake", "{text}", context)


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or nothing when nothing is near."""
    close = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def listed(choices: Iterable[str]) -> str:
    """Return `choices` in one line, cut where it would be too long to read."""
    names = list(choices)
    if len(names) <= _MAX_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_MAX_HINTED])}, ... ({len(names)} in all)"


def validate(
    document: Document, model: type[M], loc: Loc = (), context: Any = None
) -> tuple[M | None, list[Problem]]:
    """Check the value at `loc` of `document` against `model`.

    Returns:
        The model, None where it has mistakes; and the mistakes in line order. What the YAML
        reader already reported is not reported again.
    """
    if document.root is None:
        return None, []
    value = document.locate(loc).node.value
    try:
        return model.model_validate(value, strict=True, context=context), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    found: dict[Problem, None] = {}
    for details in errors:
        problem = _problem(document, model, loc, details)
        if problem is not None:
            found[problem] = None
    return None, sorted(found, key=lambda each: (each.line, each.column))


def _problem(
    document: Document, model: type[BaseModel], base: Loc, details: ErrorDetails
) -> Problem | None:
    context = details.get("ctx", {})
    inner: Loc = (*details["loc"], *context.get("at", ()))
    place = document.locate((*base, *inner))
    if not place.sound:
        return None
    kind = details["type"]
    if kind == "too_short" and len(details["input"]) >= context["min_length"]:
        return None  # long enough; entries with mistakes of their own were not counted
    if kind == "missing":
        name = str(inner[-1])
        what = f"{name!r} is missing"
        return document.problem((*base, *inner), what, f"add {name}: ...")
    if kind == "extra_forbidden":
        known = sorted(_fields_at(model, inner[:-1]))
        todo = nearest(str(inner[-1]), known) or f"known here: {listed(known)}"
        return document.problem((*base, *inner), "unknown field", todo, at_key=True)
    secret = any(issubclass(each, SecretStr | SecretBytes) for each in _types_at(model, inner))
    at_key = inner[-1:] == ("[key]",)
    value = details["input"]
    shown = "the value" if secret else _show(value)
    what, todo = _words(_Mistake(kind, value, shown, details["msg"], context))
    return document.problem((*base, *inner), what, todo, at_key=at_key)


@dataclass(frozen=True, slots=True)
class _Mistake:
    """One pydantic error, and the value as it may be shown."""

    kind: str
    value: Any
    shown: str
    message: str
    context: dict[str, Any]


def _words(mistake: _Mistake) -> tuple[str, str]:
    """Return what is wrong and what to do for one kind of pydantic error."""
    kind = mistake.kind
    if kind == "mistake":
        return str(mistake.context["text"]), str(mistake.context["todo"])
    if mistake.value is None:
        return "has no value", "give it one, or remove the line"
    if kind in _WANTED:
        wanted, todo = _WANTED[kind]
        return f"expected {wanted}, found {_kind_of(mistake.value)}", todo
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        return f"{mistake.shown} is {word} {_limit(mistake.context[key], mistake.value)}", ""
    if kind in _SPECIAL:
        return _SPECIAL[kind](mistake)
    return mistake.message[:1].lower() + mistake.message[1:], ""


def _own_check(mistake: _Mistake) -> tuple[str, str]:
    text = mistake.message.removeprefix("Value error, ")
    return (text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."), ""


def _wrong_choice(mistake: _Mistake) -> tuple[str, str]:
    expected = str(mistake.context.get("expected", ""))
    choices = [text or number for text, number in _CHOICE.findall(expected)]
    text = f"{mistake.shown} is not one of {listed(choices)}"
    if str(mistake.value) in choices:
        return text, "write it without quotes"
    return text, nearest(str(mistake.value), choices)


def _wrong_pattern(mistake: _Mistake) -> tuple[str, str]:
    if mistake.context["pattern"] == _NAME_PATTERN:
        todo = "write letters, digits, - and _, beginning with a letter, at most 48"
        return f"{mistake.shown} is not a name", todo
    return f"{mistake.shown} does not match {mistake.context['pattern']}", ""


def _wrong_count(mistake: _Mistake) -> tuple[str, str]:
    context = mistake.context
    limit = (
        f"give at least {context['min_length']}"
        if "min_length" in context
        else f"give at most {context['max_length']}"
    )
    return f"has {context['actual_length']} entries", limit


_SPECIAL: Final[dict[str, Callable[[_Mistake], tuple[str, str]]]] = {
    "value_error": _own_check,
    "literal_error": _wrong_choice,
    "enum": _wrong_choice,
    "string_pattern_mismatch": _wrong_pattern,
    "too_short": _wrong_count,
    "too_long": _wrong_count,
}
_LIST: Final = ("a list", "write [a, b], or one line with - for each")
_MAPPING: Final = ("a mapping", "write key: value lines")
_NUMBER: Final = ("a number", "write it without quotes")
_WHOLE: Final = ("a whole number", "write it in digits, without quotes")
_WANTED: Final = {
    "bool_type": ("true or false", "write true or false, without quotes"),
    "dict_type": _MAPPING,
    "float_type": _NUMBER,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "list_type": _LIST,
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "string_type": ("text", "put it in quotes"),
    "tuple_type": _LIST,
}
_LIMITS: Final = {
    "greater_than": ("not above", "gt"),
    "greater_than_equal": ("below the least allowed,", "ge"),
    "less_than": ("not below", "lt"),
    "less_than_equal": ("above the most allowed,", "le"),
}


def _limit(limit: Any, value: Any) -> str:
    """Return `limit` in the unit in which `value` was written."""
    if isinstance(value, str) and value[-1:] in {"d", "h", "m", "s"}:
        return format_duration(float(limit))
    return str(limit)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_SHOWN else value[: _MAX_SHOWN - 3] + "...")
    return _kind_of(value)


def _kind_of(value: Any) -> str:
    """Return the kind of `value` without any of it: it may hold a secret."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {dict: "a mapping", tuple: "a list", list: "a list", type(None): "nothing"}
    return names.get(type(value), "something else")


def _fields_at(model: type[BaseModel], loc: Loc) -> set[str]:
    """Return the fields that may stand in the mapping at `loc`."""
    return {
        info.alias or name
        for each in _types_at(model, loc)
        if issubclass(each, BaseModel)
        for name, info in each.model_fields.items()
    }


def _types_at(model: type[BaseModel], loc: Loc) -> list[type]:
    """Return every type that the value at `loc` may have."""
    types: Sequence[Any] = [model]
    for element in loc:
        inner = [each for outer in types for each in _step(outer, element)]
        if inner:  # else a union tag, which leads nowhere
            types = inner
    return [each for each in (get_origin(each) or each for each in types) if isinstance(each, type)]


def _step(outer: Any, element: str | int) -> Iterator[Any]:
    origin, arguments = get_origin(outer), get_args(outer)
    if isinstance(element, int) and origin in {tuple, list}:
        yield from _flat(arguments[0])
    elif isinstance(element, str) and origin is dict:
        yield from _flat(arguments[1])
    elif isinstance(element, str) and isinstance(outer, type) and issubclass(outer, BaseModel):
        for name, info in outer.model_fields.items():
            if element == (info.alias or name):
                yield from _flat(info.annotation)


def _flat(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of `annotation` without what is only said about it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _flat(get_args(annotation)[0])
    elif origin in {Union, UnionType}:
        for each in get_args(annotation):
            yield from _flat(each)
    else:
        yield annotation
