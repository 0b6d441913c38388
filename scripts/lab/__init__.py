# SPDX-License-Identifier: Apache-2.0
"""A small internet in network namespaces: attacker, client, gateway, server, for demo and tests."""
