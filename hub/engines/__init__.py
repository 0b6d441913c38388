# SPDX-License-Identifier: Apache-2.0
"""What carries countermeasures out, one module an engine behind one small Protocol."""
