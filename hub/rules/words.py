# SPDX-License-Identifier: Apache-2.0
"""The words of the rule language: comparisons, names from fixed lists, configured names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo

from hub.config import Config, traffic_engines
from hub.fields import Name
from hub.intake.model import AttackType, Direction, Scope
from hub.rules.able import NFTABLES
from hub.rules.protocols import PROTOCOLS, canonical_protocol
from hub.units import format_duration, parse_count
from hub.yamlerrors import listed, mistake, nearest

T = TypeVar("T")

_COMPARISON: Final = re.compile(r"\s*(>=|<=|==|>|<)\s*([^\s,<>=]+)\s*")
_SPAN: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_HIGHEST: Final = 65_535
_HIGHEST_TYPE: Final = 255
_HOW: Final = 'write it as ">= 50k", "< 1M" or ">= 50k, < 1M"'


@dataclass(frozen=True, slots=True)
class Known:
    """What rules may refer to.

    Attributes:
        services: names of the configured services.
        notify: names that `notify: {to: ...}` may use.
        commands: names that `command: {run: ...}` may use.
        engines: names of the enabled engines that carry out tcp, acl and sorb.
        measures: an enabled engine measures what it carries out.
        max_ttl: longest lifetime a rule may give, seconds.
    """

    services: frozenset[str] = frozenset()
    notify: frozenset[str] = frozenset()
    commands: frozenset[str] = frozenset()
    engines: frozenset[str] = frozenset({NFTABLES})
    measures: bool = False
    max_ttl: float = 86400.0


def known_of(config: Config) -> Known:
    """Return what rules may refer to under `config`."""
    commands = frozenset(config.engines.command)
    return Known(
        services=frozenset(service.name for service in config.services),
        notify=commands | frozenset(config.engines.webhook),
        commands=commands,
        engines=frozenset(traffic_engines(config.engines)),
        measures=config.engines.native.enabled,
        max_ttl=config.guard.max_ttl,
    )


@dataclass(frozen=True, slots=True)
class Range:
    """A comparison, as the whole numbers from `low` to `high`; None is no upper end."""

    low: int
    high: int | None
    text: str


def parse_comparison(value: Any) -> Range:
    """Return the range that `>= 50k`, `< 1M` or both joined by a comma mean.

    Raises:
        PydanticCustomError: not a comparison, or one that no number satisfies.
    """
    if not isinstance(value, str):
        suffix = f'write ">= {value}"' if isinstance(value, int) else _HOW
        raise mistake(f"{value!r} is not a comparison", todo=suffix)
    low, high = 0, None
    for part in value.split(","):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            raise mistake(f"{value!r} is not a comparison", todo=_HOW)
        try:
            amount = parse_count(match[2])
        except ValueError as error:
            raise mistake(str(error)) from None
        least, most = _bounds(match[1], amount)
        low = max(low, least)
        high = most if high is None else high if most is None else min(high, most)
    if high is not None and high < low:
        raise mistake(f"{value!r} never holds", todo=_HOW)
    return Range(low, high, ", ".join(" ".join(part.split()) for part in value.split(",")))


def _bounds(operator: str, amount: int) -> tuple[int, int | None]:
    match operator:
        case ">=":
            return amount, None
        case ">":
            return amount + 1, None
        case "<=":
            return 0, amount
        case "<":
            return 0, amount - 1
        case _:
            return amount, amount


def _within(value: Any, highest: int) -> str:
    """Return a number or a range of them as `Acl` has it: `53` or `1024-65535`."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _SPAN.fullmatch(text) if isinstance(text, str) else None
    if match is None or not int(match[1]) <= int(match[2] or match[1]) <= highest:
        example = "1024-65535" if highest == _HIGHEST else "8-10"
        todo = f"write 53 or {example}, lower end first, at most {highest}"
        raise mistake(f"{text!r} is not a number or range", todo=todo)
    return match[0]


def _span(value: Any) -> str:
    return _within(value, _HIGHEST)


def _icmp_span(value: Any) -> str:
    return _within(value, _HIGHEST_TYPE)


def one_of(choices: Iterable[str], spell: Callable[[str], str] = str) -> BeforeValidator:
    """Return a check that a value is one of `choices`, after `spell` has unified its spelling."""
    names = tuple(choices)

    def check(value: Any) -> str:
        if value is None:
            raise mistake("has no value", todo=f"write one of {listed(names)}")
        if not isinstance(value, str):
            raise mistake("expected text", todo=f"write one of {listed(names)}")
        if spell(value) not in names:
            raise mistake(f"{value!r} is not one of {listed(names)}", value=value, choices=names)
        return spell(value)

    return BeforeValidator(check)


def _configured(kind: str, where: str) -> AfterValidator:
    """Return a check that a name is in the `Known` of the validation context."""

    def check(value: str, info: ValidationInfo) -> str:
        if not isinstance(info.context, Known):
            return value
        names: frozenset[str] = getattr(info.context, kind)
        if value not in names:
            have = f" ({listed(sorted(names))})" if names else " (there are none)"
            todo = nearest(value, sorted(names)) or f"correct it, or add it under {where}"
            raise mistake(f"{value!r} is not in the configuration's {where}{have}", todo=todo)
        return value

    return AfterValidator(check)


def _within_max_ttl(value: float, info: ValidationInfo) -> float:
    if value <= 0:
        raise mistake("must be longer than nothing", todo="write e.g. ttl: 15m")
    if isinstance(info.context, Known) and value > info.context.max_ttl:
        most = format_duration(info.context.max_ttl)
        raise mistake(
            f"{format_duration(value)} is longer than guard.max_ttl, {most}",
            todo="shorten it, or raise guard.max_ttl",
        )
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, tuple | list) else (value,)


LifeTime = AfterValidator(_within_max_ttl)
"""Goes with `Duration`: longer than nothing, not longer than `guard.max_ttl`."""
Many = BeforeValidator(_listed)
"""Goes with a tuple: one value may be written without brackets."""
NotEmpty = Field(min_length=1)
DirectionName = Annotated[str, one_of(each.value for each in Direction)]
AttackTypeName = Annotated[str, one_of(each.value for each in AttackType)]
ScopeName = Annotated[str, one_of(each.value for each in Scope)]
ProtocolName = Annotated[str, one_of(PROTOCOLS, canonical_protocol)]
ServiceName = Annotated[Name, _configured("services", "services")]
EngineName = Annotated[Name, _configured("engines", "engines")]
NotifyName = _configured("notify", "engines.webhook or engines.command")
CommandName = _configured("commands", "engines.command")
NumberRange = Annotated[str, BeforeValidator(_span)]
IcmpRange = Annotated[str, BeforeValidator(_icmp_span)]
Comparison = Annotated[Range, PlainValidator(parse_comparison)]

EXHAUSTIVE: Final[Mapping[str, frozenset[str]]] = {
    "direction": frozenset(Direction),
    "attack_type": frozenset(AttackType),
    "scope": frozenset(Scope),
}
"""Clauses whose every possible value is known: naming all of them says nothing."""
