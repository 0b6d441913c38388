# SPDX-License-Identifier: Apache-2.0
"""fnm-hub: turns FastNetMon's alarms into countermeasures."""

__version__ = "0.1.0"
