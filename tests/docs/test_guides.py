"""The guides' examples run as they stand, one after the other, against a real backend."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path

import pytest
from harness.stack import SharedStacks
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import venvd

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
PAGES = sorted(GUIDES.glob("*.md"))


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_guides_examples_are_true(
    page: Path, stacks: SharedStacks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example of a guide gives what the page says; `b` is a backend with the packages that the pages name."""
    running = stacks.backend(stacks.stack("local", "numpy", "pandas", "matplotlib"), "http", role="guides")
    monkeypatch.chdir(tmp_path)  # where the examples leave files
    parser = PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE)
    document = Sybil(parsers=[parser]).parse(page)
    with venvd.connect(running.url, token=running.token) as backend:
        document.namespace["b"] = backend
        examples = list(document.examples())
        for example in examples:
            example.evaluate()
    assert examples
