"""The command line of the warden."""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import List

from venvd_worker.environment import take_worker_env
from venvd_worker.launching import Settings
from venvd_worker.starting import FreshInterpreter
from venvd_worker.warden import Warden


def run_warden(archive: str, arguments: List[str]) -> None:
    """Be the warden until a signal says to stop."""
    parser = argparse.ArgumentParser(prog="warden", description="the first process of a worker host")
    parser.add_argument("--channel", required=True, help="directory for warden.sock")
    parser.add_argument("--work-dir", help="directory for the directories of sessions; default: a new temporary one")
    parser.add_argument("--site", help="directory of installed packages, where the interpreter does not know it")
    chosen = parser.parse_args(arguments)
    work_dir = chosen.work_dir or tempfile.mkdtemp(prefix="venvd-work-")
    os.makedirs(work_dir, mode=0o700, exist_ok=True)
    archive = os.path.abspath(archive)
    settings = Settings(
        channel=os.path.abspath(chosen.channel),
        work_dir=os.path.abspath(work_dir),
        version=os.path.splitext(os.path.basename(archive))[0].rpartition("-")[2],
        site=chosen.site and os.path.abspath(chosen.site),
        env=take_worker_env(),
    )
    Warden(settings, FreshInterpreter(archive)).run()
