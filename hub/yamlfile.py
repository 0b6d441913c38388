# SPDX-License-Identifier: Apache-2.0
"""Strict YAML: one meaning per file, and the line and column of every value.

Only what all YAML versions read alike is accepted. Anchors, aliases, merge keys, tags, duplicate
keys and the spellings that YAML 1.1 turns into something else (`off`, `010`, `12:30`) are mistakes.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel

from hub.errors import ConfigError, Problem
from hub.yamlerrors import validate
from hub.yamlnode import Document, Node
from hub.yamlscalar import UNREADABLE, read_plain

M = TypeVar("M", bound=BaseModel)

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 32
MAX_NODES: Final = 100_000

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN: Final = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff\ue000-\ufefe\uff00-\ufffd"
    "\U00010000-\U0010ffff]"
)
_TAB_INDENT: Final = re.compile(r"^ *\t[ \t]*[^ \t\n#]", re.MULTILINE)


def load_model(path: Path, model: type[M]) -> M:
    """Return the `model` that the file at `path` describes.

    Raises:
        ConfigError: with every mistake in the file, in line order.
    """
    document = scan(path)
    found, problems = validate(document, model)
    problems = sorted([*document.problems, *problems], key=lambda each: (each.line, each.column))
    if found is None or problems:
        raise ConfigError(problems)
    return found


def load(path: Path) -> Document:
    """Return the plain data in the file at `path` with the place of every value.

    Raises:
        ConfigError: the file cannot be read or is not strict YAML.
    """
    document = scan(path)
    if document.problems:
        raise ConfigError(document.problems)
    return document


def scan(path: Path) -> Document:
    """Return what can be read of the file at `path`, its mistakes in `Document.problems`."""
    try:
        content = _read(path)
    except OSError as error:
        return Document(str(path), None, (_unreadable(path, error),))
    except ValueError as error:  # a NUL in the path
        return Document(str(path), None, (Problem(f"is no path: {error}", str(path)),))
    return parse(content, str(path))


def parse(content: bytes, file: str) -> Document:
    """Return what can be read of `content`; `file` is the name in messages."""
    if len(content) > MAX_BYTES:
        problem = Problem("is larger than 1 MiB", file, todo="split it; rules may be several files")
        return Document(file, None, (problem,))
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        return Document(file, None, (_not_utf8(content, error, file),))
    builder = _Builder(file, text.split("\n"))
    builder.check_characters(text)
    if not builder.problems:
        builder.run(text)
    if builder.root is None and not builder.problems:
        builder.problems.append(Problem("is empty", file, todo="write at least one key: value"))
    problems = sorted(builder.problems, key=lambda each: (each.line, each.column))
    return Document(file, None if builder.broken else builder.root, tuple(problems))


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hang
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):
            raise OSError(None, "is not a regular file")
        return file.read(MAX_BYTES + 1)


def _unreadable(path: Path, error: OSError) -> Problem:
    match error:
        case FileNotFoundError():
            return Problem("does not exist", str(path), todo="create it or correct the path")
        case IsADirectoryError():
            return Problem("is a directory", str(path), todo="name the file in it")
        case PermissionError():
            todo = f"let user id {os.geteuid()} read it and enter its folders"
            return Problem("may not be read", str(path), todo=todo)
        case _:
            what = f"cannot be read: {error.strerror}"
            return Problem(what, str(path), todo="name a plain file")


def _not_utf8(content: bytes, error: UnicodeDecodeError, file: str) -> Problem:
    before = content[: error.start]
    line = before.count(b"\n") + 1
    column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
    what = f"byte 0x{content[error.start]:02x} is not UTF-8"
    return Problem(what, file, line, column, "save the file as UTF-8")


@dataclass(slots=True)
class _Frame:
    """A mapping or sequence that is still open."""

    line: int
    column: int
    mapping: bool
    children: dict[str | int, Node] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    key: str | None = None
    expects_key: bool = True

    def close(self) -> Node:
        values = {key: node.value for key, node in self.children.items()}
        value = values if self.mapping else tuple(values.values())
        return Node(value, self.line, self.column, self.children, self.keys)


class _BrokenError(Exception):
    """The text cannot be read past this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Builder:
    """Turns parser events into nodes; keeps going after every mistake that allows it."""

    def __init__(self, file: str, lines: list[str]) -> None:
        self._file, self._lines = file, lines
        self._stack: list[_Frame] = []
        self._count = 0
        self._documents = 0
        self.root: Node | None = None
        self.broken = False
        self.problems: list[Problem] = []

    def check_characters(self, text: str) -> None:
        """Report what editors and parsers show differently, before the parser sees it."""
        for match in _FORBIDDEN.finditer(text):
            place = _place_in(text, match.start())
            what = f"character U+{ord(match[0]):04X} is invisible or a control character"
            self._complain(place, what, "remove it, or write it as an escape in double quotes")
        for match in _TAB_INDENT.finditer(text):
            place = _place_in(text, match.start() + match[0].index("\t"))
            self._complain(place, "a tab stands in the indentation", "write spaces")

    def run(self, text: str) -> None:
        """Read `text` to its end or to the first mistake that leaves no way on."""
        try:
            for event in _events(text):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            self.broken = True
            self.problems.append(self._syntax(error))
        except yaml.YAMLError as error:
            self.broken = True
            self.problems.append(Problem(f"is not YAML: {type(error).__name__}", self._file))
        except _BrokenError as error:
            self.broken = True
            self.problems.append(error.problem)

    def _take(self, event: Any) -> None:
        place = (event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case yaml.DocumentStartEvent():
                self._document(event, place)
            case yaml.ScalarEvent():
                self._scalar(event, place)
            case yaml.AliasEvent():
                self._no_reference(place)
                self._put(Node(UNREADABLE, *place, sound=False))
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event, place)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._put(self._stack.pop().close())
            case _:
                pass  # starts and ends of the stream

    def _document(self, event: Any, place: tuple[int, int]) -> None:
        self._documents += 1
        if self._documents > 1:
            what = "a second document begins here"
            raise _BrokenError(self._problem(place, what, "keep one document a file, without ---"))
        if event.version or event.tags:
            self._complain(place, "directives (%YAML, %TAG) are not read", "remove the line")

    def _open(self, event: Any, place: tuple[int, int]) -> None:
        if len(self._stack) >= MAX_DEPTH:
            what = f"is nested deeper than {MAX_DEPTH} levels"
            raise _BrokenError(self._problem(place, what, "write it flatter"))
        if self._stack and self._stack[-1].mapping and self._stack[-1].expects_key:
            what = "a list or mapping stands where a key belongs"
            todo = "write key: value, and quote a value that begins with [ or {"
            raise _BrokenError(self._problem(place, what, todo))
        self._check_spelling(event, place)
        self._stack.append(_Frame(*place, isinstance(event, yaml.MappingStartEvent)))

    def _scalar(self, event: Any, place: tuple[int, int]) -> None:
        clean = self._check_spelling(event, place)
        frame = self._stack[-1] if self._stack else None
        plain = not event.style
        if frame is not None and frame.mapping and frame.expects_key:
            self._key(frame, event.value, place, plain=plain)
            return
        value: Any = event.value
        if not clean:
            value = UNREADABLE
        elif plain:
            value, complaint = read_plain(event.value)
            if complaint is not None:
                self._complain(place, *complaint)
        self._put(Node(value, *place, sound=value is not UNREADABLE))

    def _key(self, frame: _Frame, key: str, place: tuple[int, int], *, plain: bool) -> None:
        frame.expects_key = False
        if plain and key == "<<":
            self._complain(place, "merge keys (<<) are not read", "write the fields out")
        elif plain and not key:
            self._complain(place, "a key is missing", "write key: value")
        elif key in frame.keys:
            first = frame.keys[key][0]
            what = f"{_short(key)} stands twice in this mapping, first on line {first}"
            self._complain(place, what, "keep one of them")
        else:
            frame.keys[key] = place
            frame.key = key
            return
        frame.key = None

    def _put(self, node: Node) -> None:
        self._count += 1
        if self._count > MAX_NODES:
            what = f"has more than {MAX_NODES} values"
            raise _BrokenError(self._problem((node.line, node.column), what, "split the file"))
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        if not frame.mapping:
            frame.children[len(frame.children)] = node
            return
        if frame.expects_key:  # an alias as key; already reported
            frame.expects_key, frame.key = False, None
            return
        if frame.key is not None:
            frame.children[frame.key] = node
        frame.expects_key = True

    def _check_spelling(self, event: Any, place: tuple[int, int]) -> bool:
        """Report anchors, tags and tabs before the value; tell whether there were none."""
        count = len(self.problems)
        if event.anchor is not None:
            self._no_reference(place)
        if event.tag is not None:
            todo = "remove it, or quote the value if it begins with !"
            self._complain(place, "tags (!...) are not read", todo)
        line, column = place
        if column > 1 and line <= len(self._lines) and self._lines[line - 1][column - 2] == "\t":
            self._complain((line, column - 1), "a tab stands before the value", "write a space")
        if isinstance(event, yaml.ScalarEvent) and not event.style and "\t" in event.value:
            self._complain(place, "a tab stands inside the value", "write spaces, or quote it")
        return len(self.problems) == count

    def _no_reference(self, place: tuple[int, int]) -> None:
        todo = "write the value out, or quote it if it begins with & or *"
        self._complain(place, "anchors and aliases (& and *) are not read", todo)

    def _syntax(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            return Problem(f"is not YAML: {error.problem}", self._file)
        line, column = mark.line + 1, mark.column + 1
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        character = text[column - 1 : column]
        began = error.context_mark.line + 1 if error.context_mark is not None else line
        return self._problem((line, column), *_explain(error, character, began))

    def _complain(self, place: tuple[int, int], what: str, todo: str) -> None:
        self.problems.append(self._problem(place, what, todo))

    def _problem(self, place: tuple[int, int], what: str, todo: str) -> Problem:
        return Problem(what, self._file, *place, todo)


def _events(text: str) -> Iterator[Any]:
    """Yield parser events; they say how a value was spelled, which composed nodes no longer do."""
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    return events


def _explain(error: yaml.MarkedYAMLError, character: str, began: int) -> tuple[str, str]:
    """Return what is wrong and what to do, in the words of someone who writes YAML."""
    problem, context = error.problem or "", error.context or ""
    indent = "indent the lines of one mapping or list alike, with spaces"
    spellings: Mapping[str, tuple[str, str]] = {
        "mapping values are not allowed": (
            "a ': ' stands where none can be",
            "put the value in quotes, or indent this line to match its neighbours",
        ),
        "block scalar": (
            "a value begins with > or |",
            'put it in quotes, as ">= 50k"',
        ),
        "cannot start any token": (
            "a tab stands here" if character == "\t" else f"a value cannot begin with {character}",
            "write spaces" if character == "\t" else "put it in quotes",
        ),
        "quoted scalar": (
            f"the text in quotes that began on line {began} is not right: {problem}",
            "close it with the quote it began with; a backslash counts only in double quotes",
        ),
        "flow sequence": (f"the [ of line {began} is not closed", "separate by commas, end by ]"),
        "flow mapping": (f"the {{ of line {began} is not closed", "separate by commas, end by }"),
        "node content": ("a key or value is missing", "write key: value"),
        "<document start>": ("this line does not belong to what is above it", indent),
        "block": ("this line does not fit what is above it", indent),
        "simple key": ("this line has no ': ' after its key", "write key: value"),
    }
    for fragment, answer in spellings.items():
        if fragment in problem or fragment in context:
            return answer
    return f"is not YAML: {problem}", "compare it with the example configuration"


def _place_in(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _short(key: str) -> str:
    return repr(key if len(key) <= 40 else key[:37] + "...")  # noqa: PLR2004 - one line's worth
