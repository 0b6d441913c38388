# SPDX-License-Identifier: Apache-2.0
"""Which files beside the journal belong into a backup, and what of them is secret."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from hub.config import Config
from hub.errors import HubError

_TESTS: Final = ".test.yaml"
_NO_URL: Final = "https://left-out-of-the-backup.invalid/"
_NO_TEXT: Final = "left-out-of-the-backup"
_URL: Final = ("engines", "webhook", "*", "url")
_SECRET: Final = {_URL: _NO_URL, ("engines", "command", "*", "environment", "*"): _NO_TEXT}
"""Values of the configuration that are secrets, and what stands in a backup in their place."""
_MOST: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """One file beside the journal.

    Attributes:
        path: where it is.
        content: what goes into the backup; None where it is left out.
        note: what is missing of it, empty where nothing is.
    """

    path: Path
    content: bytes | None
    note: str = ""


def parts_of(config_path: Path, config: Config, *, with_secrets: bool) -> list[Part]:
    """Return the configuration, rules, rule tests, certificates and known hosts; keys on request.

    Raises:
        HubError: the configuration or a rule file cannot be read.
    """
    found = [_configuration(config_path.resolve(), with_secrets=with_secrets)]
    for rules in config.rules:
        found.append(Part(rules.resolve(), _read(rules)))
        tests = rules.with_name(rules.name.removesuffix(rules.suffix) + _TESTS)
        if tests.is_file():
            found.append(Part(tests.resolve(), _read(tests)))
    found += [_kept(path) for path in _public(config) if path.is_file()]
    for path in _secrets(config):
        if path.is_file():
            found.append(_kept(path) if with_secrets else Part(path, None, "a secret"))
    return list({part.path: part for part in found}.values())


def without_secrets(text: str) -> tuple[str, list[str]]:
    """Return a configuration with its secret values exchanged, and the keys of these."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        # Never reached with a configuration that the hub has read.
        raise HubError("the configuration is no YAML") from None
    places = sorted(_places(root, ()), key=lambda place: -place[0])
    names = []
    for start, end, instead, name in places:
        text = text[:start] + instead + text[end:]
        names.append(name)
    return text, sorted(names)


def _configuration(path: Path, *, with_secrets: bool) -> Part:
    content = _read(path)
    if with_secrets:
        return Part(path, content)
    text, names = without_secrets(content.decode("utf-8-sig"))
    return Part(path, text.encode(), f"without {', '.join(names)}" if names else "")


def _places(node: Any, way: tuple[str, ...]) -> Iterator[tuple[int, int, str, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _places(value, (*way, str(key.value)))
    elif isinstance(node, yaml.ScalarNode):
        for pattern, instead in _SECRET.items():
            if len(way) == len(pattern) and all(
                want in ("*", have) for want, have in zip(pattern, way, strict=True)
            ):
                # A block scalar ends with the line break before whatever follows.
                more = "\n" if node.style in ("|", ">") else ""
                yield node.start_mark.index, node.end_mark.index, instead + more, ".".join(way)


def _public(config: Config) -> list[Path]:
    tls = config.intake.tcp.tls if config.intake.tcp else None
    found = [config.isn_sync.known_hosts]
    if tls is not None:
        found += [tls.certificate, *([tls.client_ca] if tls.client_ca else [])]
    return found


def _secrets(config: Config) -> list[Path]:
    tcp, key = config.intake.tcp, config.isn_sync.key
    found = [webhook.token_file for webhook in config.intake.webhooks]
    found += [one.token_file for one in config.engines.webhook.values() if one.token_file]
    if tcp is not None:
        found += [one.secret_file for one in tcp.hmac_keys]
        found += [tcp.tls.key] if tcp.tls is not None else []
    return [*found, key, key.with_name(f"{key.name}.previous")]


def _kept(path: Path) -> Part:
    return Part(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise HubError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            todo="run the backup as root or as the hub's user",
        ) from error
    if len(content) > _MOST:
        raise HubError(f"has more than {_MOST} bytes", where=str(path), todo="is it that file?")
    return content
