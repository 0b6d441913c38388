# SPDX-License-Identifier: Apache-2.0
"""The configuration and its example: complete, truthful, safe as shipped."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from hub.config import UNTIL_ARMED, Config, load_config
from hub.errors import ConfigError
from hub.yamlfile import load, parse
from hub.yamlnode import Document

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "config.example.yaml"
SWITCHED_OFF = re.compile(r"^(\s*)#(?=[^ #\n])", re.MULTILINE)
DEFAULT = re.compile(r"Default: (.+?)\s*$")


def everything_on(folder: Path) -> Path:
    """Return a copy of the example in which no setting is switched off."""
    path = folder / "config.yaml"
    path.write_text(SWITCHED_OFF.sub(r"\1", EXAMPLE.read_text()))
    return path


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that `annotation` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in models_in(each)]


def below(data: Any) -> tuple[str | int, ...]:
    """Return the way to the one entry of a list or named mapping, nothing for a plain section."""
    if isinstance(data, tuple):
        return (0,)
    return (next(iter(data)),)


Settings = list[tuple[tuple[str | int, ...], Any]]


def settings_of(model: type[BaseModel], data: Any, way: tuple[str | int, ...] = ()) -> Settings:
    """Return the way to every setting that the models have, with its field."""
    found: Settings = []
    for name, field in model.model_fields.items():
        here = (*way, name)
        found.append((here, field))
        for inner in models_in(field.annotation):
            value = data[name]
            if isinstance(value, tuple) or field.annotation is not inner:
                entry = below(value) if _is_container(field.annotation) else ()
                value = value[entry[0]] if entry else value
                found += settings_of(inner, value, (*here, *entry))
            else:
                found += settings_of(inner, value, here)
    return found


def _is_container(annotation: Any) -> bool:
    return str(annotation).startswith(("tuple", "dict"))


def comment_above(lines: list[str], number: int) -> str:
    """Return the comment lines that stand right above line `number`, counted from 1."""
    above: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        above.append(line.strip().lstrip("# "))
    return " ".join(reversed(above))


def key_line(document: Document, way: tuple[str | int, ...]) -> int:
    """Return the line of the key at `way`."""
    key = document.locate(way).key
    assert key is not None, f"{way} does not stand in the example"
    return key[0]


def test_example_when_loaded_then_it_is_a_configuration() -> None:
    """The shipped example loads as it is, and does nothing but look on."""
    config = load_config(EXAMPLE)
    assert config.dry_run == UNTIL_ARMED
    assert config.rules == (REPOSITORY / "rules" / "default.yaml",)
    assert config.service_of(ip_address("192.0.2.10")) == config.services[0]
    assert config.service_of(ip_network("192.0.2.0/30")) is None


def test_example_when_everything_is_switched_on_then_it_loads(tmp_path: Path) -> None:
    """The settings that are switched off are right as well."""
    config = load_config(everything_on(tmp_path))
    assert config.intake.tcp is not None
    assert list(config.engines.webhook) == ["oncall"]
    assert config.engines.command["blackhole"].argv[0] == "/usr/local/sbin/blackhole"


def test_example_when_compared_then_it_has_every_setting_and_the_true_default(
    tmp_path: Path,
) -> None:
    """Each field of each model has its line, a comment, and the default that it really has."""
    path = everything_on(tmp_path)
    document = load(path)
    lines = path.read_text().splitlines()
    settings = settings_of(Config, document.data)
    assert len(settings) > 80
    for way, field in settings:
        comment = comment_above(lines, key_line(document, way))
        assert len(comment) > len("Default: x"), f"{way} has no comment"
        stated = DEFAULT.search(comment)
        if stated is None:
            assert models_in(field.annotation), f"{way} states no default"
            assert field.default == models_in(field.annotation)[0]()
        elif field.is_required():
            assert stated[1] == "required", way
        else:
            assert typed(field, stated[1]) == field.get_default(call_default_factory=True), way


def typed(field: Any, text: str) -> Any:
    """Return the default that a comment states, as the field would hold it."""
    if text == "none":
        return None
    value = parse(f"value: {text}".encode(), "comment").data["value"]
    annotation = field.annotation
    for each in field.metadata:
        annotation = Annotated[annotation, each]
    return TypeAdapter(annotation).validate_python(value, strict=True)


def test_example_when_active_value_is_not_the_default_then_it_is_an_example() -> None:
    """Only what must be an example, names and addresses, differs from the defaults."""
    config = load_config(EXAMPLE)
    plain = Config()
    changed = {
        name for name in Config.model_fields if getattr(config, name) != getattr(plain, name)
    }
    assert changed == {"services", "rules", "guard"}
    own = {"own_prefixes", "never_block"}
    assert config.guard.model_copy(update=dict.fromkeys(own, ())) == plain.guard


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "dry_run: false",
            ("1:10: dry_run: is false and guard.own_prefixes is empty; "
            "list the prefixes that are yours"),
        ),
        (
            ("services:\n  - {name: a, prefixes: [192.0.2.0/24]}\n"
            "  - {name: a, prefixes: [192.0.2.1/32]}"),
            "3:12: services[1].name: two services are named 'a'; rename one",
        ),
        (
            "engines:\n  webhook: {a: {url: 'https://x'}}\n  command: {a: {argv: [/bin/true]}}",
            "3:16: engines.command.a: 'a' names both a webhook and a command; rename one",
        ),
        (
            "engines:\n  command: {nftables: {argv: [/bin/true]}}",
            "2:23: engines.command.nftables: 'nftables' is the name of an engine; choose another",
        ),
        (
            "engines:\n  command: {a: {argv: [true]}}",
            "2:24: engines.command.a.argv[0]: expected text, found true or false; put it in quotes",
        ),
        (
            "engines:\n  command: {a: {argv: [reboot]}}",
            ("2:24: engines.command.a.argv[0]: 'reboot' is not an absolute path; "
            "no PATH is searched"),
        ),
        (
            "guard: {caps: {per_engine: {nativ: 5}}}",
            ("1:36: guard.caps.per_engine.nativ: 'nativ' is the name of no engine; "
            "did you mean 'native'?"),
        ),
        (
            "engines:\n  native: {grace_pps: 20M}",
            "2:23: engines.native.grace_pps: '20M' is above the most allowed, 10000000",
        ),
        (
            "engines:\n  native: {grace: 8d}",
            "2:19: engines.native.grace: '8d' is above the most allowed, 7d",
        ),
        ("rules: []", "1:8: rules: has 0 entries; give at least 1"),
        ("guard: {caps: {total: '5'}}", ("1:23: guard.caps.total: expected a whole number, "
         "found text; write it in digits, without quotes")),
    ],
)  # fmt: skip
def test_load_config_when_fields_disagree_then_the_mistake_has_a_place(
    tmp_path: Path, text: str, expected: str
) -> None:
    """What concerns several settings is reported at the one to change."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [str(each) for each in caught.value.problems] == [f"{path}:{expected}"]


