# SPDX-License-Identifier: Apache-2.0
"""Field types that configuration and rules share: durations, amounts, prefixes, ports, names."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
)

from hub.credentials import check_name, is_credential
from hub.net import IPNetwork
from hub.units import parse_count, parse_duration, parse_size


class StrictModel(BaseModel):
    """Base of everything that people write in YAML: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=False)


LONGEST: Final = 3650 * 86400.0
"""Seconds; no duration that people write is longer."""
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
STORED: Final = "stored"
"""Validation context of values that we wrote ourselves: durations are plain seconds there."""


def _duration(value: Any, info: ValidationInfo) -> float:
    if info.context == STORED and isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        msg = f"{value!r} is not a duration; write a number and a unit, as 250ms, 30s, 15m, 1h30m"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns only ValueError into its report
    seconds = parse_duration(value)
    if seconds > LONGEST:
        msg = f"{value!r} is longer than ten years"
        raise ValueError(msg)
    return seconds


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        msg = f"{value!r} is not an amount; write a number, as 100, 50k, 1.5M"
        raise ValueError(msg)  # noqa: TRY004
    return parse_count(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        msg = f"{value!r} is not a size; write a number of bytes, or with KiB, MiB, GiB"
        raise ValueError(msg)  # noqa: TRY004
    return parse_size(value)


def parse_network(value: Any) -> IPNetwork:
    """Return the prefix that `value` means; a bare address means itself alone.

    Raises:
        ValueError: no prefix, or host bits set.
    """
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        msg = f"{value!r} is not a prefix; write it as 192.0.2.0/24 or 2001:db8::/32"
        raise ValueError(msg)  # noqa: TRY004
    try:
        return ip_network(value)
    except ValueError as error:
        msg = f"{value!r} is not a prefix: {error}; write it as 192.0.2.0/24 or 2001:db8::/32"
        raise ValueError(msg) from None


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:  # noqa: PLR2004
        msg = f"{value!r} is not a port; write a number from 1 to 65535"
        raise ValueError(msg)
    return value


def _host_name(value: Any) -> str:
    if not isinstance(value, str) or not _HOST_NAME.fullmatch(value):
        msg = f"{value!r} is not a host name; write it as hub.example.net, without a port"
        raise ValueError(msg)
    return value.lower()


def _absolute(value: Any) -> Path:
    path = Path(value) if isinstance(value, str | Path) else None
    if path is None or not path.is_absolute():
        msg = f"{value!r} is not an absolute path"
        raise ValueError(msg)
    return path


def _secret(value: Any) -> Path:
    if isinstance(value, str) and is_credential(value):
        check_name(value)
        return Path(value)
    return _absolute(value)


Duration = Annotated[float, BeforeValidator(_duration)]
"""Seconds, written as `15m`."""
Count = Annotated[int, BeforeValidator(_count)]
"""A whole amount, written as `100` or `50k`."""
Size = Annotated[int, BeforeValidator(_size)]
"""Bytes, written as `64KiB`."""
Network = Annotated[IPNetwork, BeforeValidator(parse_network)]
"""A prefix."""
Port = Annotated[int, BeforeValidator(_port)]
"""A TCP or UDP port, 1 to 65535."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,47}$")]
"""An operator's name for a thing."""
HostName = Annotated[str, BeforeValidator(_host_name)]
"""A name in the DNS, in lower case."""
AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
"""A path from the root."""
SecretPath = Annotated[Path, BeforeValidator(_secret)]
"""A path from the root, or `credential:NAME`; see `hub.credentials`."""
