"""The result of `exec`. A program can print it, show it in a notebook, and save pictures from it."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from venvd_contract import commands
from venvd_contract.displays import CHART, DISPLAY_ID
from venvd_contract.errors import InvalidRequest

_LONGEST_TEXT = 60
_FORMATS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
}
_BESIDE = frozenset({CHART, DISPLAY_ID})
_TEXT_FORMATS = frozenset({"image/svg+xml"})


@dataclass(repr=False)
class Output(commands.Output):
    """What code printed and displayed, and how it ended.

    Attributes:
        stdout, stderr: text that the code and its child processes wrote.
        display: MIME bundles, in the order in which they were displayed. Binary formats are base64.
        result: the value of the last expression, or a proxy of it.
        error: the exception of the code, if `check=False` let it pass.
        durationMs: milliseconds that the code ran.
        truncated: whether output beyond the limit was dropped.
        executionCount: the number of the `exec` in its session, from 1.
        resultText: at most 1,000 characters of the repr of the last expression's value, or None.
    """

    def __repr__(self) -> str:
        parts = [f"{name}={_shorten(getattr(self, name))}" for name in ("stdout", "stderr") if getattr(self, name)]
        if self.display:
            parts.append(
                f"display=[{len(self.display)} of {', '.join(map(_name_format, self.display))[:_LONGEST_TEXT]}]"
            )
        if self.result is not None:
            parts.append(f"result={_shorten(self.result)}")
        if self.error is not None:
            parts.append(f"error={self.error.errorType}")
        return f"<{' '.join(['Output', *parts])}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        """Return what a notebook shows for the output: its last display, or else its text."""
        text = "".join((self.stdout, self.stderr, "" if self.result is None else repr(self.result)))
        return {"text/plain": text or repr(self), **(self.display[-1] if self.display else {})}

    def save_image(self, path: str | os.PathLike[str], index: int = 0) -> Path:
        """Write a picture among the displays to a file. The suffix says the format.

        Args:
            path: the path of the file, with the suffix `.png`, `.jpg`, `.svg` or `.pdf`.
            index: the number of the picture among those of this format, from 0. Negative numbers count from the end.

        Returns:
            The path.

        Raises:
            InvalidRequest: the suffix stands for no format, or there is no such picture.
        """
        target = Path(path)
        mime = _FORMATS.get(target.suffix.lower())
        if mime is None:
            known = ", ".join(_FORMATS)
            raise InvalidRequest(f'"{target.name}" names no format of a picture: let it end with one of {known}')
        pictures = [bundle[mime] for bundle in self.display if mime in bundle]
        if not -len(pictures) <= index < len(pictures):
            mimes = ", ".join(sorted({name for bundle in self.display for name in bundle})) or "nothing"
            raise InvalidRequest(
                f"there is no display {index} as {mime}: {len(pictures)} of the displays have it; they are {mimes}"
            )
        data = pictures[index]
        target.write_bytes(data.encode() if mime in _TEXT_FORMATS else base64.b64decode(data))
        return target


def _shorten(value: Any) -> str:
    if hasattr(type(value), "_venvd_type"):
        return f"<a proxy of {value._venvd_type}>"  # its own repr would be a call
    text = repr(value[:_LONGEST_TEXT] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _name_format(bundle: dict[str, Any]) -> str:
    return next((name for name in bundle if name != "text/plain" and name not in _BESIDE), "text/plain")