def test_load_config_when_webhook_url_is_wrong_then_not_shown(tmp_path: Path) -> None:
    """The address of a webhook is a secret: it stands in no message and no repr."""
    path = tmp_path / "config.yaml"
    path.write_text("engines: {webhook: {a: {url: [https://x/hunter2], tries: 3}}}")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "hunter2" not in str(caught.value)
    path.write_text("engines: {webhook: {a: {url: 'https://x/hunter2'}}}")
    assert "hunter2" not in repr(load_config(path))


def test_load_config_when_rules_are_relative_then_they_start_at_its_folder(tmp_path: Path) -> None:
    """Relative rule files belong to the configuration's folder, absolute ones stay."""
    path = tmp_path / "config.yaml"
    path.write_text("rules: [a.yaml, ../b.yaml, /c.yaml]")
    assert load_config(path).rules == (
        tmp_path / "a.yaml",
        tmp_path / ".." / "b.yaml",
        Path("/c.yaml"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("api: {path: /run/x.sock}\nintake: {unix: {path: /run/x.sock}}", "path of intake.unix"),
        (f"api: {{path: /{'a' * 120}}}", "longer than 107 bytes"),
        ("intake: {unix: {max_body: 0}}", "max_body"),
        ("attacks: {lifetime: 99999999d}", "ten years"),
    ],
)
def test_config_when_run_would_refuse_it_then_the_check_does(
    tmp_path: Path, text: str, words: str
) -> None:
    """What cannot work is found when the file is read, with its place."""
    path = tmp_path / "config.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=words):
        load_config(path)
