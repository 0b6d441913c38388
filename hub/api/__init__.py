# SPDX-License-Identifier: Apache-2.0
"""The aiohttp application: intake, operator API, event stream, metrics, health."""
