# SPDX-License-Identifier: Apache-2.0
"""Log lines: a traceback says where, and shows no secret."""

import json
import subprocess
import sys

import pytest

CODE = """
import structlog
from hub.log import configure

configure("info", "{form}")


def ask(fields):
    key = fields["cookie"]
    raise KeyError("answer")


try:
    ask(dict(cookie="5e" * 16))
except KeyError:
    structlog.get_logger().exception("engine.defect", engine="native")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_traceback_when_variables_hold_a_secret_then_it_is_not_shown(form: str) -> None:
    """A defect in the middle of a request must not put the keys of a server into the journal."""
    argv = [sys.executable, "-c", CODE.format(form=form)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stderr
    assert "5e5e" not in said
    assert "KeyError" in said
    if form == "json":
        (line,) = said.splitlines()
        found = json.loads(line)
        assert found["event"] == "engine.defect"
        assert [frame["name"] for frame in found["exception"][0]["frames"]][-1] == "ask"
