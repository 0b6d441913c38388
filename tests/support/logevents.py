# SPDX-License-Identifier: Apache-2.0
"""Finds every log event that the code can write, by walking its syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hub.attacks.change import Outcome
from hub.mitigations.executor import Verb

LEVELS = {"debug", "info", "warning", "error"}
NEVER_LOGGED = {
    Outcome.REFRESHED,
    Outcome.STALE,
    Outcome.NOTHING,
    Outcome.CANCELLED,
    Outcome.REFUSED,
}
"""Outcomes of which no `attack.` line is written: nothing has changed, or there is no attack."""
VALUES = {
    "order.verb": {str(verb) for verb in Verb},
    "change.outcome": {str(one) for one in Outcome if one not in NEVER_LOGGED},
}
"""What expressions inside f-strings can be, where the tree does not tell."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Said:
    """One event at one level."""

    level: str
    event: str


@dataclass(frozen=True)
class Call:
    """One place in the code where something is logged.

    Attributes:
        said: each event that it may say, at each level.
        fields: names of the fields that stand in the call.
        more: it hands on fields that do not stand there.
        of_mitigation: it is the canonical line of a mitigation, with the fields of `say`.
    """

    place: str
    said: frozenset[Said]
    fields: frozenset[str]
    more: bool
    of_mitigation: bool


def log_calls(package: Path) -> list[Call]:
    """Return every place below `package` where something is logged.

    Raises:
        AssertionError: a name is put together in a way that is not known here.
    """
    return [call for path in sorted(package.rglob("*.py")) for call in _Module(path).calls()]


def log_events(package: Path) -> set[Said]:
    """Return every event that a module below `package` logs; raises as `log_calls`."""
    return {said for call in log_calls(package) for said in call.said}


class _Module:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._tree = ast.parse(path.read_text())
        # `say` hands on what it is given: its callers are what counts.
        self._functions = [
            node
            for node in ast.walk(self._tree)
            if isinstance(node, Function) and node.name != "say"
        ]

    def calls(self) -> Iterator[Call]:
        """Yield each call in each function that logs."""
        for function in self._functions:
            for call in ast.walk(function):
                if not isinstance(call, ast.Call) or (parts := _level_and_name(call)) is None:
                    continue
                levels, names = (self._texts(part, function) for part in parts)
                assert levels <= LEVELS, (self._path, call.lineno, levels)
                names_given = {one.arg for one in call.keywords}
                yield Call(
                    place=f"{self._path}:{call.lineno}",
                    said=frozenset(Said(*each) for each in product(levels, names)),
                    fields=frozenset(name for name in names_given if name is not None),
                    more=None in names_given,
                    of_mitigation=isinstance(call.func, ast.Name),
                )

    def _texts(self, node: ast.expr, function: Function) -> set[str]:
        """Return every text that `node` can be inside `function`."""
        match node:
            case ast.Constant(value=str() as text):
                return {text}
            case ast.IfExp():
                return self._texts(node.body, function) | self._texts(node.orelse, function)
            case ast.JoinedStr():
                parts = [self._part(part, function) for part in node.values]
                return {"".join(each) for each in product(*parts)}
            case ast.Name():
                found = self._assigned(node.id, function) | self._passed(node.id, function)
                assert found, (self._path, node.lineno, ast.unparse(node))
                return found
            case _:
                known = VALUES.get(ast.unparse(node))
                assert known, (self._path, node.lineno, ast.unparse(node))
                return known

    def _part(self, part: ast.expr, function: Function) -> set[str]:
        inner = part.value if isinstance(part, ast.FormattedValue) else part
        return self._texts(inner, function)

    def _assigned(self, name: str, function: Function) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(function):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                named = [one.id for one in targets if isinstance(one, ast.Name)]
                found |= self._texts(node.value, function) if name in named else set()
        return found

    def _passed(self, name: str, function: Function) -> set[str]:
        """Return what callers in this module hand over for the parameter `name`."""
        parameters = [one.arg for one in function.args.args]
        if name not in parameters:
            return set()
        place = parameters.index(name)
        found: set[str] = set()
        for caller in self._functions:
            for call in ast.walk(caller):
                if not isinstance(call, ast.Call):
                    continue
                match call.func:
                    case ast.Name(id=function.name):
                        found |= self._texts(call.args[place], caller)
                    case ast.Attribute(attr=function.name) if parameters[0] == "self":
                        found |= self._texts(call.args[place - 1], caller)
        return found


def _level_and_name(call: ast.Call) -> tuple[ast.expr, ast.expr] | None:
    """Return level and name of a call that logs, None for any other call."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="log"), attr="configure"):
            return None  # the module of this name
        case ast.Attribute(value=ast.Name(id="log"), attr=level) if call.args:
            return ast.Constant("error" if level == "exception" else level), call.args[0]
        case ast.Attribute(value=ast.Attribute(attr="_log"), attr=level) if call.args:
            return ast.Constant("error" if level == "exception" else level), call.args[0]
        case ast.Attribute(value=ast.Name(id="effects"), attr="log"):
            return call.args[0], call.args[1]
        case ast.Name(id="say"):
            return call.args[1], call.args[2]
        case _:
            return None
