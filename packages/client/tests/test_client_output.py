"""What a program does with the output of an `exec`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

import venvd

PICTURE = {"image/png": base64.b64encode(b"a picture").decode(), "text/plain": "Figure"}
DRAWING = {"image/svg+xml": "<svg/>", "text/plain": "Drawing"}


def make_output(**fields: Any) -> venvd.Output:
    known = {"stdout": "", "stderr": "", "display": [], "result": None, "error": None}
    return venvd.Output(**{**known, "durationMs": 1.0, "truncated": False, **fields})


def test_exec_returns_one(backend: venvd.Backend) -> None:
    """What `exec` returns says in one line what there is."""
    output = backend.exec("print('hello')\n6 * 7")
    assert isinstance(output, venvd.Output)
    assert repr(output) == "<Output stdout='hello\\n' result=42>"
    assert repr(backend.exec("object()")) == "<Output result=<a proxy of object>>"


def test_the_repr_is_short() -> None:
    """Neither long text nor the bytes of pictures are in the repr."""
    shown = repr(make_output(stdout="x" * 10_000, display=[PICTURE, DRAWING], result=list(range(10_000))))
    assert len(shown) < 300
    assert "display=[2 of image/png, image/svg+xml]" in shown


def test_a_notebook_shows_the_last_display() -> None:
    """The bundle of an output is that of its last display, or else its text."""
    assert make_output(stdout="text", display=[PICTURE, DRAWING])._repr_mimebundle_() == DRAWING
    assert make_output(stdout="a\n", result=5)._repr_mimebundle_() == {"text/plain": "a\n5"}
    assert make_output()._repr_mimebundle_() == {"text/plain": "<Output>"}


def test_pictures_are_saved(tmp_path: Path) -> None:
    """`save_image` writes the bytes of the picture whose format the suffix names."""
    output = make_output(display=[DRAWING, PICTURE])
    assert output.save_image(tmp_path / "figure.png").read_bytes() == b"a picture"
    assert output.save_image(str(tmp_path / "figure.svg"), -1).read_bytes() == b"<svg/>"


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("figure", 0, "let it end with one of .png"),
        ("figure.png", 1, "1 of the displays have it"),
        ("a.jpg", 0, "image/png"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, name: str, index: int, message: str) -> None:
    """The error says which formats and displays there are, and no file is written."""
    with pytest.raises(venvd.InvalidRequest, match=message):
        make_output(display=[PICTURE]).save_image(tmp_path / name, index)
    assert not list(tmp_path.iterdir())
