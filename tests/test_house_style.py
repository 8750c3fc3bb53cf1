"""Rules that keep the code readable, and words that no file contains."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOTS = ROOT / "tests" / "wire" / "snapshots"
LONGEST_FILE = 500
LONGEST_FUNCTION = 80
REGISTRY = re.compile(r"https?://[^\s\"']*(/simple\b|pythonhosted|pypi\.)|(deb|security|ftp)\.debian\.org")
OUTSIDE = re.compile(r"\b(DESIGN|CONTRACT)\b")
"""Documents that are not in the repository."""
RIDDLES = re.compile(r"(?<!\")\b([Nn]obody|[Ww]hoever|[Ww]hom(ever)?|[Ww]hatever is|is said|comes to nothing)\b")
"""Words that hide the subject of a sentence; in quotation marks they are values."""


def list_files() -> list[Path]:
    """Every file that git tracks or would track, except this one."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def list_sources() -> list[Path]:
    return [path for path in list_files() if path.suffix == ".py" and "packages/proto/src" not in str(path)]


class Node(NamedTuple):
    """A module, a class or a function of our sources."""

    place: str
    is_function: bool
    lines: int
    docstring: str


def walk_statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a module and all its statements. `ast.walk` would yield their expressions too, which are many more."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())


@functools.cache
def list_nodes() -> list[Node]:
    """Parse every source once for all rules."""
    nodes = []
    for path in list_sources():
        for node in walk_statements(ast.parse(path.read_text())):
            if isinstance(node, ast.Module):
                nodes.append(Node(str(path.relative_to(ROOT)), False, 0, ast.get_docstring(node) or ""))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                lines = (node.end_lineno or 0) - node.lineno + 1
                is_function = not isinstance(node, ast.ClassDef)
                nodes.append(Node(place, is_function, lines, ast.get_docstring(node) or ""))
    return nodes


def find_lines(pattern: re.Pattern[str]) -> list[str]:
    """Every line of our text files that matches, with its place."""
    lines = []
    for path in list_files():
        if path.is_relative_to(SNAPSHOTS) or path.name == "LICENSE":
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        numbered = enumerate(text.splitlines(), 1)
        lines += [f"{path.relative_to(ROOT)}:{number}: {line}" for number, line in numbered if pattern.search(line)]
    return lines


@pytest.fixture(scope="module", autouse=True)
def in_a_checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")


def test_files_are_short() -> None:
    """No Python file has more than 500 lines."""
    long = {str(path): count for path in list_sources() if (count := path.read_text().count("\n")) > LONGEST_FILE}
    assert not long


def test_functions_are_short() -> None:
    """No function has more than 80 lines: room for a story that belongs together."""
    assert not {node.place: node.lines for node in list_nodes() if node.is_function and node.lines > LONGEST_FUNCTION}


def test_docstrings_begin_with_a_summary() -> None:
    """No docstring begins with one of its sections."""
    sections = ("Raises:", "Attributes:", "Args:", "Returns:", "Yields:")
    assert not [node.place for node in list_nodes() if node.docstring.startswith(sections)]


def test_no_file_names_a_package_registry() -> None:
    """Indexes are settings: no file names the host of one."""
    assert find_lines(REGISTRY) == []


def test_no_file_cites_documents_outside_the_repository() -> None:
    """Comments cite the project's own documents."""
    assert find_lines(OUTSIDE) == []


def test_sentences_name_their_subject() -> None:
    """Sentences name their subject; `nobody`, `whoever` and their like hide it."""
    assert find_lines(RIDDLES) == []
