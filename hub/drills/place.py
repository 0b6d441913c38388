# SPDX-License-Identifier: Apache-2.0
"""Where a drill may be: the address that it is about, and the prefix it may enforce in."""

import hashlib
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import Final

from hub.config import Config, Guard
from hub.errors import IntakeError, RefusedError
from hub.net import IPAddress, IPNetwork, covers, overlap

_LOOKED_AT: Final = 1024
"""Addresses of one prefix that are tried before another prefix is."""


def place(
    config: Config, target: str | None, enforce: str | None, busy: Callable[[IPAddress], bool]
) -> IPAddress:
    """Return the address that a drill is about.

    Args:
        config: in force.
        target: as the operator named it, None to have one chosen.
        enforce: the prefix within which countermeasures may really be applied; None: nowhere.
        busy: tells whether an address is under a real attack now.

    Raises:
        IntakeError: no address, no prefix.
        RefusedError: nothing may be enforced there, or there is no address to take.
    """
    prefix = None if enforce is None else _allowed(enforce, config.guard)
    address = _named(target, prefix) if target is not None else _chosen(config, prefix, busy)
    if busy(address):
        raise RefusedError(
            f"{address} is under a real attack",
            todo="wait for its end, or name another address with --target",
        )
    return address


def fingerprint(config: Config) -> str:
    """Return what changes when the configuration does: all but `dry_run` and `log`."""
    fields = config.model_dump(mode="json", exclude={"dry_run", "log"})
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def _allowed(text: str, guard: Guard) -> IPNetwork:
    try:
        prefix = ip_network(text)
    except ValueError as error:
        raise IntakeError(
            f"{text!r} is no prefix: {error}", todo="write one like 192.0.2.10/32"
        ) from None
    if not any(covers(own, prefix) for own in guard.own_prefixes):
        raise RefusedError(
            f"{prefix} is in none of the {len(guard.own_prefixes)} prefixes of guard.own_prefixes",
            todo="name a prefix of yours, with a test address that nobody uses",
        )
    for listed in guard.never_block:
        if overlap(listed, prefix):
            raise RefusedError(
                f"{prefix} touches {listed} of guard.never_block",
                todo="name a narrower prefix beside it, with a test address that nobody uses",
            )
    return prefix


def _named(text: str, prefix: IPNetwork | None) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise IntakeError(
            f"{text!r} is no address", todo="write one host, like 192.0.2.10"
        ) from None
    if prefix is not None and not covers(prefix, address):
        raise RefusedError(
            f"{address} is not within {prefix}",
            todo="name a --target inside of the prefix of --enforce, or leave it out",
        )
    return address


def _chosen(
    config: Config, prefix: IPNetwork | None, busy: Callable[[IPAddress], bool]
) -> IPAddress:
    guard = config.guard
    services = [one for service in config.services for one in service.prefixes]
    for within in [prefix] if prefix is not None else [*services, *guard.own_prefixes]:
        for address in islice(_hosts(within), _LOOKED_AT):
            ours = any(covers(own, address) for own in guard.own_prefixes)
            listed = any(covers(one, address) for one in guard.never_block)
            if ours and not listed and not busy(address):
                return address
    if not guard.own_prefixes:
        raise RefusedError(
            "guard.own_prefixes is empty: nothing could ever be protected",
            where="guard.own_prefixes",
            todo="list your address space there, then: fnm-hub reload",
        )
    raise RefusedError(
        "found no address of yours that is neither in guard.never_block nor under attack",
        todo="name one with --target",
    )


def _hosts(prefix: IPNetwork) -> Iterator[IPAddress]:
    return iter(prefix.hosts())
