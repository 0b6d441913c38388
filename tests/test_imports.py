# SPDX-License-Identifier: Apache-2.0
"""The house: upper floors import lower ones, never the other way."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
FLOORS = (
    {"errors", "clock", "tasks", "units", "net", "log", "metrics", "stream", "rates", "history"}
    | {"shown", "figures", "lag", "loop", "__init__", "journald", "repeats"},
    {"systemd", "pulse", "credentials"},
    {"agent", "intake.model", "isn_sync.inventory"},
    {"fields"},
    {"yamlerrors", "yamlfile", "yamlnode", "yamlscalar"},
    {"isn_sync.settings"},
    {"config"},
    {"store"},
    {"intake"},
    {"drills"},
    {"attacks"},
    {"rules"},
    {"guard"},
    {"mitigations"},
    {"engines"},
    {"isn_sync"},
    {"effects"},
    {"documents", "views", "explanation"},
    {"pipeline"},
    {"backup"},
    {"simulator", "runner"},
    {"api", "overview"},
    {
        "engine_watch",
        "isn_watch",
        "meter",
        "loading",
        "needs",
        "explainer",
        "arming_file",
        "engine_metrics",
        "gauges",
    },
    {"watchdog", "drilling"},
    {"daemon"},
    {"app"},
    {"cli"},
    {"__main__"},
)
LONGEST = 400


def modules() -> dict[str, Path]:
    """Return every module of the package by its name without `hub.`."""
    found: dict[str, Path] = {}
    for path in (REPOSITORY / "hub").rglob("*.py"):
        parts = path.relative_to(REPOSITORY / "hub").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def floor_of(name: str) -> int:
    """Return the floor of a module, 0 is the ground."""
    for number, floor in enumerate(FLOORS):
        if name in floor:
            return number
    package = name.partition(".")[0]
    for number, floor in enumerate(FLOORS):
        if package in floor:
            return number
    msg = f"hub.{name} stands on no floor; give it one in tests/test_imports.py"
    raise AssertionError(msg)


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "hub":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("hub."):
                found.add(node.module.removeprefix("hub."))
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("hub.")
                for alias in node.names
                if alias.name.startswith("hub.")
            }
    return {name for name in found if not name.startswith("__")}


def test_import_when_it_looks_up_then_fails() -> None:
    """No module imports one from a floor above its own."""
    wrong = [
        f"hub.{name} imports hub.{other}"
        for name, path in modules().items()
        for other in imports_of(path)
        if floor_of(other) > floor_of(name)
    ]
    assert wrong == []


def test_module_when_long_then_it_is_more_than_one_idea() -> None:
    """No module grows beyond the length that a reader takes in at once."""
    long = {
        name: count
        for name, path in modules().items()
        if (count := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}


def test_source_when_read_then_licence_and_purpose_come_first() -> None:
    """Every module begins with its licence and says in one docstring what it is for."""
    for name, path in modules().items():
        text = path.read_text()
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), name
        assert ast.get_docstring(ast.parse(text)), name
