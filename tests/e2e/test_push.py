"""`make push` refuses what is no place for images, before it builds anything."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness.stack import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "images"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Registry.example.com/venvd"], '"Registry.example.com/venvd" is no prefix of image names'),
        (["registry.example.com"], "registry.example.com/venvd is one"),
        (["registry.example.com/venvd", "--python", "3.x"], '"3.x" is no version of CPython'),
    ],
)
def test_wrong_words_are_named(arguments: list[str], message: str) -> None:
    """A wrong registry or version ends the program with what would be right."""
    result = run("push", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
