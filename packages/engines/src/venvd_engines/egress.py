"""The broker as a program for containers that lack `venvd_egress`: the package in one file, for any CPython."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import venvd_egress

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = b"from venvd_egress.__main__ import main\n\nmain()\n"


def make_program() -> bytes:
    """Return the program. Equal sources give equal bytes."""
    root = Path(venvd_egress.__path__[0])
    sources = {f"{root.name}/{path.relative_to(root)}": path.read_bytes() for path in sorted(root.rglob("*.py"))}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as program:
        for name, content in {"__main__.py": _MAIN, **sources}.items():
            program.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return buffer.getvalue()
