# SPDX-License-Identifier: Apache-2.0
"""`python -m hub` is `fnm-hub`."""

import sys

from hub.cli.main import main

sys.exit(main())
