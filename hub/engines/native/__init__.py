# SPDX-License-Identifier: Apache-2.0
"""The native engine: the hub's side of synproxyd, which works in XDP."""
