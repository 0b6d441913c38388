# SPDX-License-Identifier: Apache-2.0
"""Reasons why a mitigation must not happen; pure."""
