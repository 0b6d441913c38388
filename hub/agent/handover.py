# SPDX-License-Identifier: Apache-2.0
"""The kernel's source of keys on its way from root's process to the agent's, by systemd's store.

What it takes besides open files is a JSON document in sealed memory. It may hold addresses of the
kernel, which nobody else may see; secrets are in neither.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from hub.agent.kernel.secrets import SIZES
from hub.agent.kernel.sources import Handed, Kernel, NoSourceError, SourceError, Tried, take_source

DOCUMENT: Final = "kernel"
"""Name of the document's descriptor; a source's file NAME is `kernel.NAME`."""
NAMES: Final = (DOCUMENT, *(f"{DOCUMENT}.{name}" for name in ("file", "kcore", *SIZES)))

_VERSION: Final = 1
_LARGEST: Final = 1 << 16
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TODO: Final = (
    "systemctl stop fnm-agent, then start it: fnm-agent open, which the unit runs, gives it anew"
)


def packed(found: Kernel | NoSourceError) -> dict[str, int]:
    """Return descriptors by name: those of the source, and a new one of the document."""
    document: dict[str, Any] = {"version": _VERSION, "tried": [asdict(one) for one in found.tried]}
    files: Mapping[str, int] = {}
    if isinstance(found, Kernel):
        handed = found.handed()
        document |= {"source": found.source, "about": dict(handed.about)}
        files = handed.files
    made = os.memfd_create("fnm-agent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(made, json.dumps(document).encode())
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, _SEALS)
    return {DOCUMENT: made, **{f"{DOCUMENT}.{name}": number for name, number in files.items()}}


def unpacked(files: Mapping[str, int]) -> Kernel:
    """Return the source that `packed` was given; takes the descriptors in any case.

    Raises:
        NoSourceError: there was none.
        SourceError: what is there is not what `packed` makes.
    """
    used: set[int] = set()
    try:
        document = _read(files)
        tried = tuple(Tried(**one) for one in document["tried"])
        if "source" not in document:
            raise NoSourceError(tried)
        handed = Handed(document["about"], _files(files))
        kernel = take_source(document["source"], handed)
        used.update(kernel.handed().files.values())
    except (KeyError, TypeError, AttributeError):
        raise SourceError("what systemd holds is no description of a source", todo=_TODO) from None
    finally:
        for number in {*files.values()} - used:
            with contextlib.suppress(OSError):
                os.close(number)
    return kernel


def _read(files: Mapping[str, int]) -> dict[str, Any]:
    made = files.get(DOCUMENT)
    if made is None:
        raise SourceError("systemd holds no source of keys for it", todo=_TODO)
    try:
        if fcntl.fcntl(made, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise SourceError("the description of the source is not sealed", todo=_TODO)
        document: Any = json.loads(os.pread(made, _LARGEST, 0))
    except (OSError, ValueError, RecursionError):
        raise SourceError("the description of the source cannot be read", todo=_TODO) from None
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise SourceError("the description of the source is of another version", todo=_TODO)
    return document


def _files(files: Mapping[str, int]) -> dict[str, int]:
    start = f"{DOCUMENT}."
    return {
        name.removeprefix(start): number for name, number in files.items() if name.startswith(start)
    }
