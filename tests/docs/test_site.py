"""The documentation site is built without a warning: every link and every reference on it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from harness.stack import ROOT

import venvd
from venvd_contract.commands import COMMANDS


@pytest.mark.long
def test_the_site_is_whole() -> None:
    """`make docs` succeeds, and its references have every command and every public name."""
    built = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs")], capture_output=True, text=True, timeout=600, check=False
    )
    assert (built.returncode, built.stderr) == (0, "")
    pages = ROOT / ".build" / "docs" / "html"
    sdk = (pages / "reference" / "python.html").read_text()
    assert [name for name in venvd.__all__ if f'id="venvd.{name}"' not in sdk and name != "NO_DEADLINE"] == []
    over_http = (pages / "reference" / "http.html").read_text()
    assert [command.http[1] for command in COMMANDS if not command.open and command.http[1] not in over_http] == []
    links = re.findall(r'href="([^"#:]+)', (pages / "index.html").read_text())
    assert {"start.html", "guides/sessions.html", "operating.html"} <= set(links)
