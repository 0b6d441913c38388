# SPDX-License-Identifier: Apache-2.0
"""`fnm-hub doctor`: looks at everything that a working hub rests on, and changes nothing."""
