"""The sizes that keep the code readable, and what must not stand in any file."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FILE = 500
LONGEST_FUNCTION = 50
REGISTRY = re.compile(r"https?://[^\s\"']*(/simple\b|pythonhosted|pypi\.)|(deb|security|ftp)\.debian\.org")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and "packages/proto/src" not in str(path)]


@pytest.fixture(scope="module", autouse=True)
def in_a_checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    """No Python file has more than 500 lines."""
    long = {str(path): count for path in sources() if (count := path.read_text().count("\n")) > LONGEST_FILE}
    assert not long


def test_no_function_is_longer_than_a_screen() -> None:
    """No function has more than 50 lines."""
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long


def test_no_file_names_a_package_registry() -> None:
    """Indexes are settings: no tracked file names the host of one."""
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if REGISTRY.search(text):
            found.append(str(path.relative_to(ROOT)))
    assert not found
