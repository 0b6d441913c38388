# SPDX-License-Identifier: Apache-2.0
"""Print a first configuration: the example, with what is known of this gateway.

It stays in dry-run. Prefixes are written as networks; what is no network ends it with status 1.
"""

import argparse
import re
import sys
from ipaddress import ip_interface, ip_network
from pathlib import Path


def networks(words: list[str]) -> str:
    """Return the prefixes as a YAML list, each once; host bits are cut off.

    Raises:
        ValueError: one of them is no prefix.
    """
    found = dict.fromkeys(str(ip_network(word, strict=False)) for word in words)
    return "[" + ", ".join(f'"{text}"' for text in found) + "]"


def hosts(words: list[str]) -> str:
    """Return the addresses as a YAML list of single-address prefixes, each once.

    Raises:
        ValueError: one of them is no address.
    """
    return networks([str(ip_interface(word).ip) for word in words])


def put(text: str, pattern: str, new: str) -> str:
    """Return `text` with the one place of `pattern` changed.

    Raises:
        LookupError: the example has another form than this program knows.
    """
    changed, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
    if not count:
        msg = f"the example configuration has no {pattern!r}"
        raise LookupError(msg)
    return changed


def switched_off(text: str, key: str) -> str:
    """Return `text` with the section `key` turned into comments, as the example has them."""
    lines, inside = [], False
    for line in text.splitlines():
        if re.match(r"[a-z_]+:", line):
            inside = line.startswith(f"{key}:")
        words = line.lstrip()
        comment = inside and words and not words.startswith("#")
        lines.append(line[: len(line) - len(words)] + "#" + words if comment else line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the arguments and print the configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("example", type=Path)
    parser.add_argument("--own", action="append", default=[])
    parser.add_argument("--never", action="append", default=[])
    parser.add_argument("--engine", choices=["native", "nftables"], required=True)
    given = parser.parse_args()
    native = given.engine == "native"
    try:
        own, never = networks(given.own), hosts(given.never)
    except ValueError as error:
        sys.exit(str(error))
    text = switched_off(given.example.read_text(), "services")
    text = put(text, r"^  own_prefixes: .*$", f"  own_prefixes: {own}")
    text = put(text, r"^  never_block: .*$", f"  never_block: {never}")
    for name, enabled in (("native", native), ("nftables", not native)):
        text = put(
            text,
            rf"^(  {name}:\n(?:    #.*\n)*    enabled: )\w+$",
            rf"\g<1>{'true' if enabled else 'false'}",
        )
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
