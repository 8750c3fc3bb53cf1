"""The environment of user code: allowed variables of this process, and those of the venv, backend and session."""

from __future__ import annotations

import json
import os
import sys
from typing import Dict, Mapping

from venvd_contract.internal.environment import WORKER_ENV
from venvd_worker.common.directories import Directory

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_BINARIES = os.path.dirname(sys.executable)
_ROOT = os.path.dirname(_BINARIES)
_IS_VENV = os.path.exists(os.path.join(_ROOT, "pyvenv.cfg"))
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def take_worker_env() -> Dict[str, str]:
    """Take the variables of the venv and the backend out of this process's environment.

    Raises:
        ValueError: the variable does not contain a JSON object of strings.
    """
    variables = json.loads(os.environ.pop(WORKER_ENV, "") or "{}")
    if type(variables) is not dict or any(type(value) is not str for value in variables.values()):
        raise ValueError("{} must hold a JSON object of strings".format(WORKER_ENV))
    return variables


def build_environment(variables: Mapping[str, str], directory: Directory) -> Dict[str, str]:
    """Build the whole environment of a session or a zygote. `variables` win over everything else."""
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env.setdefault("LANG", "C.UTF-8")
    env["PATH"] = os.pathsep.join((_BINARIES, os.environ.get("PATH") or _DEFAULT_PATH))
    env["HOME"] = directory.home
    env["TMPDIR"] = directory.temporary
    env["MPLBACKEND"] = "Agg"  # there is no screen
    env["PYTHONUNBUFFERED"] = "1"  # so output of a Python that user code starts appears at once, in the right place
    if _IS_VENV:
        env["VIRTUAL_ENV"] = _ROOT
    env.update(variables)
    return env
