"""`make demo` is the main job: it must work on every engine, and leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from harness.stack import ROOT

pytestmark = pytest.mark.network


@pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_the_demo_tells_a_right_table(engine: str) -> None:
    """The demo ends well, says which engine it used, and counts what plain Python counts."""
    env = {**os.environ, "VENVD_ENGINE": engine}
    program = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"engine {engine}" in done.stdout
    assert "plain Python counts the same" in done.stdout
    assert "nothing is left running" in done.stdout
    if engine == "docker":
        (home,) = set(re.findall(r"backend:(\w+)-", done.stdout))
        for kind in ("volume", "image"):
            listed = subprocess.run(["docker", kind, "ls"], capture_output=True, text=True, check=True)
            assert home not in listed.stdout
