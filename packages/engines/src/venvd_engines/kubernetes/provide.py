"""A program of the controller's image: it copies programs of venvd into a volume of another container's pod.

python -m venvd_engines.kubernetes.provide DIRECTORY [worker] [uv] [apt]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import uv

from venvd_engines.docker import post_install
from venvd_engines.kubernetes import apt_install
from venvd_worker import archive


def provide(directory: Path, what: list[str]) -> None:
    """Copy the named programs: the worker archive, uv with `post_install`, or `apt_install`."""
    if "worker" in what:
        archive.build(directory).rename(directory / "worker.pyz")
    if "uv" in what:
        shutil.copyfile(uv.find_uv_bin(), directory / "uv")
        (directory / "uv").chmod(0o755)
        shutil.copyfile(post_install.__file__, directory / "post_install.py")
    if "apt" in what:
        shutil.copyfile(apt_install.__file__, directory / "apt_install.py")


if __name__ == "__main__":
    provide(Path(sys.argv[1]), sys.argv[2:])
