"""`make demo` works on every engine and leaves nothing behind."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys

import pytest
from harness.stack import ROOT

pytestmark = [pytest.mark.network, pytest.mark.long]


@pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_the_demo_prints_the_right_table(engine: str) -> None:
    """The demo succeeds, names its engine, has plain Python's result and the steps of README's picture."""
    env = {**os.environ, "VENVD_ENGINE": engine}
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    demo = subprocess.run(command, env=env, capture_output=True, text=True, timeout=580, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert f"engine {engine}" in demo.stdout
    assert "plain Python counts the same" in demo.stdout
    assert "nothing is left running" in demo.stdout
    picture = html.unescape((ROOT / "docs" / "demo.svg").read_text()).replace("\xa0", " ")
    steps = re.findall(r"^\d\. .+$", demo.stdout, re.MULTILINE)
    assert len(steps) == 6
    assert [step for step in steps if step not in picture] == []
    if engine == "docker":
        (home,) = set(re.findall(r"backend:(\w+)-", demo.stdout))
        for kind in ("volume", "image"):
            listed = subprocess.run(["docker", kind, "ls"], capture_output=True, text=True, check=True)
            assert home not in listed.stdout
