# SPDX-License-Identifier: Apache-2.0
"""fnm-hub: turns FastNetMon's alarms into countermeasures."""

import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import types

# structlog would load rich, which `fnm-hub top` brings, for tracebacks that nobody here prints: the
# start of each process would take twice as long. None means that it is not there.
sys.modules.setdefault("rich", cast("types.ModuleType", None))

__version__ = "0.1.0"
