# SPDX-License-Identifier: Apache-2.0
"""The rule language: loading, evaluation, rule tests; pure."""
