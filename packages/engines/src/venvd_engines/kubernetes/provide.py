"""A program of the controller's image: it copies programs of venvd into a volume of another container's pod.

python -m venvd_engines.kubernetes.provide DIRECTORY [worker] [uv] [apt]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

PREBUILT = Path(sys.prefix) / "share" / "venvd" / "worker.pyz"
"""The worker archive in the controller's image. Each pod needs it, and to build it takes a third of a second."""
_ENGINES = Path(__file__).resolve().parent.parent


def provide(directory: Path, what: list[str]) -> None:
    """Copy the named programs: the worker archive, uv with `post_install`, or `apt_install`."""
    if "worker" in what:
        _provide_archive(directory)
    if "uv" in what:
        import uv  # noqa: PLC0415 - few pods need it

        shutil.copyfile(uv.find_uv_bin(), directory / "uv")
        (directory / "uv").chmod(0o755)
        # an import of the engine docker would take longer than all the rest
        shutil.copyfile(_ENGINES / "docker" / "post_install.py", directory / "post_install.py")
    if "apt" in what:
        shutil.copyfile(_ENGINES / "kubernetes" / "apt_install.py", directory / "apt_install.py")


def _provide_archive(directory: Path) -> None:
    if PREBUILT.exists():
        shutil.copyfile(PREBUILT, directory / "worker.pyz")
    else:
        from venvd_worker import archive  # noqa: PLC0415 - an image has it prebuilt

        archive.build(directory).rename(directory / "worker.pyz")


if __name__ == "__main__":
    provide(Path(sys.argv[1]), sys.argv[2:])
