# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub top`: a live view in the terminal, with keys to act."""
