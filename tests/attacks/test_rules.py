"""Rules of the attack suite itself."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

FILES = sorted(Path(__file__).parent.glob("test_*.py"))
ENGINE = re.compile(r"\b(local|docker|gvisor)\b-?")
TRIES = re.compile(r"\btr(y|ies)\b.*:", re.DOTALL)


def list_attempts() -> dict[str, str]:
    """The docstring of each test in this directory, by its place."""
    return {
        f"{path.name}::{node.name}": ast.get_docstring(node) or ""
        for path in FILES
        if path.name != Path(__file__).name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_each_attempt_says_what_it_tries() -> None:
    """The docstring of each attack says what its attacker tries, and after a colon what comes of it."""
    attempts = list_attempts()
    assert len(attempts) > 85
    assert not [place for place, text in attempts.items() if not TRIES.search(text)]


def test_there_are_hundreds_of_attempts() -> None:
    """Without the engines that each runs on, there are at least three hundred cases."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-n", "0"]
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # it may ask for other output
    command.append(str(Path(__file__).parent))
    listed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    cases = {ENGINE.sub("", line) for line in listed.splitlines() if "::" in line}
    assert len(cases) >= 300
