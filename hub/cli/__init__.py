# SPDX-License-Identifier: Apache-2.0
"""Operator commands; speak to the daemon over its Unix socket."""
