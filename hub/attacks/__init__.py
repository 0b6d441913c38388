# SPDX-License-Identifier: Apache-2.0
"""The life of an attack: holders, order, flapping; pure."""
