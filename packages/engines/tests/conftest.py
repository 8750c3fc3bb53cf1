"""What the tests of the local engine share: wheels made by hand, and small programs in place of the real parts."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import uv

from venvd_engines.local import environment
from venvd_engines.local.venvs import Tools, Venvs


def make_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()
) -> Path:
    """A pure wheel in `folder`; without files it holds one module that says its version."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    members = {
        **(files if files is not None else {f"{name}.py": f'version = "{version}"\n'}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


MakeWheel = Callable[..., Path]


@pytest.fixture
def wheel(tmp_path: Path) -> MakeWheel:
    """Makes wheels in the folder where the installer of `venvs` looks."""

    def make(name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()) -> Path:
        return make_wheel(tmp_path / "wheels", name, version, files, requires)

    return make


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """An installer that knows only the wheels made by hand."""
    (tmp_path / "wheels").mkdir(exist_ok=True)
    offline = {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(tmp_path / "wheels"), "UV_CACHE_DIR": str(tmp_path / "cache")}
    return Tools(uv.find_uv_bin(), {**environment.of_installer({}, None), **offline}, 120.0, source_builds=False)


@pytest.fixture
def venvs(tmp_path: Path, tools: Tools) -> Venvs:
    return Venvs(tmp_path / "venvs", tools)
